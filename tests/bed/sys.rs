//! The system calls that neither std nor rustix offers safely.
#![expect(unsafe_code, reason = "raw system calls of the tests' own processes")]

use std::{
    ffi::{CStr, CString},
    io::{self, Write},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::ExitCode,
};

use rustix::{
    mount::MountPropagationFlags,
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

/// Sends a datagram to whom the socket is connected to, or else to `to`, with ancillary data (cmsg(3)).
pub(crate) fn send_with(
    socket: &UdpSocket,
    to: Option<SocketAddrV6>,
    (level, kind): (i32, i32),
    data: &[u8],
) -> io::Result<()> {
    let address = to.map(|to| libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: to.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
        sin6_scope_id: 0,
    });
    let mut ancillary = [0_u64; 16];
    // SAFETY: `CMSG_LEN` counts only.
    let length = unsafe { libc::CMSG_LEN(data.len() as u32) };
    let head = libc::cmsghdr { cmsg_len: length as usize, cmsg_level: level, cmsg_type: kind };
    let mut text = libc::iovec { iov_base: b"udp".as_ptr().cast_mut().cast(), iov_len: 3 };
    // SAFETY: head and data fit into the words; a message is numbers and pointers, and all that they lead to outlives the
    // call, which writes none of it.
    let sent = unsafe {
        let start = ancillary.as_mut_ptr().cast::<libc::cmsghdr>();
        start.write(head);
        libc::CMSG_DATA(start).copy_from(data.as_ptr(), data.len());
        let mut message: libc::msghdr = std::mem::zeroed();
        if let Some(address) = &address {
            message.msg_name = (&raw const *address).cast_mut().cast();
            message.msg_namelen = size_of_val(address) as libc::socklen_t;
        }
        message.msg_iov = &raw mut text;
        message.msg_iovlen = 1;
        message.msg_control = start.cast();
        message.msg_controllen = libc::CMSG_SPACE(data.len() as u32) as usize;
        libc::sendmsg(socket.as_raw_fd(), &raw const message, 0)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a datagram that says it comes from another address (`IPV6_PKTINFO`: ipv6(7)).
pub(crate) fn send_from(from: IpAddr, to: SocketAddrV6) -> io::Result<()> {
    let socket = UdpSocket::bind("[::]:0")?;
    let IpAddr::V6(from) = from else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
    let info = [from.octets().as_slice(), &0_u32.to_ne_bytes()].concat();
    send_with(&socket, Some(to), (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), &info)
}

/// The descriptor that whoever listens on a unix socket passes (unix(7)).
pub(crate) fn passed(path: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&stream, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty())?;
    let rights = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    rights.ok_or_else(|| io::Error::other("nothing was passed"))
}

/// Passes a descriptor over a unix socket.
pub(crate) fn pass(stream: &std::os::unix::net::UnixStream, descriptor: &impl AsFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(stream, &[io::IoSlice::new(b"x")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// connect(2), bind(2) or, with a byte, sendto(2) and sendmsg(2) with an address of any bytes and length.
pub(crate) fn with_address(call: libc::c_long, socket: &impl AsFd, address: &[u8]) -> io::Result<()> {
    let (socket, length) = (socket.as_fd().as_raw_fd(), address.len() as libc::socklen_t);
    let mut text = libc::iovec { iov_base: b"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: the address has the length that is named; a message is numbers and pointers, and all that they lead to
    // outlives the call, which writes none of it.
    let done = unsafe {
        match call {
            libc::SYS_sendto => {
                libc::syscall(call, socket, b"x".as_ptr(), 1, libc::MSG_NOSIGNAL, address.as_ptr(), length)
            }
            libc::SYS_sendmsg => {
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_name = address.as_ptr().cast_mut().cast();
                message.msg_namelen = length;
                message.msg_iov = &raw mut text;
                message.msg_iovlen = 1;
                libc::syscall(call, socket, &raw const message, libc::MSG_NOSIGNAL)
            }
            _ => libc::syscall(call, socket, address.as_ptr(), length),
        }
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a descriptor's number mean another's file.
pub(crate) fn duplicate_to(from: RawFd, number: RawFd) {
    // SAFETY: whoever owns the number says that it may mean anything.
    unsafe { libc::dup2(from, number) };
}

/// `IORING_OP_CONNECT`.
pub(crate) fn connect_by_io_uring(socket: &impl AsFd, address: &[u8]) -> io::Result<()> {
    const IORING_OP_CONNECT: u8 = 16;
    let mut entry = [0; 64];
    entry[0] = IORING_OP_CONNECT;
    entry[4..8].copy_from_slice(&socket.as_fd().as_raw_fd().to_ne_bytes());
    entry[8..16].copy_from_slice(&(address.len() as u64).to_ne_bytes());
    entry[16..24].copy_from_slice(&(address.as_ptr() as u64).to_ne_bytes());
    submit(entry).map(drop)
}

/// Sends an echo request from that address by a ping socket (icmp(7)), and waits for the reply.
pub(crate) fn ping(from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    // Types of RFC 792 and RFC 4443, without a code; the kernel writes the checksum and the identifier.
    let (family, protocol, kinds) = match to {
        SocketAddr::V4(_) => (AddressFamily::INET, rustix::net::ipproto::ICMP, [8, 0]),
        SocketAddr::V6(_) => (AddressFamily::INET6, rustix::net::ipproto::ICMPV6, [128, 129]),
    };
    let socket = UdpSocket::from(rustix::net::socket(family, SocketType::DGRAM, Some(protocol))?);
    rustix::net::bind(&socket, &from)?;
    socket.connect(to)?;
    ping_by(&socket, kinds)
}

/// The same by a socket that is connected: the types of request and reply.
pub(crate) fn ping_by(socket: &UdpSocket, [request, reply]: [u8; 2]) -> io::Result<()> {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    socket.send(&[request, 0, 0, 0, 0, 0, 0, 1, b'x'])?;
    let mut text = [0; 16];
    let bytes = socket.recv(&mut text)?;
    if bytes == 9 && text[0] == reply { Ok(()) } else { Err(io::Error::other(format!("{text:?}"))) }
}

/// A ping socket that is connected, as whoever is outside may have.
pub(crate) fn ping_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let protocol = Some(rustix::net::ipproto::ICMP);
    let socket = UdpSocket::from(rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, protocol)?);
    socket.connect(to)?;
    Ok(socket)
}

/// `SO_BINDTODEVICE` (socket(7)): whoever has no privilege may bind what is not bound yet.
pub(crate) fn bind_to_device(socket: &impl AsRawFd, device: &str) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())
}

pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the value is of the length that is named.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread, and what it starts, a network namespace of its own.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: the flag is not FILES, so no thread loses a descriptor.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Puts a file in the place of another, for the calling thread and what it starts.
pub(crate) fn replace_for_thread(file: &Path, place: &Path) -> io::Result<()> {
    // SAFETY: the flag is not FILES, so no thread loses a descriptor.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private)?;
    Ok(rustix::mount::mount_bind(file, place)?)
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

/// A system call as it is: its number and its arguments. Those that are addresses must be 0 or no address at all.
pub(crate) fn call(words: &[i64]) -> io::Result<String> {
    let word = |place: usize| words.get(place).copied().unwrap_or_default();
    // SAFETY: nothing of this process is at the addresses that are passed, so the kernel reads and writes nothing of it.
    let result = unsafe { libc::syscall(word(0), word(1), word(2), word(3), word(4), word(5), word(6)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(String::new()) }
}

/// There is no such gate: ENOSYS, as in the sandbox.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn call_of_32_bits(_: &[i64]) -> io::Result<String> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// The same by the gate of 32-bit programs, with one argument.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_of_32_bits(words: &[i64]) -> io::Result<String> {
    let mut result = words.first().copied().unwrap_or_default();
    let first = words.get(1).copied().unwrap_or_default();
    // SAFETY: as in `call`; the compiler keeps rbx for itself, so it is put back.
    unsafe {
        std::arch::asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) first => _,
            inout("rax") result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match result as i32 {
        errno @ -4095..0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Ok(String::new()),
    }
}

/// Another user's right to read, as an access list.
pub(crate) fn set_acl(path: &Path) -> io::Result<()> {
    // struct posix_acl_xattr_header, then tag, rights and id of each entry (include/uapi/linux/posix_acl_xattr.h).
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 12_345), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    Ok(rustix::fs::setxattr(path, c"system.posix_acl_access", &list, rustix::fs::XattrFlags::empty())?)
}

/// `FS_IOC_SETFLAGS` with `FS_NODUMP_FL`, on a descriptor for reading.
pub(crate) fn set_flags(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    let flags = rustix::fs::ioctl_getflags(&file)?;
    Ok(rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::NODUMP)?)
}

/// Opens a path by `IORING_OP_OPENAT`, forced onto a kernel worker thread.
pub(crate) fn open_by_io_uring(path: &Path) -> io::Result<OwnedFd> {
    const IORING_OP_OPENAT: u8 = 18;
    const IOSQE_ASYNC: u8 = 1 << 4;
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut entry = [0; 64];
    (entry[0], entry[1]) = (IORING_OP_OPENAT, IOSQE_ASYNC);
    entry[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
    entry[16..24].copy_from_slice(&(name.as_ptr() as u64).to_ne_bytes());
    entry[28..32].copy_from_slice(&libc::O_RDONLY.to_ne_bytes());
    let descriptor = submit(entry)?;
    // SAFETY: a descriptor that the kernel just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a socket by `IORING_OP_SOCKET`: family, type, protocol.
pub(crate) fn socket_by_io_uring(words: &[i64]) -> io::Result<String> {
    const IORING_OP_SOCKET: u8 = 45;
    let word = |place: usize| words.get(place).copied().unwrap_or_default();
    let mut entry = [0; 64];
    entry[0] = IORING_OP_SOCKET;
    entry[4..8].copy_from_slice(&(word(0) as i32).to_ne_bytes());
    entry[8..16].copy_from_slice(&word(1).to_ne_bytes());
    entry[24..28].copy_from_slice(&(word(2) as u32).to_ne_bytes());
    submit(entry).map(|_| String::new())
}

/// Hands one entry (`struct io_uring_sqe`) to a ring of its own and waits for the result.
fn submit(entry: [u8; 64]) -> io::Result<RawFd> {
    const IORING_OFF_SQES: i64 = 0x1000_0000;
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
    // SAFETY: offsets are the kernel's own, within the mapped page; nothing else touches the ring; what the entry points to
    // outlives the wait.
    unsafe {
        entries.cast::<[u8; 64]>().write(entry);
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
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
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
