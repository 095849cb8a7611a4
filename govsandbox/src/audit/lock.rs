//! Who may write now: runs that share a log take turns.
//!
//! The lock is a file of its own ([`lock_file`]). On the log itself everyone who may read it could hold a lock and so stop
//! the record.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::location::beside;
use crate::sys::lock_file;

/// Between two tries; a batch takes about 10 µs.
const PAUSE: Duration = Duration::from_micros(500);

#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    file: File,
}

/// The right to write, until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a File);

/// `LOG.lock`.
pub(super) fn lock_path(log: &Path) -> PathBuf {
    beside(log, ".lock")
}

impl LockFile {
    pub(super) fn open(log: &Path) -> io::Result<Self> {
        let path = lock_path(log);
        Ok(Self { file: lock_file::open(&path)?, path })
    }

    /// Waits for its turn.
    ///
    /// # Errors
    /// `TimedOut` when another run kept it for `patience`: it is stopped, or its disk hangs.
    pub(super) fn acquire(&mut self, patience: Duration) -> io::Result<Held<'_>> {
        let deadline = Instant::now() + patience;
        loop {
            lock_file::acquire(&self.file, deadline.saturating_duration_since(Instant::now()), PAUSE)?;
            if self.is_current()? {
                break;
            }
            // Someone removed the file, or moved its folder away: others lock a new one.
            self.file = lock_file::open(&self.path)?;
        }
        Ok(Held(&self.file))
    }
}

impl LockFile {
    fn is_current(&self) -> io::Result<bool> {
        let own = self.file.metadata()?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Closing would unlock too, but a child between fork and exec may share the descriptor. An error is no news:
        // the next turn fails with it.
        let _ = self.0.unlock();
    }
}
