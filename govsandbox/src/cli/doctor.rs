//! `doctor`

use std::{
    env,
    io::{self, Write},
};

use crate::{
    backend::machine::{self, Caller},
    diagnostic::Status,
    policy::{Context, User},
    report::doctor,
};

use super::{
    audit::output::stdout_layout,
    output::{CannotWrite, write_json},
};

/// Output formats
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Aligned, for people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Say which backend a run gets on this machine, what holds which guarantee, and how to mend what is missing
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It does what a run does before the command starts, and leaves nothing behind. Much can't be known \
                  without root.\n\nExit status: 0 a run would start here, 1 it would not, 2 usage, 125 failure."
)]
pub struct DoctorArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl DoctorArgs {
    /// Runs the subcommand. Data goes to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        let context = User::of_caller().and_then(|user| Context::discover(&user, None));
        let log = context.ok().map(|context| context.state.join("audit.jsonl"));
        let machine = machine::examine(&Caller { path: env::var_os("PATH"), log });
        let written = match self.format {
            Format::Text => doctor::write_machine(out, &machine, &stdout_layout()),
            Format::Json => write_json(out, &machine),
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CannotWrite(error).into()),
            Ok(()) | Err(_) => Ok(if machine.starts { Status::Success } else { Status::No }),
        }
    }
}
