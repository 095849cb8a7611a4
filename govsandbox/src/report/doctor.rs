//! What a machine offers, as text.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::layout::{Layout, pad};
use crate::backend::machine::{Level, Machine};

/// Where there is no terminal.
const COLUMNS: usize = 110;
/// Text is not cut to columns narrower than this.
const TEXT_COLUMNS_MIN: usize = 24;
const STATUS_COLUMNS: usize = 8;

/// Writes all of it.
///
/// # Errors
/// Those of `out`.
pub fn write_machine(out: &mut dyn Write, machine: &Machine, layout: &Layout) -> io::Result<()> {
    let columns = layout.columns.unwrap_or(COLUMNS);
    writeln!(out, "{}  {}", layout.heading("kernel "), machine.kernel)?;
    let backend = match (machine.backend, machine.requirement) {
        (Some(backend), Some(requirement)) => format!("{backend} (enough for require = \"{requirement}\")"),
        _ => "none".to_owned(),
    };
    writeln!(out, "{}  {backend}", layout.heading("backend"))?;
    for reason in &machine.reasons {
        paragraph(out, 9, columns, reason)?;
    }

    writeln!(out, "\n{}", layout.heading("Checks"))?;
    let names = machine.checks.iter().map(|check| check.name.width()).max().unwrap_or(0);
    let indent = 2 + STATUS_COLUMNS + 2 + names + 2;
    for check in &machine.checks {
        let status = paint(layout, check.status, &pad(word(check.status), STATUS_COLUMNS));
        write!(out, "  {status}  {}  ", pad(check.name, names))?;
        hanging(out, indent, columns, &check.found)?;
        if let Some(mend) = &check.mend {
            paragraph(out, indent, columns, &format!("→ {mend}"))?;
        }
    }

    if machine.backend.is_some() {
        writeln!(out, "\n{}", layout.heading("Guarantees, and what holds them"))?;
        write_guarantees(out, machine, columns)?;
    }
    if !machine.not_held.is_empty() {
        writeln!(out, "\n{}", layout.heading("Not held on this machine"))?;
        for what in &machine.not_held {
            write!(out, "  - ")?;
            hanging(out, 4, columns, what)?;
        }
    }
    let is_unknown = machine.checks.iter().any(|check| check.status == Level::Unknown);
    let ending = match (machine.starts, machine.backend) {
        (true, _) => "A run would start here.",
        (false, None) if is_unknown => {
            "A run would not start like this, and without root not all can be known: sudo govsandbox doctor"
        }
        (false, _) => "A run would not start here: mend what is missing above.",
    };
    writeln!(out, "\n{ending}")
}

fn write_guarantees(out: &mut dyn Write, machine: &Machine, columns: usize) -> io::Result<()> {
    let names = machine.guarantees.iter().map(|row| row.name.width()).max().unwrap_or(0);
    for row in &machine.guarantees {
        let held_by = if row.held_by.is_empty() { "NOT HELD".to_owned() } else { row.held_by.join(", ") };
        write!(out, "  {}  ", pad(row.name, names))?;
        hanging(out, names + 4, columns, &held_by)?;
        if let Some(note) = row.note {
            paragraph(out, names + 4, columns, &format!("({note})"))?;
        }
    }
    Ok(())
}

fn word(status: Level) -> &'static str {
    match status {
        Level::Ok => "ok",
        Level::Missing => "missing",
        Level::Degraded => "degraded",
        Level::Unknown => "unknown",
    }
}

fn paint(layout: &Layout, status: Level, text: &str) -> String {
    let colour = match status {
        Level::Ok => "\u{1b}[32m",
        Level::Missing => "\u{1b}[1;31m",
        Level::Degraded | Level::Unknown => "\u{1b}[33m",
    };
    if layout.colour { format!("{colour}{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Lines of text, all of them indented.
fn paragraph(out: &mut dyn Write, indent: usize, columns: usize, text: &str) -> io::Result<()> {
    write!(out, "{:indent$}", "")?;
    hanging(out, indent, columns, text)
}

/// The same, the first line's indent being written.
fn hanging(out: &mut dyn Write, indent: usize, columns: usize, text: &str) -> io::Result<()> {
    let room = columns.saturating_sub(indent).max(TEXT_COLUMNS_MIN);
    let mut used = 0;
    for word in text.split_ascii_whitespace() {
        let width = word.width();
        if used > 0 && used + 1 + width > room {
            write!(out, "\n{:indent$}", "")?;
            used = 0;
        }
        if used > 0 {
            write!(out, " ")?;
            used += 1;
        }
        write!(out, "{word}")?;
        used += width;
    }
    writeln!(out)
}
