//! Descriptors 0–2: what is on them must not lead out of the sandbox.
//!
//! A descriptor keeps the mount that it was opened on, so one from outside passes by every mount of the sandbox. A
//! terminal, a pipe and an unnamed socket pair lead nowhere; a regular file is opened anew inside, by its path, and so is
//! `/dev/null`, whose mode is the machine's; folders, block devices and sockets are refused. All others are closed.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, OFlags, Stat, fcntl_getfl, fstat, major, minor},
    io::Errno,
    net::{AddressFamily, sockopt::socket_domain},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::isatty,
};

use super::error::{Failure, LaunchError, Stage};

/// Major number of the memory devices, and the minors that hold nothing (Documentation/admin-guide/devices.txt):
/// null, zero, full, random, urandom.
const MEMORY_MAJOR: u32 = 1;
const HARMLESS: [(u32, &str); 5] =
    [(3, "/dev/null"), (5, "/dev/zero"), (7, "/dev/full"), (8, "/dev/random"), (9, "/dev/urandom")];

/// A regular file on one of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectedFile {
    /// 0–2.
    pub number: i32,
    /// Its path, as the kernel has it.
    pub path: PathBuf,
    /// Device (`st_dev`) and inode number.
    pub object: (u64, u64),
    /// `true`: open for writing.
    pub write: bool,
    pub(super) flags: OFlags,
    pub(super) offset: u64,
    /// The lower descriptor that is the same open file.
    pub(super) twin: Option<i32>,
}

impl RedirectedFile {
    /// Taken for one open file: the same object, flags and position. Two that a shell opened apart at the same place would
    /// overwrite each other; here they do not.
    fn is_same_as(&self, other: &Self) -> bool {
        self.object == other.object && self.flags == other.flags && self.offset == other.offset
    }
}

/// Is the command one of several in a job of a terminal, joined by pipes? What stops its process group from the terminal
/// then stops the others.
#[must_use]
pub fn is_in_pipeline() -> bool {
    let is_pipe =
        |number| fstat(standard(number)).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_fifo());
    (0..3).any(is_pipe) && File::open("/dev/tty").is_ok()
}

/// Looks at 0–2 and puts `/dev/null` where one is closed. Returns the regular files among them.
///
/// # Errors
/// [`LaunchError::Descriptor`] for what is not handed on.
pub fn inspect() -> Result<Vec<RedirectedFile>, LaunchError> {
    let mut files = Vec::new();
    for number in 0..3 {
        fill_if_closed(number).map_err(|source| LaunchError::system("open", "/dev/null", source))?;
        let broken = |errno: Errno| LaunchError::system("look at", format!("descriptor {number}"), errno);
        let fd = standard(number);
        let found = fstat(fd).map_err(broken)?;
        let refuse = |kind: &str| LaunchError::Descriptor { number, kind: kind.to_owned() };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Fifo => {}
            FileType::CharacterDevice if is_harmless_device(fd, &found) => {}
            FileType::CharacterDevice => return Err(refuse("a character device that is no terminal")),
            FileType::Socket if is_unnamed_pair(fd) => {}
            FileType::Socket => return Err(refuse("a socket with an address")),
            FileType::Directory => return Err(refuse("a folder")),
            FileType::BlockDevice => return Err(refuse("a block device")),
            // Without a name no rule is about it (a here-document, a memfd), and no path leads to it.
            FileType::RegularFile if found.st_nlink == 0 => {}
            FileType::RegularFile => {
                let mut file = redirected(number, fd, &found).map_err(broken)?;
                file.twin = files.iter().find(|other| file.is_same_as(other)).map(|other| other.number);
                files.push(file);
            }
            FileType::Symlink | FileType::Unknown => return Err(refuse("of an unknown kind")),
        }
    }
    Ok(files)
}

/// Opens a redirected file by its path in this mount namespace and puts it in place; position and flags stay. Twins
/// (`2>&1`) go on sharing their position.
pub(super) fn reopen(file: &RedirectedFile) -> Result<(), Failure> {
    let fail = |errno: Errno| Failure::new(Stage::Stdio, file.path.display().to_string(), &errno.into());
    if let Some(twin) = file.twin {
        return put(standard(twin), file.number).map_err(fail);
    }
    let flags =
        (file.flags & (OFlags::RWMODE | OFlags::APPEND | OFlags::SYNC | OFlags::NONBLOCK)) | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(&file.path, flags | OFlags::NOFOLLOW | OFlags::NOCTTY, rustix::fs::Mode::empty())
            .map_err(fail)?;
    let found = fstat(&opened).map_err(fail)?;
    if (found.st_dev, found.st_ino) != file.object {
        return Err(fail(Errno::STALE));
    }
    rustix::fs::seek(&opened, rustix::fs::SeekFrom::Start(file.offset)).map_err(fail)?;
    put(opened.as_fd(), file.number).map_err(fail)
}

/// Opens `/dev/null` and its like anew.
pub(super) fn reopen_devices() -> Result<(), Failure> {
    for number in 0..3 {
        let broken = |errno: Errno| Failure::new(Stage::Stdio, format!("descriptor {number}"), &errno.into());
        let fd = standard(number);
        let Some(path) = memory_device(&fstat(fd).map_err(broken)?) else { continue };
        let fail = |errno: Errno| Failure::new(Stage::Stdio, path.to_owned(), &errno.into());
        let flags = fcntl_getfl(fd).map_err(fail)? & (OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK);
        let opened =
            rustix::fs::open(path, flags | OFlags::CLOEXEC, rustix::fs::Mode::empty()).map_err(fail)?;
        put(opened.as_fd(), number).map_err(fail)?;
    }
    Ok(())
}

fn put(file: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    match number {
        0 => dup2_stdin(file),
        1 => dup2_stdout(file),
        _ => dup2_stderr(file),
    }
}

/// Where the file on a standard descriptor stands; `None`: it has no position.
pub(super) fn offset(number: i32) -> Option<u64> {
    rustix::fs::tell(standard(number)).ok()
}

/// Moves the file on a standard descriptor to where the sandbox left it, for what comes after in the same redirection.
pub(super) fn set_offset(number: i32, offset: u64) {
    // It can only fail for a file that has no position; then there is nothing to move.
    rustix::fs::seek(standard(number), rustix::fs::SeekFrom::Start(offset)).ok();
}

fn standard(number: i32) -> BorrowedFd<'static> {
    match number {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

fn fill_if_closed(number: i32) -> io::Result<()> {
    if fcntl_getfl(standard(number)) != Err(Errno::BADF) {
        return Ok(());
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    if std::os::fd::AsRawFd::as_raw_fd(&null) == number {
        // It took the free number; as a `CLOEXEC` descriptor it would be closed by exec.
        rustix::io::fcntl_setfd(&null, rustix::io::FdFlags::empty())?;
        let _: i32 = std::os::fd::IntoRawFd::into_raw_fd(null);
        return Ok(());
    }
    Ok(put(null.as_fd(), number)?)
}

fn is_harmless_device(fd: BorrowedFd<'_>, found: &Stat) -> bool {
    isatty(fd) || memory_device(found).is_some()
}

/// The name of a device that holds nothing.
fn memory_device(found: &Stat) -> Option<&'static str> {
    let is_character = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    let known = HARMLESS.iter().find(|(number, _)| *number == minor(found.st_rdev))?;
    (is_character && major(found.st_rdev) == MEMORY_MAJOR).then_some(known.1)
}

fn is_unnamed_pair(fd: BorrowedFd<'_>) -> bool {
    if socket_domain(fd) != Ok(AddressFamily::UNIX) {
        return false;
    }
    let Ok(socket) = fd.try_clone_to_owned().map(UnixStream::from) else { return false };
    socket.local_addr().is_ok_and(|own| own.is_unnamed())
        && socket.peer_addr().is_ok_and(|peer| peer.is_unnamed())
}

fn redirected(number: i32, fd: BorrowedFd<'_>, found: &Stat) -> Result<RedirectedFile, Errno> {
    let path = std::fs::read_link(Path::new("/proc/self/fd").join(number.to_string()));
    let path = path.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let flags = fcntl_getfl(fd)?;
    let write = flags & OFlags::RWMODE != OFlags::RDONLY;
    let offset = rustix::fs::tell(fd)?;
    Ok(RedirectedFile {
        number,
        path,
        object: (found.st_dev, found.st_ino),
        write,
        flags,
        offset,
        twin: None,
    })
}
