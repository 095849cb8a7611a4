//! Which events of a log are meant.

use std::{collections::BTreeSet, path::Path};

use crate::{
    audit::{
        read::{LogReader, ReadError},
        record::Record,
    },
    event::text::for_terminal,
    id::SessionId,
};

pub use crate::event::model::{Kind, Outcome};

/// What an event must be to be shown; an empty list leaves all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Its run.
    pub session: Option<SessionId>,
    /// One of these kinds.
    pub kinds: Vec<Kind>,
    /// One of these outcomes.
    pub outcomes: Vec<Outcome>,
    /// Its process.
    pub pid: Option<u32>,
}

impl Selection {
    /// Whether the event is one of them.
    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        self.session.as_ref().is_none_or(|session| *session == record.session)
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && (self.outcomes.is_empty() || self.outcomes.contains(&record.outcome))
            && self.pid.is_none_or(|pid| record.process.as_ref().is_some_and(|process| process.pid == pid))
    }
}

/// Which run a word names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChoice {
    /// `all` of them.
    All,
    /// This one.
    One(SessionId),
    /// None, or more than one; why, in words.
    Unclear(String),
}

/// Finds the run that is meant by `all`, `last` (the last that began), or the beginning of its id.
///
/// # Errors
/// [`ReadError`]; damaged lines are passed over.
pub fn find_session(log: &Path, word: &str) -> Result<SessionChoice, ReadError> {
    if word == "all" {
        return Ok(SessionChoice::All);
    }
    let mut last = None;
    let mut found = BTreeSet::new();
    let mut reader = LogReader::open(log)?;
    while let Some(entry) = reader.next_entry()? {
        let Ok(record) = entry.record else { continue };
        if record.session.0.starts_with(word) && !found.contains(&record.session.0) {
            found.insert(record.session.0.clone());
        }
        if record.kind == Kind::SessionStart || last.is_none() {
            last = Some(record.session);
        }
    }
    if word == "last" {
        let empty = || SessionChoice::Unclear("the audit log is empty".to_owned());
        return Ok(last.map_or_else(empty, SessionChoice::One));
    }
    let mut found = found.into_iter();
    Ok(match (found.next(), found.next()) {
        (Some(session), None) => SessionChoice::One(SessionId(session)),
        (Some(first), Some(second)) => SessionChoice::Unclear(format!(
            "several sessions begin with `{word}`: {}, {} …",
            for_terminal(&first),
            for_terminal(&second)
        )),
        (None, _) => {
            SessionChoice::Unclear(format!("no session begins with `{word}`; `audit stats` lists them"))
        }
    })
}
