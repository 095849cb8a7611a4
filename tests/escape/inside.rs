//! What runs in the sandbox, and bare as the control: each attempt in a process of its own, one line of result each.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid};

use crate::{
    attempt::{Attempt, Inside},
    bed::procs,
};

/// First argument of the driver of a session: then come the project's folder and the names of attempts.
pub(crate) const DRIVER: &str = "@inside";
/// First argument of an attempt that is a program of its own.
pub(crate) const PROGRAM: &str = "@attempt";
/// An attempt that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of an answer that are told.
const ANSWER_BYTES_MAX: usize = 2048;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reached(String),
    Errno(i32),
    /// Neither: it was killed, hung, or had an error that is no errno.
    Broken(String),
}

/// Runs attempts one after the other.
pub(crate) fn drive(words: &[OsString], attempts: &[Attempt]) {
    let project = PathBuf::from(&words[0]);
    for name in &words[1..] {
        let attempt = attempts.iter().find(|attempt| name == attempt.name.as_str()).unwrap();
        println!("{}", line(&attempt.name, &apart(attempt, &project)));
        let _ = io::stdout().flush();
    }
}

/// The attempt of a program of its own; the pipe is standard output.
pub(crate) fn program(words: &[OsString], attempts: &[Attempt]) {
    let attempt = attempts.iter().find(|attempt| words[1] == attempt.name.as_str()).unwrap();
    answer(attempt, Path::new(&words[0]), &mut io::stdout());
}

fn apart(attempt: &Attempt, project: &Path) -> Outcome {
    let (mut reader, mut writer) = io::pipe().unwrap();
    // SAFETY: the driver has one thread.
    let child = match unsafe { libc::fork() } {
        -1 => return Outcome::Broken(format!("fork: {}", io::Error::last_os_error())),
        0 => {
            drop(reader);
            let _ = rustix::process::setpgid(None, None);
            if attempt.own_program {
                let error = execute(attempt, project, &writer);
                let _ = writeln!(writer, "!exec: {error}");
            } else {
                answer(attempt, project, &mut writer);
            }
            // SAFETY: ends this process without running what the driver registered.
            unsafe { libc::_exit(0) }
        }
        child => Pid::from_raw(child).unwrap(),
    };
    drop(writer);
    let pidfd = pidfd_open(child, PidfdFlags::empty()).unwrap();
    let in_time = procs::gone(&pidfd, LIMIT);
    let _ = kill_process_group(child, Signal::KILL);
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let status = waitpid(Some(child), WaitOptions::empty());
    // Whoever the attempt started may still hold the pipe.
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let mut bytes = vec![0; 2 * ANSWER_BYTES_MAX];
    let length = reader.read(&mut bytes).unwrap_or(0);
    let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
    if !in_time {
        return Outcome::Broken("hangs".to_owned());
    }
    match said.split_at_checked(1) {
        Some(("+", text)) => Outcome::Reached(text.to_owned()),
        Some(("-", number)) => number.parse().map_or(Outcome::Broken(said.clone()), Outcome::Errno),
        _ => Outcome::Broken(format!("{said} {status:?}")),
    }
}

fn execute(attempt: &Attempt, project: &Path, writer: &io::PipeWriter) -> io::Error {
    use std::os::unix::process::CommandExt;
    let output = writer.try_clone().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([PROGRAM.as_ref(), project.as_os_str(), attempt.name.as_ref()]).stdout(output).exec()
}

fn answer(attempt: &Attempt, project: &Path, out: &mut impl Write) {
    let inside = Inside::of(attempt, project);
    let run = || {
        std::env::set_current_dir(&inside.folder)?;
        (attempt.run)(&inside)
    };
    let said = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(text)) => format!("+{}", text.chars().take(ANSWER_BYTES_MAX / 4).collect::<String>()),
        Ok(Err(error)) => {
            error.raw_os_error().map_or_else(|| format!("!{error}"), |number| format!("-{number}"))
        }
        Err(_) => "!panicked".to_owned(),
    };
    let _ = out.write_all(said.as_bytes());
}

fn line(name: &str, outcome: &Outcome) -> String {
    let (mark, text) = match outcome {
        Outcome::Reached(text) => ('+', text.clone()),
        Outcome::Errno(number) => ('-', number.to_string()),
        Outcome::Broken(how) => ('!', how.clone()),
    };
    format!("{name} {mark}{}", text.escape_default())
}

/// The outcomes that a driver printed.
pub(crate) fn outcomes(output: &[u8]) -> Vec<(String, Outcome)> {
    let text = String::from_utf8_lossy(output);
    let parse = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (mark, text) = rest.split_at_checked(1)?;
        let outcome = match mark {
            "+" => Outcome::Reached(text.to_owned()),
            "-" => Outcome::Errno(text.parse().ok()?),
            "!" => Outcome::Broken(text.to_owned()),
            _ => return None,
        };
        Some((name.to_owned(), outcome))
    };
    text.lines().filter_map(parse).collect()
}
