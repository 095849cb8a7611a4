//! From policy files to what the layers enforce: load → parse → check → merge → compile.
//!
//! [`load`] is the way in; [`explain`] tells afterwards which rule a refusal came from.

pub mod automaton;
pub mod check;
pub mod compile;
pub mod conflict;
pub mod context;
pub mod effective;
mod error;
pub mod explain;
mod extends;
mod file;
pub mod git_config;
mod layers;
mod load;
#[cfg(test)]
mod load_tests;
pub mod lockout;
pub mod merge;
pub mod mistake;
#[cfg(test)]
mod oracle_tests;
pub mod parse;
pub mod pitfalls;
pub mod problem;
pub mod procfs;
mod profile;
#[cfg(test)]
mod random_tests;
pub mod raw;
pub mod repositories;
pub mod rule;
mod spelling;
mod suggest;
pub mod unenforced;
pub mod way;

pub use context::{Context, ContextError, User};
pub use error::{ExtendsError, PolicyError};
pub use file::FileError;
pub use load::{Loaded, PROJECT_FILE, SYSTEM_DIR, Sources, load, load_alone};
