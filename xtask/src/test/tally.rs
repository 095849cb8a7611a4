//! Counting tests: what the test harness prints goes through to our output, and its result lines are summed up.

use std::io::{self, Write};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};

/// How many tests there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ignored: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// A writer that passes everything on and counts.
pub(super) struct Tally<W> {
    out: W,
    counts: Arc<Mutex<Counts>>,
    line: Vec<u8>,
}

/// What a [`Tally`] has counted, wherever it went meanwhile.
pub(super) struct Counter(Arc<Mutex<Counts>>);

impl Counter {
    pub(super) fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Tally<W> {
    /// A tally that passes on to `out`, and the way to its counts.
    pub(super) fn new(out: W) -> (Self, Counter) {
        let counts = Arc::new(Mutex::new(Counts::default()));
        (Self { out, counts: Arc::clone(&counts), line: Vec::new() }, Counter(counts))
    }

    fn count_line(&mut self) {
        if let Some(counts) = result_line(&String::from_utf8_lossy(&self.line)) {
            *self.counts.lock().unwrap_or_else(PoisonError::into_inner) += counts;
        }
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
            assert_eq!(counter.counts(), Counts { passed: 3, failed: 3, ignored: 1 });
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(result_line("test result is fine. 3 passed"), None);
        assert_eq!(result_line("x test result: ok. 2 passed; 0 failed"), None);
    }
}
