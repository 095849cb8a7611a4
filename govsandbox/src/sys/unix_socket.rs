//! connect(2) and bind(2) of unix sockets with the very bytes of an address, and what a socket is bound to.
#![expect(unsafe_code, reason = "raw system calls without wrappers")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `SIOCUNIXFILE` of include/uapi/linux/un.h.
const BOUND_FILE: libc::c_ulong = 0x89e0;

/// `connect(2)`.
///
/// # Errors
/// Its errno.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: the address has as many bytes as are named.
    done(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length(address)) })
}

/// `bind(2)`.
///
/// # Errors
/// Its errno.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: as in `connect`.
    done(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), length(address)) })
}

/// An `O_PATH` descriptor of the file that it is bound to, whatever lies at its name now.
///
/// # Errors
/// `ENOENT`: it is bound to none; `EPERM`: without `CAP_NET_ADMIN`.
pub fn bound_file(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the command takes no argument.
    let file = unsafe { libc::ioctl(socket.as_raw_fd(), BOUND_FILE, 0) };
    done(file)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

fn length(address: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(address.len()).unwrap_or(libc::socklen_t::MAX)
}

fn done(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
