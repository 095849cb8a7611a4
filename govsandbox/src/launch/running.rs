//! A command that runs: signals, stops, its end.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Signal, pidfd_send_signal},
};

use super::{
    cgroup::{self, Cgroup},
    channel::Message,
    error::LaunchError,
    fd::{self, RedirectedFile},
    prepared::Tree,
    terminal,
};
use crate::sys::signal;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl Ended {
    /// As a shell tells it: the status, or 128 + the signal.
    #[must_use]
    pub fn status(self) -> u8 {
        let code = match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128 + signal,
        };
        u8::try_from(code & 0xff).unwrap_or(u8::MAX)
    }
}

/// A command that runs; dropped, its whole tree is killed.
#[derive(Debug)]
pub struct Running {
    tree: Tree,
    command: OwnedFd,
    redirected: Vec<RedirectedFile>,
}

/// Ends a run from another thread.
#[derive(Clone, Debug)]
pub struct Killer(pub(super) std::path::PathBuf);

impl Killer {
    /// Kills the whole tree at once; [`Running::wait`] then comes back.
    pub fn kill(&self) {
        cgroup::kill(&self.0);
    }
}

impl Running {
    pub(super) fn new(tree: Tree, command: OwnedFd, redirected: Vec<RedirectedFile>) -> Self {
        Self { tree, command, redirected }
    }

    /// The command's process.
    #[must_use]
    pub fn command(&self) -> BorrowedFd<'_> {
        self.command.as_fd()
    }

    /// For threads that must be able to end the run. `None` after its end.
    #[must_use]
    pub fn killer(&self) -> Option<Killer> {
        self.tree.cgroup.as_ref().map(|cgroup| Killer(cgroup.path().to_owned()))
    }

    /// Passes signals on and stops along with the command, until it ends. Then whatever it left running is killed, the
    /// terminal taken back and the cgroup removed.
    ///
    /// # Errors
    /// [`LaunchError::GuardianLost`] after killing the tree; a failed system call, likewise.
    pub fn wait(mut self) -> Result<Ended, LaunchError> {
        let ended = self.watch();
        let removed = self.tree.end();
        for file in &self.redirected {
            // The init told where the command left it; kept in the plan's copy by `watch`.
            fd::set_offset(file.number, file.offset);
        }
        let ended = ended?;
        removed.map(|()| ended)
    }

    fn watch(&mut self) -> Result<Ended, LaunchError> {
        let failed = |source: io::Error| LaunchError::system("watch", "the command", source);
        loop {
            let [message, first, second, signals] = self.poll().map_err(failed)?;
            if message {
                match self.tree.channel.receive().map_err(failed)?.map(|received| received.message) {
                    Some(Message::Stopped(_)) => self.stop_along().map_err(failed)?,
                    Some(Message::Offset(number, offset)) => {
                        for file in self.redirected.iter_mut().filter(|file| file.number == number) {
                            file.offset = offset;
                        }
                    }
                    Some(Message::Exited(status)) => return Ok(Ended::Exited(status)),
                    Some(Message::Signalled(signal)) => return Ok(Ended::Signalled(signal)),
                    // The init was killed, and the kernel with it all else: by the guardian, `Killer` or for memory.
                    None => return Ok(Ended::Signalled(libc::SIGKILL)),
                    Some(_) => return Err(LaunchError::Vanished),
                }
                continue;
            }
            if first || second {
                return Err(LaunchError::GuardianLost);
            }
            if signals {
                while let Some(arrived) = self.tree.signals.stream().next().map_err(failed)? {
                    if let Some(signal) = terminal::to_forward(arrived) {
                        self.send(signal);
                    }
                }
            }
        }
    }

    fn poll(&self) -> io::Result<[bool; 4]> {
        let mut watched = [
            PollFd::from_borrowed_fd(self.tree.channel.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.tree.guardians.first(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.tree.guardians.second(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.tree.signals.stream().as_fd(), PollFlags::IN),
        ];
        loop {
            match poll(&mut watched, None) {
                Ok(_) => return Ok(watched.map(|one| !one.revents().is_empty())),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The user's shell must see the job stopped; when it continues us, the command goes on. Whoever stopped the command:
    /// nothing of the tree runs while nobody records and answers.
    fn stop_along(&self) -> io::Result<()> {
        let group = self.tree.cgroup.as_ref().map(Cgroup::path);
        group.map_or(Ok(()), |group| cgroup::freeze(group, true))?;
        signal::stop_self()?;
        group.map_or(Ok(()), |group| cgroup::freeze(group, false))?;
        self.send(Signal::CONT);
        Ok(())
    }

    fn send(&self, signal: Signal) {
        // Gone already is what the next message tells.
        pidfd_send_signal(&self.command, signal).ok();
    }
}
