//! A mount namespace of this thread's own.
#![expect(unsafe_code, reason = "`unshare_unsafe` is the only wrapper that is not deprecated")]

use std::io;

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// From now on nothing that this thread mounts is seen outside, and it goes with the thread. Of a process with one
/// thread.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: only unsharing the table of descriptors could break what other code relies on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}
