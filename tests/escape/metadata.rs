//! Attributes: of what is protected, and of what lies outside of the write list.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use crate::{
    attempt::{Attempt, Class, Told},
    sys::{c, call, open, owned},
};

type Change = fn(&Path) -> io::Result<()>;

fn xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let path = c(path);
    call!(libc::SYS_setxattr, path.as_ptr(), name.as_ptr(), value.as_ptr(), value.len(), 0).map(drop)
}

/// A POSIX ACL (include/uapi/linux/posix_acl_xattr.h): owner, user 1, group, mask, others.
fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 7, 1), (4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 4, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn times(descriptor: i32, path: &std::ffi::CStr, flags: i32) -> io::Result<()> {
    let times = [1_i64, 0, 1, 0];
    call!(libc::SYS_utimensat, descriptor, path.as_ptr(), times.as_ptr(), flags).map(drop)
}

/// FS_NODUMP_FL by `FS_IOC_SETFLAGS` (ioctl_iflags(2)).
fn flags(path: &Path) -> io::Result<()> {
    const GET: u64 = 0x8008_6601;
    const SET: u64 = 0x4008_6602;
    let file = open(path, libc::O_RDONLY)?;
    let mut flags = 0_u64;
    call!(libc::SYS_ioctl, file.as_raw_fd(), GET, &raw mut flags)?;
    flags ^= 0x40;
    call!(libc::SYS_ioctl, file.as_raw_fd(), SET, &raw const flags).map(drop)
}

/// The same by `FS_IOC_FSSETXATTR` (ioctl_xfs_fsgetxattr(2)).
fn extended_flags(path: &Path) -> io::Result<()> {
    const GET: u64 = 0x801c_581f;
    const SET: u64 = 0x401c_5820;
    let file = open(path, libc::O_RDONLY)?;
    let mut attributes = [0_u32; 7];
    call!(libc::SYS_ioctl, file.as_raw_fd(), GET, attributes.as_mut_ptr())?;
    attributes[0] ^= 0x80;
    call!(libc::SYS_ioctl, file.as_raw_fd(), SET, attributes.as_ptr()).map(drop)
}

/// What the inode flags are now: no other attribute shows them.
fn flags_of(path: &Path) -> Option<u64> {
    const GET: u64 = 0x8008_6601;
    let file = open(path, libc::O_RDONLY).ok()?;
    let mut flags = 0_u64;
    call!(libc::SYS_ioctl, file.as_raw_fd(), GET, &raw mut flags).ok()?;
    Some(flags & 0xffff_ffff)
}

/// Gives it an attribute that can be taken away, where the file system knows any.
fn marked(path: &Path) {
    let answer = xattr(path, c"user.there", b"1");
    assert!(
        answer.as_ref().map_or_else(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP), |()| true),
        "{answer:?}"
    );
}

fn changes() -> Vec<(&'static str, &'static str, &'static str, Change)> {
    vec![
        ("chmod", "its mode", "chmod(2)", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))
        }),
        ("fchmod", "its mode by a descriptor for reading", "fchmod(2)", |path| {
            let file = open(path, libc::O_RDONLY)?;
            call!(libc::SYS_fchmod, file.as_raw_fd(), 0o777).map(drop)
        }),
        ("fchmodat2", "its mode by an O_PATH descriptor", "fchmodat(2), AT_EMPTY_PATH", |path| {
            let file = open(path, libc::O_PATH)?;
            call!(452, file.as_raw_fd(), c"".as_ptr(), 0o777, libc::AT_EMPTY_PATH).map(drop)
        }),
        ("chmod-proc-fd", "its mode by /proc/self/fd", "proc(5)", |path| {
            let file = open(path, libc::O_PATH)?;
            fs::set_permissions(
                format!("/proc/self/fd/{}", file.as_raw_fd()),
                fs::Permissions::from_mode(0o777),
            )
        }),
        ("chown-same", "its owner, the same again with another time of change", "chown(2)", |path| {
            let uid = rustix::process::getuid().as_raw();
            chown(path, Some(uid), None)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o640))
        }),
        ("utimes", "its times", "utimensat(2)", |path| times(libc::AT_FDCWD, &c(path), 0)),
        ("futimens", "its times by a descriptor for reading", "utimensat(2)", |path| {
            let file = open(path, libc::O_RDONLY)?;
            let moments = [1_i64, 0, 1, 0];
            call!(libc::SYS_utimensat, file.as_raw_fd(), 0, moments.as_ptr(), 0).map(drop)
        }),
        ("setxattr", "an attribute", "setxattr(2)", |path| xattr(path, c"user.mine", b"1")),
        ("fsetxattr", "an attribute by a descriptor for reading", "setxattr(2)", |path| {
            let file = open(path, libc::O_RDONLY)?;
            call!(libc::SYS_fsetxattr, file.as_raw_fd(), c"user.mine".as_ptr(), b"1".as_ptr(), 1, 0).map(drop)
        }),
        ("removexattr", "an attribute away", "removexattr(2)", |path| {
            let path = c(path);
            call!(libc::SYS_removexattr, path.as_ptr(), c"user.there".as_ptr()).map(drop)
        }),
        ("acl", "an access list", "acl(5)", |path| xattr(path, c"system.posix_acl_access", &acl())),
        ("flags", "its inode flags", "ioctl_iflags(2)", flags),
        ("fsxattr", "its inode flags by FS_IOC_FSSETXATTR", "ioctl_xfs_fsgetxattr(2)", extended_flags),
    ]
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for (name, what, source, change) in changes() {
        let new = |place: &str| {
            let attempt = Attempt::new(format!("metadata-{name}-{place}"), Class::Metadata, what, source);
            let attempt = if name == "fchmodat2" { attempt.since(6, 6) } else { attempt };
            // The caller's descriptors are nothing that the host could look up afterwards.
            let attempt =
                if name == "chmod-proc-fd" { attempt.fanotify_told(BY_DESCRIPTOR) } else { attempt };
            let unseen = ["fchmod", "fchmodat2", "utimes", "futimens", "fsetxattr"].contains(&name);
            let attempt = if unseen { attempt.fanotify_told(FLAGS) } else { attempt };
            // Flags of a file are seen by those who open it alone; tmpfs and overlayfs have none, before 6.6 no attributes either.
            let may_lack = ["flags", "attr"].iter().any(|end| name.ends_with(end));
            if may_lack { attempt.where_not_supported() } else { attempt }
        };
        let prepare = |stage: &crate::stage::Stage, name: &str| {
            let path = stage.path(name);
            marked(&path);
            path
        };
        let watch = move |stage: &mut crate::stage::Stage, path: PathBuf| {
            if let Some(before) = flags_of(&path) {
                stage.watch(move || flags_of(&path) != Some(before));
            }
        };
        let reached = move |path: &Path| change(path).map(|()| String::new());
        let literal = new("literal").keeps("kept").staged(move |stage| {
            let path = prepare(stage, "kept");
            watch(stage, path);
        });
        let pattern = new("pattern").keeps_by_pattern().staged(move |stage| {
            let path = prepare(stage, "sealed.conf");
            watch(stage, path);
        });
        for attempt in [literal, pattern] {
            all.push(if name.ends_with("flags") || name == "fsxattr" {
                attempt.acts(move |at| reached(at.kept())).refused_as_change().fanotify_told(FLAGS)
            } else {
                attempt.changes(move |at| change(at.kept()))
            });
        }
        let secret = new("denied").secret("secret").staged(move |stage| drop(prepare(stage, "secret")));
        if !name.ends_with("flags") && name != "fsxattr" {
            all.push(secret.changes(move |at| change(at.secret())));
        }
        let outside = new("outside").staged(move |stage| {
            let path = stage.outside_file("file", "as it was");
            marked(&path);
            watch(stage, path);
        });
        let outside = if name.ends_with("flags") || name == "fsxattr" {
            outside.acts(move |at| reached(Path::new(&at.said("outside")?))).refused_as_change()
        } else {
            outside.guards_outside().changes(move |at| change(Path::new(&at.said("outside")?)))
        };
        let told = match name {
            "chmod-proc-fd" => BY_DESCRIPTOR,
            "flags" | "fsxattr" | "fchmod" | "fchmodat2" | "utimes" | "futimens" | "fsetxattr" => FLAGS,
            _ => OUTSIDE,
        };
        all.push(outside.told(told));
    }
    all
}

/// What can be learned of a denied file without an open.
pub(crate) fn learned() -> Vec<Attempt> {
    let new =
        |name: &str, what, source| Attempt::new(format!("learned-{name}"), Class::Metadata, what, source);
    let watched = |path: &Path| {
        let path = c(path);
        let watches = call!(libc::SYS_inotify_init1, libc::O_CLOEXEC).map(owned)?;
        call!(libc::SYS_inotify_add_watch, watches.as_raw_fd(), path.as_ptr(), libc::IN_ALL_EVENTS)
            .map(|_| String::new())
    };
    vec![
        new("watch-folder", "the names that come into a denied folder", "inotify(7)")
            .deny("vault")
            .staged(|stage| drop(stage.dir("vault")))
            .acts(move |at| watched(&at.path("vault")))
            .fanotify_not_held(WATCHES),
        new("watch-file", "each open and change of a denied file", "inotify(7)")
            .secret_by_pattern()
            .acts(move |at| watched(at.secret()))
            .fanotify_not_held(WATCHES),
        new("xattr", "an attribute of a denied file", "getxattr(2)")
            .secret("secret")
            // In memory there are none before 6.6, as the attempt itself finds out.
            .staged(|stage| drop(xattr(&stage.path("secret"), c"user.note", b"text")))
            .where_not_supported()
            .acts(|at| {
                let (path, mut value) = (c(at.secret()), [0_u8; 8]);
                let into = value.as_mut_ptr();
                call!(libc::SYS_getxattr, path.as_ptr(), c"user.note".as_ptr(), into, value.len())
                    .map(|_| String::new())
            })
            .not_held("That a denied file exists"),
    ]
}

const WATCHES: &str = "Watches (inotify) on denied files and folders";

/// Of commands to a file only what a hook refuses is told.
const FLAGS: Told = Told::Nothing("a command that a read-only mount refuses is no event");
/// Told as the caller gave it.
const BY_DESCRIPTOR: Told = Told::Event { kind: "file.change", rule: "", about: "/proc/self/fd/" };
/// What lies outside of the write list.
pub(crate) const OUTSIDE: Told =
    Told::Event { kind: "file.change", rule: "default/filesystem.write", about: "{outside}" };
