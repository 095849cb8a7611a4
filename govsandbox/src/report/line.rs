//! One aligned line for each event.

use std::{
    io::{self, Write},
    path::Path,
};

use unicode_width::UnicodeWidthStr as _;

use super::{
    layout::{Layout, keep_end, keep_start, pad},
    phrase,
};
use crate::{
    audit::{read::Entry, record::Record},
    event::{model::Outcome, text::for_terminal},
};

/// Below that many columns the pid and the milliseconds are left out.
const NARROW_COLUMNS: usize = 100;
/// What is kept of the object before rule or errno are left out.
const OBJECT_COLUMNS_MIN: usize = 24;

/// Writes the event as one line: time, outcome, pid, program, action, object, and for what did not go through the rule
/// and the errno.
///
/// # Errors
/// Those of `out`.
pub fn write_line(out: &mut dyn Write, record: &Record, layout: &Layout) -> io::Result<()> {
    let narrow = layout.columns.is_some_and(|columns| columns < NARROW_COLUMNS);
    let outcome = pad(outcome_word(record.outcome, narrow), if narrow { 7 } else { 10 });
    let program = phrase::program(record);
    let action = record.action.name();
    let time = layout.clock(record.time, !narrow);
    let (before, after) = if narrow {
        (format!("{time} "), format!(" {} {} ", pad(&program, 8), pad(action, 7)))
    } else {
        let pid = record.process.as_ref().map_or_else(|| "-".to_owned(), |process| process.pid.to_string());
        (format!("{time}  "), format!("  {pid:>7}  {}  {}  ", pad(&program, 15), pad(action, 8)))
    };
    let room = layout
        .columns
        .map(|columns| columns.saturating_sub(before.width() + outcome.width() + after.width()));
    let what = fit(&phrase::object(record), &reasons(record), room);
    writeln!(out, "{before}{}{after}{what}", layout.paint(record.outcome, &outcome))
}

/// What there is to say of a line that says nothing; safe for a terminal.
#[must_use]
pub fn damage(entry: &Entry, log: &Path) -> Option<String> {
    let damage = entry.record.as_ref().err()?;
    Some(for_terminal(&format!("line {} of {} is damaged: {damage}", entry.line, log.display())).into_owned())
}

/// Fits both into `room`: of the reasons, best first, the first that leaves the object enough; else the object alone.
fn fit(object: &str, reasons: &[String], room: Option<usize>) -> String {
    let reason = match room {
        None => reasons.first(),
        Some(room) => {
            let object_columns = object.width().min(OBJECT_COLUMNS_MIN);
            reasons.iter().find(|reason| object_columns + 2 + reason.width() <= room)
        }
    };
    let separated = reason.map_or_else(String::new, |reason| format!("  {reason}"));
    match room {
        None => format!("{object}{separated}"),
        Some(room) => keep_for_reading(object, room.saturating_sub(separated.width())) + &separated,
    }
}

/// Of a lone path the end says most, of anything else the beginning.
fn keep_for_reading(object: &str, columns: usize) -> String {
    if object.starts_with('/') && !object.contains(' ') {
        keep_end(object, columns)
    } else {
        keep_start(object, columns)
    }
}

/// Why it did not go through, the most telling form first.
fn reasons(record: &Record) -> Vec<String> {
    if record.outcome == Outcome::Allowed {
        return Vec::new();
    }
    let rule = record.rule.as_ref().map(|rule| for_terminal(&rule.id.0).into_owned());
    let errno = record.errno.as_deref().map(|errno| for_terminal(errno).into_owned());
    let both = rule.as_ref().zip(errno.as_ref()).map(|(rule, errno)| format!("{rule}  {errno}"));
    [both, rule, errno].into_iter().flatten().collect()
}

/// Ten columns at most, seven where there is little room.
fn outcome_word(outcome: Outcome, narrow: bool) -> &'static str {
    match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::WouldDeny if narrow => "would",
        Outcome::WouldDeny => "would deny",
        Outcome::Failed => "failed",
    }
}
