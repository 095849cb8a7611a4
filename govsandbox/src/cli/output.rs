//! What the subcommands that print have in common.

use std::io::{self, Write};

use serde::Serialize;

/// Output formats
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Nobody takes the output.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("cannot write the output")]
pub(super) struct CannotWrite(#[source] pub(super) io::Error);

/// Writes a value as JSON, one line for each field.
pub(super) fn write_json(out: &mut dyn Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
