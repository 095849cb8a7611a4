//! Whether a process belongs to a sandbox, by its mark.

use std::{
    io,
    mem::offset_of,
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

    /// Is this process in a sandbox, whichever, or does it calls for one?
    ///
    /// # Errors
    /// What the kernel answers: the process is gone, say.
    pub fn has(&self, process: BorrowedFd<'_>) -> io::Result<bool> {
        let mut mark = [0_u8; size_of::<TaskMark>()];
        let key = process.as_raw_fd().to_ne_bytes();
        let is_marked = sys::bpf::map_lookup(self.0.fd().as_fd(), &key, &mut mark)?;
        // The sandbox's number; a supervisor's is 0.
        let of_member = mark.iter().take(4);
        // Who connects a unix socket for a member is seen in its place.
        let of_performer = mark.iter().skip(offset_of!(TaskMark, performs)).take(4);
        Ok(is_marked && of_member.chain(of_performer).any(|byte| *byte != 0))
    }
}
