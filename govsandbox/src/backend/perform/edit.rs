//! A protected git config of which the policy lets some keys change: what git renames into its place is not put there,
//! the old file is edited.
//!
//! The supervisor does it, on a mount outside of the sandbox where the file is not read-only, and in place: the inode
//! stays, and with it everything that holds it. Power that fails meanwhile can leave the config half written.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::{FileExt as _, MetadataExt as _},
    },
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::{
    id::RuleIndex,
    policy::git_config::{CONFIG_BYTES_MAX, Keys, merged},
};

/// The keys that each rule leaves open.
pub type OpenKeys = Vec<(RuleIndex, Keys)>;

/// What is to become of a config.
#[derive(Debug)]
pub(super) struct Edit<'a> {
    /// The rule that protects it.
    pub(super) rule: u16,
    /// `st_dev` and inode.
    pub(super) object: (u64, u64),
    pub(super) path: &'a [u8],
}

/// Brings the keys that may change from `source` into the config.
///
/// # Errors
/// Other keys differ, or it can't be read or written: then it is as it was, unless writing failed half-way.
pub(super) fn edit(keys: &OpenKeys, edit: &Edit<'_>, source: BorrowedFd<'_>) -> io::Result<()> {
    let open = keys.iter().find(|(rule, _)| rule.0 == edit.rule).map(|(_, keys)| keys);
    let open = open.ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let config = File::from(openat2(CWD, edit.path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    let found = config.metadata()?;
    if !found.is_file() || (found.dev(), found.ino()) != edit.object {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    let old = content(&config)?;
    // Read once: whoever has it open may write on.
    let new = content(&File::open(format!("/proc/self/fd/{}", source.as_raw_fd()))?)?;
    let edited = merged(&old, &new, open).map_err(io::Error::other)?;
    if edited != old {
        config.write_all_at(&edited, 0)?;
        config.set_len(edited.len() as u64)?;
        config.sync_all()?;
    }
    Ok(())
}

fn content(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // One byte more than is taken: too long is refused.
    file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd as _, path::Path};

    use super::*;

    const OLD: &str = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = u\n";

    fn try_edit(folder: &Path, new: &str, object: Option<(u64, u64)>) -> (bool, String) {
        let (config, source) = (folder.join("config"), folder.join("config.lock"));
        fs::write(&config, OLD).unwrap();
        fs::write(&source, new).unwrap();
        let found = fs::metadata(&config).unwrap();
        let path = config.to_str().unwrap().as_bytes().to_vec();
        let what = Edit { rule: 3, object: object.unwrap_or((found.dev(), found.ino())), path: &path };
        let keys = vec![(RuleIndex(3), Keys::parse(["branch.*"]).unwrap())];
        let done = edit(&keys, &what, File::open(&source).unwrap().as_fd()).is_ok();
        let other = Edit { rule: 4, ..what };
        assert!(edit(&keys, &other, File::open(&source).unwrap().as_fd()).is_err(), "a rule without keys");
        (done, fs::read_to_string(&config).unwrap())
    }

    #[test]
    fn open_keys_are_taken_over_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let branch = "[branch \"b\"]\n\tremote = origin\n";
        let (done, config) = try_edit(&folder, &format!("{OLD}{branch}"), None);
        assert!(done && config.starts_with(OLD) && config.contains("origin"), "{config}");
        let hooks = "[core]\n\tbare = false\n\thooksPath = /tmp\n[remote \"origin\"]\n\turl = u\n";
        assert_eq!(try_edit(&folder, hooks, None), (false, OLD.to_owned()));
        assert_eq!(try_edit(&folder, &"x".repeat(CONFIG_BYTES_MAX + 1), None), (false, OLD.to_owned()));
        assert_eq!(try_edit(&folder, &format!("{OLD}{branch}"), Some((1, 1))), (false, OLD.to_owned()));
    }
}
