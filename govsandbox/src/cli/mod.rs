//! The command line: one file for each subcommand.

use std::process::ExitCode;

/// Parses the command line and runs what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(crate::diagnostic::Status::Failure)
}
