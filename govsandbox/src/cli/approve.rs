//! `approve`, `refuse`

use std::{
    io::{self, Write},
    path::Path,
};

use super::output::{CannotWrite, Format, write_json};
use crate::{
    approval::{
        Decision, FOLDER, Id, Waiting,
        client::{self, ClientError},
    },
    diagnostic::Status,
    event::text::for_terminal,
};

/// Allow what a run waits for, or list what waits
///
/// Rules with `effect = "ask"` hold lookups and connections to unknown hosts until somebody answers. Without an id what
/// waits is listed: a host, who asked, and for how long it still waits. An approval holds for as long as the run lasts: of
/// a name for all ports that rules ask about, of an address for the one port.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Only root may see and decide, and nobody from within a sandbox.\n\nExit status: 0 done, or \
                        something waits; 1 nothing waits, or one of these does not; 2 usage, 125 failure."
)]
pub struct ApproveArgs {
    /// What to allow, as listed
    #[arg(value_name = "ID")]
    ids: Vec<Id>,
    /// For a minute only; what is connected goes on
    #[arg(long, requires = "ids")]
    once: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Refuse what a run waits for
///
/// It is refused for as long as the run lasts, without asking again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 done, 1 one of these does not wait, 2 usage, 125 failure.")]
pub struct RefuseArgs {
    /// What to refuse, as `govsandbox approve` lists it
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Id>,
    /// For a minute only; then it is asked again
    #[arg(long)]
    once: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl ApproveArgs {
    /// Runs the subcommand. Data goes to `out`.
    ///
    /// # Errors
    /// A run does not answer, or nobody takes the output.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        if !self.ids.is_empty() {
            let decision = Decision { allow: true, once: self.once };
            return Ok(decide(&self.ids, decision, self.format, out)?);
        }
        let (waiting, silent) = client::waiting(Path::new(FOLDER))?;
        for error in silent {
            crate::diagnostic::report(&error.into());
        }
        print(out, &waiting, self.format, write_waiting).map_err(CannotWrite)?;
        if waiting.is_empty() && self.format == Format::Text {
            writeln!(out, "nothing waits").map_err(CannotWrite)?;
        }
        Ok(if waiting.is_empty() { Status::No } else { Status::Success })
    }
}

impl RefuseArgs {
    /// As [`ApproveArgs::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        let decision = Decision { allow: false, once: self.once };
        Ok(decide(&self.ids, decision, self.format, out)?)
    }
}

/// What went wrong with one id.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum DecideError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Write(#[from] CannotWrite),
}

fn decide(
    ids: &[Id],
    decision: Decision,
    format: Format,
    out: &mut dyn Write,
) -> Result<Status, DecideError> {
    let mut decided = Vec::new();
    let mut status = Ok(Status::Success);
    for id in ids {
        match client::decide(Path::new(FOLDER), *id, decision) {
            Ok(Some(question)) => decided.push(question),
            Ok(None) => {
                eprintln!("govsandbox: {id} does not wait (any more)");
                status = Ok(Status::No);
            }
            // What was decided before is told all the same.
            Err(error) => {
                status = Err(error.into());
                break;
            }
        }
    }
    let word = if decision.allow { "approved" } else { "refused" };
    let length = if decision.once { "for a minute" } else { "for the session" };
    let write = |out: &mut dyn Write, it: &Waiting| writeln!(out, "{word} {} {length}", about(it));
    print(out, &decided, format, write).map_err(CannotWrite)?;
    status
}

fn print(
    out: &mut dyn Write,
    questions: &[Waiting],
    format: Format,
    write: impl Fn(&mut dyn Write, &Waiting) -> io::Result<()>,
) -> io::Result<()> {
    match format {
        Format::Text => questions.iter().try_for_each(|question| write(out, question)),
        Format::Json => write_json(out, questions),
    }
}

/// Two lines: what it is about, and who asked.
fn write_waiting(out: &mut dyn Write, question: &Waiting) -> io::Result<()> {
    let Waiting { id, session, agent, program, pid, waited_ms, left_ms, .. } = question;
    let program = if program.is_empty() { "?".into() } else { for_terminal(program) };
    let (session, agent) = (for_terminal(session), for_terminal(agent));
    writeln!(out, "{id}  {}", about(question))?;
    writeln!(out, "    {program}, process {pid} of {agent} ({session})")?;
    writeln!(out, "    waits for {} s, is refused in {} s", waited_ms / 1000, left_ms / 1000)
}

/// `files.example.com`, `192.0.2.7:22 (files.example.com)`.
fn about(question: &Waiting) -> String {
    let host = for_terminal(&question.host);
    let Some(port) = question.port else { return host.into_owned() };
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match question.names.as_slice() {
        [] => address,
        names => format!("{address} ({})", for_terminal(&names.join(", "))),
    }
}
