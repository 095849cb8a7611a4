//! Tags on inodes: which file a rule means, whatever it is called.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aya::maps::{Array, InodeStorage, Map};
use govsandbox_ebpf::abi::{
    exec::ExecHits,
    rule::{Hits, TagRule},
};

use super::{
    fill::{FillError, map_error, typed},
    load::Loaded,
};

/// A named path can't be held.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum TagError {
    /// It exists and can't be opened.
    #[error("cannot hold {path}, which a rule names")]
    #[diagnostic(help(
        "the file system must be reachable when the sandbox starts; remove the rule or mend the path"
    ))]
    Open {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// One inode that rules are about, kept open so that it stays in memory with its tag.
#[derive(Debug)]
pub struct Held {
    object: File,
    /// The tag, once given; 0 before.
    pub(super) tag: u32,
    rule: TagRule,
    /// What the exec rules say of it.
    pub(super) exec: ExecHits,
}

impl Held {
    /// Opens the object itself, a symlink not followed, without reading it (`O_PATH`). `None`: it does not exist.
    ///
    /// # Errors
    /// When it exists and can't be opened.
    pub fn open(path: &Path, rule: TagRule) -> Result<Option<Self>, TagError> {
        match OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path) {
            Ok(object) => Ok(Some(Self { object, tag: 0, rule, exec: ExecHits::NONE })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(source) => Err(TagError::Open { path: path.display().to_string(), source }),
        }
    }

    /// A program, or a folder of programs, as [`Held::open`].
    ///
    /// # Errors
    /// When it exists and can't be opened.
    pub fn program(path: &Path, exec: ExecHits) -> Result<Option<Self>, TagError> {
        Ok(Self::open(path, TagRule::default())?.map(|held| Self { exec, ..held }))
    }

    /// Both rules; several may be about one inode.
    pub(super) fn rule_joined(&self, other: TagRule) -> TagRule {
        let first = |a: u16, b: u16| if a == 0 { b } else { a };
        TagRule {
            hits: self.rule.hits.or(other.hits),
            pinned: first(other.pinned, self.rule.pinned),
            own: first(other.own, self.rule.own),
        }
    }
}

/// What holds a path that exists: itself, the mounts below it, the names that lead to it.
///
/// `pin` is the rule for the folders above and the symlinks on the way: they can't be renamed, removed or replaced.
///
/// # Errors
/// When something on the way can't be opened.
pub fn hold(path: &Path, rule: TagRule, pin: u16, mount_points: &[PathBuf]) -> Result<Vec<Held>, TagError> {
    let resolved =
        path.canonicalize().map_err(|source| TagError::Open { path: path.display().to_string(), source })?;
    let mut held = Vec::new();
    held.extend(Held::open(&resolved, TagRule { pinned: pin, ..rule })?);
    for below in mount_points.iter().filter(|point| *point != &resolved && point.starts_with(&resolved)) {
        held.extend(Held::open(below, rule)?);
    }
    let pinned = TagRule { hits: Hits::NONE, pinned: pin, own: 0 };
    for ancestor in resolved.ancestors().skip(1).chain(links_on(path).iter().map(PathBuf::as_path)) {
        held.extend(Held::open(ancestor, pinned)?);
    }
    Ok(held)
}

/// What holds the place of a path that does not exist: its nearest folder that does, and those above.
///
/// # Errors
/// As [`hold`].
pub fn hold_place(folder: &Path, pin: u16) -> Result<Vec<Held>, TagError> {
    let pinned = TagRule { hits: Hits::NONE, pinned: pin, own: 0 };
    let mut held = Vec::new();
    for ancestor in folder.ancestors() {
        held.extend(Held::open(ancestor, pinned)?);
    }
    Ok(held)
}

/// Symlinks among a path's own prefixes.
fn links_on(path: &Path) -> Vec<PathBuf> {
    let is_link =
        |prefix: &&Path| prefix.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink());
    path.ancestors().filter(is_link).map(Path::to_owned).collect()
}

/// Gives each object its tag; one that another sandbox has tagged keeps it. The caller holds the lock.
pub(super) fn give(loaded: &Loaded, held: &mut [Held]) -> Result<(), FillError> {
    if held.is_empty() {
        return Ok(());
    }
    let mut tags: InodeStorage<_, u32> = typed(loaded, "TAGS", Map::InodeStorage)?;
    let mut counter: Array<_, u32> = typed(loaded, "TAG_COUNTER", Map::Array)?;
    let mut last = counter.get(&0, 0).map_err(map_error("TAG_COUNTER"))?;
    for object in held {
        object.tag = match tags.get(&object.object, 0) {
            Ok(tag) => tag,
            Err(_) => {
                last += 1;
                // Counted first: a tag is never given twice, whatever happens next.
                counter.set(0, last, 0).map_err(map_error("TAG_COUNTER"))?;
                tags.insert(&object.object, last, 0).map_err(map_error("TAGS"))?;
                last
            }
        };
    }
    Ok(())
}
