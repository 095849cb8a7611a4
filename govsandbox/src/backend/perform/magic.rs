//! Magic links of `/proc` (proc_pid_exe(5) and its like), followed for the caller.
//!
//! The kernel lets a process follow its own links whatever they lead to, so this one must not follow its own when a
//! caller names them: they lead to the program file of govsandbox, on a mount of the machine.

use std::{
    ffi::CStr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, fstatfs, openat, openat2,
        stat, statx,
    },
    io::Errno,
    thread::CapabilitySet,
};

use super::{
    entry::{HANDLE, is_proc_root, path_of},
    with_capabilities,
};
use crate::launch::performer::CAPABILITIES;

/// Folders of `/proc` above a link, at most: `PID/task/TID/fd`.
const LEVELS_MAX: u32 = 8;
/// `DEVPTS_SUPER_MAGIC` of include/uapi/linux/magic.h.
const TERMINALS: rustix::fs::FsWord = 0x1cd1;

/// The object that a link in this folder of `/proc` leads to.
///
/// # Errors
/// EACCES where the kernel would answer that to the caller, and for what lies on no mount of the sandbox.
pub(super) fn follow(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    if is_own(folder)? {
        return Err(Errno::ACCESS);
    }
    let object = openat(folder, name, HANDLE, Mode::empty())?;
    if is_inside(object.as_fd())? { Ok(object) } else { Err(Errno::ACCESS) }
}

/// Lies the folder in that of this process?
fn is_own(folder: BorrowedFd<'_>) -> Result<bool, Errno> {
    let own = stat("/proc/self")?;
    let mut at = openat(folder, c".", HANDLE, Mode::empty())?;
    for _ in 0..LEVELS_MAX {
        if is_proc_root(at.as_fd())? {
            return Ok(false);
        }
        let found = fstat(&at)?;
        if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino) {
            return Ok(true);
        }
        at = openat(&at, c"..", HANDLE, Mode::empty())?;
    }
    Err(Errno::ACCESS)
}

/// Is it on a mount of this namespace, or nothing that lies on a mount at all: a pipe, a file without a name?
fn is_inside(object: BorrowedFd<'_>) -> Result<bool, Errno> {
    let found = fstat(object)?;
    let is_named = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::BlockDevice => true,
        // The terminal that the caller was started on may be of the machine's.
        FileType::CharacterDevice => fstatfs(object)?.f_type != TERMINALS,
        FileType::Fifo | FileType::Socket | FileType::Unknown => false,
    };
    if !is_named || found.st_nlink == 0 {
        return Ok(true);
    }
    let Ok(path) = path_of(object) else { return Ok(false) };
    match named(path)? {
        Some(named) => Ok(mount_of(named.as_fd())? == mount_of(object)?),
        None => Ok(false),
    }
}

/// What stands at a path, which the caller need not be able to reach by its name.
fn named(path: Vec<u8>) -> Result<Option<OwnedFd>, Errno> {
    let is_able = with_capabilities(CAPABILITIES).is_ok();
    let (flags, links) = (HANDLE | OFlags::NOFOLLOW, ResolveFlags::NO_MAGICLINKS);
    let found = openat2(CWD, path, flags, Mode::empty(), links).ok();
    if is_able {
        with_capabilities(CapabilitySet::empty()).map_err(|_| Errno::ACCESS)?;
    }
    Ok(found)
}

/// The mount's number, which no other has as long as the descriptor is open. Linux 5.8.
fn mount_of(object: BorrowedFd<'_>) -> Result<u64, Errno> {
    let told = statx(object, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if told.stx_mask & StatxFlags::MNT_ID.bits() == 0 { Err(Errno::NOSYS) } else { Ok(told.stx_mnt_id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> OwnedFd {
        rustix::fs::open(path, HANDLE, Mode::empty()).unwrap()
    }

    #[test]
    fn links_of_this_process_are_not_followed_by_any_name() {
        let pid = std::process::id();
        for (path, name) in [
            ("/proc/self".to_owned(), c"exe"),
            (format!("/proc/{pid}"), c"root"),
            (format!("/proc/{pid}/task/../fd"), c"1"),
            (format!("/proc/{pid}/task/{pid}"), c"cwd"),
            ("/proc/thread-self/ns".to_owned(), c"mnt"),
        ] {
            assert_eq!(follow(folder(&path).as_fd(), name).unwrap_err(), Errno::ACCESS, "{path}");
        }
    }

    #[test]
    fn what_another_process_has_open_on_a_mount_of_this_namespace_is_found() {
        let mut child = std::process::Command::new("sleep").arg("60").current_dir("/usr").spawn().unwrap();
        let process = folder(&format!("/proc/{}", child.id()));
        assert_eq!(path_of(follow(process.as_fd(), c"cwd").unwrap().as_fd()).unwrap(), b"/usr");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
