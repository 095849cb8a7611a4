//! Pid 1 of the sandbox's pid namespace: sets up the mounts, forks the command, reaps, reports. When it ends, by the
//! supervisor's death too, the kernel kills everything in the namespace.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        DumpableBehavior, Pid, Signal, WaitOptions, set_dumpable_behavior, set_parent_process_death_signal,
        wait,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space, set_name},
};

use super::{
    channel::{Channel, Message},
    child,
    error::{Failure, Stage},
    fd::{self, RedirectedFile},
    limits, mount,
    performer::ForPerformer,
    plan::LaunchPlan,
    privilege,
};
use crate::{
    fault::{self, Step},
    sys::{clone, fanotify::Group, signal, signal::Mask},
};

/// What it has of the supervisor's.
pub(super) struct World<'a> {
    pub(super) plan: &'a LaunchPlan,
    /// Init → supervisor.
    pub(super) channel: Channel,
    /// The command's own.
    pub(super) command: Channel,
    /// Readable when the supervisor is gone.
    pub(super) supervisor: OwnedFd,
    /// The performer's, to the supervisor.
    pub(super) reports: Option<OwnedFd>,
    pub(super) group: Option<&'a Group>,
    /// Groups of cgroup v1 that bound the sandbox.
    pub(super) limits: &'a [PathBuf],
    pub(super) redirected: &'a [RedirectedFile],
    /// Device and inode of the working directory as the supervisor has it.
    pub(super) cwd: (u64, u64),
    pub(super) mask: &'a Mask,
}

impl World<'_> {
    /// What the init keeps of the supervisor's descriptors.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let own = [self.channel.as_fd(), self.command.as_fd(), self.supervisor.as_fd()];
        let reports = self.reports.as_ref().map(AsFd::as_fd);
        let network = self.plan.network.as_ref().map(|network| network.as_fd());
        let rest = [self.group.map(Group::as_fd), reports, network].into_iter().flatten();
        own.into_iter().chain(rest).map(|fd| fd.as_raw_fd()).collect()
    }
}

/// Runs to the end of the command; the result is this process' exit status.
pub(super) fn run(world: World<'_>) -> i32 {
    let (command, places) = match set_up(&world) {
        Ok(made) => made,
        Err(failure) => {
            // If nobody listens any more, the supervisor is gone and so is this process.
            drop(world.channel.send(&Message::Failed(failure)));
            return 125;
        }
    };
    let World { channel, command: commands_end, reports, redirected, .. } = world;
    // Only the command's own process holds it now, so that its exec is seen as the end of the channel; and the
    // performer the other, so that its end is.
    drop((commands_end, reports));
    let watched = watch(&channel, redirected, command);
    drop(places);
    match watched {
        Ok(()) => 0,
        Err(_) => 125,
    }
}

fn set_up(world: &World<'_>) -> Result<(Pid, mount::Places), Failure> {
    let fail = |stage| move |source: io::Error| Failure::new(stage, "", &source);
    let step = |step| fault::at(step).map_err(fail(Stage::Bind));
    bind(world).map_err(fail(Stage::Bind))?;
    step(Step::Bound)?;
    let plan = world.plan;
    // Before anything is forked, and before these file systems are read-only.
    for folder in world.limits {
        limits::enter(folder)
            .map_err(|source| Failure::new(Stage::Limits, folder.display().to_string(), &source))?;
    }
    step(Step::Entered)?;
    if let Some(network) = &plan.network {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| fail(Stage::Network)(errno.into()))?;
    }
    let places = mount::enter(plan, world.redirected)?;
    step(Step::Mounts)?;
    enter_folder(&plan.cwd, world.cwd)?;
    step(Step::Folder)?;
    if let (Some(fanotify), Some(group)) = (&plan.fanotify, world.group) {
        mount::mark(&plan.mounts, fanotify, group)?;
    }
    step(Step::Marks)?;
    world.redirected.iter().try_for_each(fd::reopen)?;
    fd::reopen_devices()?;
    step(Step::Streams)?;
    let reports = world.reports.as_ref().map(AsFd::as_fd);
    let group = world.group.filter(|_| reports.is_some()).map(Group::as_fd);
    let kept = [Some(world.command.as_fd()), reports, group];
    let keep: Vec<RawFd> = kept.iter().flatten().map(AsRawFd::as_raw_fd).collect();
    let process = clone::fork(clone::Descriptors::Only(&keep), || {
        let performers = reports.map(|reports| ForPerformer { reports, group });
        child::run(plan, &world.command, performers, world.mask)
    })
    .map_err(fail(Stage::Fork))?;
    step(Step::Forked)?;
    // Where memory runs out others go first, for with it goes everything. After the fork: it is inherited. Without the
    // right to say so it goes on as it is.
    drop(std::fs::write("/proc/self/oom_score_adj", "-1000"));
    // No more than reaping and reporting is left to do.
    privilege::drop_capabilities().map_err(|errno| fail(Stage::Privilege)(errno.into()))?;
    bind(world).map_err(fail(Stage::Bind))?;
    step(Step::InitDropped)?;
    // Last: from here on the launch goes on without this process.
    world.channel.send_with(&Message::Process, Some(process.pidfd.as_fd())).map_err(fail(Stage::Fork))?;
    step(Step::Told)?;
    Ok((process.pid, places))
}

/// Dies with the supervisor, and can't be looked into from inside.
fn bind(world: &World<'_>) -> io::Result<()> {
    signal::block_all()?;
    set_name(c"govsandbox-init")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that was set.
    let mut watched = [PollFd::new(&world.supervisor, PollFlags::IN)];
    match poll(&mut watched, Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

fn enter_folder(path: &Path, expected: (u64, u64)) -> Result<(), Failure> {
    let fail = |source: io::Error| Failure::new(Stage::WorkingDirectory, path.display().to_string(), &source);
    std::env::set_current_dir(path).map_err(fail)?;
    let found = std::fs::metadata(".").map_err(fail)?;
    if (found.dev(), found.ino()) == expected {
        Ok(())
    } else {
        Err(fail(io::Error::from_raw_os_error(libc::ESTALE)))
    }
}

fn watch(channel: &Channel, redirected: &[RedirectedFile], command: Pid) -> io::Result<()> {
    loop {
        let (pid, status) = match wait(WaitOptions::UNTRACED) {
            Ok(Some(found)) => found,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if pid != command {
            continue; // an orphan: reaped, and that was all
        }
        if let Some(signal) = status.stopping_signal() {
            channel.send(&Message::Stopped(signal))?;
            continue;
        }
        for file in redirected {
            if let Some(offset) = fd::offset(file.number) {
                channel.send(&Message::Offset(file.number, offset))?;
            }
        }
        let ended = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Message::Exited(code),
            (None, signal) => Message::Signalled(signal.unwrap_or(libc::SIGKILL)),
        };
        return channel.send(&ended);
    }
}
