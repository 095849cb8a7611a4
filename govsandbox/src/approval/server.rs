//! The supervisor's end: a thread that answers root, and nobody in a sandbox.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::{Desk, PACKET_BYTES_MAX, Reply, Request};
use crate::sys::{packet, peer};

/// How often it is looked for what has waited for too long.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How long a client may take; the next one waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
/// Clients that wait.
const BACKLOG: i32 = 16;

/// Is this process in a sandbox, whichever?
pub type IsMember = Box<dyn Fn(BorrowedFd<'_>) -> io::Result<bool> + Send>;

/// The socket of one run can't be had.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("cannot {what} for `govsandbox approve`")]
#[diagnostic(help("rules with `effect = \"ask\"` need /run/govsandbox/ask, a folder of root's alone"))]
pub struct ServerError {
    what: &'static str,
    source: io::Error,
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> ServerError {
    move |source| ServerError { what, source }
}

/// The running thread; dropped, it has ended and its socket is gone.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// Makes the folder, or sees that nobody else has it.
///
/// # Errors
/// It can't be made, or is another's.
pub fn make_folder(folder: &Path) -> Result<(), ServerError> {
    let refuse = |what| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let make = || {
        folder.parent().map_or(Ok(()), fs::create_dir_all)?;
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != 0 || found.mode() & 0o077 != 0 {
            return Err(refuse("others than root can reach it"));
        }
        Ok(())
    };
    make().map_err(failed("make a folder"))
}

impl Server {
    /// Serves the questions of that sandbox, in a folder that [`make_folder`] has made.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(
        folder: &Path,
        sandbox: u32,
        desk: Arc<dyn Desk>,
        is_member: IsMember,
    ) -> Result<Self, ServerError> {
        let path = folder.join(sandbox.to_string());
        let listen_there = || {
            // Of a supervisor that was killed: no sandbox that lives has the same number.
            fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            bind(&listener, &SocketAddrUnix::new(&path)?)?;
            listen(&listener, BACKLOG)?;
            Ok(listener)
        };
        let listener = listen_there().map_err(failed("make a socket"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|it| failed("make a descriptor")(it.into()))?;
        let stopped = stop.try_clone().map_err(failed("make a descriptor"))?;
        let thread = std::thread::Builder::new()
            .name("approval".to_owned())
            .spawn(move || serve(&listener, &stopped, &*desk, &is_member))
            .map_err(failed("start a thread"))?;
        Ok(Self { path, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take().filter(|_| told.is_ok()) {
            drop(thread.join()); // a panic was reported by the panic itself
        }
        fs::remove_file(&self.path).ok(); // one that stays is replaced, and answers nobody
    }
}

fn serve(listener: &OwnedFd, stop: &OwnedFd, desk: &dyn Desk, is_member: &IsMember) {
    loop {
        let mut watched = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if let Err(error) = poll(&mut watched, Some(&TICK))
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "nobody can be asked any more");
            return;
        }
        let [asked, to_stop] = watched.map(|one| !one.revents().is_empty());
        if to_stop {
            return;
        }
        desk.expire();
        if !asked {
            continue;
        }
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(client) => {
                if let Err(error) = answer(client.as_fd(), desk, is_member) {
                    tracing::warn!(%error, "a client was not answered");
                }
            }
            Err(error) => tracing::warn!(%error, "a client did not arrive"),
        }
    }
}

/// Is it in this process's pid namespace? No sandbox is, nor who connects sockets for one and bears no mark.
fn shares_pids(pid: u32) -> io::Result<bool> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/pid"))? == fs::read_link("/proc/self/ns/pid")?)
}

/// A pidfd can be read when its process has ended (pidfd_open(2)).
fn is_alive(process: BorrowedFd<'_>) -> io::Result<bool> {
    let mut watched = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0)
}

fn answer(client: BorrowedFd<'_>, desk: &dyn Desk, is_member: &IsMember) -> io::Result<()> {
    for direction in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(client, direction, Some(PATIENCE))?;
    }
    let peer = peer::of(client)?;
    // Alive afterwards: then it was when it was looked at, and not just gone, or another.
    let is_outside =
        shares_pids(peer.pid)? && !is_member(peer.process.as_fd())? && is_alive(peer.process.as_fd())?;
    let Some((text, _)) = packet::receive(client, PACKET_BYTES_MAX)? else { return Ok(()) };
    let reply = if peer.uid != 0 || !is_outside {
        tracing::warn!(uid = peer.uid, pid = peer.pid, "not theirs to decide");
        Reply::NotYours
    } else {
        match serde_json::from_slice(&text)? {
            Request::List => Reply::Waiting(desk.waiting()),
            Request::Decide(number, decision) => {
                Reply::Decided(desk.decide(number, decision, peer.login_uid.unwrap_or(peer.uid)))
            }
        }
    };
    packet::send(client, &serde_json::to_vec(&reply)?, None)
}
