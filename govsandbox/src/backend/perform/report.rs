//! Between performer and supervisor: what was refused, and what only the supervisor may open.
//!
//! The performer waits for each answer, so that a refusal is known, and its process found, while the caller still
//! waits.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    thread::JoinHandle,
};

use govsandbox_ebpf::abi::event::RecordAction;
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, major, minor, open},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

use super::edit::{self, Edit, OpenKeys};
use crate::{
    backend::fanotify::{Outbox, Refusal, now_boot_ns},
    launch::Forked,
    sys::{packet, unix_socket},
};

/// Two paths, none longer than what `/proc/self/fd` tells, and the fixed part.
const PACKET_BYTES_MAX: usize = 16_384;
/// `kind`, action, refused, rule, tid, device, inode, length of the path.
const HEAD_BYTES: usize = 33;
const KIND_REFUSAL: u8 = 1;
const KIND_OPEN: u8 = 2;
const KIND_EDIT: u8 = 3;
const KIND_SOCKET: u8 = 4;
const KIND_BOUND: u8 = 5;
const KIND_CONNECT: u8 = 6;
/// In the place of a refusal.
const OUTCOME_ALLOWED: u8 = 2;
/// An answer is one byte, with a descriptor where one was asked for.
const DONE: u8 = 0;
const NOT_DONE: u8 = 1;

/// One refusal, on the performer's side.
pub(super) struct Told<'a> {
    pub(super) tid: i32,
    pub(super) action: RecordAction,
    pub(super) rule: u16,
    pub(super) refused: bool,
    /// `st_dev` and inode.
    pub(super) object: (u64, u64),
    pub(super) path: &'a [u8],
    pub(super) target: &'a [u8],
}

/// A unix socket that was reached or refused, on the performer's side.
pub(super) struct ToldSocket<'a> {
    pub(super) tid: i32,
    /// `SOCK_STREAM` …
    pub(super) kind: u8,
    pub(super) rule: u16,
    pub(super) outcome: SocketOutcome,
    /// `st_dev` and inode.
    pub(super) object: (u64, u64),
    /// A path, or a NUL and an abstract name.
    pub(super) name: &'a [u8],
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketOutcome {
    /// It is refused.
    Refused,
    /// It would be, and is told of alone.
    WouldRefuse,
    /// A rule allows it.
    Allowed,
}

/// Of a refusal, or of what is told likewise: a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `SOCK_STREAM` …
    pub kind: u16,
    /// A rule allows it.
    pub allowed: bool,
}

/// The performer's end.
#[derive(Debug)]
pub(super) struct Reporter(OwnedFd);

impl Reporter {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Tells of a refusal; `process` is the caller's.
    pub(super) fn tell(&self, told: &Told<'_>, process: Option<Pid>) -> io::Result<()> {
        let pidfd = match process {
            Some(process) => pidfd_open(process, PidfdFlags::empty()).ok(),
            None => None,
        };
        self.ask(&encode(told), pidfd.as_ref().map(OwnedFd::as_fd)).map(drop)
    }

    /// Tells of a unix socket; `process` is the caller's.
    pub(super) fn tell_socket(&self, told: &ToldSocket<'_>, process: Option<Pid>) -> io::Result<()> {
        let pidfd = process.and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
        let outcome = match told.outcome {
            SocketOutcome::WouldRefuse => 0,
            SocketOutcome::Refused => 1,
            SocketOutcome::Allowed => OUTCOME_ALLOWED,
        };
        let head = [KIND_SOCKET, told.kind, outcome];
        let packet = packet_of(head, (told.rule, told.tid), told.object, (told.name, &[]));
        self.ask(&packet, pidfd.as_ref().map(OwnedFd::as_fd)).map(drop)
    }

    /// An `O_PATH` descriptor of the file that a unix socket is bound to; only the supervisor may ask that.
    pub(super) fn bound_file(&self, socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        self.ask(&[KIND_BOUND], Some(socket))
    }

    /// Has the supervisor connect a unix socket to an abstract one: Landlock holds this process.
    pub(super) fn connect(&self, socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<Result<(), Errno>> {
        let packet = [&[KIND_CONNECT], address].concat();
        packet::send(self.0.as_fd(), &packet, Some(socket))?;
        let Some((answer, _)) = packet::receive(self.0.as_fd(), PACKET_BYTES_MAX)? else {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        };
        Ok(match answer.first() {
            Some(&DONE) => Ok(()),
            Some(&errno) => Err(Errno::from_raw_os_error(i32::from(errno))),
            None => Err(Errno::IO),
        })
    }

    /// Has the supervisor open the object of an `O_PATH` descriptor for reading.
    pub(super) fn open(&self, object: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        match self.ask(&[KIND_OPEN], Some(object)) {
            Ok(Some(opened)) => Ok(opened),
            Ok(None) | Err(_) => Err(Errno::ACCESS),
        }
    }

    /// Has the supervisor edit a config by what `source` has. `false`: it is as it was.
    pub(super) fn edit(&self, edit: &Edit<'_>, source: BorrowedFd<'_>) -> io::Result<bool> {
        let mut packet = vec![KIND_EDIT];
        packet.extend(edit.rule.to_ne_bytes());
        packet.extend(edit.object.0.to_ne_bytes());
        packet.extend(edit.object.1.to_ne_bytes());
        packet.extend(edit.path);
        packet::send(self.0.as_fd(), &packet, Some(source))?;
        match packet::receive(self.0.as_fd(), PACKET_BYTES_MAX)? {
            Some((answer, _)) => Ok(answer.first() == Some(&DONE)),
            None => Err(io::Error::from_raw_os_error(libc::EPIPE)),
        }
    }

    fn ask(&self, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<Option<OwnedFd>> {
        packet::send(self.0.as_fd(), packet, descriptor)?;
        match packet::receive(self.0.as_fd(), PACKET_BYTES_MAX)? {
            Some((_, descriptor)) => Ok(descriptor),
            None => Err(io::Error::from_raw_os_error(libc::EPIPE)),
        }
    }
}

/// The supervisor's end: a thread.
#[derive(Debug)]
pub struct Reports(JoinHandle<()>);

impl Reports {
    /// Starts it; from within `after_fork` of [`crate::launch::spawn`]. Refusals are sent before the call ends. When the
    /// performer is gone it kills the sandbox, whose calls nobody does any more.
    ///
    /// `user`: as whom it connects sockets, uid and gid. `None`: there is no performer.
    ///
    /// # Errors
    /// No thread, no descriptor.
    pub fn start(
        forked: Forked<'_>,
        refusals: Outbox,
        keys: OpenKeys,
        user: (u32, u32),
    ) -> io::Result<Option<Self>> {
        let Some(reports) = forked.reports else { return Ok(None) };
        let (reports, init) = (reports.try_clone_to_owned()?, forked.init.try_clone_to_owned()?);
        let thread = std::thread::Builder::new().name("performed".to_owned()).spawn(move || {
            // However it ended, nobody does the sandbox's calls any more. It is killed; mostly it is gone already.
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                listen(&reports, &refusals, &keys, user)
            })));
            pidfd_send_signal(&init, Signal::KILL).ok();
        })?;
        Ok(Some(Self(thread)))
    }

    /// Waits for its end, once the sandbox is gone.
    pub fn stop(self) {
        self.0.join().ok();
    }
}

fn listen(reports: &OwnedFd, refusals: &Outbox, keys: &OpenKeys, user: (u32, u32)) -> io::Result<()> {
    while let Some((packet, descriptor)) = packet::receive(reports.as_fd(), PACKET_BYTES_MAX)? {
        let mut status = DONE;
        let answer = match packet.first() {
            Some(&KIND_REFUSAL | &KIND_SOCKET) => {
                if let Some(refusal) = refusal(&packet, descriptor.as_ref()) {
                    refusals.send(refusal);
                }
                None
            }
            Some(&KIND_OPEN) => descriptor.and_then(|object| reopen(object.as_fd())),
            Some(&KIND_BOUND) => descriptor.and_then(|socket| unix_socket::bound_file(socket.as_fd()).ok()),
            Some(&KIND_CONNECT) => {
                status = connected(&packet, descriptor.as_ref(), user)?;
                None
            }
            Some(&KIND_EDIT) => {
                if edited(&packet, descriptor.as_ref(), keys).is_none() {
                    status = NOT_DONE;
                }
                None
            }
            _ => return Err(io::Error::other("unknown message of the performer")),
        };
        packet::send(reports.as_fd(), &[status], answer.as_ref().map(OwnedFd::as_fd))?;
    }
    Ok(())
}

/// Connects as the user; 0, or the errno.
fn connected(packet: &[u8], socket: Option<&OwnedFd>, (uid, gid): (u32, u32)) -> io::Result<u8> {
    let (Some(socket), [_, address @ ..]) = (socket, packet) else { return Ok(libc::EIO as u8) };
    let id = |raw: u32| (Uid::from_raw(raw), Gid::from_raw(raw));
    // Of this thread alone: the far end asks for them (SO_PEERCRED).
    set_thread_res_gid(Gid::ROOT, id(gid).1, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, id(uid).0, Uid::ROOT)?;
    let done = unix_socket::connect(socket.as_fd(), address);
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    Ok(done.err().map_or(DONE, |error| error.raw_os_error().unwrap_or(libc::EIO) as u8))
}

fn edited(packet: &[u8], source: Option<&OwnedFd>, keys: &OpenKeys) -> Option<()> {
    let rule = u16::from_ne_bytes(packet.get(1..3)?.try_into().ok()?);
    let number = |at: usize| Some(u64::from_ne_bytes(packet.get(at..at + 8)?.try_into().ok()?));
    let what = Edit { rule, object: (number(3)?, number(11)?), path: packet.get(19..)? };
    edit::edit(keys, &what, source?.as_fd()).ok()
}

fn reopen(object: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", object.as_raw_fd());
    open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn encode(told: &Told<'_>) -> Vec<u8> {
    let head = [KIND_REFUSAL, told.action as u8, u8::from(told.refused)];
    packet_of(head, (told.rule, told.tid), told.object, (told.path, told.target))
}

fn packet_of(
    head: [u8; 3],
    (rule, tid): (u16, i32),
    (dev, ino): (u64, u64),
    (path, target): (&[u8], &[u8]),
) -> Vec<u8> {
    let mut packet = head.to_vec();
    packet.extend(rule.to_ne_bytes());
    packet.extend(tid.to_ne_bytes());
    packet.extend(dev.to_ne_bytes());
    packet.extend(ino.to_ne_bytes());
    packet.extend((path.len() as u64).to_ne_bytes());
    debug_assert_eq!(packet.len(), HEAD_BYTES);
    packet.extend(path);
    packet.extend(target);
    packet.truncate(PACKET_BYTES_MAX);
    packet
}

/// What a packet of the performer tells; `process`: a pidfd of the caller's process. `None`: it is no such packet.
#[must_use]
pub fn refusal(packet: &[u8], process: Option<&OwnedFd>) -> Option<Refusal> {
    let (head, texts) = packet.split_at_checked(HEAD_BYTES)?;
    let number = |at: usize| Some(u64::from_ne_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let inside = i32::from_ne_bytes(head.get(5..9)?.try_into().ok()?);
    let (dev, ino) = (number(9)?, number(17)?);
    let (path, target) = texts.split_at_checked(usize::try_from(number(25)?).ok()?)?;
    let tgid = process.and_then(|process| pid_of(process.as_fd()));
    let (kind, how, outcome) = (head.first()?, *head.get(1)?, *head.get(2)?);
    let socket =
        (*kind == KIND_SOCKET).then(|| Socket { kind: u16::from(how), allowed: outcome == OUTCOME_ALLOWED });
    Some(Refusal {
        time_boot_ns: now_boot_ns(),
        tgid: tgid.unwrap_or(0),
        tid: tgid.map_or(0, |tgid| thread_of(tgid, inside).unwrap_or(tgid)),
        path: path.to_vec(),
        dev: (u64::from(major(dev)) << 20) | u64::from(minor(dev)),
        ino,
        write: true,
        exec: false,
        list: false,
        rule: u16::from_ne_bytes(head.get(3..5)?.try_into().ok()?),
        refused: outcome == 1,
        call: None,
        change: if socket.is_none() { RecordAction::try_from(how).ok() } else { None },
        socket,
        target: target.to_vec(),
    })
}

/// The pid behind a pidfd, in this process' pid namespace (`/proc/self/fdinfo`, proc_pid_fdinfo(5)).
fn pid_of(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    information.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// The thread of a process that the sandbox knows by this number.
fn thread_of(tgid: u32, inside: i32) -> Option<u32> {
    let is_it = |tid: u32| {
        let status = fs::read_to_string(format!("/proc/{tgid}/task/{tid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        (numbers.split_ascii_whitespace().last()?.parse::<i32>().ok()? == inside).then_some(tid)
    };
    // A process mostly has one thread, and calls with its first.
    is_it(tgid).or_else(|| {
        let threads = fs::read_dir(format!("/proc/{tgid}/task")).ok()?;
        threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(is_it)
    })
}
