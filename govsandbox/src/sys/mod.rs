//! System calls that rustix does not have: one file for each, safe on the outside.

pub mod account;
pub mod clone;
pub mod close_range;
pub mod exec;
pub mod fanotify;
pub mod landlock;
pub mod mount_setattr;
pub mod signal;
