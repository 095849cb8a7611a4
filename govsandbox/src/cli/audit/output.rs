//! What the subcommands that print records have in common.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
    path::Path,
};

use jiff::tz::TimeZone;

use crate::{
    audit::{
        read::{Entry, LogReader, ReadError},
        record::Record,
        write_terminal_safe,
    },
    event::text::for_terminal,
    report::layout::Layout,
};

/// Columns below which cutting lines makes no sense any more.
const COLUMNS_MIN: usize = 40;

/// Output formats
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned, for people
    #[default]
    Text,
    /// As in the log
    Json,
}

/// For the terminal that stdout is, or for a file.
pub(super) fn stdout_layout() -> Layout {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let size = if is_terminal { rustix::termios::tcgetwinsize(&stdout).ok() } else { None };
    Layout {
        columns: size
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0)
            .map(|columns| columns.max(COLUMNS_MIN)),
        colour: is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        zone: TimeZone::system(),
    }
}

/// Writes the line as it stands in the log; what would steer a terminal as `\uXXXX`, also where the log is not ours.
pub(super) fn write_json(out: &mut dyn Write, entry: &Entry) -> io::Result<()> {
    // It was parsed, so it is UTF-8, and blanks outside of strings are all that can be lost.
    let json = String::from_utf8_lossy(&entry.raw).replace(['\t', '\r'], " ");
    write_terminal_safe(out, &json)?;
    out.write_all(b"\n")
}

/// The record, or `None` and a line on stderr.
pub(super) fn readable<'e>(entry: &'e Entry, log: &Path) -> Option<&'e Record> {
    entry
        .record
        .as_ref()
        .inspect_err(|damage| {
            let text = format!("line {} of {} is damaged: {damage}", entry.line, log.display());
            eprintln!("govsandbox: {}", for_terminal(&text));
        })
        .ok()
}

/// Gives each line of the log to `use_entry`.
pub(super) fn for_each<E: From<ReadError>>(
    log: &Path,
    mut use_entry: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = LogReader::open(log)?;
    while let Some(entry) = reader.next_entry()? {
        use_entry(&entry)?;
    }
    Ok(())
}
