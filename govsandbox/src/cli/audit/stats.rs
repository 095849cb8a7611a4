//! `audit stats`

use std::io::Write;

use super::{
    AuditError,
    location::LogArg,
    output::{Format, for_each, stdout_layout},
};
use crate::{
    diagnostic::Status,
    report::{
        json,
        select::{Selection, SessionChoice, find_session},
        stats::{Counter, write_stats},
    },
};

/// Count events, refusals, programs, addresses, and bytes by host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 counted, 1 no event or no such session, 2 usage, 125 the log cannot be read."
)]
pub(super) struct StatsArgs {
    /// The run: its id or the beginning of it, `last`, or `all`
    #[arg(default_value = "all")]
    session: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    log: LogArg,
}

impl StatsArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<Status, AuditError> {
        let log = self.log.find()?;
        let session = match find_session(&log, &self.session)? {
            SessionChoice::All => None,
            SessionChoice::One(session) => Some(session),
            SessionChoice::Unclear(reason) => {
                eprintln!("govsandbox: {reason}");
                return Ok(Status::No);
            }
        };
        let selection = Selection { session, ..Selection::default() };
        let mut counter = Counter::default();
        for_each(&log, |entry| {
            match &entry.record {
                Ok(record) if selection.takes(record) => counter.add(record),
                Ok(_) => {}
                Err(_) => counter.add_damaged(),
            }
            Ok(())
        })?;
        let stats = counter.finish();
        match self.format {
            Format::Json => json::write_pretty(out, &stats)?,
            Format::Text => write_stats(out, &stats, &stdout_layout())?,
        }
        Ok(if stats.events > 0 { Status::Success } else { Status::No })
    }
}
