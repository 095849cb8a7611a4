//! Signal masks, dispositions and `signalfd(2)`.
#![expect(unsafe_code, reason = "raw system calls without wrappers")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// A signal mask of this thread, to be put back.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Mask")
    }
}

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub number: i32,
    /// `true`: a process sent it (`kill`, `sigqueue`, `tgkill`); `false`: the kernel did, as the terminal does.
    pub from_process: bool,
}

/// Blocks `signals` and returns the mask as it was.
///
/// # Errors
/// A number that is no signal.
pub fn block(signals: &[i32]) -> io::Result<Mask> {
    change(libc::SIG_BLOCK, &set_of(signals)?)
}

/// Blocks every signal that can be blocked.
///
/// # Errors
/// None in practice.
pub fn block_all() -> io::Result<Mask> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset writes the whole set.
    let all = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    };
    change(libc::SIG_BLOCK, &all)
}

/// Puts a mask back.
///
/// # Errors
/// None in practice.
pub fn restore(mask: &Mask) -> io::Result<()> {
    change(libc::SIG_SETMASK, &mask.0).map(drop)
}

/// Gives `signal` its default disposition.
///
/// # Errors
/// A number that is no signal.
pub fn set_default(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_DFL runs no code of ours.
    let answer = unsafe { libc::signal(signal, libc::SIG_DFL) };
    if answer == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Stops this process as `kill -STOP` does; returns after SIGCONT.
///
/// # Errors
/// None in practice.
pub fn stop_self() -> io::Result<()> {
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::raise(libc::SIGSTOP) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Signals of this process as a stream.
#[derive(Debug)]
pub struct SignalStream(OwnedFd);

impl SignalStream {
    /// For `signals`, which must be blocked.
    ///
    /// # Errors
    /// A number that is no signal, no descriptor free.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let set = set_of(signals)?;
        // SAFETY: the set is initialised.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next one that waits, if any.
    ///
    /// # Errors
    /// `read(2)` failed.
    pub fn next(&self) -> io::Result<Option<Arrived>> {
        let mut information = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let length = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has that length; the kernel writes whole records.
        let read = unsafe { libc::read(self.0.as_raw_fd(), information.as_mut_ptr().cast(), length) };
        if read < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        // SAFETY: integers only, zeroed before.
        let information = unsafe { information.assume_init() };
        // si_code: up to 0 a process sent it (SI_USER, SI_QUEUE, SI_TKILL), above the kernel (SI_KERNEL 0x80).
        Ok(Some(Arrived {
            number: information.ssi_signo.cast_signed(),
            from_process: information.ssi_code <= 0,
        }))
    }
}

impl AsFd for SignalStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: the set is initialised.
        if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

fn change(how: i32, set: &libc::sigset_t) -> io::Result<Mask> {
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are whole; the old one is written on success.
    match unsafe { libc::pthread_sigmask(how, set, old.as_mut_ptr()) } {
        // SAFETY: written by the call.
        0 => Ok(Mask(unsafe { old.assume_init() })),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
