//! Following a log while it grows, across rotation.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::read::{Entry, LogReader, ReadError};

/// A reader that goes on in the file that the name stands for now.
#[derive(Debug)]
pub struct Follower {
    reader: LogReader,
}

impl Follower {
    /// From where the reader stands.
    #[must_use]
    pub fn new(reader: LogReader) -> Self {
        Self { reader }
    }

    /// The next line, or `None` when there is none for now: ask again after a pause.
    ///
    /// # Errors
    /// [`ReadError`]; a file that is gone for the moment is none.
    pub fn poll(&mut self) -> Result<Option<Entry>, ReadError> {
        if let Some(entry) = self.reader.next_entry()? {
            return Ok(Some(entry));
        }
        if !self.was_replaced() {
            return Ok(None);
        }
        // What was written to the old file between the last read and the rotation.
        if let Some(entry) = self.reader.next_entry()? {
            return Ok(Some(entry));
        }
        match LogReader::open(self.reader.path()) {
            Ok(reader) => self.reader = reader,
            Err(ReadError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        self.reader.next_entry()
    }

    /// The reader of the file that is read now.
    #[must_use]
    pub fn reader(&self) -> &LogReader {
        &self.reader
    }

    fn was_replaced(&self) -> bool {
        let (Ok(named), Ok(open)) = (fs::metadata(self.reader.path()), self.reader.file().metadata()) else {
            return false;
        };
        (named.dev(), named.ino()) != (open.dev(), open.ino()) || open.len() < self.reader.offset()
    }
}
