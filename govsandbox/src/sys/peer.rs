//! Who is at the other end of a unix socket (unix(7), `SO_PEERCRED`, `SO_PEERPIDFD`).
#![expect(unsafe_code, reason = "one raw syscall")]

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::{
    net::sockopt::socket_peercred,
    process::{PidfdFlags, pidfd_open},
};

/// include/uapi/asm-generic/socket.h, since Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;
/// `loginuid` of a process that nobody has logged in for.
const NOBODY: u32 = u32::MAX;

/// Who connected.
#[derive(Debug)]
pub struct Peer {
    /// Effective user at the time.
    pub uid: u32,
    /// Its process then.
    pub pid: u32,
    /// The same, for good.
    pub process: OwnedFd,
    /// Who has logged in, whatever sudo made of them; `None`: not known.
    pub login_uid: Option<u32>,
}

/// Who connected this socket.
///
/// # Errors
/// The process is gone; as getsockopt(2), pidfd_open(2).
pub fn of(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let credentials = socket_peercred(socket)?;
    let process = match pidfd(socket) {
        // Before 6.5. Until the socket is closed by all who have it the number is most likely nobody else's.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            pidfd_open(credentials.pid, PidfdFlags::empty())?
        }
        found => found?,
    };
    let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
    let login_uid = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok();
    let login_uid = login_uid.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != NOBODY);
    Ok(Peer { uid: credentials.uid.as_raw(), pid, process, login_uid })
}

fn pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut number: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length outlive the call, and the length is the value's.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
