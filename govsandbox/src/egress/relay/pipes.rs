//! Pipes that bytes pass through. A connection has one only while bytes are in it, so that ten thousand idle ones have
//! none, and a few are used over and over. Where there are fewer than would be needed, who comes late waits for one.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What passes at one go, where the kernel lets a user have pipes of that size (`fs.pipe-user-pages-soft` is 64 MiB for
/// all of a user's pipes; those beyond have two pages).
pub(super) const PIPE_BYTES: usize = 256 * 1024;
/// Empty pipes that are kept.
const KEPT_MAX: usize = 32;

/// Empty pipes, and the right to make more.
#[derive(Debug)]
pub(super) struct Pipes {
    empty: RefCell<Vec<Ends>>,
    room: Semaphore,
}

/// A pipe, both ends not blocking.
#[derive(Debug)]
struct Ends {
    out: OwnedFd,
    into: OwnedFd,
}

/// A pipe in use.
#[derive(Debug)]
pub(super) struct Pipe<'a> {
    ends: Ends,
    pipes: &'a Pipes,
    _permit: SemaphorePermit<'a>,
}

impl Pipes {
    /// At most so many at once.
    pub(super) fn new(room: usize) -> Self {
        Self { empty: RefCell::default(), room: Semaphore::new(room) }
    }

    /// An empty pipe, when there is one.
    ///
    /// # Errors
    /// As pipe(2).
    pub(super) async fn take(&self) -> io::Result<Pipe<'_>> {
        let _permit = self.room.acquire().await.map_err(io::Error::other)?;
        let kept = self.empty.borrow_mut().pop();
        let ends = match kept {
            Some(ends) => ends,
            None => {
                let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                fcntl_setpipe_size(&into, PIPE_BYTES).ok(); // a smaller one serves too
                Ends { out, into }
            }
        };
        Ok(Pipe { ends, pipes: self, _permit })
    }
}

impl Pipe<'_> {
    pub(super) fn out(&self) -> &OwnedFd {
        &self.ends.out
    }

    pub(super) fn into(&self) -> &OwnedFd {
        &self.ends.into
    }

    /// Gives back one that is empty; any other is closed, with what is in it.
    pub(super) fn give_back(self) {
        let Self { ends, pipes, .. } = self;
        let mut empty = pipes.empty.borrow_mut();
        if empty.len() < KEPT_MAX {
            empty.push(ends);
        }
    }
}
