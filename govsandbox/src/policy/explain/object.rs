//! What the rules say of a file as it lies there now: by its own path, by itself under whatever name, and by what its
//! name keeps in place.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{
    abi::rule::{Automaton, Hits},
    decide::path::{Operation, decide_path},
};

use super::{Verdict, by_allow_lists, hits_by_path, is_open_device, real_path, with_links_followed};
use crate::{
    id::RuleId,
    policy::{
        compile::{Compiled, Layer, RuleInfo},
        way::Way,
    },
};

/// Device and number.
type Inode = (u64, u64);

/// What is asked about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open for reading, list.
    Read,
    /// Change content or attributes, or make it.
    Change,
    /// Rename, remove or replace it: of a symlink the link itself.
    Remove,
}

/// Why the verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rule matches its path or that of a folder above it.
    Path,
    /// A rule names the same object by another path: a hard link, a symlink, a mount.
    Object,
    /// A rule names something below it, or a path that leads through it.
    Way,
    /// It is one of govsandbox's own files.
    Own,
    /// An allow-list has it.
    Listed,
    /// No entry of an allow-list has it.
    Unlisted,
    /// Every sandbox may use this device.
    Device,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The object's own path, symlinks followed.
    pub object: PathBuf,
    /// May it happen, and by which rule.
    pub verdict: Verdict,
    /// Why.
    pub why: Why,
}

/// A policy's rules and the objects that they mean now.
#[derive(Debug)]
pub struct Tables<'a> {
    compiled: Compiled,
    automaton: &'a Automaton,
    /// Objects behind literal rules.
    held: HashMap<Inode, Hits>,
    /// Names that stay where they are: folders above what a literal rule names, and symlinks on the way to it.
    pinned: HashMap<PathBuf, u16>,
    /// Objects of govsandbox itself, and what keeps their names.
    own: HashMap<Inode, ()>,
    own_pinned: HashMap<PathBuf, ()>,
}

impl<'a> Tables<'a> {
    /// Looks at what the rules name; `own_files` are never changed from inside.
    #[must_use]
    pub fn new(compiled: &Compiled, automaton: &'a Automaton, own_files: &[PathBuf]) -> Self {
        let mut tables = Self {
            compiled: with_links_followed(compiled),
            automaton,
            held: HashMap::new(),
            pinned: HashMap::new(),
            own: HashMap::new(),
            own_pinned: HashMap::new(),
        };
        for literal in &compiled.paths.literals {
            let hits = literal.effect.hits(literal.rule);
            if let Some(inode) = inode(&literal.path) {
                let known = tables.held.entry(inode).or_insert(Hits::NONE);
                *known = known.or(hits);
            }
            for name in Way::of(&literal.path).names() {
                // Rules come by precedence.
                tables.pinned.entry(name.to_owned()).or_insert(literal.rule.0);
            }
        }
        for path in own_files {
            tables.own.extend(inode(path).map(|inode| (inode, ())));
            tables.own_pinned.extend(Way::of(path).names().map(|name| (name.to_owned(), ())));
        }
        tables
    }

    /// The policy, links followed.
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Decides about an absolute path. `mode` is not looked at.
    #[must_use]
    pub fn ask(&self, path: &Path, act: Act) -> Answer {
        let object = object(path, act);
        let (verdict, why) = self.decide(&object, act);
        Answer { object, verdict, why }
    }

    fn decide(&self, object: &Path, act: Act) -> (Verdict, Why) {
        let denied = |rule: Option<RuleInfo>| Verdict { allowed: false, rule };
        let operation = match act {
            Act::Read => Operation::Read,
            Act::Change | Act::Remove => Operation::Change,
        };
        let chain: Vec<Inode> = object.ancestors().filter_map(|folder| inode_itself(folder).ok()).collect();
        let is_own = chain.iter().any(|inode| self.own.contains_key(inode))
            || (act == Act::Remove && self.own_pinned.contains_key(object));
        if is_own && operation == Operation::Change {
            let id = RuleId("builtin/own-files".to_owned());
            return (denied(Some(RuleInfo { id, layer: Layer::Builtin })), Why::Own);
        }
        let by_path = hits_by_path(&self.compiled, self.automaton, object);
        let by_object = chain.iter().filter_map(|inode| self.held.get(inode));
        let hits = by_object.fold(by_path, |hits, more| hits.or(*more));
        let pin = self.pinned.get(object).copied().filter(|_| act == Act::Remove);
        let decision = decide_path(hits, operation);
        if let Some(pin) = pin.filter(|pin| decision.allow || *pin < decision.rule) {
            return (denied(self.compiled.rule(pin).cloned()), Why::Way);
        }
        if !decision.allow {
            let why = if decide_path(by_path, operation) == decision { Why::Path } else { Why::Object };
            return (denied(self.compiled.rule(decision.rule).cloned()), why);
        }
        if is_open_device(object) && act != Act::Remove {
            return (Verdict { allowed: true, rule: None }, Why::Device);
        }
        let mut verdict = by_allow_lists(&self.compiled, object, operation);
        // A name belongs to its folder: who may not change that may not take the name away.
        if let (true, Act::Remove, Some(folder)) = (verdict.allowed, act, object.parent()) {
            let folder = by_allow_lists(&self.compiled, folder, operation);
            if !folder.allowed {
                verdict = folder;
            }
        }
        let why = if verdict.allowed { Why::Listed } else { Why::Unlisted };
        (verdict, why)
    }
}

/// The object that a path leads to: all symlinks followed, of what does not exist those of its nearest folder. What is
/// removed is the last name itself.
fn object(path: &Path, act: Act) -> PathBuf {
    let followed = |path: &Path| real_path(path).unwrap_or_else(|| path.to_owned());
    match (act, path.parent(), path.file_name()) {
        (Act::Remove, Some(folder), Some(name)) => followed(folder).join(name),
        _ => followed(path),
    }
}

fn inode(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn inode_itself(path: &Path) -> io::Result<Inode> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Answer {
    /// The object's path as the rules compare it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.object.as_os_str().as_bytes()
    }
}
