//! The kernel programs from the host's side: loading them, filling their maps, reading their records.

pub mod btf;
pub mod egress;
pub mod fill;
mod hooks;
pub mod load;
pub mod lock;
pub mod log;
pub mod members;
pub mod mount;
pub mod networks;
pub mod offsets;
pub mod preemption;
pub mod probe;
pub mod reader;
pub mod syscalls;
pub mod tag;
mod unix;
pub mod unload;
