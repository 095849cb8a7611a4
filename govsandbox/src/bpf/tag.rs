//! Tags on inodes: which file a rule means, whatever it is called.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{Array, InodeStorage, Map};
use govsandbox_ebpf::abi::{
    exec::ExecHits,
    ground::Ground,
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
        "the file system must be reachable when the sandbox starts; remove the rule or mend the path; \
         of many rules on files each keeps one open (`ulimit -Hn`): name folders"
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
    /// Where it lies and which allow-lists have it.
    pub(super) ground: Option<Ground>,
}

impl Held {
    /// Opens the object itself, a symlink not followed, without reading it (`O_PATH`). `None`: it does not exist.
    ///
    /// # Errors
    /// When it exists and can't be opened.
    pub fn open(path: &Path, rule: TagRule) -> Result<Option<Self>, TagError> {
        match OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path) {
            Ok(object) => Ok(Some(Self { object, tag: 0, rule, exec: ExecHits::NONE, ground: None })),
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

    /// An allow-listed path or a mount's root, as [`Held::open`].
    ///
    /// # Errors
    /// When it exists and can't be opened.
    pub fn ground(path: &Path, ground: Ground) -> Result<Option<Self>, TagError> {
        Ok(Self::open(path, TagRule::default())?.map(|held| Self { ground: Some(ground), ..held }))
    }

    /// Both rules; several may be about one inode.
    pub(super) fn rule_joined(&self, other: TagRule) -> TagRule {
        let better = |a: u16, b: u16| if a == 0 || (b != 0 && b < a) { b } else { a };
        TagRule { hits: self.rule.hits.or(other.hits), pinned: better(other.pinned, self.rule.pinned) }
    }
}

/// Inodes that rules are about, each open once, however many rules and ways lead to it.
#[derive(Debug, Default)]
pub struct Holding {
    held: Vec<Held>,
    places: HashMap<(u64, u64), usize>,
}

impl Holding {
    fn add(&mut self, path: &Path, rule: TagRule) -> Result<(), TagError> {
        let Some(held) = Held::open(path, rule)? else { return Ok(()) };
        let found = held.object.metadata();
        let found = found.map_err(|source| TagError::Open { path: path.display().to_string(), source })?;
        let place = *self.places.entry((found.dev(), found.ino())).or_insert(self.held.len());
        match self.held.get_mut(place) {
            Some(before) => before.rule = held.rule_joined(before.rule),
            None => self.held.push(held),
        }
        Ok(())
    }

    /// Holds a path that exists, symlinks followed: itself and the mounts below it.
    ///
    /// # Errors
    /// When something can't be opened.
    pub fn path(&mut self, path: &Path, rule: TagRule, mount_points: &[PathBuf]) -> Result<(), TagError> {
        self.add(path, rule)?;
        let below = mount_points.iter().filter(|point| *point != path && point.starts_with(path));
        below.into_iter().try_for_each(|point| self.add(point, TagRule { pinned: 0, ..rule }))
    }

    /// Keeps names in place, as far as they are there: they can't be renamed, removed or replaced.
    ///
    /// # Errors
    /// As [`Self::path`].
    pub fn pin<'a>(&mut self, names: impl Iterator<Item = &'a Path>, pin: u16) -> Result<(), TagError> {
        let pinned = TagRule { hits: Hits::NONE, pinned: pin };
        names.into_iter().try_for_each(|name| self.add(name, pinned))
    }

    /// What was gathered.
    #[must_use]
    pub fn into_held(self) -> Vec<Held> {
        self.held
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: fn(u16) -> TagRule = |rule| TagRule { hits: Hits { deny: rule, protect: 0 }, pinned: rule };

    #[test]
    fn an_inode_is_held_once_by_whatever_name_with_the_better_rule() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other, link) =
            (folder.path().join("one"), folder.path().join("other"), folder.path().join("link"));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&other, "").unwrap();
        std::fs::hard_link(&one, &link).unwrap();
        let mut holding = Holding::default();
        holding.path(&one, DENY(7), &[]).unwrap();
        holding.pin(one.ancestors().skip(1), 7).unwrap();
        let with_one = holding.held.len();
        holding.path(&link, DENY(3), &[]).unwrap();
        holding.pin(link.ancestors().skip(1), 3).unwrap();
        assert_eq!(holding.held.len(), with_one, "the same inode, the same folders above it");
        holding.path(&other, DENY(9), &[]).unwrap();
        holding.pin(other.ancestors().skip(1), 9).unwrap();
        let held = holding.into_held();
        assert_eq!(held.len(), with_one + 1);
        assert_eq!(held[0].rule, DENY(3));
        assert_eq!(held[1].rule, TagRule { hits: Hits::NONE, pinned: 3 }, "the folder is pinned");
    }
}
