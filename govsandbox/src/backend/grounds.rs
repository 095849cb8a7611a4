//! `process.namespaces = "allow"` on `lsm`: the machine's mounts as they are at the start, and the allow-lists, for hooks
//! that look for a file from its own file system and not by the mounts that the sandbox makes.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{
    abi::{
        exec::ExecTable,
        ground::{Ground, LISTS_MAX, Lists, PREFIX_BYTES},
        rule::Automaton,
    },
    decide::{automaton::Scan, exec},
};

use crate::{
    bpf::tag::{Held, TagError},
    policy::compile::{AllowLists, OPEN_DEVICES},
    sys::mountinfo::{self, Mount},
};

/// File systems that are found otherwise (`proc`, of which the sandbox has its own) or hold no files (`autofs`, `nsfs`).
const NOT_HELD: [&str; 3] = ["proc", "autofs", "nsfs"];

/// What the hooks need to know.
#[derive(Debug)]
pub struct Grounds {
    /// For [`crate::bpf::fill::Contents::held`].
    pub held: Vec<Held>,
    /// The lists that there are.
    pub lists: Lists,
    /// Of whatever `proc` there is.
    pub proc: Ground,
}

/// Where files lie can't be told.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum GroundError {
    /// The mounts.
    #[error("cannot read /proc/self/mountinfo")]
    #[diagnostic(help("mount /proc"))]
    Mountinfo(#[source] io::Error),
    /// A path of an allow-list.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Tag(#[from] TagError),
    /// More policies than there are bits.
    #[error(
        "more than {LISTS_MAX} policies with allow-lists cannot be held with `process.namespaces = \"allow\"`"
    )]
    #[diagnostic(help("join them in fewer files of /etc/govsandbox/policy.d"))]
    TooMany,
    /// A file has two paths, and rules by name mean one of them.
    #[error(
        "{one} and {other} are the same folder, mounted twice, and rules by name hold in one of both: with \
         `process.namespaces = \"allow\"` a file can have but one path"
    )]
    #[diagnostic(help("take one of the mounts away, or name the files in it without wildcards"))]
    TwoPaths {
        /// One.
        one: String,
        /// The other.
        other: String,
    },
}

/// Looks at the mounts and the lists. `automaton` and `exec`: the rules by name.
///
/// # Errors
/// [`GroundError`].
pub fn find(
    allow: &[AllowLists],
    automaton: &Automaton,
    exec: Option<&ExecTable>,
) -> Result<Grounds, GroundError> {
    if allow.len() > LISTS_MAX {
        return Err(GroundError::TooMany);
    }
    let mounts = mountinfo::read(Path::new("/proc/self/mountinfo")).map_err(GroundError::Mountinfo)?;
    let mounts: Vec<Mount> = mounts.into_iter().filter(is_seen).collect();
    same_by_all_paths(&mounts, automaton, exec)?;
    let entries = entries(allow)?;
    let mut held = Vec::new();
    for (path, lists) in &entries {
        held.extend(Held::ground(path, Ground { lists: *lists, ..Ground::NONE })?);
    }
    for device in OPEN_DEVICES.iter().filter_map(|device| Path::new(device).canonicalize().ok()) {
        held.extend(Held::ground(&device, Ground { lists: Lists::ALL, ..Ground::NONE })?);
    }
    for mount in &mounts {
        if let Some(ground) = root_of_mount(&mount.point, &entries) {
            held.extend(Held::ground(&mount.point, ground)?);
        }
    }
    let proc = root_of_mount(Path::new("/proc"), &entries).unwrap_or(Ground::NONE);
    Ok(Grounds { held, lists: required(allow), proc })
}

/// Is it what its path leads to, and not hidden below another one?
fn is_seen(mount: &Mount) -> bool {
    !NOT_HELD.contains(&mount.fs_type.as_str()) && mount_at(&mount.point) == Some(mount.id)
}

/// The number of the mount that a path leads to, without asking its file system: one of a user's own (FUSE) answers nobody
/// else (proc_pid_fdinfo(5)).
fn mount_at(path: &Path) -> Option<u64> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let object = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd())).ok()?;
    told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// The entries that exist, resolved, each with the lists that it is in.
fn entries(allow: &[AllowLists]) -> Result<Vec<(PathBuf, Lists)>, TagError> {
    let mut entries = Vec::new();
    for (index, layer) in allow.iter().enumerate() {
        let bit = 1 << index;
        let read = layer.read.iter().map(|entry| (entry, Lists { read: bit, write: 0 }));
        let write = layer.write.iter().map(|entry| (entry, Lists { read: bit, write: bit }));
        for (entry, lists) in read.chain(write) {
            match entry.path.canonicalize() {
                Ok(path) => entries.push((path, lists)),
                // A missing entry gives nothing.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
                Err(source) => {
                    return Err(TagError::Open { path: entry.path.display().to_string(), source });
                }
            }
        }
    }
    Ok(entries)
}

/// A layer without a list of writable paths asks for none.
fn required(allow: &[AllowLists]) -> Lists {
    let lists = allow.iter().enumerate().map(|(index, layer)| {
        let bit = 1 << index;
        Lists { read: bit, write: if layer.any_write.is_some() { 0 } else { bit } }
    });
    lists.fold(Lists::NONE, Lists::or)
}

/// What is known of a mount's root: its place, and the lists that have it or something above it. `None`: its path is too
/// long, and what lies there is refused.
fn root_of_mount(point: &Path, entries: &[(PathBuf, Lists)]) -> Option<Ground> {
    let above = entries.iter().filter(|(path, _)| point.starts_with(path));
    let mut ground = Ground {
        lists: above.fold(Lists::NONE, |all, (_, lists)| all.or(*lists)),
        is_root: 1,
        ..Ground::NONE
    };
    let bytes = if point == Path::new("/") { b"" } else { point.as_os_str().as_bytes() };
    if bytes.len() >= PREFIX_BYTES {
        return None;
    }
    ground.prefix.get_mut(..bytes.len())?.copy_from_slice(bytes);
    ground.prefix_length = u16::try_from(bytes.len()).ok()?;
    Some(ground)
}

/// A file that lies below the roots of several mounts has several paths, of which the hooks know the one by the nearest
/// root. Rules by name must not tell them apart.
fn same_by_all_paths(
    mounts: &[Mount],
    automaton: &Automaton,
    exec: Option<&ExecTable>,
) -> Result<(), GroundError> {
    for outer in mounts {
        for inner in mounts.iter().filter(|inner| inner.device == outer.device && inner.id != outer.id) {
            let Ok(below) = inner.root.strip_prefix(&outer.root) else { continue };
            let other =
                if below.as_os_str().is_empty() { outer.point.clone() } else { outer.point.join(below) };
            let mean_the_same = means(automaton, exec, &other) == means(automaton, exec, &inner.point);
            if other != inner.point && !mean_the_same && is_same_object(&other, &inner.point) {
                let (one, other) = (inner.point.display().to_string(), other.display().to_string());
                return Err(GroundError::TwoPaths { one, other });
            }
        }
    }
    Ok(())
}

/// What rules by name come to behind a folder's path and a slash.
fn means(automaton: &Automaton, exec: Option<&ExecTable>, folder: &Path) -> (Scan, Option<u32>) {
    let bytes = folder.as_os_str().as_bytes();
    let path = || bytes.strip_suffix(b"/").unwrap_or(bytes).iter().chain(b"/");
    let files = path().fold(Scan::START, |scan, byte| scan.step(automaton, *byte));
    let run =
        |table: &ExecTable| path().fold(exec::START, |state, byte| exec::next(&table.names, state, *byte));
    (files, exec.map(run))
}

/// Do both lead there, and no symlink on the way?
fn is_same_object(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| {
        let real = path.canonicalize().ok().filter(|real| real == path)?;
        real.metadata().ok().map(|found| (found.dev(), found.ino()))
    };
    found(one).zip(found(other)).is_some_and(|(one, other)| one == other)
}
