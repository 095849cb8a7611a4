//! What lies outside of the write list is read-only as a mount too. Landlock knows no right for a file's attributes, so
//! mode, owner, times, extended attributes and access lists of anything that the user owns would be free without.

use std::path::{Path, PathBuf};

use super::{
    super::{
        error::{Failure, Stage},
        fd::RedirectedFile,
        landlock::LandlockLayer,
    },
    bind_with, devices, is_hidden, resolve,
    table::MountTable,
};
use crate::sys::mount_setattr::{self, Depth, READ_ONLY};

/// Of these the sandbox has its own, or (`autofs`) to look at one is to mount something.
const OWN_KINDS: [&str; 3] = ["proc", "mqueue", "autofs"];

/// Binds what may be written over itself, and makes every other mount read-only.
///
/// Without a layer that limits writing (`mode = "audit"` has none at all) nothing is closed.
pub(super) fn close(layers: &[LandlockLayer], redirected: &[RedirectedFile]) -> Result<(), Failure> {
    let limits: Vec<_> = layers.iter().filter(|layer| !layer.any_write).collect();
    if limits.is_empty() {
        return Ok(());
    }
    let fail = |path: &Path, source: &std::io::Error| {
        Failure::new(Stage::ReadOnly, path.display().to_string(), source)
    };
    let mut resolved = Vec::new();
    for layer in limits {
        let mut roots = Vec::new();
        for path in &layer.write {
            roots.extend(resolve(path).map_err(|source| fail(path, &source))?);
        }
        resolved.push(roots);
    }
    let mut roots = outermost(allowed_by_all(&resolved));
    // What the caller's shell opened for writing is opened anew on one of these mounts.
    let files = redirected.iter().filter(|file| file.write).map(|file| file.path.clone());
    roots.extend(files.filter(|file| !covers(&roots, file)).collect::<Vec<_>>());
    if roots.iter().any(|root| root == Path::new("/")) {
        return Ok(());
    }
    for root in &roots {
        bind_with(root, 0, Depth::Recursive).map_err(|source| fail(root, &source))?;
    }
    let own_terminals = Path::new(devices::TERMINALS);
    let mountinfo = Path::new("/proc/self/mountinfo");
    let table = MountTable::read().map_err(|source| fail(mountinfo, &source))?;
    for mount in table.mounts() {
        if OWN_KINDS.contains(&mount.fs_type.as_str())
            || mount.point == own_terminals
            || covers(&roots, &mount.point)
        {
            continue;
        }
        match mount_setattr::set(&mount.point, READ_ONLY, Depth::One) {
            // Hidden below another mount: nobody inside reaches it either.
            Err(error) if is_hidden(&error) => {}
            answer => answer.map_err(|source| fail(&mount.point, &source))?,
        }
    }
    Ok(())
}

fn covers(roots: &[PathBuf], path: &Path) -> bool {
    roots.iter().any(|root| path.starts_with(root))
}

/// The entries that lie in an entry of every layer.
fn allowed_by_all(layers: &[Vec<PathBuf>]) -> Vec<PathBuf> {
    let all = layers.iter().flatten();
    all.filter(|path| layers.iter().all(|layer| covers(layer, path))).cloned().collect()
}

/// Those that lie in no other.
fn outermost(mut roots: Vec<PathBuf>) -> Vec<PathBuf> {
    roots.sort();
    roots.dedup();
    let inside = |path: &PathBuf| roots.iter().any(|root| root != path && path.starts_with(root));
    roots.iter().filter(|path| !inside(path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn layers_intersect_and_the_outermost_count() {
        let layers = [paths(&["/home/u", "/tmp"]), paths(&["/home/u/app", "/home/u/app/target", "/var"])];
        assert_eq!(outermost(allowed_by_all(&layers)), paths(&["/home/u/app"]));
    }

    #[test]
    fn a_layer_that_allows_nothing_leaves_nothing() {
        assert_eq!(allowed_by_all(&[paths(&["/tmp"]), Vec::new()]), Vec::<PathBuf>::new());
    }
}
