//! `audit show`

use std::io::Write;

use super::{
    AuditError,
    location::LogArg,
    output::{Format, for_each, stdout_layout},
};
use crate::{
    diagnostic::Status,
    report::{
        details, json, line,
        select::{Kind, Outcome, Selection, SessionChoice, find_session},
    },
};

/// Print the events of a run, filtered
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 printed, 1 no such event or session, 2 usage, 125 the log cannot be read."
)]
pub(super) struct ShowArgs {
    /// The run: its id or the beginning of it, `last`, or `all`
    #[arg(default_value = "last")]
    session: String,
    /// Only events of this kind, such as `file.open`; repeat for more
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Only events with this outcome: `allowed`, `denied`, `would_deny`, `failed`; repeat for more
    #[arg(long = "outcome", value_name = "OUTCOME")]
    outcomes: Vec<Outcome>,
    /// Only events of this process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// All fields of each event, not one line
    #[arg(short, long)]
    details: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    log: LogArg,
}

impl ShowArgs {
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
        let selection =
            Selection { session, kinds: self.kinds.clone(), outcomes: self.outcomes.clone(), pid: self.pid };
        let layout = stdout_layout();
        let mut shown = None;
        for_each(&log, |entry| {
            let Ok(record) = &entry.record else { return Ok(()) };
            if !selection.takes(record) {
                return Ok(());
            }
            let is_new = shown.as_ref() != Some(&record.session);
            if is_new {
                shown = Some(record.session.clone());
            }
            match self.format {
                Format::Json => json::write_entry(out, entry)?,
                Format::Text => {
                    if is_new {
                        details::write_session(out, record, &layout)?;
                    }
                    let write = if self.details { details::write_details } else { line::write_line };
                    write(out, record, &layout)?;
                }
            }
            Ok(())
        })?;
        if shown.is_none() {
            eprintln!("govsandbox: no event matches");
            return Ok(Status::No);
        }
        Ok(Status::Success)
    }
}
