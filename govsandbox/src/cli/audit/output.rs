//! What the subcommands that print records have in common.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::Path,
};

use jiff::tz::TimeZone;

use super::AuditError;
use crate::{
    audit::read::{Entry, LogReader},
    report::{layout::Layout, line},
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
pub(in crate::cli) fn stdout_layout() -> Layout {
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

/// Gives each readable line of the log to `use_entry`, and says on stderr which are damaged.
pub(super) fn for_each(
    log: &Path,
    mut use_entry: impl FnMut(&Entry) -> Result<(), AuditError>,
) -> Result<(), AuditError> {
    let mut reader = LogReader::open(log)?;
    while let Some(entry) = reader.next_entry()? {
        complain(&entry, log);
        use_entry(&entry)?;
    }
    Ok(())
}

/// Says on stderr when the line is damaged.
pub(super) fn complain(entry: &Entry, log: &Path) {
    if let Some(damage) = line::damage(entry, log) {
        eprintln!("govsandbox: {damage}");
    }
}
