//! Exit statuses, and how an error is told to a person.

use std::process::ExitCode;

/// Statuses of govsandbox's own; the command's status passes through `run` unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Yes, done.
    Success = 0,
    /// No: invalid, denied, not verified, requirement not held.
    No = 1,
    /// Usage.
    Usage = 2,
    /// govsandbox itself failed. Of `run`: usage and bad policy too.
    Failure = 125,
    /// The command could not be executed, or was denied at exec.
    NotExecutable = 126,
    /// There is no such command.
    NotFound = 127,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Writes an error with its causes and its help to stderr: what failed, on what, why, what to do.
pub fn report(error: &miette::Report) {
    tell(&format!("{error:?}"));
}

/// Leaves the breaking of lines to the terminal: a path that is cut in two can't be copied or searched for.
pub fn keep_lines_whole() {
    let handler = |_: &_| -> Box<dyn miette::ReportHandler> {
        Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build())
    };
    miette::set_hook(Box::new(handler)).ok(); // only a caller of the library can have set one before
}

/// Writes a line to stderr. One that nobody reads (`2>&1 | head`) changes nothing: `eprintln!` would panic.
pub fn tell(line: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "govsandbox: {line}").ok(); // nobody is left to tell
}
