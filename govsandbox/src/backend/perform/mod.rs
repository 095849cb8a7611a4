//! Performed calls: changes of names and attributes, done on the caller's behalf by a process that asks the rules first.
//!
//! Permission events tell of opens alone. So on the backend `fanotify` the seccomp filter hands these calls to the
//! performer ([`crate::launch::performer`]): it reads the arguments once, finds the folders by the caller's own root,
//! working directory and descriptors, judges, and does the call itself with what it has judged. Nothing is ever
//! continued in the caller, whose memory another thread can change, but on `lsm`, where the hooks judge it anew (`keyed`).
//!
//! One process does one call after the other, and every rename, link and removal of the sandbox passes here. So the
//! path that was judged is still the object's path when the call is done.

mod act;
mod caller;
mod calls;
mod edit;
mod entry;
mod judge;
mod keyed;
mod magic;
mod report;
mod request;
mod socket;
mod walk;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use govsandbox_ebpf::abi::unix::UnixTable;
use rustix::{
    fs::{CWD, Mode as FileMode, OFlags, openat},
    io::Errno,
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use self::{caller::Caller, judge::Judge, report::Reporter, socket::Sockets};
pub use self::{
    edit::OpenKeys,
    keyed::{KEYED, KeyPerformer},
    report::{Reports, Socket, refusal},
};
use super::fanotify::{Mode, PathRules};
use crate::{
    launch::{
        performer::{CAPABILITIES, Performer},
        seccomp::Performed,
    },
    sys::seccomp::{Listener, Notification},
};

/// What is handed over.
pub const PERFORMED: Performed = Performed { calls: calls::CALLS, missing: calls::MISSING };

/// How long a call that would have to wait is left before it is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// The performer of one sandbox.
#[derive(Debug)]
pub struct PathPerformer {
    rules: Arc<PathRules>,
    mode: Mode,
    /// Rules that leave keys of a config open.
    with_keys: Vec<u16>,
    /// Unix sockets of others that may be reached.
    unix: Option<Arc<UnixTable>>,
}

impl PathPerformer {
    /// Judges by these rules; `keys` are those of [`Reports::start`].
    #[must_use]
    pub fn new(rules: Arc<PathRules>, mode: Mode, keys: &OpenKeys, unix: Option<Arc<UnixTable>>) -> Self {
        Self { rules, mode, with_keys: keys.iter().map(|(rule, _)| rule.0).collect(), unix }
    }
}

impl Performer for PathPerformer {
    fn serve(&self, listener: Listener, reports: OwnedFd) -> io::Result<()> {
        let reporter = Reporter::new(reports);
        let judge = Judge {
            rules: &self.rules,
            mode: self.mode,
            with_keys: &self.with_keys,
            sockets: Sockets::new(self.unix.as_deref()),
        };
        serve(&listener, &reporter, |caller, call| perform(&judge, caller, &listener, call))
    }
}

/// What becomes of a call.
enum Answer {
    /// It is done, or refused.
    Done(Result<(), Errno>),
    /// The kernel does it, with what the caller's memory has then.
    GoOn,
    /// It would have to wait, and is tried again.
    Later,
}

/// Answers calls, one after the other. An answer of `None`: the caller is gone.
fn serve(
    listener: &Listener,
    reporter: &Reporter,
    mut perform: impl FnMut(&Caller<'_>, &Notification) -> io::Result<Option<Answer>>,
) -> io::Result<()> {
    let proc = openat(CWD, c"/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())?;
    listener.wake_here();
    // Until a call is received, any signal interrupts it; after, only one that kills. So all are, before each is done.
    let mut waiting: VecDeque<Notification> = VecDeque::new();
    let (mut later, mut tried): (Vec<Notification>, _) = (Vec::new(), Instant::now());
    loop {
        if !later.is_empty() && (tried.elapsed() >= RETRY || !listener.has_call(RETRY)?) {
            waiting.extend(later.drain(..));
            tried = Instant::now();
        }
        while (waiting.is_empty() && later.is_empty()) || listener.has_call(Duration::ZERO)? {
            waiting.extend(listener.receive()?);
        }
        let Some(call) = waiting.pop_front() else { continue };
        let caller = Caller { tid: call.tid, proc: proc.as_fd(), reporter };
        // Both fail where the caller was killed meanwhile.
        match perform(&caller, &call)? {
            Some(Answer::Done(answer)) => listener.answer(call.id, answer.map_err(Errno::raw_os_error)).ok(),
            Some(Answer::GoOn) => listener.go_on(call.id).ok(),
            Some(Answer::Later) => {
                later.push(call);
                None
            }
            None => None,
        };
    }
}

fn perform(
    judge: &Judge<'_>,
    caller: &Caller<'_>,
    listener: &Listener,
    call: &Notification,
) -> io::Result<Option<Answer>> {
    if socket::CALLS.contains(&call.number) {
        return socket::answer(judge, caller, listener, call);
    }
    let request = calls::read(caller, call);
    // What was read could be another's whose thread got the number since.
    if !listener.is_waiting(call.id) {
        return Ok(None);
    }
    let request = match request {
        Ok(request) => request,
        Err(errno) => return Ok(Some(Answer::Done(Err(errno)))),
    };
    match without_capabilities(|| act::act(judge, caller, request))? {
        Ok(()) => Ok(Some(Answer::Done(Ok(())))),
        Err(act::Failed::Errno(errno)) => Ok(Some(Answer::Done(Err(errno)))),
        Err(act::Failed::Performer(error)) => Err(error),
    }
}

/// Does something as the command's user does.
fn without_capabilities<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    with_capabilities(CapabilitySet::empty())?;
    let done = act();
    with_capabilities(CAPABILITIES)?;
    Ok(done)
}

/// Those that are in effect; without any, the process meets files as the command's user does.
fn with_capabilities(effective: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets { effective, permitted: CAPABILITIES, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}
