//! The private mount namespace: `/proc` of the pid namespace, control file systems and all outside of the write list
//! read-only, and for the backend `fanotify` the mounts that hold denied and protected paths.
//!
//! A path that is bound over itself is a mount point: it can't be renamed or unlinked (EBUSY) nor linked out (EXDEV).
//! Bound read-only, its data and attributes can't be changed (EROFS). A rename of a folder above would carry the mount
//! along and leave the name free, so every ancestor that could be renamed is bound over itself too.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount,
        open_tree,
    },
};

pub(super) use self::devices::Places;
use self::table::MountTable;
use super::{
    error::{Failure, Stage},
    fd::RedirectedFile,
    plan::{FanotifyPlan, LaunchPlan},
};
use crate::sys::{
    fanotify::{Asked, Group},
    mount_setattr::{self, Depth, NO_EXEC, READ_ONLY},
    mountinfo::Mount,
};

mod cover;
mod devices;
mod shared;
pub mod table;
mod writable;

/// File systems that control the machine; nobody inside changes anything there.
const CONTROL_KINDS: [&str; 12] = [
    "cgroup",
    "cgroup2",
    "bpf",
    "securityfs",
    "tracefs",
    "debugfs",
    "sysfs",
    "pstore",
    "efivarfs",
    "configfs",
    "selinuxfs",
    "binfmt_misc",
];
/// Of those: what others do and did, told to uid 0 without any capability (traces, crashes, programs of the kernel's).
const TELLING_KINDS: [&str; 5] = ["tracefs", "debugfs", "pstore", "efivarfs", "bpf"];
/// File systems without files of anybody's own: no rule by name is about them that does not begin there.
const NAMELESS_KINDS: [&str; 3] = ["devpts", "mqueue", "rpc_pipefs"];
/// Those that can't be marked, or where to look is to mount something.
const UNMARKED_KINDS: [&str; 2] = ["proc", "autofs"];
/// Parts of `/proc` that uid 0 may write without any capability.
const PROC_READ_ONLY: [&str; 8] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/dynamic_debug",
];

/// The mounts of one sandbox. All paths absolute, existing, without symlinks ([`resolve`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountPlan {
    /// Bound over themselves, read-only, and (with a fanotify plan) marked: every open is refused by the verdicts.
    pub deny: Vec<PathBuf>,
    /// Bound over themselves, read-only.
    pub protect: Vec<PathBuf>,
    /// As `deny`, for objects that are held by inode too: their ancestors may be renamed.
    pub deny_unpinned: Vec<PathBuf>,
    /// As `protect`, likewise.
    pub protect_unpinned: Vec<PathBuf>,
    /// What nobody inside opens for anything: named pipes and devices that are denied or protected, and what is denied on a
    /// file system that allows no mark.
    pub closed: Vec<PathBuf>,
    /// Files and folders that nothing is executed from, nor mapped as code: bound over themselves with `MS_NOEXEC`.
    pub no_exec: Vec<PathBuf>,
    /// The project's own: policy files, log, state folder, binary. Bound over themselves, read-only.
    pub own_files: Vec<PathBuf>,
    /// What the sandbox may write: ancestors of the above that lie in these are bound over themselves. Empty: `/`.
    pub writable: Vec<PathBuf>,
}

/// What is done with a path that becomes a mount; the later wins where one path is named twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Treatment {
    /// Bound over itself so that it can't be renamed.
    Pin,
    /// And read-only.
    ReadOnly,
    /// And every open is asked about.
    Deny,
}

/// The object's own path, symlinks followed. `None`: it does not exist.
///
/// # Errors
/// It can't be looked up for another reason.
pub fn resolve(path: &Path) -> io::Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(resolved) => Ok(Some(resolved)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl MountPlan {
    /// Every path that becomes a mount, outer ones first.
    #[must_use]
    pub fn treatments(&self) -> Vec<(PathBuf, Treatment)> {
        let mut wanted: BTreeMap<PathBuf, Treatment> = BTreeMap::new();
        let mut want = |path: &Path, treatment: Treatment| {
            let entry = wanted.entry(path.to_owned()).or_insert(treatment);
            *entry = (*entry).max(treatment);
        };
        let read_only = self.protect.iter().chain(&self.own_files).map(|path| (path, Treatment::ReadOnly));
        for (path, treatment) in self.deny.iter().map(|path| (path, Treatment::Deny)).chain(read_only) {
            // Below a denied folder nothing is reached anyway, and its mount hides what was mounted inside.
            if self.deny.iter().any(|denied| path != denied && path.starts_with(denied)) {
                continue;
            }
            want(path, treatment);
            for ancestor in path.ancestors().skip(1) {
                let Some(parent) = ancestor.parent() else { break };
                if self.is_writable(parent) {
                    want(ancestor, Treatment::Pin);
                }
            }
        }
        let unpinned = self.deny_unpinned.iter().map(|path| (path, Treatment::Deny));
        for (path, treatment) in
            unpinned.chain(self.protect_unpinned.iter().map(|path| (path, Treatment::ReadOnly)))
        {
            if !self.deny.iter().any(|denied| path.starts_with(denied)) {
                let entry = wanted.entry(path.clone()).or_insert(treatment);
                *entry = (*entry).max(treatment);
            }
        }
        wanted.remove(Path::new("/"));
        let mut ordered: Vec<_> = wanted.into_iter().collect();
        ordered.sort_by_key(|(path, _)| path.components().count());
        ordered
    }

    /// May the sandbox write what lies there?
    #[must_use]
    pub fn is_writable(&self, folder: &Path) -> bool {
        self.writable.is_empty() || self.writable.iter().any(|root| folder.starts_with(root))
    }
}

/// Makes the namespace that this process has just got its own, and fills it. What it answers is kept as long as the
/// namespace is in use.
pub(super) fn enter(of: &LaunchPlan, redirected: &[RedirectedFile]) -> Result<Places, Failure> {
    let LaunchPlan { mounts: plan, identity, .. } = of;
    let layers = of.landlock.layers.as_slice();
    let fail = |stage, object: &Path| {
        let object = object.display().to_string();
        move |source: io::Error| Failure::new(stage, object, &source)
    };
    let root = Path::new("/");
    mount_change(root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| fail(Stage::Propagation, root)(errno.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None)
        .map_err(|errno| fail(Stage::Proc, Path::new("/proc"))(errno.into()))?;
    let table = MountTable::read().map_err(fail(Stage::ReadOnly, Path::new("/proc/self/mountinfo")))?;
    // One that was mounted elsewhere shows processes outside, and lets uid 0 write the machine's settings.
    let is_other = |mount: &&Mount| mount.fs_type == "proc" && !mount.point.starts_with("/proc");
    let is_top = |mount: &Mount| table.holding(&mount.point).is_some_and(|top| top.id == mount.id);
    let is_covered = |mount: &&Mount| {
        is_top(mount) && (is_other(mount) || TELLING_KINDS.contains(&mount.fs_type.as_str()))
    };
    let mut covered: Vec<&Path> =
        table.mounts().iter().filter(is_covered).map(|mount| mount.point.as_path()).collect();
    for point in &covered {
        cover::over(point).map_err(fail(Stage::Cover, point))?;
    }
    for control in table.mounts().iter().filter(|mount| CONTROL_KINDS.contains(&mount.fs_type.as_str())) {
        match mount_setattr::set(&control.point, READ_ONLY, Depth::One) {
            // Hidden below another mount: nobody inside reaches it either.
            Err(error) if is_hidden(&error) => {}
            answer => answer.map_err(fail(Stage::ReadOnly, &control.point))?,
        }
    }
    // Those of the new IPC namespace; a queue of another one could be opened by its file.
    for queues in table.mounts().iter().filter(|mount| mount.fs_type == "mqueue") {
        match mount("mqueue", &queues.point, "mqueue", flags, None).map_err(io::Error::from) {
            Err(error) if is_hidden(&error) => {}
            answer => answer.map_err(fail(Stage::Queues, &queues.point))?,
        }
    }
    let shared = Path::new(shared::FOLDER);
    if shared::enter(of, redirected, &table).map_err(fail(Stage::Queues, shared))? {
        covered.push(shared);
    }
    if identity.uid == 0 {
        for path in PROC_READ_ONLY.map(Path::new).into_iter().filter(|path| path.exists()) {
            bind_over_itself(path, Treatment::ReadOnly).map_err(fail(Stage::ReadOnly, path))?;
        }
    }
    let places = devices::enter(layers)?;
    writable::close(layers, redirected)?;
    devices::close()?;
    let is_covered = |path: &Path| covered.iter().any(|point| path != *point && path.starts_with(point));
    for (path, treatment) in plan.treatments().into_iter().filter(|(path, _)| !is_covered(path)) {
        bind_over_itself(&path, treatment).map_err(fail(Stage::Pin, &path))?;
    }
    for path in &plan.no_exec {
        match bind_with(path, NO_EXEC, Depth::Recursive) {
            // It went away since it was looked up, or lies behind a symlink now: its name is judged when it is opened.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
            answer => answer.map_err(fail(Stage::Pin, path))?,
        }
    }
    for path in cover::outermost(&plan.closed) {
        cover::over(path).map_err(fail(Stage::Cover, path))?;
    }
    Ok(places)
}

/// Puts the marks, once all mounts are there.
pub(super) fn mark(plan: &MountPlan, fanotify: &FanotifyPlan, group: &Group) -> Result<(), Failure> {
    let fail =
        |path: &Path, source: &io::Error| Failure::new(Stage::Mark, path.display().to_string(), source);
    for path in plan.deny.iter().chain(&plan.deny_unpinned) {
        match group.mark(Asked::Opens, path) {
            // Something above is covered: nobody inside reaches it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            answer => answer.map_err(|source| fail(path, &source))?,
        }
    }
    let wanted = [(fanotify.all_mounts, Asked::Opens), (fanotify.programs, Asked::Programs)];
    let wanted: Vec<Asked> = wanted.into_iter().filter_map(|(is, asked)| is.then_some(asked)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mountinfo = Path::new("/proc/self/mountinfo");
    let table = MountTable::read().map_err(|source| fail(mountinfo, &source))?;
    for mount in table.mounts().iter().filter(|mount| can_hold_names(mount, fanotify)) {
        for asked in &wanted {
            match group.mark(*asked, &mount.point) {
                // Hidden below another mount: nobody inside reaches it either.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
                // A file system in user space whose server is gone, for good: nobody opens anything there.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {}
                answer => answer.map_err(|source| fail(&mount.point, &source))?,
            }
        }
    }
    Ok(())
}

fn can_hold_names(mount: &Mount, fanotify: &FanotifyPlan) -> bool {
    let kind = mount.fs_type.as_str();
    let begins = |path: &PathBuf| path.starts_with(&mount.point) || mount.point.starts_with(path);
    let is_nameless = NAMELESS_KINDS.contains(&kind) || CONTROL_KINDS.contains(&kind);
    !UNMARKED_KINDS.contains(&kind) && (!is_nameless || fanotify.beginnings.iter().any(begins))
}

fn is_hidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EINVAL))
}

fn bind_over_itself(path: &Path, treatment: Treatment) -> io::Result<()> {
    let attributes = if treatment == Treatment::Pin { 0 } else { READ_ONLY };
    // What is mounted inside a denied folder stays behind and is out of reach.
    let depth = if treatment == Treatment::Deny { Depth::One } else { Depth::Recursive };
    bind_with(path, attributes, depth)
}

/// Clones the mount at `path` and lays it over the same object, whatever happens to the names on the way meanwhile.
fn bind_with(path: &Path, attributes: u64, depth: Depth) -> io::Result<()> {
    let at = object(path)?;
    let tree = clone(at.as_fd(), depth)?;
    if attributes != 0 {
        mount_setattr::set_of(tree.as_fd(), attributes, Depth::Recursive)?;
    }
    put(tree.as_fd(), at.as_fd())
}

/// The mount at `path`, to be laid over something.
fn clone_of(path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    clone(object(path)?.as_fd(), depth)
}

/// Lays a mount over what is at `path` now.
fn put_over(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    put(tree, object(path)?.as_fd())
}

fn object(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

fn clone(at: BorrowedFd<'_>, depth: Depth) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let recursive = match depth {
        Depth::One => OpenTreeFlags::empty(),
        Depth::Recursive => OpenTreeFlags::AT_RECURSIVE,
    };
    Ok(open_tree(at, c"", flags | recursive)?)
}

fn put(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> io::Result<()> {
    let both_empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, c"", at, c"", both_empty)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn ancestors_are_pinned_up_to_the_writable_root() {
        let plan = MountPlan {
            protect: paths(&["/home/u/app/.git/config"]),
            writable: paths(&["/home/u/app"]),
            ..MountPlan::default()
        };
        let expected = [
            (PathBuf::from("/home/u/app/.git"), Treatment::Pin),
            (PathBuf::from("/home/u/app/.git/config"), Treatment::ReadOnly),
        ];
        assert_eq!(plan.treatments(), expected);
    }

    #[test]
    fn without_a_writable_list_all_ancestors_are_pinned_outermost_first() {
        let plan = MountPlan { deny: paths(&["/home/u/.ssh"]), ..MountPlan::default() };
        let expected = [
            (PathBuf::from("/home"), Treatment::Pin),
            (PathBuf::from("/home/u"), Treatment::Pin),
            (PathBuf::from("/home/u/.ssh"), Treatment::Deny),
        ];
        assert_eq!(plan.treatments(), expected);
    }

    #[test]
    fn deny_wins_over_protect_and_hides_what_is_below() {
        let plan = MountPlan {
            deny: paths(&["/s"]),
            protect: paths(&["/s", "/s/below", "/secret"]),
            writable: paths(&["/none"]),
            ..MountPlan::default()
        };
        let expected =
            [(PathBuf::from("/s"), Treatment::Deny), (PathBuf::from("/secret"), Treatment::ReadOnly)];
        assert_eq!(plan.treatments(), expected);
    }
}
