//! Unix sockets: what a worker does with them, and daemons of the outside.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::PermissionsExt as _,
            net::{UnixDatagram, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socket_with, sockopt};

use super::sys;

const PATIENCE: Duration = Duration::from_secs(5);

/// The bytes of a `sockaddr_un`: `@NAME` is abstract, `!PATH` has no NUL at its end.
pub(crate) fn address(text: &[u8]) -> Vec<u8> {
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    match text {
        [b'@', name @ ..] => {
            bytes.push(0);
            bytes.extend(name);
        }
        [b'!', path @ ..] => bytes.extend(path),
        path => {
            bytes.extend(path);
            bytes.push(0);
        }
    }
    bytes
}

fn kind(name: &str) -> SocketType {
    match name {
        "stream" | "uring" => SocketType::STREAM,
        "seqpacket" => SocketType::SEQPACKET,
        _ => SocketType::DGRAM,
    }
}

/// The steps of this file; `None`: it is none of them. Their argument is `KIND:ADDRESS`.
pub(crate) fn step(verb: &str, argument: &Path) -> Option<io::Result<String>> {
    let bytes = argument.as_os_str().as_bytes();
    let (how, at) = match bytes.iter().position(|byte| *byte == b':') {
        Some(colon) => (str::from_utf8(&bytes[..colon]).unwrap_or_default(), &bytes[colon + 1..]),
        None => ("", bytes),
    };
    Some(match verb {
        "unix" => reach(how, &address(at)),
        "unix-own" => own(how, at),
        "unix-race" => race(at),
        "unix-backlog" => backlog(at),
        "unix-serve" => serve(how, at),
        "unix-peer" => peer(at),
        "unix-name" => name(at),
        _ => return None,
    })
}

/// Reaches a socket; of a connection what its server says first.
fn reach(how: &str, address: &[u8]) -> io::Result<String> {
    let made = socket(AddressFamily::UNIX, kind(how), None)?;
    match how {
        "sendto" => sys::with_address(libc::SYS_sendto, &made, address)?,
        "sendmsg" => sys::with_address(libc::SYS_sendmsg, &made, address)?,
        "dgram" => {
            sys::with_address(libc::SYS_connect, &made, address)?;
            UnixDatagram::from(made).send(b"x")?;
        }
        how => {
            if how == "uring" {
                sys::connect_by_io_uring(&made, address)?;
            } else {
                sys::with_address(libc::SYS_connect, &made, address)?;
            }
            sockopt::set_socket_timeout(&made, sockopt::Timeout::Recv, Some(PATIENCE))?;
            let mut said = [0; 16];
            let count = UnixStream::from(made).read(&mut said)?;
            return Ok(String::from_utf8_lossy(&said[..count]).into_owned());
        }
    }
    Ok(String::new())
}

fn bound(how: &str, address: &[u8]) -> io::Result<OwnedFd> {
    let server = socket_with(AddressFamily::UNIX, kind(how), SocketFlags::CLOEXEC, None)?;
    sys::with_address(libc::SYS_bind, &server, address)?;
    if how == "stream" || how == "seqpacket" {
        rustix::net::listen(&server, 8)?;
    }
    Ok(server)
}

/// A server and a client of the worker's own.
fn own(how: &str, at: &[u8]) -> io::Result<String> {
    let address = address(at);
    let server = bound(how, &address)?;
    let client = socket(AddressFamily::UNIX, kind(how), None)?;
    match how {
        "sendto" => sys::with_address(libc::SYS_sendto, &client, &address)?,
        "sendmsg" => sys::with_address(libc::SYS_sendmsg, &client, &address)?,
        "dgram" => {
            sys::with_address(libc::SYS_connect, &client, &address)?;
            UnixDatagram::from(client).send(b"own")?;
        }
        _ => {
            sys::with_address(libc::SYS_connect, &client, &address)?;
            let accepted = rustix::net::accept(&server)?;
            rustix::io::write(&accepted, b"own")?;
            let mut said = [0; 3];
            UnixStream::from(client).read_exact(&mut said)?;
            return Ok(String::from_utf8_lossy(&said).into_owned());
        }
    }
    let server = UnixDatagram::from(server);
    server.set_read_timeout(Some(PATIENCE))?;
    server.recv(&mut [0; 8])?;
    Ok("own".to_owned())
}

/// Listens, as long as the worker lives.
fn serve(how: &str, at: &[u8]) -> io::Result<String> {
    std::mem::forget(bound(how, &address(at))?);
    Ok(String::new())
}

/// The user and group of who connects to an own server, as it sees them.
fn peer(at: &[u8]) -> io::Result<String> {
    let address = address(at);
    let server = bound("stream", &address)?;
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    sys::with_address(libc::SYS_connect, &client, &address)?;
    let seen = sockopt::socket_peercred(rustix::net::accept(&server)?)?;
    Ok(format!("{} {}", seen.uid.as_raw(), seen.gid.as_raw()))
}

/// What a socket that was bound there says it is bound to.
fn name(at: &[u8]) -> io::Result<String> {
    let server = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sys::with_address(libc::SYS_bind, &server, &address(at))?;
    let server = std::os::unix::net::UnixListener::from(server);
    let bound = server.local_addr()?;
    Ok(bound.as_pathname().map_or_else(String::new, |path| path.display().to_string()))
}

/// A client that is not to wait, and one that may wait shortly, at a server of the worker's own whose backlog is full; then
/// one that waits until there is room. Another socket is reached meanwhile.
fn backlog(at: &[u8]) -> io::Result<String> {
    let address = address(at);
    let server = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    sys::with_address(libc::SYS_bind, &server, &address)?;
    rustix::net::listen(&server, 0)?;
    let client = |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let first = client(SocketFlags::empty())?;
    sys::with_address(libc::SYS_connect, &first, &address)?;
    let hasty = client(SocketFlags::NONBLOCK)?;
    let errno = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
    let at_once = errno(sys::with_address(libc::SYS_connect, &hasty, &address));
    let patient = client(SocketFlags::empty())?;
    sockopt::set_socket_timeout(&patient, sockopt::Timeout::Send, Some(Duration::from_millis(100)))?;
    let after_a_while = errno(sys::with_address(libc::SYS_connect, &patient, &address));
    let waiting = {
        let address = address.clone();
        let waits = client(SocketFlags::empty())?;
        std::thread::spawn(move || sys::with_address(libc::SYS_connect, &waits, &address))
    };
    std::thread::sleep(Duration::from_millis(100));
    let meanwhile = own("stream", &[at, b"-2"].concat())?;
    rustix::net::accept(&server)?;
    rustix::net::accept(&server)?;
    let waited = errno(waiting.join().unwrap_or_else(|_| Err(io::Error::other("panicked"))));
    Ok(format!("{at_once} {after_a_while} {meanwhile} {waited}"))
}

/// Swaps what a name leads to and what a descriptor is while connecting, and tells how often the far end spoke. `at`: an own
/// folder, a comma, a socket of the outside.
fn race(at: &[u8]) -> io::Result<String> {
    let text = String::from_utf8_lossy(at);
    let (folder, target) = text.split_once(',').unwrap_or_default();
    let path = |name: &str| Path::new(folder).join(name);
    let own = bound("stream", &address(path("own").as_os_str().as_bytes()))?;
    std::os::unix::fs::symlink(target, path("there"))?;
    std::os::unix::fs::symlink("own", path("here"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let (stopped, here, there, link) = (Arc::clone(&stop), path("here"), path("there"), path("link"));
    threads.push(std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for from in [&here, &there] {
                let spare = link.with_extension("spare");
                std::fs::hard_link(from, &spare).and_then(|()| std::fs::rename(&spare, &link)).ok();
            }
        }
    }));
    let stopped = Arc::clone(&stop);
    let pair = UnixStream::pair()?;
    let number = pair.0.as_raw_fd();
    let inet = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    threads.push(std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let Ok(fresh) = socket(AddressFamily::UNIX, SocketType::STREAM, None) else { continue };
            sys::duplicate_to(fresh.as_raw_fd(), number);
            sys::duplicate_to(inet.as_raw_fd(), number);
        }
    }));
    let drained = std::thread::spawn({
        let stopped = Arc::clone(&stop);
        move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut ready = [rustix::event::PollFd::new(&own, rustix::event::PollFlags::IN)];
                let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                if rustix::event::poll(&mut ready, Some(&wait)).is_ok_and(|count| count > 0) {
                    drop(rustix::net::accept(&own));
                }
            }
        }
    });
    let (mut spoken, begin) = (0, Instant::now());
    let by_link = address(path("link").as_os_str().as_bytes());
    let straight = address(target.as_bytes());
    while begin.elapsed() < Duration::from_secs(2) {
        let client = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        if sys::with_address(libc::SYS_connect, &client, &by_link).is_ok() {
            sockopt::set_socket_timeout(&client, sockopt::Timeout::Recv, Some(Duration::from_millis(5)))?;
            spoken += usize::from(UnixStream::from(client).read(&mut [0; 8]).is_ok_and(|count| count > 0));
        }
        spoken += usize::from(sys::with_address(libc::SYS_connect, &pair.0, &straight).is_ok());
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().chain([drained]).for_each(|thread| drop(thread.join()));
    Ok(format!("reached {spoken}"))
}

/// A daemon of the outside that anybody may speak to; it says `hello` to who connects.
pub(crate) struct Daemon {
    /// As steps name it.
    pub(crate) at: String,
    path: Option<PathBuf>,
    arrived: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// `how`: `stream`, `seqpacket` or `dgram`; `at`: a path, or `@NAME`.
    pub(crate) fn new(how: &str, at: impl AsRef<Path>) -> Self {
        let at = at.as_ref();
        let server = bound(how, &address(at.as_os_str().as_bytes())).unwrap();
        let path = at.is_absolute().then(|| at.to_owned());
        if let Some(path) = &path {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        rustix::io::ioctl_fionbio(&server, true).unwrap();
        let (arrived, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stopped, listens) = (Arc::clone(&arrived), Arc::clone(&stop), how != "dgram");
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let came = if listens {
                    rustix::net::accept(server.as_fd())
                        .is_ok_and(|client| UnixStream::from(client).write_all(b"hello").is_ok())
                } else {
                    rustix::net::recv(&server, &mut [0; 8], rustix::net::RecvFlags::empty()).is_ok()
                };
                if came {
                    count.fetch_add(1, Ordering::SeqCst);
                } else {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { at: at.to_str().unwrap().to_owned(), path, arrived, stop, thread: Some(thread) }
    }

    /// Counts those that came.
    pub(crate) fn counter(&self) -> impl Fn() -> usize + 'static {
        let arrived = Arc::clone(&self.arrived);
        move || {
            std::thread::sleep(Duration::from_millis(20));
            arrived.load(Ordering::SeqCst)
        }
    }

    /// How many came; waits for those that a caller expects.
    pub(crate) fn arrived(&self, expected: usize) -> usize {
        let begin = std::time::Instant::now();
        while self.arrived.load(Ordering::SeqCst) < expected && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(20));
        self.arrived.load(Ordering::SeqCst)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = self.path.take().map(std::fs::remove_file);
    }
}
