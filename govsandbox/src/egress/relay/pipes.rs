//! Pipes that bytes pass through. A connection has one only while bytes are in it, so that ten thousand idle ones have
//! none, and a few are used over and over.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// What passes at one go, where the kernel lets a user have pipes of that size (`fs.pipe-user-pages-soft` is 64 MiB for
/// all of a user's pipes; those beyond have two pages).
pub(super) const PIPE_BYTES: usize = 256 * 1024;
/// Empty pipes that are kept.
const KEPT_MAX: usize = 32;

/// Empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    empty: RefCell<Vec<Pipe>>,
}

/// A pipe, both ends not blocking.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) out: OwnedFd,
    pub(super) into: OwnedFd,
}

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// As pipe(2).
    pub(super) fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.empty.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&into, PIPE_BYTES).ok(); // a smaller one serves too
        Ok(Pipe { out, into })
    }

    /// Takes back one that is empty.
    pub(super) fn give_back(&self, pipe: Pipe) {
        let mut empty = self.empty.borrow_mut();
        if empty.len() < KEPT_MAX {
            empty.push(pipe);
        }
    }
}
