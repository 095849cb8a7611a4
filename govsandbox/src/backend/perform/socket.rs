//! Unix sockets: connect(2) and bind(2), done for the caller on the very socket that it named.
//!
//! The kernel connects by a path that it looks up itself, after everything that could be asked. So the file is found
//! first, judged, and connected to by its descriptor. Whatever else a caller does with connect(2) goes on in the kernel,
//! where a program at the cgroup refuses members' connections of unix sockets (`bpf/unix.rs`). Nothing does that for
//! bind(2), so all of it is done here.
//!
//! **Own sockets** are told by the file that bind(2) made: each makes a new one, no other socket is ever bound to it, and
//! while it is held open here its number is no other file's. Abstract names Landlock keeps apart.

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use govsandbox_ebpf::{
    abi::{event::RecordAction, unix::UnixTable},
    decide::{
        Decision,
        path::{Operation, decide_path},
    },
};
use rustix::{
    fs::{CWD, Mode as FileMode, OFlags, ResolveFlags, Stat, fcntl_getfl, fcntl_setfl, fstat, openat2},
    io::Errno,
    net::{AddressFamily, SocketType, sockopt},
    process::{chdir, fchdir},
};

use super::{
    Answer, act,
    caller::Caller,
    entry::{self, Entry},
    judge::{Deed, Failed, Judge},
    report::{SocketOutcome, ToldSocket},
    request::{Base, LastLink},
};
use crate::{
    backend::fanotify::Mode,
    policy::automaton::unix,
    sys::{
        seccomp::{Listener, Notification},
        unix_socket,
    },
};

pub(super) const CALLS: &[i64] = &[libc::SYS_connect, libc::SYS_bind];

/// Bytes of `sun_family`, of a whole `sockaddr_un`, and of any address (`sockaddr_storage`).
const FAMILY_BYTES: usize = 2;
const UNIX_BYTES_MAX: usize = 110;
const ADDRESS_BYTES_MAX: usize = 128;
/// Own sockets that are held open at most; of more, one is taken for another's.
const OWN_MAX: usize = 768;

/// What is known of the sandbox's sockets.
pub(super) struct Sockets<'a> {
    pub(super) table: Option<&'a UnixTable>,
    /// Files that own sockets are bound to, by `st_dev` and inode.
    own: RefCell<HashMap<(u64, u64), OwnedFd>>,
    /// Calls that wait for room in a backlog, by id, and since when.
    waiting: RefCell<HashMap<u64, Instant>>,
}

/// One call as it was asked for.
struct Asked {
    socket: OwnedFd,
    kind: SocketType,
    address: Vec<u8>,
    name: Name,
}

/// Whom an address names.
enum Name {
    /// Nobody, or it makes no sense: the kernel knows.
    None,
    /// With its NUL.
    Abstract(Vec<u8>),
    Path(super::request::Place),
}

/// What became of a connection.
enum Connected {
    Done(Result<(), Errno>),
    /// There is no room, and the caller waits for it.
    Full,
}

impl<'a> Sockets<'a> {
    pub(super) fn new(table: Option<&'a UnixTable>) -> Self {
        Self { table, own: RefCell::default(), waiting: RefCell::default() }
    }

    pub(super) fn is_own(&self, file: &Stat) -> bool {
        self.own.borrow().contains_key(&(file.st_dev, file.st_ino))
    }

    fn add_own(&self, file: OwnedFd) -> io::Result<()> {
        let mut own = self.own.borrow_mut();
        if own.len() >= OWN_MAX {
            // What has no name any more nobody finds.
            own.retain(|_, file| fstat(&*file).is_ok_and(|found| found.st_nlink > 0));
        }
        if own.len() < OWN_MAX {
            let found = fstat(&file)?;
            own.insert((found.st_dev, found.st_ino), file);
        }
        Ok(())
    }
}

/// Answers a call of [`CALLS`]; `None`: the caller is gone.
pub(super) fn answer(
    judge: &Judge<'_>,
    caller: &Caller<'_>,
    listener: &Listener,
    call: &Notification,
) -> io::Result<Option<Answer>> {
    let asked = read(caller, call);
    if !listener.is_waiting(call.id) {
        judge.sockets.waiting.borrow_mut().remove(&call.id);
        return Ok(None);
    }
    let asked = match asked {
        Ok(Some(asked)) => asked,
        Ok(None) => return Ok(Some(Answer::GoOn)),
        Err(errno) => return Ok(Some(Answer::Done(Err(errno)))),
    };
    let done = super::without_capabilities(|| match call.number {
        libc::SYS_bind => bind(judge, caller, &asked).map(|()| Connected::Done(Ok(()))),
        _ => connect(judge, caller, &asked),
    })?;
    let done = match done {
        Ok(Connected::Done(done)) => done,
        Ok(Connected::Full) => {
            let patience = sockopt::socket_timeout(&asked.socket, sockopt::Timeout::Send).ok().flatten();
            let since = *judge.sockets.waiting.borrow_mut().entry(call.id).or_insert_with(Instant::now);
            if since.elapsed() < patience.unwrap_or(Duration::MAX) {
                return Ok(Some(Answer::Later));
            }
            Err(Errno::AGAIN)
        }
        Err(Failed::Errno(errno)) => Err(errno),
        Err(Failed::Performer(error)) => return Err(error),
    };
    judge.sockets.waiting.borrow_mut().remove(&call.id);
    Ok(Some(Answer::Done(done)))
}

/// Reads what a call is about; `None`: it connects another socket than a unix one.
fn read(caller: &Caller<'_>, call: &Notification) -> Result<Option<Asked>, Errno> {
    let [descriptor, address, length, ..] = call.arguments;
    let socket = caller.descriptor(descriptor)?;
    let is_unix = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
    if !is_unix && call.number == libc::SYS_connect {
        return Ok(None);
    }
    let kind = sockopt::socket_type(&socket)?;
    // The kernel takes an `int`.
    let length = usize::try_from((length & 0xffff_ffff) as i32).map_err(|_| Errno::INVAL)?;
    if length > if is_unix { UNIX_BYTES_MAX } else { ADDRESS_BYTES_MAX } {
        return Err(Errno::INVAL);
    }
    let address = caller.bytes(address, length)?;
    let is_unix = is_unix && address.starts_with(&(libc::AF_UNIX as u16).to_ne_bytes());
    let name = match address.get(FAMILY_BYTES..).filter(|_| is_unix) {
        None | Some([]) => Name::None,
        Some(name @ [0, ..]) => Name::Abstract(name.to_vec()),
        Some(path) => {
            let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
            let path = CString::new(path.get(..end).unwrap_or_default()).map_err(|_| Errno::INVAL)?;
            Name::Path(caller.at(path))
        }
    };
    Ok(Some(Asked { socket, kind, address, name }))
}

fn connect(judge: &Judge<'_>, caller: &Caller<'_>, asked: &Asked) -> Result<Connected, Failed> {
    let directly =
        |address: &[u8]| attempt(asked, |socket| Ok(unix_socket::connect(socket, address).map_err(errno)));
    match &asked.name {
        Name::None => directly(&asked.address),
        Name::Abstract(name) => connect_abstract(judge, caller, asked, name),
        Name::Path(place) => {
            let file = entry::object(place, LastLink::Follow, caller.tid)?;
            let found = fstat(&file)?;
            let by_descriptor = address_of(file.as_fd());
            if judge.sockets.is_own(&found) {
                return directly(&by_descriptor);
            }
            let path = entry::path_of(file.as_fd()).unwrap_or_default();
            let object = (found.st_dev, found.st_ino);
            let decision =
                match judge.weigh(&path, Some(&found)).map(|hits| decide_path(hits, Operation::Read)) {
                    Some(Decision { allow: true, .. }) => unix::decide(judge.sockets.table, &path),
                    Some(denied) => denied,
                    None => Decision::DENY_DEFAULT,
                };
            settle(judge, caller, asked, decision, (object, &path))?;
            let done = directly(&by_descriptor)?;
            told_if_done(caller, asked, decision, (object, &path), done)
        }
    }
}

/// Own ones are those that Landlock lets this process reach, which is in the caller's domain. What a rule names the
/// supervisor connects.
fn connect_abstract(
    judge: &Judge<'_>,
    caller: &Caller<'_>,
    asked: &Asked,
    name: &[u8],
) -> Result<Connected, Failed> {
    let decision = unix::decide(judge.sockets.table, name);
    let done = attempt(asked, |socket| Ok(unix_socket::connect(socket, &asked.address).map_err(errno)))?;
    if !matches!(done, Connected::Done(Err(Errno::PERM))) {
        return Ok(done);
    }
    settle(judge, caller, asked, decision, ((0, 0), name))?;
    let done = attempt(asked, |socket| caller.reporter.connect(socket, &asked.address))?;
    told_if_done(caller, asked, decision, ((0, 0), name), done)
}

/// Goes on, or refuses with EPERM after telling of it; in audit mode tells alone.
fn settle(
    judge: &Judge<'_>,
    caller: &Caller<'_>,
    asked: &Asked,
    decision: Decision,
    what: ((u64, u64), &[u8]),
) -> Result<(), Failed> {
    if decision.allow {
        return Ok(());
    }
    let outcome = match judge.mode {
        Mode::Enforce => SocketOutcome::Refused,
        Mode::Audit => SocketOutcome::WouldRefuse,
    };
    tell(caller, asked, decision.rule, outcome, what)?;
    if outcome == SocketOutcome::Refused { Err(Failed::Errno(Errno::PERM)) } else { Ok(()) }
}

/// Tells of what a rule allowed and came about.
fn told_if_done(
    caller: &Caller<'_>,
    asked: &Asked,
    decision: Decision,
    what: ((u64, u64), &[u8]),
    done: Connected,
) -> Result<Connected, Failed> {
    if decision.allow && matches!(done, Connected::Done(Ok(()))) {
        tell(caller, asked, decision.rule, SocketOutcome::Allowed, what)?;
    }
    Ok(done)
}

fn tell(
    caller: &Caller<'_>,
    asked: &Asked,
    rule: u16,
    outcome: SocketOutcome,
    (object, name): ((u64, u64), &[u8]),
) -> Result<(), Failed> {
    let kind = u8::try_from(asked.kind.as_raw()).unwrap_or_default();
    let told = ToldSocket { tid: caller.tid, kind, rule, outcome, object, name };
    caller.reporter.tell_socket(&told, caller.process()).map_err(Failed::Performer)
}

/// Connects without ever waiting: others wait for this process.
fn attempt(
    asked: &Asked,
    connect: impl FnOnce(BorrowedFd<'_>) -> io::Result<Result<(), Errno>>,
) -> Result<Connected, Failed> {
    let flags = fcntl_getfl(&asked.socket)?;
    let waits = asked.kind != SocketType::DGRAM && !flags.contains(OFlags::NONBLOCK);
    if waits {
        fcntl_setfl(&asked.socket, flags | OFlags::NONBLOCK)?;
    }
    let done = connect(asked.socket.as_fd());
    if waits {
        fcntl_setfl(&asked.socket, flags)?;
    }
    match done.map_err(Failed::Performer)? {
        Err(Errno::AGAIN) if waits => Ok(Connected::Full),
        done => Ok(Connected::Done(done)),
    }
}

fn bind(judge: &Judge<'_>, caller: &Caller<'_>, asked: &Asked) -> Result<(), Failed> {
    let Name::Path(place) = &asked.name else {
        return Ok(unix_socket::bind(asked.socket.as_fd(), &asked.address).map_err(errno)?);
    };
    let entry = Entry::find(place, caller.tid)?;
    let object = entry.object();
    if let Some(path) = &entry.path {
        let hits = judge.weigh_entry(&entry, object.as_ref());
        let deed = Deed { caller, action: RecordAction::Create, path, object, target: &[] };
        judge.settle(deed, hits, object.map(|_| Errno::ADDRINUSE))?;
    }
    act::take_umask(caller)?;
    // The socket says that it is bound as it was asked to be. The path means the same to this process, but for what it
    // leads to in the caller's own part of /proc.
    match &place.base {
        Base::Folder(folder) => fchdir(folder)?,
        Base::Root | Base::Missing(_) => {}
    }
    let done = if leads_to(entry::parent(place.path.as_bytes()), &entry.folder)? {
        unix_socket::bind(asked.socket.as_fd(), &asked.address)
    } else {
        fchdir(&entry.folder)?;
        let family = (libc::AF_UNIX as u16).to_ne_bytes();
        unix_socket::bind(asked.socket.as_fd(), &[&family, entry.name.as_bytes()].concat())
    };
    chdir(c"/")?;
    done.map_err(errno)?;
    // Not by its name: somebody outside may have put another there.
    if let Some(file) = caller.reporter.bound_file(asked.socket.as_fd()).map_err(Failed::Performer)? {
        judge.sockets.add_own(file).map_err(Failed::Performer)?;
    }
    Ok(())
}

/// Does this process come to that folder by this path?
fn leads_to(path: &[u8], folder: &OwnedFd) -> Result<bool, Errno> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(found) = openat2(CWD, &path, flags, FileMode::empty(), ResolveFlags::NO_MAGICLINKS) else {
        return Ok(false);
    };
    let (found, wanted) = (fstat(&found)?, fstat(folder)?);
    Ok((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino))
}

/// The address of the socket behind an `O_PATH` descriptor of this process.
fn address_of(file: BorrowedFd<'_>) -> Vec<u8> {
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    [&(libc::AF_UNIX as u16).to_ne_bytes(), path.as_bytes()].concat()
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
