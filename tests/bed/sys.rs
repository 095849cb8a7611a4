//! The system calls that neither std nor rustix offers safely.
#![expect(unsafe_code, reason = "raw system calls of the tests' own processes")]

use std::{
    ffi::{CStr, CString},
    io::{self, Write},
    net::SocketAddrV4,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::ExitCode,
};

use rustix::{
    net::{AddressFamily, SocketType},
    thread::UnshareFlags,
};

/// Connects by sending: TCP Fast Open, which no `connect(2)` announces.
pub(crate) fn connect_by_sending(to: SocketAddrV4) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: three bytes to an address of the length that is named.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            b"tcp".as_ptr().cast(),
            3,
            libc::MSG_FASTOPEN,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread, and what it starts, a network namespace of its own.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: the flag is not FILES, so no thread loses a descriptor.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Runs `work` in a process whose parent is gone, in a session of its own, and hands back what it wrote.
pub(crate) fn in_orphan(work: impl FnOnce() -> String) -> io::Result<String> {
    let (mut reader, mut writer) = io::pipe()?;
    // SAFETY: workers have one thread, so the child has all locks in a known state.
    if unsafe { libc::fork() } == 0 {
        let _ = rustix::process::setsid();
        // SAFETY: as above.
        if unsafe { libc::fork() } == 0 {
            drop(reader);
            let _ = writer.write_all(work().as_bytes());
        }
        // SAFETY: ends this process without running what the parent registered.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
    io::read_to_string(&mut reader)
}

/// Starts `count` processes that each run `work`, and waits for them.
pub(crate) fn in_processes(count: usize, work: impl Fn(usize)) -> io::Result<()> {
    for number in 0..count {
        // SAFETY: workers have one thread, so the child has all locks in a known state.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                work(number);
                // SAFETY: ends this process without running what the parent registered.
                unsafe { libc::_exit(0) };
            }
            _ => {}
        }
    }
    for _ in 0..count {
        rustix::process::wait(rustix::process::WaitOptions::empty())?;
    }
    Ok(())
}

/// How many children of so many could be had at once.
pub(crate) fn forks(count: usize) -> usize {
    let mut children = Vec::new();
    while children.len() < count {
        // SAFETY: workers have one thread, so the child has all locks in a known state.
        match unsafe { libc::fork() } {
            -1 => break,
            0 => loop {
                // SAFETY: no pointers; SIGKILL ends it.
                unsafe { libc::pause() };
            },
            child => children.push(child),
        }
    }
    for child in &children {
        // SAFETY: no pointers; our own child that nobody has reaped yet.
        unsafe { libc::kill(*child, libc::SIGKILL) };
    }
    for _ in &children {
        let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
    }
    children.len()
}

/// `truncate(2)`, to nothing.
pub(crate) fn truncate(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string with its NUL.
    if unsafe { libc::truncate(name.as_ptr(), 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `setxattr` of `user.test`.
pub(crate) fn set_xattr(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, c"user.test", b"1", rustix::fs::XattrFlags::empty())?)
}

/// Opens a path by `IORING_OP_OPENAT`, forced onto a kernel worker thread.
pub(crate) fn open_by_io_uring(path: &Path) -> io::Result<OwnedFd> {
    const IORING_OFF_SQES: i64 = 0x1000_0000;
    const IORING_OP_OPENAT: u8 = 18;
    const IOSQE_ASYNC: u8 = 1 << 4;
    const IORING_ENTER_GETEVENTS: u32 = 1;
    // struct io_uring_params as words: sq_off begins at 10, cq_off at 20.
    let mut params = [0_u32; 30];
    // SAFETY: 120 bytes, as the kernel reads and writes them.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2_u32, params.as_mut_ptr()) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel just made for us.
    let ring = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(ring).map_err(io::Error::other)?) };
    let name = CString::new(path.as_os_str().as_bytes())?;
    let map = |length: usize, offset: i64| -> io::Result<*mut u8> {
        // SAFETY: a fresh shared mapping at a place that the kernel picks.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                ring.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
    };
    // Since Linux 5.4 both rings are one mapping; a page holds two entries and their headers.
    let (rings, entries) = (map(4096, 0)?, map(4096, IORING_OFF_SQES)?);
    let word =
        |base: usize, field: usize| -> *mut u32 { rings.wrapping_add(params[base + field] as usize).cast() };
    // SAFETY: offsets are the kernel's own, within the mapped page; nothing else touches the ring; the name outlives the wait.
    unsafe {
        let entry = entries;
        entry.write(IORING_OP_OPENAT);
        entry.add(1).write(IOSQE_ASYNC);
        entry.add(4).cast::<i32>().write(libc::AT_FDCWD);
        entry.add(16).cast::<u64>().write(name.as_ptr() as u64);
        entry.add(28).cast::<u32>().write(libc::O_RDONLY as u32);
        word(10, 6).write(0);
        word(10, 1).write_volatile(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let done = libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1_u32,
            1_u32,
            IORING_ENTER_GETEVENTS,
            std::ptr::null::<u8>(),
            0_usize,
        );
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        let result = word(20, 5).cast::<u8>().add(8).cast::<i32>().read_volatile();
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(OwnedFd::from_raw_fd(result)) }
    }
}

/// Runs before `main` of the test executable: as a worker it does its work and never gets there.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn(libc::c_int, *const *const libc::c_char) = before_main;

extern "C" fn before_main(count: libc::c_int, words: *const *const libc::c_char) {
    let words: Vec<std::ffi::OsString> = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: glibc hands every constructor main's own arguments.
        .map(|place| unsafe { CStr::from_ptr(*words.add(place)) })
        .map(|word| std::ffi::OsStr::from_bytes(word.to_bytes()).to_owned())
        .collect();
    if words.get(1).is_some_and(|mark| mark == super::worker::MARK) {
        let code = super::worker::main(&words[2..]);
        let _ = io::stdout().flush();
        // SAFETY: ends the process; the test harness was never started.
        unsafe { libc::_exit(if code == ExitCode::SUCCESS { 0 } else { 1 }) };
    }
}
