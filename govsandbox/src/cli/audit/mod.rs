//! `audit`: reads the log back.

mod location;
pub(super) mod output;
mod show;
mod stats;
mod tail;

use std::io::{self, BufWriter, Write};

use crate::{audit::read::ReadError, diagnostic::Status};

/// Read the record of what was done, allowed and refused
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    Tail(tail::TailArgs),
    Show(show::ShowArgs),
    Stats(stats::StatsArgs),
}

/// Why a command of this group gave up.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum AuditError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Location(#[from] location::NoLog),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl AuditArgs {
    /// Runs the subcommand. Data goes to `out`, diagnostics to stderr.
    ///
    /// # Errors
    /// The log is missing or can't be read. That nobody reads `out` any more is none.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        // Stdout alone would write each line by itself.
        let out = &mut BufWriter::new(out);
        let result = match &self.command {
            AuditCommand::Tail(args) => args.run(out),
            AuditCommand::Show(args) => args.run(out),
            AuditCommand::Stats(args) => args.run(out),
        };
        match result.and_then(|status| Ok(out.flush().map(|()| status)?)) {
            Err(AuditError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Status::Success)
            }
            result => Ok(result?),
        }
    }
}
