//! bpffs, where programs and maps are pinned.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::sys::mountinfo;

/// Where it is mounted by convention.
pub const BPFFS: &str = "/sys/fs/bpf";

/// No place to pin.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum MountError {
    /// The list of mounts.
    #[error("cannot read /proc/self/mountinfo")]
    #[diagnostic(help("mount /proc"))]
    Mountinfo(#[source] io::Error),
    /// Not mounted, and we may not.
    #[error("bpffs is not mounted and cannot be mounted at {BPFFS}")]
    #[diagnostic(help("run as root, or have root do: mount -t bpf bpf {BPFFS}"))]
    Refused(#[source] io::Error),
}

/// A mounted bpffs; `true`: it was mounted just now.
///
/// # Errors
/// When there is none and none can be mounted.
pub fn bpffs() -> Result<(PathBuf, bool), MountError> {
    if let Some(path) = mountinfo::find("bpf").map_err(MountError::Mountinfo)? {
        return Ok((path, false));
    }
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700"))
        .map_err(|errno| MountError::Refused(errno.into()))?;
    Ok((Path::new(BPFFS).to_path_buf(), true))
}
