//! `flock(2)` on files of our own, which only who has the right to override modes can open.
//!
//! Whoever opens a file, for reading too, may take a lock on it, and keep it: a sandbox could so stop the record, and
//! every start. Mode bits keep users out, but not uid 0 without capabilities, whose file it would be.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Owner of the files: the last number there is, which nobody runs as.
const NOBODYS: u32 = u32::MAX - 1;

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// As this process' pid namespace sees it.
    pub pid: u32,
    /// Name of its program.
    pub name: String,
}

/// Opens a lock file and makes it one, whatever it was before.
///
/// # Errors
/// It is a symlink, or can't be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let is_root = rustix::process::geteuid().is_root();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(if is_root { 0o000 } else { 0o600 })
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if is_root {
        close_to_others(&file)?;
    }
    Ok(file)
}

/// Leaves a file, or a folder and what is in it, to who has the right to override modes.
///
/// # Errors
/// Its mode can't be changed.
pub fn close_to_others(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if found.uid() != NOBODYS || found.mode() & 0o7777 != 0 {
        file.set_permissions(Permissions::from_mode(0o000))?;
        // Some file systems know no owners: there its mode has to do.
        fchown(file, Some(NOBODYS), None).ok();
    }
    Ok(())
}

/// Takes the lock, within that time; looks again after each `pause`.
///
/// # Errors
/// `TimedOut`; what flock(2) answers.
pub fn acquire(file: &File, patience: Duration, pause: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(pause),
        }
    }
}

/// Who took the lock, if it can be told.
#[must_use]
pub fn holder(file: &File) -> Option<Holder> {
    let inode = file.metadata().ok()?.ino();
    let pid = fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| held_by(line, inode))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder { pid, name: name.trim_end().to_owned() })
}

/// `1: FLOCK  ADVISORY  WRITE 708 00:19:1234 0 EOF` (proc_locks(5)); who waits has a `->` behind the number. Devices are
/// not compared: those of btrfs and overlayfs are others here than stat(2) tells.
fn held_by(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace();
    let (kind, pid, object) = (fields.nth(1)?, fields.nth(2)?, fields.next()?);
    let is_it = kind == "FLOCK" && object.rsplit(':').next()?.parse() == Ok(inode);
    is_it.then(|| pid.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_named_and_waited_for_no_longer_than_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (first, second) = (open(&path).unwrap(), open(&path).unwrap());
        acquire(&first, Duration::ZERO, Duration::ZERO).unwrap();
        let refused = acquire(&second, Duration::from_millis(20), Duration::from_millis(1)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        assert_eq!(holder(&second).unwrap().pid, std::process::id());
        first.unlock().unwrap();
        acquire(&second, Duration::ZERO, Duration::ZERO).unwrap();
    }

    #[test]
    fn only_the_holder_of_that_file_is_found() {
        assert_eq!(held_by("1: FLOCK  ADVISORY  WRITE 708 00:19:1234 0 EOF", 1234), Some(708));
        assert_eq!(held_by("1: FLOCK  ADVISORY  WRITE 708 00:19:1234 0 EOF", 234), None);
        assert_eq!(held_by("2: POSIX  ADVISORY  READ 708 00:19:1234 0 EOF", 1234), None);
        assert_eq!(held_by("1: -> FLOCK  ADVISORY  WRITE 709 00:19:1234 0 EOF", 1234), None);
        assert_eq!(held_by("", 1), None);
    }

    #[test]
    fn a_lock_that_others_could_take_is_made_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "").unwrap();
        let found = open(&path).unwrap().metadata().unwrap();
        if rustix::process::geteuid().is_root() {
            assert_eq!((found.mode() & 0o7777, found.uid()), (0, NOBODYS));
        }
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(open(&folder.path().join("link")).is_err());
    }
}
