//! Counting tests: what the test harness prints goes through to our output, its result lines are summed up, and what it
//! says of failures is kept for the end.

use std::io::{self, Write};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines that are kept of what one harness says of its failures.
const SAID_LINES_MAX: usize = 120;

/// How many tests there were.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ignored: usize,
    /// What was said of those that failed, in lines.
    pub(super) said: Vec<String>,
}

impl Counts {
    /// One failure, and why.
    pub(super) fn failure(reason: &str) -> Self {
        Self { failed: 1, said: reason.lines().map(str::to_owned).collect(), ..Self::default() }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.said.extend(other.said);
    }
}

/// A writer that passes everything on and counts.
pub(super) struct Tally<W> {
    out: W,
    counts: Arc<Mutex<Counts>>,
    line: Vec<u8>,
    /// Whether the harness is telling of failures: between `failures:` and its result.
    tells_failures: bool,
}

/// What a [`Tally`] has counted, wherever it went meanwhile.
pub(super) struct Counter(Arc<Mutex<Counts>>);

impl Counter {
    pub(super) fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<W: Write> Tally<W> {
    /// A tally that passes on to `out`, and the way to its counts.
    pub(super) fn new(out: W) -> (Self, Counter) {
        let counts = Arc::new(Mutex::new(Counts::default()));
        (Self { out, counts: Arc::clone(&counts), line: Vec::new(), tells_failures: false }, Counter(counts))
    }

    fn count_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = result_line(&line) {
            *counts += found;
            self.tells_failures = false;
        } else if line.trim_end() == "failures:" {
            // Said twice: with what each printed, then as a list.
            self.tells_failures = !self.tells_failures;
        } else if self.tells_failures && counts.said.len() < SAID_LINES_MAX && !line.trim().is_empty() {
            counts.said.push(line.trim_end().to_owned());
        }
        drop(counts);
        self.line.clear();
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, said: &[u8]) -> io::Result<usize> {
        for part in said.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.count_line();
            }
        }
        self.out.write_all(said)?;
        Ok(said.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn result_line(line: &str) -> Option<Counts> {
    let (_, counts) = line.trim_end().strip_prefix("test result: ")?.split_once(". ")?;
    let mut found = Counts::default();
    for part in counts.split("; ") {
        let (number, word) = part.split_once(' ')?;
        match word {
            "passed" => found.passed = number.parse().ok()?,
            "failed" => found.failed = number.parse().ok()?,
            "ignored" => found.ignored = number.parse().ok()?,
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_up_over_pieces_of_any_size() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s\r\n\
            test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        for size in [1, 7, 1000] {
            let mut out = Vec::new();
            let (mut tally, counter) = Tally::new(&mut out);
            text.as_bytes().chunks(size).for_each(|piece| tally.write_all(piece).unwrap());
            assert_eq!(counter.counts(), Counts { passed: 3, failed: 3, ignored: 1, said: Vec::new() });
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn what_is_said_of_failures_is_kept_once() {
        let text = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nit broke\n\n\nfailures:\n    a\n\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\nafter\n";
        let (mut tally, counter) = Tally::new(Vec::new());
        tally.write_all(text.as_bytes()).unwrap();
        assert_eq!(counter.counts().said, ["---- a stdout ----", "it broke"]);
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(result_line("test result is fine. 3 passed"), None);
        assert_eq!(result_line("x test result: ok. 2 passed; 0 failed"), None);
    }
}
