//! What happened, in the schema `govsandbox.event/1`: one file for each step from kernel record to event.

pub mod errno;
pub mod model;
pub mod text;
