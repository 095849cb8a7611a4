//! Unix sockets of daemons outside: what they are asked they do as the user, or as root.

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use crate::{
    attempt::{Attempt, Class, Inside, MISSING, Told},
    bed::unix::{Daemon, step},
    stage::Stage,
    sys::call,
};

/// A daemon that anybody may speak to, in a folder of the attempt's own.
fn daemon(kind: &'static str, abstractly: bool) -> impl Fn(&mut Stage) + 'static {
    move |stage| {
        let folder = stage.dir("daemon");
        let at =
            if abstractly { PathBuf::from(format!("@{}", folder.display())) } else { folder.join("socket") };
        let daemon = Daemon::new(kind, &at);
        if !abstractly {
            stage.give(&at);
        }
        stage.say("daemon", at.display());
        let count = daemon.counter();
        stage.watch(move || count() > 0);
        stage.keep(daemon);
    }
}

fn told(kind: &'static str, about: &'static str) -> Told {
    Told::Event { kind, rule: "default/network.unix", about }
}

fn reach(way: &str, at: impl AsRef<Path>) -> io::Result<String> {
    let argument = format!("{way}:{}", at.as_ref().display());
    step("unix", Path::new(&argument)).unwrap_or_else(|| Err(io::Error::other("no such step")))
}

/// A stream to the daemon, by way of something.
fn stream(
    name: &str,
    what: &'static str,
    source: &'static str,
    act: impl Fn(&Inside) -> io::Result<String> + 'static,
) -> Attempt {
    Attempt::new(format!("unix-{name}"), Class::UnixSockets, what, source)
        .staged(daemon("stream", false))
        .acts(act)
        .told(told("net.connect", "{daemon}"))
}

/// The daemon itself, straight on.
fn straight(
    name: &str,
    what: &'static str,
    (kind, way): (&'static str, &'static str),
    abstractly: bool,
    events: [&'static str; 2],
) -> Attempt {
    let [lsm, fanotify] = events;
    Attempt::new(format!("unix-{name}"), Class::UnixSockets, what, "unix(7)")
        .staged(daemon(kind, abstractly))
        .acts(move |at| reach(way, at.said("daemon")?))
        .lsm_told(told(lsm, "{daemon}"))
        .fanotify_told(told(fanotify, "{daemon}"))
}

/// What a socket is called after it was moved or linked.
fn elsewhere(at: &Inside, give: impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<String> {
    let other = at.path("other");
    give(Path::new(&at.said("daemon")?), &other)?;
    reach("stream", other)
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let (connect, send) = ("net.connect", "net.send");
    let mut all = vec![
        straight("stream", "a stream", ("stream", "stream"), false, [connect; 2]),
        straight("packets", "packets in order", ("seqpacket", "seqpacket"), false, [connect; 2]),
        straight("connected", "a connected datagram", ("dgram", "dgram"), false, [send, connect]),
        straight("sendto", "a datagram with an address", ("dgram", "sendto"), false, [send; 2]),
        straight("sendmsg", "a message with an address", ("dgram", "sendmsg"), false, [send; 2]),
        straight("abstract", "an abstract name", ("stream", "stream"), true, [connect; 2]),
        straight("abstract-packets", "an abstract name", ("seqpacket", "seqpacket"), true, [connect; 2]),
        straight("abstract-connected", "an abstract name", ("dgram", "dgram"), true, [send, connect]),
        straight("abstract-sendto", "an abstract name", ("dgram", "sendto"), true, [send; 2]),
        straight("abstract-sendmsg", "an abstract name", ("dgram", "sendmsg"), true, [send; 2]),
    ];
    all.push(stream("symlink", "by a symlink", "path_resolution(7)", |at| {
        std::os::unix::fs::symlink(at.said("daemon")?, at.path("link"))?;
        reach("stream", at.path("link"))
    }));
    all.push(stream("relative", "by a relative path", "unix(7)", |at| {
        std::env::set_current_dir(at.path("daemon"))?;
        reach("stream", "socket")
    }));
    all.push(stream("cwd", "by the own working directory in /proc", "proc_pid_cwd(5)", |at| {
        std::env::set_current_dir(at.path("daemon"))?;
        reach("stream", "/proc/self/cwd/socket")
    }));
    all.push(stream("thread-root", "by the own root in /proc", "proc_pid_root(5)", |at| {
        reach("stream", format!("/proc/thread-self/root{}", at.said("daemon")?))
    }));
    all.push(stream("folder-descriptor", "by a folder that is open", "proc_pid_fd(5)", |at| {
        let folder = fs::File::open(at.path("daemon"))?;
        reach("stream", format!("/proc/self/fd/{}/socket", folder.as_raw_fd()))
    }));
    all.push(stream("descriptor", "by an O_PATH descriptor of the socket", "open(2)", |at| {
        let flags = rustix::fs::OFlags::PATH;
        let handle = rustix::fs::open(at.said("daemon")?, flags, rustix::fs::Mode::empty())?;
        reach("stream", format!("/proc/self/fd/{}", handle.as_raw_fd()))
    }));
    all.push(stream("without-nul", "a path without a NUL at its end", "unix(7)", |at| {
        reach("stream", format!("!{}", at.said("daemon")?))
    }));
    all.push(
        stream("hard-link", "by another name", "link(2)", |at| {
            elsewhere(at, |from, to| fs::hard_link(from, to))
        })
        .lsm_told(told("net.connect", "socket"))
        .fanotify_told(told("net.connect", "other")),
    );
    all.push(
        stream("renamed", "after it was renamed", "rename(2)", |at| {
            elsewhere(at, |from, to| fs::rename(from, to))
        })
        .told(told("net.connect", "other")),
    );
    all.push(
        stream("folder-renamed", "after its folder was renamed", "rename(2)", |at| {
            fs::rename(at.path("daemon"), at.path("moved"))?;
            reach("stream", at.path("moved/socket"))
        })
        .told(told("net.connect", "moved")),
    );
    all.push(
        stream("io-uring", "IORING_OP_CONNECT", "io_uring_enter(2)", |at| reach("uring", at.said("daemon")?))
            .fanotify_refused(&[libc::ENOSYS])
            .fanotify_told(MISSING),
    );
    all.push(stream("reused", "by a socket that was connected to an own one before", "connect(2)", |at| {
        let own = std::os::unix::net::UnixDatagram::bind(at.path("own"))?;
        let client = std::os::unix::net::UnixDatagram::unbound()?;
        client.connect(at.path("own"))?;
        client.send(b"x")?;
        drop(own);
        // AF_UNSPEC takes the far end away.
        let nobody = [0_u8; 16];
        call!(libc::SYS_connect, client.as_raw_fd(), nobody.as_ptr(), 16)?;
        reach("stream", at.said("daemon")?)
    }));
    all
}
