//! Reading the log back, also while it is written and where it is damaged.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

pub use super::follow::Follower;
use super::record::Record;

/// Bytes of a line that are kept in memory; a longer line is damaged. More than any writer makes.
const LINE_BYTES_MAX: usize = 8 << 20;
/// Read at once when going backward.
const CHUNK_BYTES: u64 = 64 << 10;

/// A whole line.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the file, from 1.
    pub line: u64,
    /// Its bytes without the newline; cut when it is damaged by its length.
    pub raw: Vec<u8>,
    /// What it says.
    pub record: Result<Record, Damage>,
}

/// Why a line says nothing.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// No event of the schema.
    #[error("it is no event in the schema govsandbox.event/1: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Longer than any line of ours.
    #[error("it is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

/// The log can't be read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReadError {
    /// There is none.
    #[error("there is no audit log {}", .0.display())]
    #[diagnostic(
        code(audit::read::missing),
        help("name the log with --log FILE; a run that root started logs below /var/lib/govsandbox")
    )]
    Missing(PathBuf),
    /// It belongs to others.
    #[error("cannot read audit log {}: permission denied", .0.display())]
    #[diagnostic(
        code(audit::read::denied),
        help("run it with sudo, or as a member of the group that the file belongs to")
    )]
    Denied(PathBuf),
    /// A folder, device or pipe.
    #[error("cannot read audit log {}: it is no regular file", .0.display())]
    #[diagnostic(code(audit::read::not_regular), help("name the log itself, usually audit.jsonl"))]
    NotRegular(PathBuf),
    /// The disk fails.
    #[error("cannot read audit log {}: {source}", path.display())]
    #[diagnostic(code(audit::read::failed))]
    Failed {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ReadError {
    fn new(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
            io::ErrorKind::PermissionDenied => Self::Denied(path.to_owned()),
            _ => Self::Failed { path: path.to_owned(), source },
        }
    }
}

/// Reads a log from some line on to its end, and further when there is more.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Bytes before the next line.
    offset: u64,
    /// Lines before the next line.
    lines: u64,
    unfinished_bytes: u64,
}

impl LogReader {
    /// At the first line.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        use std::os::unix::fs::OpenOptionsExt as _;

        let error = |source| ReadError::new(path, source);
        // A pipe would make us wait for its writer.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(error)?;
        if !file.metadata().map_err(error)?.is_file() {
            return Err(ReadError::NotRegular(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            offset: 0,
            lines: 0,
            unfinished_bytes: 0,
        })
    }

    /// At the last `count` lines, or at the first when there are fewer.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn open_at_last(path: &Path, count: usize) -> Result<Self, ReadError> {
        let mut reader = Self::open(path)?;
        let error = |source| ReadError::new(path, source);
        let (offset, lines) = start_of_last(reader.file.get_ref(), count).map_err(error)?;
        reader.file.seek(SeekFrom::Start(offset)).map_err(error)?;
        (reader.offset, reader.lines) = (offset, lines);
        Ok(reader)
    }

    /// The next whole line; `None` at the end. A line whose writer is in the middle of it is not there yet.
    ///
    /// # Errors
    /// [`ReadError::Failed`]; a damaged line is none.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        let error = |source| ReadError::new(&self.path, source);
        let mut raw = Vec::new();
        let (length, is_whole) = read_line(&mut self.file, &mut raw).map_err(error)?;
        if !is_whole {
            self.unfinished_bytes = length;
            // Come back to its start when there is more.
            self.file.seek(SeekFrom::Start(self.offset)).map_err(error)?;
            return Ok(None);
        }
        self.offset += length;
        self.lines += 1;
        let record = if length > LINE_BYTES_MAX as u64 {
            Err(Damage::TooLong)
        } else {
            serde_json::from_slice(&raw).map_err(Damage::from)
        };
        Ok(Some(Entry { line: self.lines, raw, record }))
    }

    /// Bytes behind the last whole line, as of the last time that the end was reached.
    #[must_use]
    pub fn unfinished_bytes(&self) -> u64 {
        self.unfinished_bytes
    }

    pub(super) fn file(&self) -> &File {
        self.file.get_ref()
    }

    /// As it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

/// Reads up to and without the newline; keeps [`LINE_BYTES_MAX`] of it. Returns the bytes read, newline included, and
/// whether there was one.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<(u64, bool)> {
    let mut length = 0;
    loop {
        let buffer = match file.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let piece = buffer.get(..newline.unwrap_or(buffer.len())).unwrap_or_default();
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
        let used = piece.len() + usize::from(newline.is_some());
        length += used as u64;
        file.consume(used);
        if newline.is_some() || used == 0 {
            return Ok((length, newline.is_some()));
        }
    }
}

/// Offset of the last `count` lines and how many lines come before it.
fn start_of_last(file: &File, count: usize) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.len();
    let mut chunk = Vec::new();
    let mut read_chunk = |from: u64, to: u64| -> io::Result<Vec<u64>> {
        chunk.resize(usize::try_from(to - from).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut chunk, from)?;
        Ok((from..).zip(&chunk).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect())
    };
    // Line starts, from the end on: each stands behind a newline; the end itself starts none of the last lines.
    let (mut start, mut found, mut to) = (0, 0, size);
    'search: while to > 0 {
        let from = to.saturating_sub(CHUNK_BYTES);
        for at in read_chunk(from, to)?.into_iter().rev() {
            if found == count {
                start = at;
                break 'search;
            }
            found += 1;
        }
        to = from;
    }
    // The number of the line takes a look at all before it: memory bandwidth, not parsing.
    let (mut lines, mut from) = (0, 0);
    while from < start {
        let to = (from + CHUNK_BYTES).min(start);
        lines += read_chunk(from, to)?.len() as u64;
        from = to;
    }
    Ok((start, lines))
}
