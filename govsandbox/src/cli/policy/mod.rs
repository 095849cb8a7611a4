//! `policy`: what the limits are, before anything runs in them.

mod check;
mod explain;
mod schema;
mod show;

use std::io::{self, Write};

use super::output::write_json;
use crate::{
    diagnostic::Status,
    policy::{ContextError, PolicyError},
};

/// Check policies, show what holds in the end, and explain one verdict
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Schema(schema::SchemaArgs),
    Show(show::ShowArgs),
}

/// Output formats
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Aligned, for people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Why a command of this group gave up.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum PolicyCommandError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Context(#[from] ContextError),
    #[error("cannot tell {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` leads up from a folder that does not exist")]
    #[diagnostic(help("leave `..` out of the path"))]
    Nowhere { path: String },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl PolicyArgs {
    /// Runs the subcommand. Data goes to `out`, diagnostics to stderr.
    ///
    /// # Errors
    /// What is asked can't be found out. That nobody reads `out` any more is none.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        let result = match &self.command {
            PolicyCommand::Check(args) => args.run(out),
            PolicyCommand::Explain(args) => args.run(out),
            PolicyCommand::Schema(args) => args.run(out),
            PolicyCommand::Show(args) => args.run(out),
        };
        match result.and_then(|status| Ok(out.flush().map(|()| status)?)) {
            Err(PolicyCommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Status::Success)
            }
            result => Ok(result?),
        }
    }
}
