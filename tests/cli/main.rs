//! The command line without privileges: exit statuses, and what people read.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bed;
mod check;
mod doctor;
mod explain;
mod generated;
mod pitfalls;
mod show;
