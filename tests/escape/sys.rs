//! The system calls that attempts make by number, and what std and rustix do not offer.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// A system call by its number, past libc's wrappers: what it answered, or its errno. Arguments are whole registers.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        // SAFETY: an attempt is a process of its own; what its arguments point to outlives the call.
        let answer = unsafe { ::libc::syscall($number $(, $argument as i64)*) };
        if answer < 0 { Err(::std::io::Error::last_os_error()) } else { Ok(answer) }
    }};
}
pub(crate) use call;

/// A path as system calls take it.
pub(crate) fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

/// An errno as an error.
pub(crate) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Takes a descriptor that a system call answered.
pub(crate) fn owned(descriptor: i64) -> OwnedFd {
    // SAFETY: the kernel just made it for this process, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(RawFd::try_from(descriptor).unwrap()) }
}

/// `openat(2)` below the working directory.
pub(crate) fn open(path: impl AsRef<Path>, flags: i32) -> io::Result<OwnedFd> {
    let path = c(path);
    call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644).map(owned)
}

/// What can be read from a descriptor, at most a page.
pub(crate) fn text(from: impl Into<OwnedFd>) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::from(from.into()).take(4096).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a file holds, by an ordinary open.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    text(open(path, libc::O_RDONLY)?)
}

/// Runs `work` in a child, and says how it ended, as `wait(2)` has it.
pub(crate) fn forked(work: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: attempts fork while they have one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            work();
            // SAFETY: ends this process without running what the parent registered.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            call!(libc::SYS_wait4, child, &raw mut status, 0, 0)?;
            Ok(status)
        }
    }
}
