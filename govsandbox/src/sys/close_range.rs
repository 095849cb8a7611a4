//! `close_range(2)`. Needs Linux 5.11 for the flag.
#![expect(unsafe_code, reason = "a raw system call without a wrapper")]

use std::io;

/// `CLOSE_RANGE_CLOEXEC` of include/uapi/linux/close_range.h.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Marks every descriptor from `first` on so that the next `execve(2)` closes it.
///
/// # Errors
/// `ENOSYS` or `EINVAL` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: the flag changes only what exec does; no descriptor in use becomes invalid.
    let answer =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` on except those of `keep`, for a forked process that owns none of the others.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
///
/// # Safety
/// Nothing that owns one of the closed descriptors may be used or dropped afterwards: the caller ends by `_exit`.
pub unsafe fn close_all_from(first: u32, keep: &[i32]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from = first;
    for fd in keep.into_iter().filter(|fd| *fd >= first) {
        if fd > from {
            close(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close(from, libc::c_uint::MAX)
}

fn close(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: `close_all_from`'s contract covers every descriptor of the range.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
