//! New namespaces and mounts, by the old calls and the new ones.

use std::os::fd::AsRawFd;

use crate::{
    attempt::{Attempt, Class, Told},
    privileges::past,
    sys::{c, call, open, owned},
};

const TOLD: Told = Told::Event { kind: "privilege.use", rule: "default/process.namespaces", about: "" };
const CLONE_NEWUTS: u64 = 0x0400_0000;

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("namespaces-{name}"), Class::Mounts, what, source).control_by_root().told(TOLD)
}

pub(crate) fn attempts() -> Vec<Attempt> {
    const KINDS: [(&str, &str, u64); 7] = [
        ("mounts", "an own view of mounts", 0x0002_0000),
        ("names", "an own host name", CLONE_NEWUTS),
        ("ipc", "own queues", 0x0800_0000),
        ("net", "an own network", 0x4000_0000),
        ("pids", "own pids", 0x2000_0000),
        ("cgroups", "an own view of cgroups", 0x0200_0000),
        ("time", "an own clock", 0x80),
    ];
    let kinds = KINDS.into_iter().map(|(name, what, flag)| {
        new(&format!("unshare-{name}"), what, "unshare(2)")
            .acts(move |_| call!(libc::SYS_unshare, flag).map(|_| String::new()))
    });
    kinds.chain(others()).chain(mounts()).collect()
}

fn others() -> Vec<Attempt> {
    vec![
        new("clone", "a child in a namespace of its own", "clone(2)").acts(|_| {
            match call!(libc::SYS_clone, CLONE_NEWUTS | 17, 0, 0, 0, 0)? {
                // SAFETY: the child ends at once.
                0 => unsafe { libc::_exit(0) },
                child => call!(libc::SYS_wait4, child, 0, 0, 0).map(|_| String::new()),
            }
        }),
        new("user", "a user namespace, where every capability is had", "user_namespaces(7)")
            // With CLONE_FS no kernel makes one: the control gets as far as that.
            .acts(|_| past(call!(libc::SYS_clone, 0x1000_0211_u64, 0, 0, 0, 0), &[libc::EINVAL])),
        new("setns", "the namespace behind a file", "setns(2)").acts(|_| {
            let own = open("/proc/self/ns/uts", libc::O_RDONLY)?;
            call!(libc::SYS_setns, own.as_raw_fd(), 0).map(|_| String::new())
        }),
        new("setns-process", "the namespaces of a process", "setns(2), pidfd").acts(|_| {
            let own = owned(call!(libc::SYS_pidfd_open, std::process::id(), 0)?);
            call!(libc::SYS_setns, own.as_raw_fd(), CLONE_NEWUTS).map(|_| String::new())
        }),
        new("chroot", "another root", "chroot(2), CVE-2024-21626")
            .acts(|_| call!(libc::SYS_chroot, c("/").as_ptr()).map(|_| String::new())),
        new("pivot", "another root for all", "pivot_root(2)")
            .acts(|_| past(call!(libc::SYS_pivot_root, 1, 1), &[libc::EFAULT])),
    ]
}

fn mounts() -> Vec<Attempt> {
    vec![
        new("mount", "a file system over a folder", "mount(2)").staged(|stage| drop(stage.dir("over"))).acts(
            |at| {
                let (over, kind) = (c(at.path("over")), c("tmpfs"));
                call!(libc::SYS_mount, kind.as_ptr(), over.as_ptr(), kind.as_ptr(), 0, 0)?;
                call!(libc::SYS_umount2, over.as_ptr(), libc::MNT_DETACH).map(|_| String::new())
            },
        ),
        new("bind", "a denied file under another name", "mount(2), MS_BIND")
            .secret("secret")
            .staged(|stage| drop(stage.file("open", "")))
            .reads(|at| {
                let (from, to) = (c(at.secret()), c(at.path("open")));
                call!(libc::SYS_mount, from.as_ptr(), to.as_ptr(), 0, libc::MS_BIND, 0)?;
                let read = crate::sys::read(at.path("open"));
                call!(libc::SYS_umount2, to.as_ptr(), libc::MNT_DETACH)?;
                read
            }),
        new("unmount", "a mount taken away", "umount2(2)").acts(|at| {
            let path = c(at.path(""));
            past(call!(libc::SYS_umount2, path.as_ptr(), libc::MNT_DETACH), &[libc::EINVAL])
        }),
        new("fsopen", "a file system by the new calls", "fsopen(2)")
            .acts(|_| call!(libc::SYS_fsopen, c("tmpfs").as_ptr(), 0).map(|_| String::new())),
        new("fsconfig", "settings of a file system", "fsconfig(2)")
            .acts(|_| past(call!(libc::SYS_fsconfig, -1, 0, 0, 0, 0), &[libc::EINVAL, libc::EBADF])),
        new("fsmount", "a mount that nobody sees", "fsmount(2)")
            .acts(|_| past(call!(libc::SYS_fsmount, -1, 0, 0), &[libc::EBADF])),
        new("fspick", "the file system of a path", "fspick(2)")
            .acts(|_| call!(libc::SYS_fspick, libc::AT_FDCWD, c("/").as_ptr(), 0).map(|_| String::new())),
        new("open-tree", "a copy of a mount", "open_tree(2)")
            .acts(|_| call!(libc::SYS_open_tree, libc::AT_FDCWD, c(".").as_ptr(), 1).map(|_| String::new())),
        new("move-mount", "a mount put elsewhere", "move_mount(2)").acts(|_| {
            past(
                call!(libc::SYS_move_mount, -1, c"".as_ptr(), -1, c"".as_ptr(), 4),
                &[libc::EBADF, libc::ENOENT],
            )
        }),
        new("mount-setattr", "a mount made writable", "mount_setattr(2)").acts(|_| {
            let attributes = [0_u64; 4];
            let answer =
                call!(libc::SYS_mount_setattr, libc::AT_FDCWD, c(".").as_ptr(), 0, attributes.as_ptr(), 32);
            past(answer, &[libc::EINVAL])
        }),
    ]
}
