//! The file: opened, appended to, healed. Only this module writes to it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    chain::ChainHash,
    line::LineContext,
    lock::LockFile,
    tail::{Tail, TailError},
};
use crate::event::model::{Event, SessionFields};

const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// Bytes of one `write`: large enough that its cost is spread thin, small enough to stay in the cache.
const WRITE_BYTES: usize = 256 << 10;
/// How long another run may keep the lock before it counts as a failure.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// To whom the file and the folder go that are made for it; what is there already is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Owner: the supervisor's user.
    pub uid: u32,
    /// Group, which may read: the caller's.
    pub gid: u32,
}

/// The log, open for appending. Other runs may have it open too.
#[derive(Debug)]
pub struct AuditLog {
    lock: LockFile,
    file: LogFile,
}

/// What a call of [`AuditLog::append_all`] left undone.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unwritten {
    /// How many of the events are in the log, whole; the others left no trace in it.
    pub written: usize,
    /// Why the next one is not.
    #[source]
    pub error: LogError,
}

/// Why the log can't be opened or written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LogError {
    /// The folder is missing and can't be made.
    #[error("cannot make the folder {} for the audit log: {source}", folder.display())]
    #[diagnostic(code(audit::log::folder), help("make the folder, or choose another file with --audit-log"))]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file or its lock can't be opened.
    #[error("cannot open audit log {}: {source}", path.display())]
    #[diagnostic(
        code(audit::log::open),
        help("check owner and mode of the file and its folder, or choose another with --audit-log")
    )]
    Open {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A symlink, folder, device, pipe or socket.
    #[error("cannot open audit log {}: it is no regular file", .0.display())]
    #[diagnostic(
        code(audit::log::not_regular),
        help("remove it, or choose another file with --audit-log; a symlink is not followed")
    )]
    NotRegular(PathBuf),
    /// The same file has another name, which the sandbox might reach.
    #[error("cannot open audit log {}: the file has {links} names", path.display())]
    #[diagnostic(
        code(audit::log::hard_link),
        help("remove its other hard links, or choose another file with --audit-log")
    )]
    HardLink {
        /// The log.
        path: PathBuf,
        /// How many.
        links: u64,
    },
    /// The file has content that was not written by govsandbox.
    #[error("{} is no audit log: its last line is no event in the schema govsandbox.event/1", .0.display())]
    #[diagnostic(
        code(audit::log::not_a_log),
        help("nothing was changed; choose another file with --audit-log, or move this one away")
    )]
    NotALog(PathBuf),
    /// Another run keeps the lock.
    #[error("cannot lock audit log {}: {source}", path.display())]
    #[diagnostic(
        code(audit::log::lock),
        help("another govsandbox run holds FILE.lock: `fuser -v FILE.lock` names it")
    )]
    Lock {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its end can't be read.
    #[error("cannot read audit log {}: {source}", path.display())]
    #[diagnostic(code(audit::log::read))]
    Read {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full, a quota or a limit is reached, or the disk fails.
    #[error("cannot write audit log {}: {source}", path.display())]
    #[diagnostic(code(audit::log::write), help("make room on its disk; what was not written is counted"))]
    Write {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LogError {
    /// The errno behind it, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Folder { source, .. }
            | Self::Open { source, .. }
            | Self::Lock { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. } => source.raw_os_error(),
            Self::NotRegular(_) | Self::HardLink { .. } | Self::NotALog(_) => None,
        }
    }
}

impl AuditLog {
    /// Opens the log, or makes it (0640) and its folder (0750). Descriptors are closed on exec.
    ///
    /// # Errors
    /// [`LogError`]; a file that is no log of ours is left as it is.
    pub fn open(path: &Path, owner: Option<Ownership>) -> Result<Self, LogError> {
        let open_error = |source| LogError::Open { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(open_error)?;
        if let Some(folder) = path.parent() {
            make_folder(folder, owner)
                .map_err(|source| LogError::Folder { folder: folder.to_owned(), source })?;
        }
        let mut lock = LockFile::open(&path).map_err(open_error)?;
        // Without the lock, what looks like half a line may be another run's write.
        let held = lock.acquire(LOCK_PATIENCE);
        let held = held.map_err(|source| LogError::Lock { path: path.clone(), source })?;
        let file = LogFile::open(path, owner)?;
        drop(held);
        Ok(Self { lock, file })
    }

    /// Absolute path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Appends one event.
    ///
    /// # Errors
    /// [`LogError`]; then the event is not in the log.
    pub fn append(&mut self, event: &Event, session: &SessionFields) -> Result<(), LogError> {
        self.append_all([event], session).map_err(|unwritten| unwritten.error)
    }

    /// Appends events in their order, all of them in one turn of the lock.
    ///
    /// # Errors
    /// [`Unwritten`] says how many are in the log. Half a line is never left: it is cut off at once or, when that fails
    /// too, before the next line is written.
    pub fn append_all<'e>(
        &mut self,
        events: impl IntoIterator<Item = &'e Event>,
        session: &SessionFields,
    ) -> Result<(), Unwritten> {
        let nothing = |error| Unwritten { written: 0, error };
        // Someone may have removed it since, or moved it away.
        if let Some(folder) = self.file.path.parent() {
            make_folder(folder, self.file.owner)
                .map_err(|source| nothing(LogError::Folder { folder: folder.to_owned(), source }))?;
        }
        let _held = self
            .lock
            .acquire(LOCK_PATIENCE)
            .map_err(|source| nothing(LogError::Lock { path: self.file.path.clone(), source }))?;
        let found = self.file.refresh().map_err(nothing)?;
        // What was found comes first; it is not counted with the caller's events.
        self.file.append(&found, session).map_err(|unwritten| nothing(unwritten.error))?;
        self.file.append(events, session)
    }
}

/// The file and what is known of its end. Its functions need the lock.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    owner: Option<Ownership>,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    tail: Tail,
    buffer: Vec<u8>,
}

impl LogFile {
    fn open(path: PathBuf, owner: Option<Ownership>) -> Result<Self, LogError> {
        let (file, found) = open_file(&path, owner)?;
        let tail = read_tail(&file, &path)?;
        Ok(Self { path, owner, file, identity: (found.dev(), found.ino()), tail, buffer: Vec::new() })
    }

    /// Finds out what others did to the file since the last turn: appended, rotated, shortened, died in the middle of
    /// a line. Heals it, and returns what is to be told about that.
    fn refresh(&mut self) -> Result<Vec<Event>, LogError> {
        let size = match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => found.len(),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LogError::Open { path: self.path.clone(), source: error });
            }
            // Rotated: the name is free or stands for another file, which begins a chain of its own.
            Ok(_) | Err(_) => {
                *self = Self::open(self.path.clone(), self.owner)?;
                self.tail.end + self.tail.torn
            }
        };
        let mut found = Vec::new();
        if size != self.tail.end || self.tail.torn > 0 {
            let before = std::mem::replace(&mut self.tail, read_tail(&self.file, &self.path)?);
            let missing = before.next_seq.saturating_sub(self.tail.next_seq);
            if missing > 0 {
                found.push(gap(missing, "another program shortened the log"));
            }
        }
        if self.tail.torn > 0 {
            let detail = format!(
                "a writer ended in the middle of a line: {} bytes of it were cut off, what it had not begun is missing",
                self.tail.torn
            );
            self.cut_to(self.tail.end)
                .map_err(|source| LogError::Write { path: self.path.clone(), source })?;
            self.tail.torn = 0;
            found.push(gap(1, &detail));
        }
        Ok(found)
    }

    fn append<'e>(
        &mut self,
        events: impl IntoIterator<Item = &'e Event>,
        session: &SessionFields,
    ) -> Result<(), Unwritten> {
        let mut events = events.into_iter().peekable();
        let mut written = 0;
        let unwritten = |written, path: &Path, source| Unwritten {
            written,
            error: LogError::Write { path: path.to_owned(), source },
        };
        let mut context =
            LineContext::new(session).map_err(|error| unwritten(0, &self.path, error.into()))?;
        while events.peek().is_some() {
            let mut next = self.tail;
            let first = next.next_seq;
            self.buffer.clear();
            while self.buffer.len() < WRITE_BYTES
                && let Some(event) = events.next()
            {
                next.prev = context
                    .encode(&mut self.buffer, next.next_seq, next.prev, event)
                    .map_err(|error| unwritten(written, &self.path, error.into()))?;
                next.next_seq += 1;
            }
            next.end += self.buffer.len() as u64;
            let result = self.write_buffer();
            if result.is_ok() {
                self.tail = next;
            }
            written += usize::try_from(self.tail.next_seq - first).unwrap_or(usize::MAX);
            result.map_err(|source| unwritten(written, &self.path, source))?;
        }
        Ok(())
    }

    /// Writes the buffer, all or, on an error, as many whole lines as there was room for; `tail` then tells which.
    fn write_buffer(&mut self) -> io::Result<()> {
        let mut rest = self.buffer.as_slice();
        let error = loop {
            match self.file.write(rest) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
            if rest.is_empty() {
                return Ok(());
            }
        };
        let went_through = self.buffer.get(..self.buffer.len() - rest.len()).unwrap_or_default();
        let whole = went_through.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = went_through.get(..whole).unwrap_or_default();
        if let Some(last) = hash_of_last_line(lines) {
            self.tail.prev = last;
            self.tail.next_seq += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.tail.end += whole as u64;
        }
        if whole < went_through.len() {
            // When this fails too, the next turn finds a size that it does not expect, and heals.
            let _ = self.cut_to(self.tail.end);
        }
        Err(error)
    }

    fn cut_to(&self, end: u64) -> io::Result<()> {
        self.file.set_len(end)
    }
}

/// The hash stands at a fixed distance from the end of a line: `…"hash":"HASH"}` and a newline.
fn hash_of_last_line(lines: &[u8]) -> Option<ChainHash> {
    let hash = lines.strip_suffix(b"\"}\n")?.last_chunk::<64>()?;
    std::str::from_utf8(hash).ok()?.parse().ok()
}

fn gap(count: u64, detail: &str) -> Event {
    let now = jiff::Timestamp::now();
    Event::gap(now, "unknown", count, (now, now), detail)
}

fn read_tail(file: &File, path: &Path) -> Result<Tail, LogError> {
    Tail::read(file).map_err(|error| match error {
        TailError::Read(source) => LogError::Read { path: path.to_owned(), source },
        TailError::NotALog => LogError::NotALog(path.to_owned()),
    })
}

fn open_file(path: &Path, owner: Option<Ownership>) -> Result<(File, fs::Metadata), LogError> {
    let open_error = |source: io::Error| match source.raw_os_error() {
        Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => LogError::NotRegular(path.to_owned()),
        _ => LogError::Open { path: path.to_owned(), source },
    };
    let mut options = OpenOptions::new();
    // A pipe without a reader, or a device, must not make us wait.
    options
        .read(true)
        .append(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    let (file, is_new) = match options.clone().create_new(true).open(path) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            (options.open(path).map_err(open_error)?, false)
        }
        Err(error) => return Err(open_error(error)),
    };
    let found = file.metadata().map_err(open_error)?;
    if !found.is_file() {
        return Err(LogError::NotRegular(path.to_owned()));
    }
    if found.nlink() > 1 {
        return Err(LogError::HardLink { path: path.to_owned(), links: found.nlink() });
    }
    if is_new {
        // The caller's umask must not decide who may read the record.
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE)).map_err(open_error)?;
        if let Some(Ownership { uid, gid }) = owner {
            fchown(&file, Some(uid), Some(gid)).map_err(open_error)?;
        }
    }
    Ok((file, found))
}

/// Makes the folder and those above it. Only the last one, which is ours, gets the owner.
fn make_folder(folder: &Path, owner: Option<Ownership>) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(above)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => {}
        // Another run was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))?;
    match owner {
        Some(Ownership { uid, gid }) => lchown(folder, Some(uid), Some(gid)),
        None => Ok(()),
    }
}
