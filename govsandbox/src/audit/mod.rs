//! The record: an append-only file of one JSON object a line, each line's hash covering the one before.
//!
//! [`recorder::Recorder`] takes events from threads that must not wait and hands them to [`log::AuditLog`], the only
//! writer. [`read`] and [`verify`] read the file back.

pub mod chain;
mod follow;
mod gap;
mod line;
mod location;
mod lock;
pub mod log;
mod queue;
pub mod read;
pub mod record;
pub mod recorder;
mod tail;
pub mod verify;

pub(crate) use line::write_terminal_safe;
pub use location::{LocationError, Subject, check_location, is_kept};
pub use queue::Limits;
