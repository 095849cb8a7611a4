//! The sandbox's own cgroup (v2): created, killed, removed.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags, open};

use super::{
    error::LaunchError,
    limits::{LimitWatch, Limits, Resource},
    mount::table::MountTable,
    plan::CgroupPlan,
};
use crate::{
    fault::{self, Step},
    sys::mountinfo::Mount,
};

/// Folder below the hierarchy's root that holds all sandboxes.
const PARENT: &str = "govsandbox";
/// Where the hierarchy is mounted when the system has not done it.
const OWN_MOUNT_POINT: &str = "/run/govsandbox/cgroup";
/// How long a killed cgroup may take to become empty before the supervisor gives up on it.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
/// How long a group that is to be frozen is waited for.
const FROZEN_WITHIN: Duration = Duration::from_millis(300);

/// The cgroup of one sandbox; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
    limits: Limits,
    removed: bool,
}

/// Where cgroup v2 is mounted (`/sys/fs/cgroup`, `/sys/fs/cgroup/unified` beside v1). Mounted at
/// `/run/govsandbox/cgroup` when it is nowhere: then [`was_mounted_by_us`] says so.
///
/// # Errors
/// The mount table can't be read, or the mount is refused.
pub fn root() -> Result<PathBuf, LaunchError> {
    let table =
        MountTable::read().map_err(|source| LaunchError::system("read", "/proc/self/mountinfo", source))?;
    let usable = |mount: &&Mount| mount.fs_type == "cgroup2" && mount.root == Path::new("/");
    if let Some(mount) = table.mounts().iter().find(usable) {
        return Ok(mount.point.clone());
    }
    let refuse = |source: io::Error| {
        LaunchError::system("mount cgroup v2 at", OWN_MOUNT_POINT, source)
            .with_help("mount it: `mount -t cgroup2 none /sys/fs/cgroup`, or boot with cgroup v2")
    };
    fs::create_dir_all(OWN_MOUNT_POINT).map_err(refuse)?;
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("govsandbox", OWN_MOUNT_POINT, "cgroup2", flags, None)
        .map_err(|errno| refuse(errno.into()))?;
    Ok(PathBuf::from(OWN_MOUNT_POINT))
}

/// `true` when [`root`] is a mount of our own making.
#[must_use]
pub fn was_mounted_by_us(root: &Path) -> bool {
    root == Path::new(OWN_MOUNT_POINT)
}

/// Removes what stays when the last sandbox is gone: the folder of all sandboxes, and the mount of our own making.
/// `None`: there was nothing. A folder that still holds a sandbox stays, and that is no error.
///
/// # Errors
/// The mount table can't be read, or what is there can't be removed.
pub fn remove_root() -> Result<Option<PathBuf>, LaunchError> {
    let table =
        MountTable::read().map_err(|source| LaunchError::system("read", "/proc/self/mountinfo", source))?;
    let usable = |mount: &&Mount| mount.fs_type == "cgroup2" && mount.root == Path::new("/");
    let Some(mount) = table.mounts().iter().find(usable) else { return Ok(None) };
    let parent = mount.point.join(PARENT);
    remove_leftovers(&parent, |_| true);
    match fs::remove_dir(&parent) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(None),
        Err(source) => {
            return Err(LaunchError::system("remove the cgroup", parent.display().to_string(), source));
        }
    }
    if was_mounted_by_us(&mount.point) {
        let unmounted = rustix::mount::unmount(&mount.point, rustix::mount::UnmountFlags::empty());
        unmounted.map_err(|errno| LaunchError::system("unmount", OWN_MOUNT_POINT, errno))?;
    }
    Ok(Some(parent))
}

impl Cgroup {
    /// Creates it, with the limits that are set; removes what dead runs left behind.
    ///
    /// # Errors
    /// The hierarchy is read-only, or a limit can't be held because its controller is not there.
    pub fn create(plan: &CgroupPlan) -> Result<Self, LaunchError> {
        let root = root()?;
        let parent = root.join(PARENT);
        let path = parent.join(format!("{}-{}", plan.name, std::process::id()));
        let make = || {
            make_folder(&parent)?;
            remove_leftovers(&parent, |_| true);
            make_folder(&path)
        };
        if let Err(error) = make() {
            // `unload` may have removed the folder of all sandboxes right then.
            if parent.exists() {
                return Err(error);
            }
            make()?;
        }
        let refuse =
            |source: rustix::io::Errno| LaunchError::system("open", path.display().to_string(), source);
        let folder = open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(refuse)?;
        let mut cgroup = Self { path, folder, limits: Limits::default(), removed: false };
        let step =
            |step| fault::at(step).map_err(|source| LaunchError::system("bound", "the cgroup", source));
        step(Step::Cgroup)?;
        for bound in &plan.bounds {
            cgroup.limits.hold(*bound, &root, &cgroup.path)?;
        }
        step(Step::Bounds)?;
        Ok(cgroup)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All its groups: that of v2, and those of v1 that the init has to enter.
    #[must_use]
    pub(super) fn folders(&self) -> Folders {
        Folders { group: self.path.clone(), limits: self.limits.folders() }
    }

    /// Is there a bound on that?
    #[must_use]
    pub(super) fn holds(&self, resource: Resource) -> bool {
        self.limits.holds(resource)
    }

    pub(super) fn watch(&self) -> LimitWatch {
        self.limits.watch()
    }

    /// Kills all that is inside.
    pub fn kill(&self) {
        kill(&self.path);
    }

    /// Kills what is left, waits until it is empty and removes it.
    ///
    /// # Errors
    /// Something inside can't be killed (it hangs in the kernel).
    pub fn remove(mut self) -> Result<(), LaunchError> {
        self.removed = true;
        self.folders().remove().map_err(|source| {
            LaunchError::system("remove the cgroup", self.path.display().to_string(), source)
        })
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.removed {
            // Nobody is left to tell; the next start removes an empty one.
            drop(self.folders().remove());
        }
    }
}

/// Where the groups of one sandbox lie, for whoever removes them.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pub(super) group: PathBuf,
    pub(super) limits: Vec<PathBuf>,
}

impl Folders {
    /// Kills, waits until empty, removes.
    pub(super) fn remove(&self) -> io::Result<()> {
        let removed = remove(&self.group);
        self.limits.iter().map(|folder| remove(folder)).fold(removed, io::Result::and)
    }
}

/// Sends SIGKILL to everything in a cgroup: `cgroup.kill` (Linux 5.14), else one by one.
pub(super) fn kill(path: &Path) {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in
        processes.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw)
    {
        // Gone already is as good.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}

/// Stops everything in a cgroup where it stands, or lets it go on (Linux 5.2). Comes back when all stand, or have no
/// instruction of their own left to do: who waits in the kernel stands when the wait is over.
///
/// # Errors
/// The group is gone, or has no such file.
pub(super) fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let start = Instant::now();
    while frozen && start.elapsed() < FROZEN_WITHIN {
        if fs::read_to_string(path.join("cgroup.events"))?.lines().any(|line| line == "frozen 1") {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Kills, waits until empty, removes.
fn remove(path: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        kill(path);
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if start.elapsed() > EMPTY_WITHIN => return Err(error),
            // EBUSY: someone is still on the way out.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn make_folder(path: &Path) -> Result<(), LaunchError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(LaunchError::system("create the cgroup", path.display().to_string(), error).with_help(
                "cgroup v2 must be writable: run as root, in a container with a writable /sys/fs/cgroup",
            ))
        }
        _ => Ok(()),
    }
}

/// Removes folders of supervisors that are gone. One that still holds processes stays: its guardian is at work.
pub(super) fn remove_leftovers(parent: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
        let owner = name.rsplit_once('-').and_then(|(_, pid)| pid.parse::<u32>().ok());
        let alive = owner.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
        if !alive {
            // Not empty: refused, and right so.
            drop(fs::remove_dir(entry.path()));
        }
    }
}
