//! The performer: a process beside the command that does, on the command's behalf and as its user, the calls that the
//! seccomp filter hands over.
//!
//! It is a child of the init, in the command's pid and mount namespaces and its Landlock domain, so that what it does
//! is what the command could have done. It has another real uid than the command and may not be looked into, so that
//! nothing inside can signal, trace or change it. A filter of its own leaves it the calls that it needs. Two capabilities of its own (to read the caller's arguments, to list
//! folders) are in effect only between calls.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Gid, Uid},
    process::{DumpableBehavior, set_dumpable_behavior, setsid},
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities,
        set_capabilities_secure_bits, set_name, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::{
    channel::{Channel, Message},
    privilege::{Identity, Origin},
    seccomp,
};
use crate::sys::{
    clone::{Descriptors, OneThread, fork_sibling},
    file_call, open_files,
    seccomp::Listener,
    signal,
};

/// Its real uid where the command is uid 0: the kernel's overflow uid, nobody's.
const NOBODY: u32 = 65_534;

/// What it has open at most: the sandbox's own sockets, and of each caller that waits a few. The command's limit may be low.
const OPEN_FILES: u64 = 4096;

/// What it holds between calls.
pub const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// What a performer does.
pub trait Performer: fmt::Debug + Send + Sync {
    /// Answers calls until nobody can make one. `reports` leads to the supervisor.
    ///
    /// # Errors
    /// It can't go on: whatever waits gets ENOSYS and the sandbox ends.
    fn serve(&self, listener: Listener, reports: OwnedFd) -> io::Result<()>;
}

/// Descriptors that the performer gets from the init.
#[derive(Clone, Copy)]
pub(super) struct ForPerformer<'a> {
    /// To the supervisor.
    pub(super) reports: BorrowedFd<'a>,
    /// The fanotify group, which it does nothing with: should all who give verdicts be killed at once, opens wait until
    /// the kernel kills the namespace, this process with the rest.
    pub(super) group: Option<BorrowedFd<'a>>,
}

/// A performer that waits for its listener.
#[derive(Debug)]
pub(super) struct Waiting {
    channel: Channel,
    pidfd: OwnedFd,
}

impl Waiting {
    /// Forks it; the caller is in the command's Landlock domain, and still root.
    pub(super) fn fork(
        one: OneThread,
        performer: &dyn Performer,
        identity: &Identity,
        held: ForPerformer<'_>,
    ) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let reports = held.reports.try_clone_to_owned()?;
        let kept = [Some(theirs.as_fd()), Some(reports.as_fd()), held.group];
        let keep: Vec<_> = kept.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let pidfd = fork_sibling(one, Descriptors::Only(&keep), || {
            match run(performer, identity, &theirs, reports) {
                Ok(()) => 0,
                Err(_) => 125,
            }
        })?;
        Ok(Self { channel: ours, pidfd })
    }

    /// Gives it the listener and waits until it serves; its pidfd.
    pub(super) fn hand_over(self, listener: Listener) -> io::Result<OwnedFd> {
        self.channel.send_with(&Message::Go, Some(listener.as_fd()))?;
        match self.channel.receive()? {
            Some(received) if received.message == Message::Ready => Ok(self.pidfd),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

fn run(
    performer: &dyn Performer,
    identity: &Identity,
    channel: &Channel,
    reports: OwnedFd,
) -> io::Result<()> {
    become_performer(identity)?;
    let Some(listener) = channel.receive()?.and_then(|received| received.descriptor) else {
        return Ok(()); // called off
    };
    let listener = Listener::from_descriptor(listener);
    seccomp::apply(&seccomp::performer::program())?;
    channel.send(&Message::Ready)?;
    performer.serve(listener, reports)
}

fn become_performer(identity: &Identity) -> io::Result<()> {
    signal::block_all()?;
    setsid()?;
    set_name(c"govsandbox-perf")?;
    open_files::raise(OPEN_FILES);
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Capabilities don't follow the uids below.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP | CapabilitiesSecureBits::NO_ROOT)?;
    if identity.origin != Origin::Caller {
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups)?;
        let gid = Gid::from_raw(identity.gid);
        set_thread_res_gid(gid, gid, gid)?;
        let own = Uid::from_raw(if identity.uid == 0 { NOBODY } else { 0 });
        // Whoever it connects a socket to asks for the one in effect; who may signal or trace it goes by the other two.
        set_thread_res_uid(own, Uid::from_raw(identity.uid), own)?;
        file_call::set_file_uid(identity.uid)?;
    }
    set_no_new_privs(true)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: CAPABILITIES,
            permitted: CAPABILITIES,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
