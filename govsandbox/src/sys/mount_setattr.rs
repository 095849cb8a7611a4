//! `mount_setattr(2)`. Needs Linux 5.12.
#![expect(unsafe_code, reason = "a raw system call without a wrapper")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `MOUNT_ATTR_RDONLY`.
pub const READ_ONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOEXEC`.
pub const NO_EXEC: u64 = 0x8;
/// `MOUNT_ATTR_NOSUID`.
pub const NO_SUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NO_DEV: u64 = 0x4;

/// Which mounts it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The mount alone.
    One,
    /// It and all mounts below.
    Recursive,
}

/// `struct mount_attr` of include/uapi/linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of the mount whose root is `path`; the others stay as they are.
///
/// # Errors
/// `EINVAL` when no mount has its root there.
pub fn set(path: &Path, attributes: u64, depth: Depth) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | recursive(depth);
    call(libc::AT_FDCWD, &path, flags, attributes)
}

/// As [`set`] for the mount that `mount` is the root of (also one not attached yet).
///
/// # Errors
/// As [`set`].
pub fn set_of(mount: BorrowedFd<'_>, attributes: u64, depth: Depth) -> io::Result<()> {
    call(mount.as_raw_fd(), c"", libc::AT_EMPTY_PATH | recursive(depth), attributes)
}

fn recursive(depth: Depth) -> i32 {
    match depth {
        Depth::One => 0,
        Depth::Recursive => libc::AT_RECURSIVE,
    }
}

fn call(folder: i32, path: &std::ffi::CStr, flags: i32, set: u64) -> io::Result<()> {
    let attributes = MountAttributes { set, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is NUL-terminated and the structure is the kernel's, with its size.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            folder,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
