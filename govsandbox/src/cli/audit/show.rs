//! `audit show`

use std::{collections::BTreeSet, io::Write, path::Path};

use super::{
    AuditError,
    location::LogArg,
    output::{Format, for_each, readable, stdout_layout, write_json},
};
use crate::{
    audit::record::Record,
    diagnostic::Status,
    event::{
        model::{Kind, Outcome},
        text::for_terminal,
    },
    id::SessionId,
    report::{details, line},
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
            Choice::All => None,
            Choice::One(session) => Some(session),
            Choice::None(reason) => {
                eprintln!("govsandbox: {reason}");
                return Ok(Status::No);
            }
        };
        let layout = stdout_layout();
        let mut shown: Option<SessionId> = None;
        for_each(&log, |entry| {
            let Some(record) = readable(entry, &log) else { return Ok(()) };
            if session.as_ref().is_some_and(|session| *session != record.session) || !self.matches(record) {
                return Ok(());
            }
            let is_new = shown.as_ref() != Some(&record.session);
            if is_new {
                shown = Some(record.session.clone());
            }
            match self.format {
                Format::Json => return Ok(write_json(out, entry)?),
                Format::Text if is_new => details::write_session(out, record, &layout)?,
                Format::Text => {}
            }
            if self.details {
                details::write_details(out, record, &layout)?;
            } else {
                line::write_line(out, record, &layout)?;
            }
            Ok::<(), AuditError>(())
        })?;
        if shown.is_none() {
            eprintln!("govsandbox: no event matches");
            return Ok(Status::No);
        }
        Ok(Status::Success)
    }

    fn matches(&self, record: &Record) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && (self.outcomes.is_empty() || self.outcomes.contains(&record.outcome))
            && self.pid.is_none_or(|pid| record.process.as_ref().is_some_and(|process| process.pid == pid))
    }
}

/// Which runs are meant.
pub(super) enum Choice {
    All,
    One(SessionId),
    /// In words.
    None(String),
}

/// Finds the run by `all`, `last`, or the beginning of its id.
pub(super) fn find_session(log: &Path, word: &str) -> Result<Choice, AuditError> {
    if word == "all" {
        return Ok(Choice::All);
    }
    let mut last = None;
    let mut found = BTreeSet::new();
    for_each(log, |entry| {
        if let Ok(record) = &entry.record {
            if record.kind == Kind::SessionStart || last.is_none() {
                last = Some(record.session.clone());
            }
            if record.session.0.starts_with(word) && !found.contains(&record.session.0) {
                found.insert(record.session.0.clone());
            }
        }
        Ok::<(), AuditError>(())
    })?;
    if word == "last" {
        return Ok(last.map_or_else(|| Choice::None("the audit log is empty".to_owned()), Choice::One));
    }
    let mut found = found.into_iter();
    Ok(match (found.next(), found.next()) {
        (Some(session), None) => Choice::One(SessionId(session)),
        (Some(first), Some(second)) => Choice::None(format!(
            "several sessions begin with `{word}`: {}, {} …",
            for_terminal(&first),
            for_terminal(&second)
        )),
        (None, _) => Choice::None(format!(
            "no session in {} begins with `{word}`; `audit stats` lists them",
            log.display()
        )),
    })
}
