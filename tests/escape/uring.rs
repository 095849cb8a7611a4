//! The same by io_uring, whose workers make no system call of their own.

use std::{fs, io, net::SocketAddrV4, os::fd::AsRawFd, path::Path};

use crate::{
    attempt::{Attempt, Class, Inside, MISSING, Told},
    egress,
    ring::{self, Ring, Sqe},
    sys::{c, call, open, owned, text},
};

/// On `fanotify` there is no ring at all.
fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("uring-{name}"), Class::IoUring, what, source)
}

/// A symlink in the place of a folder.
const IN_PLACE: Told = Told::Event { kind: "file.change", rule: "builtin/symlink-in-place", about: "{name}" };

/// Without rings nothing else is asked.
fn closed(attempt: Attempt) -> Attempt {
    attempt.fanotify_refused(&[libc::ENOSYS]).fanotify_told(MISSING)
}

fn take(result: io::Result<i32>) -> io::Result<String> {
    text(owned(i64::from(result?)))
}

fn open_with(flags: u32, sqe_flags: u8, path: &Path) -> io::Result<String> {
    let path = c(path);
    take(Ring::new(flags)?.run(Sqe { flags: sqe_flags, ..Sqe::at(ring::OP_OPENAT, &path) }))
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut all: Vec<Attempt> = opens().into_iter().chain(changes()).collect();
    all.extend(sockets());
    all.into_iter().map(closed).collect()
}

fn opens() -> Vec<Attempt> {
    let fixed = |at: &Inside| -> io::Result<String> {
        let mut ring = Ring::new(0)?;
        ring.register_files(4)?;
        let path = c(at.secret());
        // Into slot 0 of the ring's own table: there is no descriptor.
        ring.run(Sqe { file_index: 1, ..Sqe::at(ring::OP_OPENAT, &path) })?;
        let mut bytes = [0_u8; 256];
        let address = bytes.as_mut_ptr() as u64;
        let read =
            Sqe { opcode: ring::OP_READ, flags: ring::FIXED_FILE, addr: address, len: 256, ..Sqe::default() };
        let count = ring.run(read)?;
        Ok(String::from_utf8_lossy(&bytes[..count as usize]).into_owned())
    };
    vec![
        new("openat", "an open", "io_uring_enter(2)")
            .secret("secret")
            .reads(|at| open_with(0, 0, at.secret())),
        new("openat-pattern", "an open of what a pattern names", "io_uring_enter(2)")
            .secret_by_pattern()
            .reads(|at| open_with(0, 0, at.secret())),
        new("openat-worker", "an open forced onto a worker", "task_newtask and io workers")
            .secret("secret")
            .reads(|at| open_with(0, ring::ASYNC, at.secret())),
        new(
            "openat-worker-pattern",
            "an open of what a pattern names, on a worker",
            "task_newtask and io workers",
        )
        .secret_by_pattern()
        .reads(|at| open_with(0, ring::ASYNC, at.secret())),
        new("openat-sqpoll", "an open by the kernel's polling thread", "IORING_SETUP_SQPOLL")
            .secret("secret")
            .reads(|at| open_with(ring::SETUP_SQPOLL, 0, at.secret())),
        new("openat-sqpoll-worker", "an open by a worker of the polling thread", "IORING_SETUP_SQPOLL")
            .secret("secret")
            .reads(|at| open_with(ring::SETUP_SQPOLL, ring::ASYNC, at.secret())),
        new("openat2", "an open by openat2", "openat2(2)").secret("secret").reads(|at| {
            let (path, how) = (c(at.secret()), [0_u64; 3]);
            let entry = Sqe { len: 24, off: how.as_ptr() as u64, ..Sqe::at(ring::OP_OPENAT2, &path) };
            take(Ring::new(0)?.run(entry))
        }),
        new("openat-relative", "an open below a folder's descriptor", "io_uring_enter(2)")
            .secret("secret")
            .reads(|at| {
                let folder = open(&at.folder, libc::O_PATH)?;
                let entry = Sqe { fd: folder.as_raw_fd(), ..Sqe::at(ring::OP_OPENAT, c"secret") };
                take(Ring::new(0)?.run(entry))
            }),
        new("fixed-file", "an open into the ring's own table, read from there", "io_uring_register(2)")
            .secret("secret")
            .reads(fixed),
        new(
            "fixed-file-pattern",
            "an open of what a pattern names into the ring's table",
            "io_uring_register(2)",
        )
        .secret_by_pattern()
        .reads(fixed),
        new(
            "registered-ring",
            "an open by a ring that was registered, closed and used by its index",
            "IORING_REGISTER_RING_FDS",
        )
        .secret("secret")
        .reads(|at| {
            const REGISTER_RING_FDS: u32 = 20;
            let mut ring = Ring::new(0)?;
            // struct io_uring_rsrc_update { offset, resv, data }: any free place, this ring.
            let mut update = [[u64::from(u32::MAX), ring.descriptor() as u64]];
            ring.register(REGISTER_RING_FDS, &mut update)?;
            let path = c(at.secret());
            take(ring.run(Sqe::at(ring::OP_OPENAT, &path)))
        }),
        new("child-of-ring", "an open by a ring that a child was given over fork", "io_uring_setup(2)")
            .secret("secret")
            .reads(|at| {
                let mut ring = Ring::new(ring::SETUP_SQPOLL)?;
                let path = c(at.secret());
                let worker = std::thread::scope(|scope| {
                    let spawned = std::thread::Builder::new();
                    let address = &raw mut ring as usize;
                    let path = &path;
                    spawned
                        .spawn_scoped(scope, move || {
                            // SAFETY: the scope ends before the ring does, and nobody else uses it meanwhile.
                            let ring = unsafe { &mut *(address as *mut Ring) };
                            ring.run(Sqe::at(ring::OP_OPENAT, path))
                        })
                        .map(|thread| thread.join().unwrap())
                })?;
                take(worker)
            }),
        new("protected-write", "a protected file opened for writing", "io_uring_enter(2)")
            .keeps("kept")
            .changes(|at| {
                let path = c(at.kept());
                let flags = (libc::O_WRONLY | libc::O_TRUNC) as u32;
                let entry = Sqe { op_flags: flags, ..Sqe::at(ring::OP_OPENAT, &path) };
                drop(owned(i64::from(Ring::new(0)?.run(entry)?)));
                Ok(())
            }),
    ]
}

fn changes() -> Vec<Attempt> {
    let two = |opcode: u8, from: &Path, to: &Path, op_flags: u32| -> io::Result<()> {
        let (from, to) = (c(from), c(to));
        // The second folder's descriptor stands in `len`.
        let len = libc::AT_FDCWD as u32;
        let entry = Sqe { off: to.as_ptr() as u64, len, op_flags, ..Sqe::at(opcode, &from) };
        Ring::new(0)?.run(entry).map(drop)
    };
    let one = |opcode: u8, path: &Path, op_flags: u32| -> io::Result<()> {
        let path = c(path);
        Ring::new(0)?.run(Sqe { op_flags, ..Sqe::at(opcode, &path) }).map(drop)
    };
    vec![
        new("rename", "a protected file away", "IORING_OP_RENAMEAT")
            .keeps("kept")
            .changes(move |at| two(ring::OP_RENAMEAT, at.kept(), &at.path("away"), 0)),
        new("rename-over", "another file over a protected one", "IORING_OP_RENAMEAT").keeps("kept").changes(
            move |at| {
                fs::write("new", "mine")?;
                two(ring::OP_RENAMEAT, &at.path("new"), at.kept(), 0)
            },
        ),
        new("rename-denied", "a denied file to a plain name", "IORING_OP_RENAMEAT")
            .secret_by_pattern()
            .reads(move |at| {
                two(ring::OP_RENAMEAT, at.secret(), &at.path("plain"), 0)?;
                crate::sys::read("plain")
            }),
        new("exchange", "a protected file exchanged", "IORING_OP_RENAMEAT").keeps("kept").changes(
            move |at| {
                fs::write("new", "mine")?;
                two(ring::OP_RENAMEAT, &at.path("new"), at.kept(), libc::RENAME_EXCHANGE)
            },
        ),
        new("unlink", "a protected file removed", "IORING_OP_UNLINKAT")
            .keeps("kept")
            .changes(move |at| one(ring::OP_UNLINKAT, at.kept(), 0)),
        new("rmdir", "a protected folder removed", "IORING_OP_UNLINKAT")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(move |at| one(ring::OP_UNLINKAT, &at.path("kept"), libc::AT_REMOVEDIR as u32)),
        new("link", "a hard link of a denied file", "IORING_OP_LINKAT").secret("secret").reads(move |at| {
            two(ring::OP_LINKAT, at.secret(), &at.path("alias"), 0)?;
            crate::sys::read("alias")
        }),
        new("mkdir", "a folder in a protected folder", "IORING_OP_MKDIRAT")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|at| {
                let path = c(at.path("kept/new"));
                Ring::new(0)?.run(Sqe { len: 0o755, ..Sqe::at(ring::OP_MKDIRAT, &path) }).map(drop)
            }),
        new("symlink", "a symlink in a protected folder", "IORING_OP_SYMLINKAT")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|at| {
                let to = c(at.path("kept/new"));
                let entry = Sqe { off: to.as_ptr() as u64, ..Sqe::at(ring::OP_SYMLINKAT, c"mine") };
                Ring::new(0)?.run(entry).map(drop)
            }),
        new("symlink-in-place", "a symlink where a pattern is about what lies below", "IORING_OP_SYMLINKAT")
            .protect("**/hold/inner-*.conf")
            .changes_new("hold", |at| {
                let to = c(at.path("hold"));
                let entry = Sqe { off: to.as_ptr() as u64, ..Sqe::at(ring::OP_SYMLINKAT, c"mine") };
                Ring::new(0)?.run(entry).map(drop)
            })
            .lsm_told(IN_PLACE),
        new("rename-in-place", "a symlink renamed to where a pattern is about", "IORING_OP_RENAMEAT")
            .protect("**/hold/inner-*.conf")
            .changes_new("hold", move |at| {
                std::os::unix::fs::symlink("mine", "link")?;
                two(ring::OP_RENAMEAT, &at.path("link"), &at.path("hold"), 0)
            })
            .lsm_told(IN_PLACE),
        new("link-in-place", "a second name for a symlink where a pattern is about", "IORING_OP_LINKAT")
            .protect("**/hold/inner-*.conf")
            .changes_new("hold", move |at| {
                std::os::unix::fs::symlink("mine", "link")?;
                two(ring::OP_LINKAT, &at.path("link"), &at.path("hold"), 0)
            })
            .lsm_told(IN_PLACE),
        new("setxattr", "an attribute of a protected file", "IORING_OP_SETXATTR")
            .keeps("kept")
            .where_not_supported()
            .changes(|at| {
                let path = c(at.kept());
                let (name, value) = (c"user.mine", b"1");
                let entry = Sqe {
                    opcode: ring::OP_SETXATTR,
                    addr: name.as_ptr() as u64,
                    off: value.as_ptr() as u64,
                    len: 1,
                    addr3: path.as_ptr() as u64,
                    ..Sqe::default()
                };
                Ring::new(0)?.run(entry).map(drop)
            }),
        new("fsetxattr", "an attribute of a protected file by its descriptor", "IORING_OP_FSETXATTR")
            .keeps("kept")
            .where_not_supported()
            .changes(|at| {
                let file = open(at.kept(), libc::O_RDONLY)?;
                let (name, value) = (c"user.mine", b"1");
                let entry = Sqe {
                    opcode: ring::OP_FSETXATTR,
                    fd: file.as_raw_fd(),
                    addr: name.as_ptr() as u64,
                    off: value.as_ptr() as u64,
                    len: 1,
                    ..Sqe::default()
                };
                Ring::new(0)?.run(entry).map(drop)
            }),
    ]
}

fn ring_socket(family: i32, kind: i32, protocol: i32) -> io::Result<i32> {
    // off: type, len: protocol.
    let entry =
        Sqe { opcode: ring::OP_SOCKET, fd: family, off: kind as u64, len: protocol as u32, ..Sqe::default() };
    Ring::new(0)?.run(entry)
}

fn address(at: &Inside) -> io::Result<libc::sockaddr_in> {
    let to: SocketAddrV4 = at.said("to")?.parse().map_err(io::Error::other)?;
    Ok(egress::sockaddr(to))
}

/// `setup` is the ring's, `flags` are the entry's.
fn connects(name: &str, what: &'static str, source: &'static str, setup: u32, flags: u8) -> Attempt {
    new(name, what, source).staged(egress::tcp(egress::AWAY)).acts(move |at| {
        let to = address(at)?;
        let socket = owned(call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)?);
        let entry = Sqe {
            opcode: ring::OP_CONNECT,
            flags,
            fd: socket.as_raw_fd(),
            addr: (&raw const to) as u64,
            off: 16,
            ..Sqe::default()
        };
        Ring::new(setup)?.run(entry).map(|_| String::new())
    })
}

/// Seccomp looks at system calls, and a ring makes none.
fn sockets() -> Vec<Attempt> {
    let refused = Told::Event { kind: "privilege.use", rule: "", about: "{name}" };
    let connect =
        Told::Event { kind: "net.connect", rule: "default/network.allow", about: "\"port\":{port}," };
    let send = Told::Event { kind: "net.send", rule: "default/network.allow", about: "\"port\":{port}," };
    let family = |name: &str, what, family: i32, kind: i32, protocol: i32| {
        new(name, what, "IORING_OP_SOCKET")
            .since(5, 19)
            .own_program()
            .where_there()
            .acts(move |_| ring_socket(family, kind, protocol).map(|_| String::new()))
            .refused(&[libc::EPERM, libc::EACCES, libc::EAFNOSUPPORT])
            .lsm_told(refused.clone())
    };
    vec![
        family("socket-alg", "a socket of the kernel's ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        family("socket-netlink-audit", "a netlink socket of the audit", libc::AF_NETLINK, libc::SOCK_RAW, 9),
        family("socket-netlink-generic", "a generic netlink socket", libc::AF_NETLINK, libc::SOCK_RAW, 16),
        family(
            "socket-netlink-netfilter",
            "a netlink socket of netfilter",
            libc::AF_NETLINK,
            libc::SOCK_RAW,
            12,
        ),
        family("socket-vsock", "a socket to the hypervisor", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        family("socket-mptcp", "a socket of multipath TCP", libc::AF_INET, libc::SOCK_STREAM, 262),
        family("socket-raw", "a raw socket", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
            .control_by_root(),
        family("socket-packet", "a packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0x300).control_by_root(),
        connects("connect", "a connection", "IORING_OP_CONNECT", 0, 0).lsm_told(connect.clone()),
        connects("connect-worker", "a connection on a worker", "IORING_OP_CONNECT", 0, ring::ASYNC)
            .lsm_told(connect.clone()),
        connects(
            "connect-sqpoll",
            "a connection by the polling thread",
            "IORING_SETUP_SQPOLL",
            ring::SETUP_SQPOLL,
            0,
        )
        .lsm_told(connect),
        new("sendmsg", "a datagram", "IORING_OP_SENDMSG")
            .staged(egress::udp(egress::AWAY))
            .acts(|at| {
                let mut to = address(at)?;
                let socket = owned(call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?);
                let mut data = libc::iovec { iov_base: c"out".as_ptr() as *mut _, iov_len: 3 };
                // SAFETY: a structure of numbers and pointers.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_name = (&raw mut to).cast();
                message.msg_namelen = 16;
                message.msg_iov = &raw mut data;
                message.msg_iovlen = 1;
                let entry = Sqe {
                    opcode: ring::OP_SENDMSG,
                    fd: socket.as_raw_fd(),
                    addr: (&raw const message) as u64,
                    len: 1,
                    ..Sqe::default()
                };
                Ring::new(0)?.run(entry).map(|_| String::new())
            })
            .lsm_told(send.clone()),
        new("send-to", "a datagram with its address in the entry", "io_uring_prep_send_set_addr(3)")
            .since(6, 0)
            .staged(egress::udp(egress::AWAY))
            .acts(|at| {
                let to = address(at)?;
                let socket = owned(call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?);
                let entry = Sqe {
                    opcode: ring::OP_SEND_ZC,
                    fd: socket.as_raw_fd(),
                    addr: c"out".as_ptr() as u64,
                    len: 3,
                    off: (&raw const to) as u64,
                    file_index: 16,
                    ..Sqe::default()
                };
                Ring::new(0)?.run(entry).map(|_| String::new())
            })
            .lsm_told(send),
    ]
}
