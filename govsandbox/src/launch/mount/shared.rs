//! Shared memory and semaphores of POSIX are files in `/dev/shm`: the sandbox has a folder of its own there, which goes
//! with it.

use std::{ffi::CString, io, path::Path};

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    mount::{MountFlags, mount},
};

use super::table::MountTable;
use crate::launch::{fd::RedirectedFile, landlock::LandlockLayer, plan::LaunchPlan};

pub(super) const FOLDER: &str = "/dev/shm";

/// Mounts it, empty and of the machine's size. `false`: it stays the machine's.
pub(super) fn enter(
    plan: &LaunchPlan,
    redirected: &[RedirectedFile],
    table: &MountTable,
) -> io::Result<bool> {
    let folder = Path::new(FOLDER);
    let is_folder = folder.symlink_metadata().is_ok_and(|found| found.is_dir());
    // The hooks know no file of a file system that is made later.
    if !is_folder || plan.landlock.by_hooks || names_below(plan, redirected) {
        return Ok(false);
    }
    let size = table.holding(folder).filter(|mount| mount.fs_type == "tmpfs" && mount.point == folder);
    let size = size.and_then(|mount| mount.options.split(',').find(|option| option.starts_with("size=")));
    let options: Vec<&str> = std::iter::once("mode=1777").chain(size).collect();
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if statvfs(folder)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        flags |= MountFlags::NOEXEC;
    }
    mount("tmpfs", folder, "tmpfs", flags, Some(CString::new(options.join(","))?.as_c_str()))?;
    Ok(true)
}

/// Is something there that the run is about? What a project's own layer names alone is not: it opens nothing.
fn names_below(plan: &LaunchPlan, redirected: &[RedirectedFile]) -> bool {
    let is_below = |path: &Path| path != Path::new(FOLDER) && path.starts_with(FOLDER);
    let names = |layer: &LandlockLayer| layer.read.iter().chain(&layer.write).any(|path| is_below(path));
    let layers = &plan.landlock.layers;
    let files = redirected.iter().map(|file| file.path.as_path());
    let own = [plan.cwd.as_path(), plan.identity.home.as_path()];
    let own = own.into_iter().chain(plan.argv.first().map(Path::new));
    (!layers.is_empty() && layers.iter().all(names)) || files.chain(own).any(is_below)
}
