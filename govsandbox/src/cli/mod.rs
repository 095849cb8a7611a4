//! The command line: one file for each subcommand.

pub mod audit;
pub mod completions;
pub mod doctor;
pub mod policy;
pub mod unload;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;

use crate::diagnostic::{self, Status};

/// Run a coding agent inside limits that the kernel enforces, and record what it did
#[derive(Debug, clap::Parser)]
#[command(name = "govsandbox", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Audit(audit::AuditArgs),
    Completions(completions::CompletionsArgs),
    Doctor(doctor::DoctorArgs),
    Man(completions::ManArgs),
    Policy(policy::PolicyArgs),
    Unload(unload::UnloadArgs),
}

/// Parses the command line and runs what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nowhere left to say it
            return if error.use_stderr() { Status::Usage } else { Status::Success }.into();
        }
    };
    let mut out = io::stdout().lock();
    let result = match &cli.command {
        Command::Audit(args) => args.run(&mut out),
        Command::Completions(args) => args.run(&mut out),
        Command::Doctor(args) => args.run(&mut out),
        Command::Man(args) => args.run(&mut out),
        Command::Policy(args) => args.run(&mut out),
        Command::Unload(args) => args.run(&mut out),
    };
    let flushed = out.flush();
    match (result, flushed) {
        (Ok(status), Ok(())) => status.into(),
        (Err(error), _) => {
            diagnostic::report(&error);
            Status::Failure.into()
        }
        (Ok(status), Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => status.into(),
        (Ok(_), Err(_)) => Status::Failure.into(),
    }
}
