//! From a plan to a command that waits for the word.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid},
};

use super::{
    cgroup::Cgroup,
    channel::{Channel, Message},
    error::LaunchError,
    fd::{self, RedirectedFile},
    guardian::Guardians,
    init,
    limits::{LimitWatch, Resource},
    plan::LaunchPlan,
    running::{Killer, Running},
    terminal::{Signals, Terminal},
};
use crate::{
    fault::{self, Step},
    sys::{clone, fanotify::Group},
};

/// Everything that exists of a sandbox; dropped, it takes all of it away.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) cgroup: Option<Cgroup>,
    pub(super) guardians: Guardians,
    pub(super) init: clone::Process,
    pub(super) channel: Channel,
    pub(super) signals: Signals,
    pub(super) terminal: Terminal,
    pub(super) limits: LimitWatch,
}

impl Tree {
    /// Kills what is left, reaps, removes the cgroup, lets the guardian go.
    pub(super) fn end(&mut self) -> Result<(), LaunchError> {
        let Some(cgroup) = self.cgroup.take() else { return Ok(()) };
        cgroup.kill();
        drop(self.limits.read()); // and kept: the files go with the cgroup
        // By pidfd, so that no other process is meant; fails only when it is gone.
        rustix::process::pidfd_send_signal(&self.init.pidfd, rustix::process::Signal::KILL).ok();
        waitid(WaitId::PidFd(self.init.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
        let removed = cgroup.remove();
        self.guardians.dismiss();
        self.terminal.take_back();
        removed
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Nobody is left to tell; the guardian and the next start remove what stays.
        drop(self.end());
    }
}

/// A command that is confined and waits; dropped, it is killed.
#[derive(Debug)]
pub struct Prepared {
    tree: Tree,
    command: OwnedFd,
    command_pid: i32,
    performer: Option<OwnedFd>,
    channel: Channel,
    group: Option<Group>,
    redirected: Vec<RedirectedFile>,
    program: String,
}

/// What there is right after the last fork of the supervisor's.
#[derive(Clone, Copy, Debug)]
pub struct Forked<'a> {
    /// The sandbox's pid 1.
    pub init: BorrowedFd<'a>,
    /// Its pid in this process' pid namespace.
    pub init_pid: i32,
    /// The fanotify group, with a [`super::plan::FanotifyPlan`].
    pub fanotify: Option<&'a Group>,
    /// What a performer tells, with one in the plan; its end is the performer's.
    pub reports: Option<BorrowedFd<'a>>,
}

/// Creates cgroup, guardian, namespaces and the command's process, and waits until that process has applied all that
/// holds it.
///
/// `after_fork` runs when the last process of the supervisor's own is forked: the place to start the thread that
/// answers the fanotify group, for opens inside wait for it from now on. From there on threads are allowed.
///
/// Call it from a thread that lives as long as the run, best the main one: the init dies with the thread that made it
/// (prctl(2), `PR_SET_PDEATHSIG`).
///
/// # Errors
/// [`LaunchError`] names the step; nothing is left behind.
pub fn spawn(
    plan: &LaunchPlan,
    after_fork: impl FnOnce(Forked<'_>) -> io::Result<()>,
) -> Result<Prepared, LaunchError> {
    let redirected = fd::inspect()?;
    let cwd = fs::metadata(&plan.cwd)
        .map_err(|source| LaunchError::system("enter", plan.cwd.display().to_string(), source))?;
    let group = match plan.fanotify {
        Some(_) => Some(Group::new().map_err(|source| {
            LaunchError::system("create", "a fanotify group for permission events", source)
                .with_help("it needs root and a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS")
        })?),
        None => None,
    };
    let process_error =
        |source: io::Error| LaunchError::system("create", "the processes of the sandbox", source);
    let step = |step| fault::at(step).map_err(process_error);
    step(Step::Group)?;
    let terminal = Terminal::remember();
    let signals = Signals::take().map_err(process_error)?;
    let cgroup = Cgroup::create(&plan.cgroup)?;
    let groups = cgroup.folders();
    let (channel, init_channel) = Channel::pair().map_err(process_error)?;
    let (command_channel, command_end) = Channel::pair().map_err(process_error)?;
    let (reports, performers_end) = match plan.performer {
        Some(_) => Some(Channel::pair().map_err(process_error)?).unzip(),
        None => (None, None),
    };
    let supervisor =
        pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| process_error(errno.into()))?;
    let guardians = Guardians::start(&groups, group.as_ref()).map_err(process_error)?;
    step(Step::Guardians)?;
    let world = init::World {
        plan,
        channel: init_channel,
        command: command_end,
        supervisor,
        reports: performers_end.map(OwnedFd::from),
        group: group.as_ref(),
        limits: &groups.limits,
        redirected: &redirected,
        cwd: (cwd.dev(), cwd.ino()),
        mask: &signals.mask,
    };
    let keep = world.descriptors();
    // The child's ends of the channels move into the closure, so that this process closes its copies.
    let started =
        clone::clone_into_namespaces(Some(cgroup.as_fd()), clone::Descriptors::Only(&keep), move || {
            init::run(world)
        });
    let init = match started {
        Ok(init) => init,
        Err(source) => {
            return Err(LaunchError::system("create", "a pid and mount namespace in the cgroup", source)
                .with_help("it needs root (CAP_SYS_ADMIN) and a writable cgroup v2"));
        }
    };
    let limits = cgroup.watch();
    let tree = Tree { cgroup: Some(cgroup), guardians, init, channel, signals, terminal, limits };
    step(Step::Init)?;
    tree.guardians.watch(tree.init.pidfd.as_fd()).map_err(process_error)?;
    step(Step::Watched)?;
    let init_pid = tree.init.pid.as_raw_nonzero().get();
    after_fork(Forked {
        init: tree.init.pidfd.as_fd(),
        init_pid,
        fanotify: group.as_ref(),
        reports: reports.as_ref().map(AsFd::as_fd),
    })
    .map_err(process_error)?;
    let command = wait_for_process(&tree)?;
    let command_pid = pid_of(command.as_fd()).map_err(process_error)?;
    let program = plan.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let channel = command_channel;
    let mut prepared =
        Prepared { tree, command, command_pid, performer: None, channel, group, redirected, program };
    prepared.performer = prepared.wait_until_ready()?;
    Ok(prepared)
}

impl Prepared {
    /// The command's process: one thread, confined, not yet the command's program.
    #[must_use]
    pub fn command(&self) -> BorrowedFd<'_> {
        self.command.as_fd()
    }

    /// Its pid in this process' pid namespace.
    #[must_use]
    pub fn command_pid(&self) -> i32 {
        self.command_pid
    }

    /// The performer's process, with one in the plan: one thread.
    #[must_use]
    pub fn performer(&self) -> Option<BorrowedFd<'_>> {
        self.performer.as_ref().map(AsFd::as_fd)
    }

    /// The sandbox's pid 1.
    #[must_use]
    pub fn init(&self) -> BorrowedFd<'_> {
        self.tree.init.pidfd.as_fd()
    }

    /// Its pid in this process' pid namespace.
    #[must_use]
    pub fn init_pid(&self) -> i32 {
        self.tree.init.pid.as_raw_nonzero().get()
    }

    /// The guardians' pids.
    #[must_use]
    pub fn guardian_pids(&self) -> [i32; 2] {
        self.tree.guardians.pids()
    }

    /// The cgroup's folder.
    #[must_use]
    pub fn cgroup_path(&self) -> Option<&Path> {
        self.tree.cgroup.as_ref().map(Cgroup::path)
    }

    /// The cgroup, for programs to be attached to.
    #[must_use]
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.tree.cgroup.as_ref().map(AsFd::as_fd)
    }

    /// For threads that must be able to end the run.
    #[must_use]
    pub fn killer(&self) -> Option<Killer> {
        self.tree.cgroup.as_ref().map(|cgroup| Killer(cgroup.path().to_owned()))
    }

    /// Is there a bound on that?
    #[must_use]
    pub fn is_bounded(&self, resource: Resource) -> bool {
        self.tree.cgroup.as_ref().is_some_and(|cgroup| cgroup.holds(resource))
    }

    /// How often bounds are met.
    #[must_use]
    pub fn limits(&self) -> LimitWatch {
        self.tree.limits.clone()
    }

    /// The fanotify group.
    #[must_use]
    pub fn fanotify(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(Group::as_fd)
    }

    /// Regular files on descriptors 0–2: what no rule may deny.
    #[must_use]
    pub fn redirected(&self) -> &[RedirectedFile] {
        &self.redirected
    }

    /// Lets the command exec and waits until it did.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`], [`LaunchError::NotExecutable`]: the sandbox is taken down again.
    pub fn release(self) -> Result<Running, LaunchError> {
        let failed = |source| LaunchError::system("start", self.program.clone(), source);
        if self.tree.guardians.is_one_lost().map_err(failed)? {
            return Err(LaunchError::GuardianLost);
        }
        self.channel.send(&Message::Go).map_err(failed)?;
        match self.channel.receive().map_err(failed)? {
            // Closed by exec, or by the end of the process: the init tells which.
            None => {
                fault::at(Step::Released).map_err(failed)?;
                Ok(Running::new(self.tree, self.command, self.redirected))
            }
            Some(received) => match received.message {
                Message::Failed(failure) => Err(LaunchError::from_failure(failure)),
                _ => Err(LaunchError::Vanished),
            },
        }
    }

    /// What came along is the performer's pidfd.
    fn wait_until_ready(&self) -> Result<Option<OwnedFd>, LaunchError> {
        let failed = |source: io::Error| LaunchError::system("prepare", self.program.clone(), source);
        match self.channel.receive().map_err(failed)? {
            None => Err(LaunchError::Vanished),
            Some(received) => match received.message {
                Message::Ready => Ok(received.descriptor),
                Message::Failed(failure) => Err(LaunchError::from_failure(failure)),
                _ => Err(LaunchError::Vanished),
            },
        }
    }
}

/// The init's first message: the command's pidfd, or why there is none.
fn wait_for_process(tree: &Tree) -> Result<OwnedFd, LaunchError> {
    let failed = |source: io::Error| LaunchError::system("prepare", "the sandbox", source);
    let mut watched = [
        PollFd::from_borrowed_fd(tree.channel.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(tree.guardians.first(), PollFlags::IN),
        PollFd::from_borrowed_fd(tree.guardians.second(), PollFlags::IN),
    ];
    while let Err(errno) = poll(&mut watched, None) {
        if errno != rustix::io::Errno::INTR {
            return Err(failed(errno.into()));
        }
    }
    let [_, first, second] = watched.map(|one| !one.revents().is_empty());
    if first || second {
        return Err(LaunchError::GuardianLost);
    }
    let Some(received) = tree.channel.receive().map_err(failed)? else { return Err(LaunchError::Vanished) };
    match (received.message, received.descriptor) {
        (Message::Process, Some(command)) => Ok(command),
        (Message::Failed(failure), _) => Err(LaunchError::from_failure(failure)),
        _ => Err(LaunchError::Vanished),
    }
}

/// The pid behind a pidfd, in this process' pid namespace (`/proc/self/fdinfo`, proc_pid_fdinfo(5)).
fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let number = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let pid = information.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    // -1: it is gone, and reaped.
    pid.filter(|pid| *pid > 0).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}
