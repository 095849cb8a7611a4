//! What a rename of a folder does to the names below it.
//!
//! A rule by name holds `a/.git/config` and not `a/x/config`, so moving `x` to `.git` would bring the one about and
//! moving `.git` away would free it. Such a rename is refused. Mostly the table's state after both names is the same,
//! and with it everything below.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use govsandbox_ebpf::abi::rule::Hits;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

use super::report::Reporter;
use crate::backend::fanotify::PathRules;

/// Names looked at, and folders inside each other, at most; more is refused.
const NAMES_MAX: u32 = 200_000;
const DEPTH_MAX: usize = 128;

/// What would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// Nothing.
    Same,
    /// A name that these hold, before or after.
    Held(Hits),
    /// A symlink comes to stand where none may.
    Symlink,
    /// It can't be told.
    Unknown,
}

/// Can the two names differ in what is held below them?
pub(super) fn may_differ(rules: &PathRules, old: &[u8], new: &[u8]) -> bool {
    !rules.holds_alike_below(old, new)
}

/// Looks at all names below a folder that is called `old` in one view and `new` in the other.
pub(super) fn compare(
    rules: &PathRules,
    reporter: &Reporter,
    folder: BorrowedFd<'_>,
    old: &[u8],
    new: &[u8],
) -> Below {
    let mut names = 0;
    look(rules, reporter, folder, (old, new), &mut names, 0).unwrap_or(Below::Unknown)
}

fn look(
    rules: &PathRules,
    reporter: &Reporter,
    folder: BorrowedFd<'_>,
    (old, new): (&[u8], &[u8]),
    names: &mut u32,
    depth: usize,
) -> Result<Below, Errno> {
    if rules.holds_alike_below(old, new) {
        return Ok(Below::Same);
    }
    if depth >= DEPTH_MAX {
        return Ok(Below::Unknown);
    }
    let listed = open_folder(reporter, folder)?;
    let mut entries = Dir::read_from(&listed)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *names += 1;
        if *names > NAMES_MAX {
            return Ok(Below::Unknown);
        }
        let (old, new) = (join(old, name.to_bytes()), join(new, name.to_bytes()));
        let (before, after) = (rules.name_hits(&old, (0, 0)), rules.name_hits(&new, (0, 0)));
        let (Some(before), Some(after)) = (before, after) else { return Ok(Below::Unknown) };
        if before != after {
            return Ok(Below::Held(before.or(after)));
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            known => known,
        };
        if kind.is_symlink() && rules.may_be_symlink(&old).allow && !rules.may_be_symlink(&new).allow {
            return Ok(Below::Symlink);
        }
        if kind.is_dir() && before.deny == 0 {
            let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(folder, name, handle, Mode::empty())?;
            match look(rules, reporter, inner.as_fd(), (&old, &new), names, depth + 1) {
                Ok(Below::Same) => {}
                other => return other,
            }
        }
    }
    Ok(Below::Same)
}

/// Opens it for listing; where this process' Landlock domain does not let it, the supervisor does.
fn open_folder(reporter: &Reporter, folder: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(folder, c".", flags, Mode::empty()) {
        Err(Errno::ACCESS) => reporter.open(folder),
        answer => answer,
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    path.push(b'/');
    path.extend(name);
    path
}
