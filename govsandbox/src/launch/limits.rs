//! Bounds on processes and memory: the controllers of cgroup v2, or of v1 where that holds them.
//!
//! In v1 each controller has a hierarchy of its own. The sandbox's group there lies below the supervisor's, so that what
//! bounds the caller bounds the sandbox too; the init enters it before it starts anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{error::LaunchError, mount::table::MountTable};
use crate::sys::mountinfo::Mount;

/// Processes and threads of a sandbox whose policy sets no bound, at most. The kernel's map of members has room for 32 such
/// sandboxes: a fork bomb in one never makes a fork in another fail.
pub const PIDS_MAX_DEFAULT: u64 = 8192;
/// Before the name of a group in a hierarchy of v1.
const PREFIX: &str = "govsandbox-";

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Processes and threads.
    Pids,
    /// Memory in bytes.
    Memory,
}

/// A bound that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Of what.
    pub resource: Resource,
    /// At most.
    pub max: u64,
    /// Of this come on top: processes of ours.
    pub own: u64,
    /// `true`: no start without it; `false`: as far as the machine can.
    pub required: bool,
}

/// How often a bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits {
    /// Of what.
    pub resource: Resource,
    /// At most.
    pub max: u64,
    /// Forks that failed, or processes that were killed, since the start.
    pub count: u64,
}

/// Bounds that hold.
#[derive(Debug, Default)]
pub(super) struct Limits {
    held: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    bound: Bound,
    folder: PathBuf,
    version: Version,
    /// The last that was read: the files go with the group.
    hits: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Tells how often the bounds of one sandbox were met, after its end too.
#[derive(Clone, Debug, Default)]
pub struct LimitWatch(Vec<Held>);

impl Resource {
    fn controller(self) -> &'static str {
        match self {
            Self::Pids => "pids",
            Self::Memory => "memory",
        }
    }

    fn max_file(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Pids, _) => "pids.max",
            (Self::Memory, Version::V1) => "memory.limit_in_bytes",
            (Self::Memory, Version::V2) => "memory.max",
        }
    }

    /// What is in swap is bounded too, where the kernel counts it: the file, and what is written there.
    fn swap(self, version: Version, max: u64) -> Option<(&'static str, u64)> {
        match (self, version) {
            (Self::Pids, _) => None,
            // Memory and swap together.
            (Self::Memory, Version::V1) => Some(("memory.memsw.limit_in_bytes", max)),
            (Self::Memory, Version::V2) => Some(("memory.swap.max", 0)),
        }
    }

    /// The file that counts, and the word before the count.
    fn events(self, version: Version) -> (&'static str, &'static str) {
        match (self, version) {
            (Self::Pids, _) => ("pids.events", "max"),
            (Self::Memory, Version::V1) => ("memory.oom_control", "oom_kill"),
            (Self::Memory, Version::V2) => ("memory.events", "oom_kill"),
        }
    }
}

impl Limits {
    /// Sets a bound on the group `name` that lies in `parent` below `root` (v2), or on one in v1's hierarchy. Not being
    /// able to is an error only for one that is required.
    pub(super) fn hold(&mut self, bound: Bound, root: &Path, group: &Path) -> Result<(), LaunchError> {
        match self.try_hold(bound, root, group) {
            Err(error) if bound.required => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn try_hold(&mut self, bound: Bound, root: &Path, group: &Path) -> Result<(), LaunchError> {
        let controller = bound.resource.controller();
        let held = |folder: PathBuf, version| Held { bound, folder, version, hits: Arc::default() };
        let refused = match enable(root, group, controller) {
            Ok(()) => return self.set(held(group.to_owned(), Version::V2)),
            Err(refused) => refused,
        };
        let table = MountTable::read()
            .map_err(|source| LaunchError::system("read", "/proc/self/mountinfo", source))?;
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(|source| LaunchError::system("read", "/proc/self/cgroup", source))?;
        let Some(parent) = own_group(&table, &own, controller) else {
            return Err(LaunchError::system("bound", format!("the sandbox's {controller}"), refused)
                .with_help(
                    "neither cgroup v2 nor v1 has that controller to give: drop the limit, or mount it",
                ));
        };
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        let folder = parent.join(format!("{PREFIX}{name}"));
        super::cgroup::remove_leftovers(&parent, |name| name.starts_with(PREFIX));
        fs::create_dir(&folder).map_err(|source| {
            LaunchError::system("create the cgroup", folder.display().to_string(), source)
        })?;
        self.set(held(folder, Version::V1))
    }

    fn set(&mut self, held: Held) -> Result<(), LaunchError> {
        let Bound { resource, max, own, .. } = held.bound;
        let file = held.folder.join(resource.max_file(held.version));
        let max = max.saturating_add(own);
        let swap = resource.swap(held.version, max).map(|(name, max)| (held.folder.join(name), max));
        self.held.push(held); // before it may fail: what was made is removed with it
        let written = fs::write(&file, max.to_string()).and_then(|()| match swap {
            Some((file, max)) if file.exists() => fs::write(file, max.to_string()),
            _ => Ok(()),
        });
        if written.is_err()
            && let Some(held) = self.held.pop()
            && held.version == Version::V1
        {
            fs::remove_dir(&held.folder).ok(); // it is empty; the next start removes what stays
        }
        written.map_err(|source| LaunchError::system("write", file.display().to_string(), source))
    }

    /// Groups of v1, to be entered by the init.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let own = self.held.iter().filter(|held| held.version == Version::V1);
        own.map(|held| held.folder.clone()).collect()
    }

    pub(super) fn holds(&self, resource: Resource) -> bool {
        self.held.iter().any(|held| held.bound.resource == resource)
    }

    pub(super) fn watch(&self) -> LimitWatch {
        LimitWatch(self.held.clone())
    }
}

impl LimitWatch {
    /// What was met up to now; once the groups are gone, what was read last.
    #[must_use]
    pub fn read(&self) -> Vec<Hits> {
        let read = |held: &Held| {
            let Bound { resource, max, .. } = held.bound;
            let (file, word) = resource.events(held.version);
            if let Ok(text) = fs::read_to_string(held.folder.join(file)) {
                held.hits.fetch_max(count_of(&text, word), Ordering::AcqRel);
            }
            Hits { resource, max, count: held.hits.load(Ordering::Acquire) }
        };
        self.0.iter().map(read).collect()
    }
}

/// Puts the calling process into a group of v1.
pub(super) fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), "0")
}

/// Lets `group` have a controller of v2; its ancestors from `root` on give it.
fn enable(root: &Path, group: &Path, controller: &str) -> io::Result<()> {
    let has = |folder: &Path, file: &str| -> io::Result<bool> {
        let text = fs::read_to_string(folder.join(file))?;
        Ok(text.split_whitespace().any(|word| word == controller))
    };
    let mut folders: Vec<&Path> =
        group.ancestors().skip(1).take_while(|folder| folder.starts_with(root)).collect();
    folders.reverse();
    for folder in folders {
        if has(folder, "cgroup.subtree_control")? {
            continue;
        }
        if !has(folder, "cgroup.controllers")? {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // In a group with processes, unless it is the machine's root, this would make the groups below threaded, and
        // nothing could be born there (cgroup-v2.rst, "Threads").
        let is_top = !folder.join("cgroup.type").exists();
        if !is_top && !fs::read_to_string(folder.join("cgroup.procs"))?.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

/// This process' group in the hierarchy of v1 that has the controller (cgroups(7), `/proc/PID/cgroup`).
fn own_group(table: &MountTable, own: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(Path::new(path))
    })?;
    let holds = |mount: &&Mount| {
        mount.fs_type == "cgroup" && mount.options.split(',').any(|option| option == controller)
    };
    let mount = table.mounts().iter().find(holds)?;
    Some(mount.point.join(path.strip_prefix(&mount.root).ok()?))
}

fn count_of(text: &str, word: &str) -> u64 {
    let count = |line: &str| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 /docker/1 /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_group_of_v1_is_found_below_its_mount() {
        let table = MountTable::parse(TABLE).unwrap();
        let own = "9:pids:/docker/1/job\n4:cpu,memory:/user\n0::/\n";
        let found = |controller| own_group(&table, own, controller);
        assert_eq!(found("memory"), Some(PathBuf::from("/sys/fs/cgroup/memory/user")));
        assert_eq!(found("pids"), Some(PathBuf::from("/sys/fs/cgroup/pids/job")));
        assert_eq!(found("cpu"), None, "it is mounted nowhere");
        assert_eq!(own_group(&table, "9:pids:/elsewhere\n", "pids"), None, "it lies outside of the mount");
    }

    #[test]
    fn counts_are_read_by_their_word() {
        assert_eq!(count_of("low 0\nmax 3\noom 1\noom_kill 17\n", "oom_kill"), 17);
        assert_eq!(count_of("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "oom_kill"), 2);
        assert_eq!(count_of("", "max"), 0);
    }
}
