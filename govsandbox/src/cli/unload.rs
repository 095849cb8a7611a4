//! `unload`

use std::io::{self, Write};

use serde::Serialize;

use super::output::{CannotWrite, Format, write_json};
use crate::{
    backend::unload::{self, Outcome},
    diagnostic::Status,
};

/// Remove the kernel programs that runs leave loaded for the next ones
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is removed while a run uses it. The next run loads the programs again.\n\nExit status: 0 \
                  nothing is loaded any more (also when nothing was), 1 a run uses it, 2 usage, 125 failure."
)]
pub struct UnloadArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// For `--format json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Folders of pins, and the cgroup.
    removed: Vec<String>,
    /// Supervisors of the sandboxes that are alive.
    alive_supervisor_pids: Vec<u32>,
}

impl UnloadArgs {
    /// Runs the subcommand. Data goes to `out`.
    ///
    /// # Errors
    /// Something can't be removed, or nobody takes the output.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        let outcome = unload::unload()?;
        let written = match self.format {
            Format::Text => write_text(out, &outcome),
            Format::Json => write_json(out, &report(&outcome)),
        };
        written.map_err(CannotWrite)?;
        Ok(match outcome {
            Outcome::Unloaded { .. } => Status::Success,
            Outcome::Refused(_) => Status::No,
        })
    }
}

fn write_text(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    match outcome {
        Outcome::Unloaded { pins, cgroup } => {
            for one in pins {
                let (programs, maps) = (one.programs_count, one.maps_count);
                writeln!(out, "removed  {}: {programs} programs, {maps} maps", one.folder)?;
            }
            if let Some(cgroup) = cgroup {
                writeln!(out, "removed  {}", cgroup.display())?;
            }
            if pins.is_empty() && cgroup.is_none() {
                writeln!(out, "nothing is loaded")?;
            }
        }
        Outcome::Refused(alive) => {
            for one in alive {
                match one.sandbox_id {
                    Some(id) => {
                        writeln!(out, "alive    sandbox {id}, supervised by process {}", one.supervisor_tgid)
                    }
                    None => {
                        writeln!(out, "alive    process {}, which starts or ends a run", one.supervisor_tgid)
                    }
                }?;
            }
            writeln!(out, "nothing was removed: end these runs first")?;
        }
    }
    Ok(())
}

fn report(outcome: &Outcome) -> Report {
    match outcome {
        Outcome::Unloaded { pins, cgroup } => {
            let cgroup = cgroup.iter().map(|path| path.display().to_string());
            Report {
                removed: pins.iter().map(|one| one.folder.clone()).chain(cgroup).collect(),
                ..Report::default()
            }
        }
        Outcome::Refused(alive) => Report {
            alive_supervisor_pids: alive.iter().map(|one| one.supervisor_tgid).collect(),
            ..Report::default()
        },
    }
}
