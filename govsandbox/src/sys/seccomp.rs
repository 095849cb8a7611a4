//! seccomp filters with a listener: `seccomp(2)`, `seccomp_unotify(2)`. Needs Linux 5.19 for
//! `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
#![expect(unsafe_code, reason = "raw system calls without wrappers")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use seccompiler::sock_filter;

// include/uapi/linux/seccomp.h
const NEW_LISTENER: libc::c_ulong = 1 << 3;
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const FD_SYNC_WAKE_UP: libc::c_ulong = 1;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

/// Receives the calls that a filter hands over.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One call that waits; only a signal that kills its thread ends the wait.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Names it in an answer.
    pub id: u64,
    /// The thread, in the receiver's pid namespace.
    pub tid: i32,
    /// Which call.
    pub number: i64,
    /// Its registers.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Received {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
}
const _: () = assert!(size_of::<Received>() == 80);

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}
const _: () = assert!(size_of::<Response>() == 24);

/// Puts a filter on this thread and returns its listener, `CLOEXEC`; needs `no_new_privs`.
///
/// # Errors
/// `EINVAL`: no such filter or flag here; `EBUSY`: there is a listener already.
pub fn install(program: &[sock_filter]) -> io::Result<Listener> {
    let length =
        libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the program has that many instructions of the kernel's layout (`seccompiler::sock_filter` is `repr(C)`),
    // and the kernel copies them.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            NEW_LISTENER | WAIT_KILLABLE_RECV,
            &raw const program,
        )
    };
    let listener = i32::try_from(listener).map_err(io::Error::other)?;
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(Listener(unsafe { OwnedFd::from_raw_fd(listener) }))
}

impl Listener {
    /// The listener behind a descriptor that came from [`install`].
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Has a waiting receiver run at once on the caller's processor. Linux 6.6; before, nothing happens.
    pub fn wake_here(&self) {
        // SAFETY: the flags are passed by value.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SET_FLAGS, FD_SYNC_WAKE_UP) };
    }

    /// `true`: a call can be received at once, or comes within that time.
    ///
    /// # Errors
    /// No memory.
    pub fn has_call(&self, within: Duration) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
        let within = Timespec::try_from(within).map_err(io::Error::other)?;
        match poll(&mut watched, Some(&within)) {
            Ok(ready) => Ok(ready > 0 && watched.iter().any(|one| one.revents().contains(PollFlags::IN))),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The next call. `None`: its thread was killed while it waited.
    ///
    /// # Errors
    /// Nobody is left who could call.
    pub fn receive(&self) -> io::Result<Option<Notification>> {
        let mut received = Received::default();
        // SAFETY: the structure is the kernel's, zeroed.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_RECV, &raw mut received) } < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        Ok(Some(Notification {
            id: received.id,
            tid: i32::try_from(received.pid).unwrap_or(0),
            number: i64::from(received.number),
            arguments: received.arguments,
        }))
    }

    /// `true`: the thread still waits, so what was read by its number was its own.
    #[must_use]
    pub fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: the kernel reads a `u64`.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// Ends the call: with 0, or with an errno (positive).
    ///
    /// # Errors
    /// `ENOENT`: the thread was killed.
    pub fn answer(&self, id: u64, answer: Result<(), i32>) -> io::Result<()> {
        self.send(Response { id, value: 0, error: answer.err().map_or(0, |errno| -errno), flags: 0 })
    }

    /// Lets the kernel do the call. It reads the caller's memory again, which may have changed since: only for what
    /// something else judges then.
    ///
    /// # Errors
    /// As [`Listener::answer`].
    pub fn go_on(&self, id: u64) -> io::Result<()> {
        self.send(Response { id, value: 0, error: 0, flags: CONTINUE })
    }

    fn send(&self, response: Response) -> io::Result<()> {
        // SAFETY: the structure is the kernel's.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SEND, &raw const response) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
