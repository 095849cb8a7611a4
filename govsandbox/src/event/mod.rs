//! What happened, in the schema `govsandbox.event/1`: one file for each step from kernel record to event.

pub(crate) mod clock;
pub mod decode;
pub mod errno;
mod follow;
pub mod model;
mod object;
mod open_flags;
pub mod privilege;
mod processes;
mod record;
mod refused;
pub mod text;
