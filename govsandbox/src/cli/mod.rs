//! The command line: one file for each subcommand.

pub mod approve;
pub mod audit;
pub mod completions;
pub mod doctor;
pub mod egress_service;
mod output;
pub mod policy;
pub mod run;
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
    Approve(approve::ApproveArgs),
    Audit(audit::AuditArgs),
    Completions(completions::CompletionsArgs),
    Doctor(doctor::DoctorArgs),
    #[command(hide = true)]
    EgressService(egress_service::EgressServiceArgs),
    Man(completions::ManArgs),
    Policy(policy::PolicyArgs),
    Refuse(approve::RefuseArgs),
    Unload(unload::UnloadArgs),
    Run(run::RunArgs),
}

/// Parses the command line and runs what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nowhere left to say it
            return usage_status(&error).into();
        }
    };
    logging();
    diagnostic::keep_lines_whole();
    let mut out = io::stdout().lock();
    let result = match &cli.command {
        Command::Run(args) => {
            drop(out);
            return match args.run() {
                Ok(status) => ExitCode::from(status),
                Err(error) => {
                    diagnostic::report(&error);
                    Status::Failure.into()
                }
            };
        }
        Command::Approve(args) => args.run(&mut out),
        Command::Audit(args) => args.run(&mut out),
        Command::Completions(args) => args.run(&mut out),
        Command::Doctor(args) => args.run(&mut out),
        Command::EgressService(args) => args.run(),
        Command::Man(args) => args.run(&mut out),
        Command::Policy(args) => args.run(&mut out),
        Command::Refuse(args) => args.run(&mut out),
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

/// `run` leaves 2 to the command: there wrong usage is a failure of ours like any other.
fn usage_status(error: &clap::Error) -> Status {
    match error.use_stderr() {
        false => Status::Success,
        true if std::env::args_os().nth(1).is_some_and(|word| word == "run") => Status::Failure,
        true => Status::Usage,
    }
}

/// Our own messages go to stderr when `GOVSANDBOX_LOG` asks for them (`GOVSANDBOX_LOG=debug`), and with them those of the
/// kernel programs when these were loaded with `GOVSANDBOX_BPF_LOG`.
fn logging() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into())
        .with_env_var("GOVSANDBOX_LOG")
        .from_env_lossy();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if tracing_log::LogTracer::init().is_err() || subscriber.try_init().is_err() {
        eprintln!("govsandbox: warning: a logger is set already"); // only a caller of the library can have done so
    }
}
