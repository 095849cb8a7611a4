//! What is laid over objects that nobody inside opens, and that neither marks nor the flags of a mount keep: fanotify asks
//! about files and folders alone, and not on `proc`.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};

use super::{clone_of, devices::is_device, put_over};
use crate::sys::mount_setattr::{self, Depth, NO_DEV, NO_EXEC, READ_ONLY};

/// A device, on a mount without devices: nobody opens it, whatever he may (`may_open_dev` of fs/namei.c).
const CLOSED: &str = "/dev/null";
/// An empty folder of nobody's (the last uid but one), neither listed nor searched; read-only, so that it stays so.
const EMPTY: &std::ffi::CStr = c"mode=0,uid=4294967294,gid=4294967294,size=4k";

/// Covers what is at `path`, if there is something.
pub(super) fn over(path: &Path) -> io::Result<()> {
    let covered = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => folder(path),
        Ok(_) => file(path),
        Err(error) => Err(error),
    };
    match covered {
        // It is gone, replaced by a symlink, or behind another mount.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
            Ok(())
        }
        covered => covered,
    }
}

fn file(path: &Path) -> io::Result<()> {
    let closed = Path::new(CLOSED);
    if !is_device(closed) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let tree = clone_of(closed, Depth::One)?;
    mount_setattr::set_of(tree.as_fd(), NO_DEV | NO_EXEC | READ_ONLY, Depth::One)?;
    put_over(tree.as_fd(), path)
}

fn folder(path: &Path) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("tmpfs", path, "tmpfs", flags, Some(EMPTY))?)
}

/// Those that lie in no other: below one that is covered there is nothing.
pub(super) fn outermost(paths: &[PathBuf]) -> Vec<&Path> {
    let mut paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    paths.sort_unstable();
    // What lies below a path comes right behind it in this order, by components.
    paths.dedup_by(|next, before| next.starts_with(*before));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_are_covered_once() {
        let paths: Vec<PathBuf> =
            ["/a/b", "/a/b/c", "/a/bc", "/d", "/a/b", "/d/e/f"].iter().map(PathBuf::from).collect();
        assert_eq!(outermost(&paths), ["/a/b", "/a/bc", "/d"].map(Path::new));
    }
}
