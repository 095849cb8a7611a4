//! Takes away what runs leave for the next ones.

use std::path::PathBuf;

use crate::{
    bpf::{
        load::LoadError,
        unload::{self, Alive, Removed},
    },
    launch::{LaunchError, cgroup},
};

/// What became of it.
#[derive(Debug)]
pub enum Outcome {
    /// It is gone.
    Unloaded {
        /// The programs of each version.
        pins: Vec<Removed>,
        /// The cgroup that held all sandboxes.
        cgroup: Option<PathBuf>,
    },
    /// Everything stays, because these need it.
    Refused(Vec<Alive>),
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum UnloadError {
    /// The pins.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pins(#[from] LoadError),
    /// The cgroup.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cgroup(#[from] LaunchError),
}

/// Removes pinned programs and maps, the cgroup of all sandboxes, and the mount of cgroup v2 if a run made it.
///
/// # Errors
/// [`UnloadError`]; what was removed by then is gone.
pub fn unload() -> Result<Outcome, UnloadError> {
    Ok(match unload::unload()? {
        unload::Unloaded::Alive(alive) => Outcome::Refused(alive),
        unload::Unloaded::Removed(pins) => Outcome::Unloaded { pins, cgroup: cgroup::remove_root()? },
    })
}
