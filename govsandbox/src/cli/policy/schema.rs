//! `policy schema`

use std::io::Write;

use super::{PolicyCommandError, write_json};
use crate::{diagnostic::Status, policy::raw};

/// Print the JSON Schema of policies, for editors and other tools
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 printed, 2 usage.")]
pub(super) struct SchemaArgs {}

impl SchemaArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<Status, PolicyCommandError> {
        write_json(out, &raw::schema())?;
        Ok(Status::Success)
    }
}
