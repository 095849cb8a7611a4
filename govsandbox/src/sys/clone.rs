//! `fork(3)` and `clone3(2)`: a new process that runs a closure and ends.
#![expect(unsafe_code, reason = "raw process creation")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Exit status of a forked process whose closure panicked.
const PANICKED: i32 = 125;

/// How long a thread that ends may still be listed.
const THREAD_GONE_TRIES: u32 = 50;
const THREAD_GONE_PAUSE: Duration = Duration::from_millis(1);

/// A child of this process.
#[derive(Debug)]
pub struct Process {
    /// As this process' pid namespace sees it.
    pub pid: Pid,
    /// Refers to it for good, `CLOEXEC`.
    pub pidfd: OwnedFd,
}

/// Which descriptors a new process has.
#[derive(Clone, Copy, Debug)]
pub enum Descriptors<'a> {
    /// All of this process.
    All,
    /// 0–2 and these; its closure must use no others.
    Only(&'a [RawFd]),
}

/// Forks a process that runs `child` and ends with the status it returns.
///
/// # Errors
/// `EDEADLK` when this process has more than one thread: the child would inherit locks that nobody opens again.
pub fn fork(descriptors: Descriptors<'_>, child: impl FnOnce() -> i32) -> io::Result<Process> {
    refuse_threads()?;
    // SAFETY: there is one thread, so the child is a whole copy of the process and may do anything.
    match unsafe { libc::fork() } {
        0 => run(descriptors, child),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        raw => {
            let pid = Pid::from_raw(raw).ok_or_else(|| io::Error::other("fork returned no pid"))?;
            Ok(Process { pid, pidfd: pidfd_open(pid, PidfdFlags::empty())? })
        }
    }
}

/// Proof that this process has one thread, and so may be copied by [`fork_sibling`]; making a thread afterwards breaks it.
#[derive(Debug)]
pub struct OneThread(());

impl OneThread {
    /// Looks.
    ///
    /// # Errors
    /// `EDEADLK`: there are more; `/proc` can't be read.
    pub fn check() -> io::Result<Self> {
        refuse_threads().map(Self)
    }
}

/// As [`fork`], the child being a child of this process' own parent (`CLONE_PARENT`), which reaps it; its pidfd, `CLOEXEC`.
///
/// # Errors
/// `EINVAL`: the parent is of another pid namespace.
pub fn fork_sibling(
    _: OneThread,
    descriptors: Descriptors<'_>,
    child: impl FnOnce() -> i32,
) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let arguments = CloneArguments {
        flags: u64::from((libc::CLONE_PARENT | libc::CLONE_PIDFD).cast_unsigned()),
        pidfd: (&raw mut pidfd) as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM and with stack 0 this is a fork; there is one thread, so the child is a whole copy. The
    // structure is the kernel's `struct clone_args` and `pidfd` outlives the call.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) } {
        0 => run(descriptors, child),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just put a descriptor there that nobody else owns.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(pidfd) }),
    }
}

/// As [`fork`], the child being pid 1 of a new pid namespace with mount and IPC namespaces of its own, born in `cgroup`
/// (a folder of a cgroup v2 hierarchy) if there is one. Needs Linux 5.7 and `CAP_SYS_ADMIN`.
///
/// # Errors
/// As [`fork`]; `EPERM` without the capability.
pub fn clone_into_namespaces(
    cgroup: Option<BorrowedFd<'_>>,
    descriptors: Descriptors<'_>,
    child: impl FnOnce() -> i32,
) -> io::Result<Process> {
    refuse_threads()?;
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_PIDFD;
    let arguments = CloneArguments {
        flags: u64::from(flags.cast_unsigned()) | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |folder| folder.as_raw_fd() as u64),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM and with stack 0 this is a fork; there is one thread, so the child is a whole copy. The
    // structure is the kernel's `struct clone_args` and `pidfd` outlives the call.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) } {
        0 => run(descriptors, child),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        raw => {
            let pid = i32::try_from(raw).ok().and_then(Pid::from_raw);
            // SAFETY: the kernel has just put a descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Process { pid: pid.ok_or_else(|| io::Error::other("clone3 returned no pid"))?, pidfd })
        }
    }
}

/// `CLONE_INTO_CGROUP` of include/uapi/linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of include/uapi/linux/sched.h, version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn refuse_threads() -> io::Result<()> {
    // A thread that was joined is listed for a moment still.
    for _ in 0..THREAD_GONE_TRIES {
        if std::fs::read_dir("/proc/self/task")?.take(2).count() == 1 {
            return Ok(());
        }
        std::thread::sleep(THREAD_GONE_PAUSE);
    }
    Err(io::Error::from_raw_os_error(libc::EDEADLK))
}

fn run(descriptors: Descriptors<'_>, child: impl FnOnce() -> i32) -> ! {
    if let Descriptors::Only(keep) = descriptors {
        // SAFETY: the process ends below by `_exit`, so that no owner of a closed descriptor is dropped.
        if unsafe { super::close_range::close_all_from(3, keep) }.is_err() {
            // SAFETY: as below.
            unsafe { libc::_exit(PANICKED) }
        }
    }
    let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
    // SAFETY: ends the process without running the parent's exit handlers.
    unsafe { libc::_exit(status) }
}
