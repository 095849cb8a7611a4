//! Whether a process belongs to a sandbox, by its mark.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::maps::MapData;
use govsandbox_ebpf::abi::rule::TaskMark;

use super::load::{LoadError, Loaded};
use crate::sys;

/// The marks of all tasks.
#[derive(Debug)]
pub struct Members(MapData);

impl Members {
    /// # Errors
    /// The map can't be opened.
    pub fn open(loaded: &Loaded) -> Result<Self, LoadError> {
        Ok(Self(loaded.map("MARKS")?))
    }

    /// Is this process in a sandbox, whichever?
    ///
    /// # Errors
    /// What the kernel answers: the process is gone, say.
    pub fn has(&self, process: BorrowedFd<'_>) -> io::Result<bool> {
        let mut mark = [0_u8; size_of::<TaskMark>()];
        let key = process.as_raw_fd().to_ne_bytes();
        let is_marked = sys::bpf::map_lookup(self.0.fd().as_fd(), &key, &mut mark)?;
        // The first word of a mark is the sandbox; a supervisor's is 0.
        Ok(is_marked && mark.iter().take(4).any(|byte| *byte != 0))
    }
}
