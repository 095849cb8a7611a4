//! `audit stats`

use std::io::{self, Write};

use super::{
    AuditError,
    location::LogArg,
    output::{Format, for_each, stdout_layout},
    show::{Choice, find_session},
};
use crate::{
    audit::write_terminal_safe,
    diagnostic::Status,
    report::stats::{Counter, write_stats},
};

/// Count events, refusals, programs and addresses
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
            Choice::All => None,
            Choice::One(session) => Some(session),
            Choice::None(reason) => {
                eprintln!("govsandbox: {reason}");
                return Ok(Status::No);
            }
        };
        let mut counter = Counter::default();
        for_each(&log, |entry| {
            match &entry.record {
                Ok(record) if session.as_ref().is_none_or(|session| *session == record.session) => {
                    counter.add(record)
                }
                Ok(_) => {}
                Err(_) => counter.add_damaged(),
            }
            Ok::<(), AuditError>(())
        })?;
        let stats = counter.finish();
        match self.format {
            Format::Json => {
                let json = serde_json::to_string_pretty(&stats).map_err(io::Error::from)?;
                // A newline is a blank outside of strings and can't be inside one.
                for line in json.lines() {
                    write_terminal_safe(out, line)?;
                    writeln!(out)?;
                }
            }
            Format::Text => write_stats(out, &stats, &stdout_layout())?,
        }
        Ok(if stats.events > 0 { Status::Success } else { Status::No })
    }
}
