//! Whose turn it is to load, to unload, or to enter a sandbox into the maps.

use std::{fs::File, io, path::Path, time::Duration};

use crate::sys::lock_file;

const PATH: &str = "/run/govsandbox/bpf.lock";
/// Loading takes 0.1 s, up to a minute on an emulated processor that others use too; several starts take turns.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(2);

/// It can't be had.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LockError {
    /// The file is out of reach.
    #[error("cannot lock {path}")]
    #[diagnostic(help("run as root, with room and the right to write there"))]
    Unusable {
        /// The lock file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Another process keeps it.
    #[error("cannot lock {path}: {holder} has held it for more than {seconds} s")]
    #[diagnostic(help(
        "starts and `govsandbox unload` hold it for a moment: let that process go on if it is stopped (`kill -CONT`), or end it, and start again"
    ))]
    Held {
        /// The lock file.
        path: String,
        /// Who.
        holder: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// Waits for the turn; it is over when the file is closed.
///
/// # Errors
/// Out of reach, or kept by another process for too long.
pub(super) fn lock() -> Result<File, LockError> {
    lock_at(Path::new(PATH), PATIENCE)
}

fn lock_at(path: &Path, patience: Duration) -> Result<File, LockError> {
    let shown = || path.display().to_string();
    let unusable = |source| LockError::Unusable { path: shown(), source };
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(unusable)?;
    let file = lock_file::open(path).map_err(unusable)?;
    match lock_file::acquire(&file, patience, PAUSE) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let holder = lock_file::holder(&file);
            let holder = holder.map_or_else(
                || "another process".to_owned(),
                |holder| format!("process {} ({})", holder.pid, holder.name.escape_default()),
            );
            Err(LockError::Held { path: shown(), holder, seconds: patience.as_secs() })
        }
        Err(error) => Err(unusable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_lock_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/bpf.lock");
        let first = lock_at(&path, Duration::ZERO).unwrap();
        let refused = lock_at(&path, Duration::from_millis(10)).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {} (", std::process::id())), "{refused}");
        drop(first);
        lock_at(&path, Duration::ZERO).unwrap();
    }
}
