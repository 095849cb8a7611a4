//! Where a log may lie: nowhere that the sandbox can write.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use super::lock::lock_path;

const WRITE_BY_OTHERS: u32 = 0o002;
const WRITE_BY_GROUP: u32 = 0o020;
const WRITE_BY_OWNER: u32 = 0o200;
/// Symlinks that lead to a file, as the kernel follows them (path_resolution(7)).
const LINKS_MAX: usize = 40;
const STICKY: u32 = 0o1000;

/// Who must not be able to touch the log: what the command will run as, and where it may write.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// User id of the command.
    pub uid: u32,
    /// All its groups.
    pub gids: &'a [u32],
    /// `filesystem.write` as compiled: absolute paths.
    pub writable: &'a [PathBuf],
}

/// Why a log can't lie there.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LocationError {
    /// Below a `filesystem.write` entry, or beside one that covers its siblings.
    #[error("audit log {}: the sandbox could write it, because its policy allows writing {}", log.display(), writable.display())]
    #[diagnostic(
        code(audit::location::writable_by_policy),
        help(
            "choose a file elsewhere with --audit-log or `audit.log`; without either it is {{state}}/audit.jsonl"
        )
    )]
    WritableByPolicy {
        /// The log, symlinks resolved.
        log: PathBuf,
        /// The entry, symlinks resolved.
        writable: PathBuf,
    },
    /// Owner or mode bits let the command's user change it.
    #[error("audit log {}: user {uid}, whom the command runs as, can write {}", log.display(), place.display())]
    #[diagnostic(
        code(audit::location::writable_by_user),
        help(
            "choose a folder that belongs to root and that others can't write, or chown and chmod this one"
        )
    )]
    WritableByUser {
        /// The log, symlinks resolved.
        log: PathBuf,
        /// The file or folder that is open to them.
        place: PathBuf,
        /// The command's user.
        uid: u32,
    },
    /// The path has no file name, or goes through `..` below a folder that is not there yet.
    #[error("audit log {}: the path names no file", .0.display())]
    #[diagnostic(
        code(audit::location::no_file),
        help("give the path of a file, for example /var/log/govsandbox/audit.jsonl")
    )]
    NoFile(PathBuf),
    /// A folder on the way can't be looked at.
    #[error("audit log {}: cannot look at {}: {source}", log.display(), place.display())]
    #[diagnostic(
        code(audit::location::unreadable),
        help("check that each part of the path is a folder, or choose another path")
    )]
    Unreadable {
        /// The log as given.
        log: PathBuf,
        /// The part of the path.
        place: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Refuses a log that the command could change, replace or move away: below or beside a writable path of the policy, or
/// in a folder that its user can write by owner and mode bits (ACLs are not looked at).
///
/// Owner and mode are no help where the command runs as the supervisor's own user or as uid 0; then only the policy's
/// write list counts.
///
/// # Errors
/// [`LocationError`] says which place is open.
pub fn check_location(log: &Path, subject: &Subject<'_>) -> Result<(), LocationError> {
    let resolved = resolve(log)?;
    for writable in subject.writable {
        let writable = resolve_any(writable);
        if [&resolved, &lock_path(&resolved)].into_iter().any(|file| covers(&writable, file)) {
            return Err(LocationError::WritableByPolicy { log: resolved, writable });
        }
    }
    if goes_by_owner(subject) { check_owners(&resolved, subject) } else { Ok(()) }
}

/// Do owner and mode keep anything from it?
fn goes_by_owner(subject: &Subject<'_>) -> bool {
    subject.uid != 0 && subject.uid != rustix::process::geteuid().as_raw()
}

/// May the command neither change this file nor put another in its place? As [`check_location`] says of a log, and each
/// symlink on the way to the file, which is written by nobody whatever its mode, lies where it can't be replaced.
#[must_use]
pub fn is_kept(file: &Path, subject: &Subject<'_>) -> bool {
    let by_owner = goes_by_owner(subject);
    let mut place = file.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(resolved) = resolve(&place) else { return false };
        let covered = subject.writable.iter().any(|writable| covers(&resolve_any(writable), &resolved));
        match fs::read_link(&resolved) {
            _ if covered => return false,
            Ok(target) => {
                // A name beside it that is not there: only the folders count.
                let beside = beside(&resolved, ".kept");
                if by_owner && (check_owners(&beside, subject).is_err() || owns(&resolved, subject)) {
                    return false;
                }
                place = resolved.parent().unwrap_or(Path::new("/")).join(target);
            }
            Err(_) => return !by_owner || check_owners(&resolved, subject).is_ok(),
        }
    }
    false
}

fn owns(place: &Path, subject: &Subject<'_>) -> bool {
    fs::symlink_metadata(place).map_or(true, |found| found.uid() == subject.uid)
}

/// A `write` entry covers all below it and, if it names a file, its siblings `NAME.*` (DESIGN 4.1).
fn covers(writable: &Path, file: &Path) -> bool {
    let sibling = || {
        let rest = file.file_name()?.as_bytes().strip_prefix(writable.file_name()?.as_bytes())?;
        Some(file.parent() == writable.parent() && rest.starts_with(b"."))
    };
    file.starts_with(writable) || sibling().unwrap_or(false)
}

fn check_owners(log: &Path, subject: &Subject<'_>) -> Result<(), LocationError> {
    let open = |place: &Path| LocationError::WritableByUser {
        log: log.to_owned(),
        place: place.to_owned(),
        uid: subject.uid,
    };
    let mut child_owner = None;
    for place in [log, &lock_path(log)].into_iter().chain(log.ancestors().skip(1)) {
        let found = match fs::symlink_metadata(place) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(unreadable(log, place, source)),
        };
        // In a sticky folder only the owner of a file, or of the folder, may rename or remove it. The log's own folder
        // must not be writable at all: a file that is not there yet could be made by the wrong one.
        let is_ancestor = found.is_dir() && Some(place) != log.parent();
        let is_pinned = is_ancestor
            && found.mode() & STICKY != 0
            && found.uid() != subject.uid
            && child_owner.is_some_and(|owner| owner != subject.uid);
        if can_write(&found, subject) && !is_pinned {
            return Err(open(place));
        }
        child_owner = found.is_dir().then_some(found.uid());
    }
    Ok(())
}

/// An owner can give himself the write bit, so owning is enough.
fn can_write(found: &fs::Metadata, subject: &Subject<'_>) -> bool {
    let mode = found.mode();
    found.uid() == subject.uid
        || mode & WRITE_BY_OTHERS != 0
        || (mode & WRITE_BY_GROUP != 0 && subject.gids.contains(&found.gid()))
        || (mode & WRITE_BY_OWNER != 0 && found.uid() == subject.uid)
}

/// The log's path with the symlinks of its folders followed; the file and the last folders may not be there yet.
fn resolve(log: &Path) -> Result<PathBuf, LocationError> {
    let no_file = || LocationError::NoFile(log.to_owned());
    let absolute = std::path::absolute(log).map_err(|source| unreadable(log, log, source))?;
    if log.as_os_str().as_bytes().ends_with(b"/") {
        return Err(no_file());
    }
    let (parent, name) = absolute.parent().zip(absolute.file_name()).ok_or_else(no_file)?;
    let mut missing: Vec<&OsStr> = vec![name];
    for folder in parent.ancestors() {
        match folder.canonicalize() {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(folder.file_name().ok_or_else(no_file)?);
            }
            Err(source) => return Err(unreadable(log, folder, source)),
        }
    }
    Err(no_file())
}

/// The same for an entry of the policy, which may be a folder; one that can't be resolved is taken as it is written.
fn resolve_any(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| resolve(path)).unwrap_or_else(|_| path.to_owned())
}

fn unreadable(log: &Path, place: &Path, source: io::Error) -> LocationError {
    LocationError::Unreadable { log: log.to_owned(), place: place.to_owned(), source }
}

/// `NAME.SUFFIX` beside the file.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const NOBODY: u32 = 65534;

    #[test]
    fn a_file_is_kept_by_whatever_links_that_others_do_not_write() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| root.path().join(name);
        let folder = |name: &str, mode: u32| {
            fs::create_dir(path(name)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        folder("etc", 0o755);
        folder("open", 0o777);
        fs::write(path("etc/hosts"), "").unwrap();
        fs::write(path("open/hosts"), "").unwrap();
        for (link, target) in [
            ("etc/link", "hosts"),
            ("etc/twice", "../etc/link"),
            ("open/link", "../etc/hosts"),
            ("etc/out", "../open/hosts"),
            ("etc/by-open", "../open/link"),
            ("etc/round", "round"),
        ] {
            symlink(target, path(link)).unwrap();
        }
        let is_kept = |name: &str, writable: &[&str]| {
            let writable: Vec<PathBuf> = writable.iter().map(|name| path(name)).collect();
            super::is_kept(&path(name), &Subject { uid: NOBODY, gids: &[NOBODY], writable: &writable })
        };
        for name in ["etc/hosts", "etc/link", "etc/twice"] {
            assert!(is_kept(name, &[]) && is_kept(name, &["open"]), "{name}");
            assert!(!is_kept(name, &["etc"]) && !is_kept(name, &["etc/hosts"]), "{name}");
        }
        assert!(!is_kept("etc/twice", &["etc/link"]));
        for name in ["open/hosts", "open/link", "etc/out", "etc/by-open", "etc/round"] {
            assert!(!is_kept(name, &[]), "{name}");
        }
        std::os::unix::fs::lchown(path("etc/link"), Some(NOBODY), None).unwrap();
        assert!(!is_kept("etc/link", &[]) && !is_kept("etc/twice", &[]) && is_kept("etc/hosts", &[]));
    }

    fn check(log: &Path, uid: u32, writable: &[PathBuf]) -> Result<(), LocationError> {
        check_location(log, &Subject { uid, gids: &[NOBODY], writable })
    }

    #[test]
    fn a_log_below_a_writable_folder_is_refused_by_every_name() {
        let home = tempfile::tempdir_in("/tmp").unwrap();
        let project = home.path().join("project");
        fs::create_dir(&project).unwrap();
        symlink(&project, home.path().join("link")).unwrap();
        let writable = [project];
        for log in ["project/audit.jsonl", "project/new/audit.jsonl", "link/audit.jsonl", "link/../project/a"]
        {
            let error = check(&home.path().join(log), 0, &writable).unwrap_err();
            assert!(matches!(error, LocationError::WritableByPolicy { .. }), "{log}: {error}");
        }
        for log in ["audit.jsonl", "projects/audit.jsonl", "state/new/audit.jsonl"] {
            check(&home.path().join(log), 0, &writable).unwrap();
        }
    }

    #[test]
    fn a_log_that_a_writable_file_covers_as_its_sibling_is_refused() {
        let home = tempfile::tempdir_in("/tmp").unwrap();
        let log = home.path().join("audit.jsonl");
        for name in ["audit", "audit.jsonl", "audit.jsonl.lock"] {
            check(&log, 0, &[home.path().join(name)]).unwrap_err();
        }
        check(&log, 0, &[home.path().join("audi"), home.path().join("other")]).unwrap();
    }

    #[test]
    fn a_log_that_the_user_can_write_or_move_is_refused() {
        let home = tempfile::tempdir_in("/tmp").unwrap();
        let me = fs::metadata(home.path()).unwrap().uid();
        assert_ne!(me, NOBODY);
        let folder = home.path().join("state");
        fs::create_dir(&folder).unwrap();
        let log = folder.join("audit.jsonl");
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

        // /tmp is open to everyone, and sticky: what lies in it can't be moved by others.
        check(&log, NOBODY, &[]).unwrap();
        mode(&folder, 0o777);
        check(&log, NOBODY, &[]).unwrap_err();
        mode(&folder, 0o1777);
        check(&log, NOBODY, &[]).unwrap_err();
        mode(&folder, 0o750);
        mode(home.path(), 0o757);
        check(&log, NOBODY, &[]).unwrap_err();
        mode(home.path(), 0o750);
        fs::write(&log, "").unwrap();
        mode(&log, 0o646);
        check(&log, NOBODY, &[]).unwrap_err();
        mode(&log, 0o644);
        check(&log, NOBODY, &[]).unwrap();
    }

    #[test]
    fn a_path_that_names_no_file_is_refused() {
        for log in ["/", "/var/log/"] {
            assert!(matches!(check(Path::new(log), 0, &[]), Err(LocationError::NoFile(_))), "{log}");
        }
    }
}
