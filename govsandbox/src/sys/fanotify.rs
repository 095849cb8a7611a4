//! `fanotify(7)` with permission events. Needs `CAP_SYS_ADMIN` and `CONFIG_FANOTIFY_ACCESS_PERMISSIONS`.
#![expect(unsafe_code, reason = "raw system calls without wrappers")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Bytes that one read takes: some 170 events.
const READ_BYTES: usize = 4096;

/// A notification group whose events wait for a verdict.
#[derive(Debug)]
pub struct Group(OwnedFd);

/// Which opens are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All, of files and folders.
    Opens,
    /// Those of programs, of scripts, of their interpreters and loaders.
    Programs,
}

/// One open that waits; without an answer it waits for good.
#[derive(Debug)]
pub struct Event {
    /// The object, opened for us; `None` when the kernel could not (the verdict has to go by the number then).
    pub object: OwnedFd,
    /// Thread that opens, in this process' pid namespace (0: it has none there).
    pub tid: i32,
    /// `true`: opened to be executed.
    pub exec: bool,
}

/// The verdict on one open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The open goes on.
    Allow,
    /// The caller gets EPERM.
    Deny,
}

impl Asked {
    fn mask(self) -> u64 {
        match self {
            Self::Opens => libc::FAN_OPEN_PERM | libc::FAN_ONDIR,
            Self::Programs => libc::FAN_OPEN_EXEC_PERM,
        }
    }
}

impl Group {
    /// A new group: unlimited queue and marks, events name the thread.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` where the kernel has no permission events.
    pub fn new() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_CONTENT
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_TID;
        let event_flags = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::fanotify_init(flags, event_flags.cast_unsigned()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A second descriptor of the same group.
    ///
    /// # Errors
    /// No descriptor free.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// The group behind a descriptor that came from [`Group::new`].
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Asks for a verdict on each such open by way of the mount at `path`. No mark is put on an inode: the program behind a
    /// FUSE mount may open that file itself when the event is read, and would wait for who reads it.
    ///
    /// # Errors
    /// `EINVAL`, `EOPNOTSUPP` for file systems that allow no marks; `ENOENT` and the like for the path.
    pub fn mark(&self, asked: Asked, path: &Path) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_DONT_FOLLOW | libc::FAN_MARK_MOUNT;
        let path = CString::new(path.as_os_str().as_bytes())?;
        self.call(flags, asked.mask(), libc::AT_FDCWD, Some(&path))
    }

    /// Asks no more about this inode, whoever opens it and by whatever name; of a program until it is written to (a shared
    /// mapping is no write(2), and goes unseen). The mark goes when the kernel drops the inode from memory (Linux 5.19);
    /// before, it keeps the inode there.
    ///
    /// # Errors
    /// As [`Group::mark`].
    pub fn ignore(&self, asked: Asked, object: BorrowedFd<'_>) -> io::Result<()> {
        let mask = asked.mask() & !libc::FAN_ONDIR;
        let ignore = libc::FAN_MARK_ADD | libc::FAN_MARK_INODE | libc::FAN_MARK_IGNORED_MASK;
        let flags = match asked {
            Asked::Opens => ignore | libc::FAN_MARK_IGNORED_SURV_MODIFY,
            Asked::Programs => ignore,
        };
        match self.call(flags | libc::FAN_MARK_EVICTABLE, mask, object.as_raw_fd(), None) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.call(flags, mask, object.as_raw_fd(), None)
            }
            answer => answer,
        }
    }

    /// Takes a mark of [`Group::ignore`] away.
    ///
    /// # Errors
    /// `ENOENT`: there is none.
    pub fn stop_ignoring(&self, object: BorrowedFd<'_>) -> io::Result<()> {
        let flags = libc::FAN_MARK_REMOVE | libc::FAN_MARK_INODE | libc::FAN_MARK_IGNORED_MASK;
        self.call(flags, libc::FAN_OPEN_PERM, object.as_raw_fd(), None)
    }

    /// Takes all marks on inodes away, those of [`Group::ignore`] among them.
    ///
    /// # Errors
    /// None in practice.
    pub fn flush_inodes(&self) -> io::Result<()> {
        self.call(libc::FAN_MARK_FLUSH, 0, libc::AT_FDCWD, Some(c"/"))
    }

    /// The opens that wait now; none when nothing does.
    ///
    /// # Errors
    /// An event of another format, no descriptor free for the objects (`EMFILE`, `ENFILE`).
    pub fn read(&self) -> io::Result<Vec<Event>> {
        let mut buffer = [0_u64; READ_BYTES / 8];
        // SAFETY: the buffer has that length and is aligned for the records.
        let read = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), READ_BYTES) };
        let Ok(mut left) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(Vec::new()) } else { Err(error) };
        };
        let mut events = Vec::new();
        let mut at = buffer.as_ptr().cast::<u8>();
        while left >= size_of::<libc::fanotify_event_metadata>() {
            // SAFETY: at least one whole record is left, and `at` stays aligned to 8 (lengths are multiples of 8).
            let record = unsafe { at.cast::<libc::fanotify_event_metadata>().read_unaligned() };
            let length = record.event_len as usize;
            if record.vers != libc::FANOTIFY_METADATA_VERSION || length == 0 || length > left {
                return Err(io::Error::other("fanotify record of an unknown version"));
            }
            if record.fd >= 0 {
                // SAFETY: the kernel has just installed it for us.
                let object = unsafe { OwnedFd::from_raw_fd(record.fd) };
                events.push(Event {
                    object,
                    tid: record.pid,
                    exec: record.mask & libc::FAN_OPEN_EXEC_PERM != 0,
                });
            }
            left -= length;
            // SAFETY: `length` bytes of the buffer were left.
            at = unsafe { at.add(length) };
        }
        Ok(events)
    }

    /// Answers one event.
    ///
    /// # Errors
    /// `ENOENT`: it was answered, or its process is gone.
    pub fn answer(&self, event: &Event, verdict: Verdict) -> io::Result<()> {
        let response = libc::fanotify_response {
            fd: event.object.as_raw_fd(),
            response: match verdict {
                Verdict::Allow => libc::FAN_ALLOW,
                Verdict::Deny => libc::FAN_DENY,
            },
        };
        let length = size_of::<libc::fanotify_response>();
        // SAFETY: the structure is the kernel's, with its size.
        let written = unsafe { libc::write(self.0.as_raw_fd(), (&raw const response).cast(), length) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn call(&self, flags: u32, mask: u64, at: i32, path: Option<&std::ffi::CStr>) -> io::Result<()> {
        let path = path.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
        // SAFETY: the path is NUL-terminated, or null: then the descriptor itself is meant.
        let answer = unsafe { libc::fanotify_mark(self.0.as_raw_fd(), flags, mask, at, path) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
