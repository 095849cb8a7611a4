//! JSON that is safe for a terminal, also where the log is not ours.

use std::io::{self, Write};

use serde::Serialize;

use crate::audit::{read::Entry, write_terminal_safe};

/// Writes the line as it stands in the log; what would steer a terminal as `\uXXXX`.
///
/// # Errors
/// Those of `out`.
pub fn write_entry(out: &mut dyn Write, entry: &Entry) -> io::Result<()> {
    // It was parsed, so it is UTF-8, and blanks outside of strings are all that is replaced here.
    write_terminal_safe(out, &String::from_utf8_lossy(&entry.raw).replace(['\t', '\r'], " "))?;
    out.write_all(b"\n")
}

/// Writes a value over several lines.
///
/// # Errors
/// Those of `out`.
pub fn write_pretty(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    // Within strings JSON has no newline: each is one of the layout.
    for line in serde_json::to_string_pretty(value)?.lines() {
        write_terminal_safe(out, line)?;
        writeln!(out)?;
    }
    Ok(())
}
