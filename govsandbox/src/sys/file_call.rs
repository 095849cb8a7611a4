//! File system calls that no crate wraps whole: `truncate(2)`, `mknodat(2)`, `setfsuid(2)`.
#![expect(unsafe_code, reason = "raw system calls without wrappers")]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `truncate(2)`.
///
/// # Errors
/// Its errno.
pub fn truncate(path: &CStr, length: i64) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    done(unsafe { libc::truncate(path.as_ptr(), length) })
}

/// `mknodat(2)` with mode and device as they are, whatever the kernel thinks of them.
///
/// # Errors
/// Its errno.
pub fn mknod_at(folder: BorrowedFd<'_>, name: &CStr, mode: u32, device: u32) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated.
    let answer = unsafe { libc::syscall(libc::SYS_mknodat, folder.as_raw_fd(), name.as_ptr(), mode, device) };
    done(i32::try_from(answer).unwrap_or(-1))
}

/// `setfsuid(2)`: as whom this thread meets files.
///
/// # Errors
/// `EPERM`: without `CAP_SETUID`.
pub fn set_file_uid(uid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. It answers with the uid before; a second call tells whether the first was heard.
    let now = unsafe {
        libc::setfsuid(uid);
        libc::setfsuid(uid)
    };
    if now.cast_unsigned() == uid { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn done(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
