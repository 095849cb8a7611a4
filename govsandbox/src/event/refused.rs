//! What stands behind a syscall that failed: the object that was meant, and the rule if there is one.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use govsandbox_ebpf::{
    abi::{
        event::{FLAG_PATH_AS_GIVEN, FLAG_TARGET_AS_GIVEN, FLAG_TARGET_FIRST, RecordAction, RecordKind},
        exec::ExecTable,
    },
    decide::path::Operation,
};

use super::{
    follow::{Found, LastLink, follow},
    open_flags,
    record::Record,
};
use crate::policy::{
    compile::{Compiled, LiteralRule, PathTable, RuleInfo},
    explain,
};

/// The policy, and where the sandbox's files are seen from here.
#[derive(Debug)]
pub(super) struct Refusals {
    pub(super) compiled: Arc<Compiled>,
    pub(super) automaton: PathTable,
    /// The exec rules; `None`: there are none.
    pub(super) programs: Option<Arc<ExecTable>>,
    pub(super) root: PathBuf,
}

/// What was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meant {
    /// The old name where there are two.
    pub(super) path: Vec<u8>,
    pub(super) target: Option<Vec<u8>>,
    /// The rule that refuses it; `None`: none of ours does.
    pub(super) rule: Option<RuleInfo>,
}

impl Refusals {
    /// Finds the objects of a failed syscall and asks the policy about them.
    pub(super) fn explain(&self, record: &Record<'_>) -> Meant {
        let (path, target) = self.objects(record);
        let mut rule = self.first_of(
            self.denial(&path.path, operation(record, &path)),
            target.as_ref().and_then(|target| self.denial(&target.path, Operation::Change)),
        );
        let (path, target) = (path.path, target.map(|target| target.path));
        if rule.is_none() && record.kind == RecordKind::Exec {
            let programs = self.programs.as_deref();
            rule = programs.and_then(|programs| explain::program(&self.compiled, programs, &path));
        }
        if rule.is_none() {
            rule = self.by_its_mount(record, &path, target.as_deref());
        }
        if rule.is_none() {
            rule = self.by_its_folder(record, &path, target.as_deref());
        }
        Meant { path, target, rule }
    }

    fn objects(&self, record: &Record<'_>) -> (Found, Option<Found>) {
        let walked = |path: &[u8]| Found { path: path.to_vec(), exists: true };
        if !record.has(FLAG_PATH_AS_GIVEN) {
            let second = (!record.second.is_empty()).then(|| walked(record.second));
            return match (record.has(FLAG_TARGET_FIRST), second) {
                (true, Some(second)) => (second, Some(walked(record.path))),
                (_, second) => (walked(record.path), second),
            };
        }
        let path = self.find(record, record.path, last_link(record));
        // Neither rename nor link follows what stands at the new name.
        let has_target = record.has(FLAG_TARGET_AS_GIVEN) && !record.argv.is_empty();
        let target = has_target.then(|| self.find(record, record.argv, LastLink::Keep));
        (path, target)
    }

    fn find(&self, record: &Record<'_>, given: &[u8], last: LastLink) -> Found {
        let given = match (record.kind, last) {
            // Of what these calls name the folder is looked up, the name in it is not (`filename_parentat`).
            (RecordKind::Change, LastLink::Keep) => without_slash(given),
            _ => given,
        };
        follow(&self.root, record.second, given, last)
    }

    fn denial(&self, path: &[u8], operation: Operation) -> Option<RuleInfo> {
        let verdict = explain::path(&self.compiled, &self.automaton, path, operation);
        if verdict.allowed { None } else { verdict.rule }
    }

    /// The rule that decides where both refuse: that of the smaller number, one of the table before a default.
    fn first_of(&self, one: Option<RuleInfo>, other: Option<RuleInfo>) -> Option<RuleInfo> {
        let place = |rule: &RuleInfo| {
            let mut rules = self.compiled.rules.iter();
            rules.position(|known| known.id == rule.id).unwrap_or(usize::MAX)
        };
        match (one, other) {
            (Some(one), Some(other)) if place(&other) < place(&one) => Some(other),
            (one, other) => one.or(other),
        }
    }

    /// A folder above a literal rule's path is itself held by a mount, so that the rule can't be got around by renaming
    /// it: removing or renaming it is EBUSY (EROFS), to rename or link across its border EXDEV.
    fn by_its_mount(&self, record: &Record<'_>, path: &[u8], target: Option<&[u8]>) -> Option<RuleInfo> {
        let errno = i32::try_from(record.head.errno).ok()?;
        if !matches!(errno, libc::EBUSY | libc::EROFS | libc::EXDEV) {
            return None;
        }
        let literals = || self.compiled.paths.literals.iter();
        let held = [Some(path), target].into_iter().flatten().map(as_path);
        let above = held
            .filter_map(|path| {
                literals()
                    .filter(|literal| literal.path != path && literal.path.starts_with(path))
                    .min_by_key(|literal| literal.rule.0)
            })
            .min_by_key(|literal| literal.rule.0);
        let literal = match (above, target) {
            (Some(literal), _) => Some(literal),
            (None, Some(target)) if errno == libc::EXDEV => self.border(as_path(path), as_path(target)),
            (None, _) => None,
        };
        self.compiled.rule(literal?.rule.0).cloned()
    }

    /// The literal rule that one of both names lies in a mount of, and the other does not.
    fn border(&self, path: &Path, target: &Path) -> Option<&LiteralRule> {
        let (one, other) = (self.mount_of(path.parent()?), self.mount_of(target.parent()?));
        if one.map(|(mount, _)| mount) == other.map(|(mount, _)| mount) {
            return None;
        }
        let mounts = one.into_iter().chain(other);
        mounts.max_by_key(|(mount, _)| mount.as_os_str().len()).map(|(_, literal)| literal)
    }

    /// The innermost mount of ours that this folder lies in, by what `launch::mount` makes of the rules.
    fn mount_of(&self, folder: &Path) -> Option<(&Path, &LiteralRule)> {
        let literals = self.compiled.paths.literals.iter();
        let mounts = literals.flat_map(|literal| {
            let pins = literal.path.ancestors().skip(1);
            let pins = pins.filter(|pin| pin.parent().is_some_and(|parent| self.is_writable(parent)));
            std::iter::once(literal.path.as_path()).chain(pins).map(move |mount| (mount, literal))
        });
        mounts.filter(|(mount, _)| folder.starts_with(mount)).max_by_key(|(mount, _)| mount.as_os_str().len())
    }

    fn is_writable(&self, folder: &Path) -> bool {
        let mut writable = self.compiled.paths.allow.iter().flat_map(|lists| &lists.write).peekable();
        writable.peek().is_none() || writable.any(|entry| folder.starts_with(&entry.path))
    }

    /// Making or removing a name is a change of its folder: a writable path can't itself be removed or renamed where
    /// the folder around it is not writable.
    fn by_its_folder(&self, record: &Record<'_>, path: &[u8], target: Option<&[u8]>) -> Option<RuleInfo> {
        let is_of_the_lists =
            matches!(i32::try_from(record.head.errno), Ok(libc::EACCES | libc::EXDEV | libc::EROFS));
        let is_of_name = matches!(
            (record.kind, record.action),
            (
                RecordKind::Change,
                RecordAction::Create | RecordAction::Unlink | RecordAction::Rename | RecordAction::Link
            )
        );
        if !is_of_the_lists || !is_of_name {
            return None;
        }
        let named = [Some(path), target].into_iter().flatten().map(as_path);
        named
            .filter(|path| self.is_write_entry(path))
            .find_map(|path| self.denial(path.parent()?.as_os_str().as_bytes(), Operation::Change))
    }

    fn is_write_entry(&self, path: &Path) -> bool {
        self.compiled.paths.allow.iter().any(|lists| lists.write.iter().any(|entry| entry.path == path))
    }
}

/// Reading or changing? An open that would have made the file is a change of it.
fn operation(record: &Record<'_>, object: &Found) -> Operation {
    let flags = record.head.value;
    match (record.kind, record.action) {
        (RecordKind::Change, _) | (_, RecordAction::Write) => Operation::Change,
        (RecordKind::Open, _) if open_flags::has(flags, libc::O_TRUNC) => Operation::Change,
        (RecordKind::Open, _) if open_flags::has(flags, libc::O_CREAT) && !object.exists => Operation::Change,
        _ => Operation::Read,
    }
}

/// What the syscall does where its path ends in a link.
fn last_link(record: &Record<'_>) -> LastLink {
    let flag = |flag| open_flags::has(record.head.value, flag);
    let is_kept = match record.kind {
        RecordKind::Open => flag(libc::O_NOFOLLOW) || flag(libc::O_CREAT | libc::O_EXCL),
        // `creat(2)` follows; the other calls that make a name fail with EEXIST where there is one, which is not told.
        RecordKind::Change => {
            matches!(record.action, RecordAction::Unlink | RecordAction::Rename | RecordAction::Link)
        }
        RecordKind::Exec
        | RecordKind::Exit
        | RecordKind::Connect
        | RecordKind::Send
        | RecordKind::Listen
        | RecordKind::Close
        | RecordKind::Fork
        | RecordKind::Privilege => false,
    };
    if is_kept { LastLink::Keep } else { LastLink::Follow }
}

fn without_slash(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    end.and_then(|end| path.get(..=end)).unwrap_or(path)
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
