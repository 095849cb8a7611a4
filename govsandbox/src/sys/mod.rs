//! System calls that no crate wraps as we need them: one file for each, safe on the outside.

pub mod account;
pub mod async_descriptor;
pub mod bpf;
pub mod clone;
pub mod close_range;
pub mod datagram;
pub mod exec;
pub mod fanotify;
pub mod file_call;
pub mod file_system;
pub mod landlock;
pub mod layers;
pub mod lock_file;
pub mod lsm;
pub mod memory;
pub mod mount_setattr;
pub mod mountinfo;
pub mod namespace;
pub mod open_files;
pub mod packet;
pub mod peer;
pub mod process_group;
pub mod seccomp;
pub mod signal;
pub(crate) mod sock_diag;
pub mod spelling;
