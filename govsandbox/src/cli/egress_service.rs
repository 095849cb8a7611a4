//! `govsandbox egress-service`: what `run` starts beside the command, for nobody else to call.

use crate::{diagnostic::Status, egress::service};

/// Serve one sandbox's lookups and connections; started by `govsandbox run`
#[derive(Debug, clap::Args)]
pub struct EgressServiceArgs {}

impl EgressServiceArgs {
    /// Runs it until its supervisor is gone.
    ///
    /// # Errors
    /// Standard input does not lead to a supervisor, or it could not confine itself.
    pub fn run(&self) -> miette::Result<Status> {
        match service::run() {
            Ok(()) => Ok(Status::Success),
            Err(error) => Err(miette::miette!("the egress service: {error}")),
        }
    }
}
