//! Processes that outlive the supervisor just long enough to kill its tree.
//!
//! There are two alike. The init dies with the supervisor, but closes its descriptors before the kernel kills the rest
//! of its namespace: were the last duplicate of the fanotify group among them, the opens that wait would go through in
//! between (measured). So one guardian may be killed together with the supervisor and nothing gets through; with both, the
//! performer's copy stays until the kernel kills the namespace.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, setsid, waitid,
    },
    thread::set_name,
};

use super::{
    cgroup::{self, Folders},
    channel::{Channel, Message},
};
use crate::{
    fault::{self, Step},
    sys::{clone, fanotify::Group, signal},
};

/// Both guardians, from the supervisor's side.
#[derive(Debug)]
pub(super) struct Guardians([Guardian; 2]);

impl Guardians {
    /// Forks them. Each holds a duplicate of the fanotify group: a group whose last descriptor is closed lets every
    /// open that waits go on.
    pub(super) fn start(cgroup: &Folders, group: Option<&Group>) -> io::Result<Self> {
        let first = Guardian::start(cgroup, group)?;
        fault::at(Step::FirstGuardian)?;
        Ok(Self([first, Guardian::start(cgroup, group)?]))
    }

    /// Hands them the init, and waits until both look after it.
    pub(super) fn watch(&self, init: BorrowedFd<'_>) -> io::Result<()> {
        self.0.iter().try_for_each(|one| one.channel.send_with(&Message::Process, Some(init)))?;
        self.0.iter().try_for_each(|one| match one.channel.receive()? {
            Some(received) if received.message == Message::Ready => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        })
    }

    /// Has one of them ended?
    pub(super) fn is_one_lost(&self) -> io::Result<bool> {
        let mut watched = [
            PollFd::from_borrowed_fd(self.first(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.second(), PollFlags::IN),
        ];
        Ok(poll(&mut watched, Some(&Timespec::default()))? > 0)
    }

    /// Readable when the first is gone.
    pub(super) fn first(&self) -> BorrowedFd<'_> {
        self.0[0].process.pidfd.as_fd()
    }

    /// Readable when the second is gone.
    pub(super) fn second(&self) -> BorrowedFd<'_> {
        self.0[1].process.pidfd.as_fd()
    }

    /// In this process' pid namespace.
    pub(super) fn pids(&self) -> [i32; 2] {
        [&self.0[0], &self.0[1]].map(|one| one.process.pid.as_raw_nonzero().get())
    }

    /// The tree is gone: lets them end and reaps them.
    pub(super) fn dismiss(&self) {
        self.0.iter().for_each(Guardian::dismiss);
    }
}

#[derive(Debug)]
struct Guardian {
    process: clone::Process,
    channel: Channel,
}

impl Guardian {
    fn start(cgroup: &Folders, group: Option<&Group>) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let supervisor = pidfd_open(getpid(), PidfdFlags::empty())?;
        let mut keep = vec![theirs.as_fd().as_raw_fd(), supervisor.as_raw_fd()];
        keep.extend(group.map(|group| group.as_fd().as_raw_fd()));
        let process =
            clone::fork(clone::Descriptors::Only(&keep), || match guard(&theirs, &supervisor, cgroup) {
                Ok(()) => 0,
                Err(_) => 1,
            })?;
        Ok(Self { process, channel: ours })
    }

    fn dismiss(&self) {
        // If it is gone already there is nobody to tell.
        drop(self.channel.send(&Message::Done));
        waitid(WaitId::PidFd(self.process.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.dismiss(); // once more changes nothing
    }
}

fn guard(channel: &Channel, supervisor: &OwnedFd, cgroup: &Folders) -> io::Result<()> {
    signal::block_all()?;
    setsid()?;
    set_name(c"govsandbox-guard")?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    std::env::set_current_dir("/")?;
    // Where memory runs out, others go first; without the right to say so it goes on as it is.
    drop(std::fs::write("/proc/self/oom_score_adj", "-1000"));
    fault::at(Step::Guardian)?;
    let mut init: Option<OwnedFd> = None;
    loop {
        let mut watched = [
            PollFd::new(supervisor, PollFlags::IN),
            PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [supervisor_gone, message] = watched.map(|one| !one.revents().is_empty());
        if supervisor_gone {
            break;
        }
        if message {
            match channel.receive() {
                Ok(Some(received)) if received.message == Message::Done => return Ok(()),
                Ok(Some(received)) => {
                    init = received.descriptor.or(init);
                    channel.send(&Message::Ready)?;
                }
                // Closed or unreadable: the supervisor is on its way out.
                Ok(None) | Err(_) => break,
            }
        }
    }
    cgroup::kill(&cgroup.group);
    if let Some(init) = &init {
        // Gone already is as good.
        pidfd_send_signal(init, Signal::KILL).ok();
    }
    cgroup.remove()
}
