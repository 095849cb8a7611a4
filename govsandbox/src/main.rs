//! The `govsandbox` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    govsandbox::cli::main()
}
