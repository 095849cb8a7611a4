//! Whether a path may be read or changed, and which rule says so: what the log asks for each refusal.

mod object;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{
    abi::{
        exec::ExecTable,
        rule::{Automaton, Hits},
    },
    decide::{
        automaton, exec,
        path::{Operation, decide_path},
    },
};

pub use object::{Act, Answer, Tables, Why};

use super::{
    compile::{AllowedPath, Compiled, Layer, OPEN_DEVICES, RuleInfo},
    way::Way,
};
use crate::id::RuleId;

/// What the policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// May it happen?
    pub allowed: bool,
    /// The rule that decided; `None`: allowed as one of [`OPEN_DEVICES`].
    pub rule: Option<RuleInfo>,
}

/// Decides for a path: absolute, without symlinks, as the object's own path is. `mode` is not looked at.
///
/// Symlinks in the rules are not followed either: ask about [`with_links_followed`].
#[must_use]
pub fn path(compiled: &Compiled, table: &Automaton, path: &[u8], operation: Operation) -> Verdict {
    let path = Path::new(OsStr::from_bytes(path));
    let decision = decide_path(hits_by_path(compiled, table, path), operation);
    if !decision.allow {
        return Verdict { allowed: false, rule: compiled.rule(decision.rule).cloned() };
    }
    if is_open_device(path) {
        return Verdict { allowed: true, rule: None };
    }
    by_allow_lists(compiled, path, operation)
}

/// The rule that refuses the program at `path` (as in [`path()`]) whatever its arguments; `None`: none does.
#[must_use]
pub fn program(compiled: &Compiled, table: &ExecTable, path: &[u8]) -> Option<RuleInfo> {
    let decision = exec::decide_program(table, exec::scan(&table.names, path));
    if decision.allow {
        return None;
    }
    let default = || RuleInfo { id: RuleId("default/exec.allow".to_owned()), layer: Layer::Builtin };
    Some(compiled.rule(decision.rule).cloned().unwrap_or_else(default))
}

/// The same rules, and beside each literal path the one that its symlinks lead to now. Call it once, at the start.
#[must_use]
pub fn with_links_followed(compiled: &Compiled) -> Compiled {
    let mut followed = compiled.clone();
    let literals = &mut followed.paths.literals;
    let real: Vec<_> = literals
        .iter()
        .filter_map(|literal| Some((real_path(&literal.path)?, literal.clone())))
        .map(|(path, literal)| super::compile::LiteralRule { path, ..literal })
        .collect();
    literals.extend(real);
    for lists in &mut followed.paths.allow {
        for list in [&mut lists.read, &mut lists.write] {
            let real: Vec<_> = list
                .iter()
                .filter_map(|entry| Some(AllowedPath { path: real_path(&entry.path)?, rule: entry.rule }))
                .collect();
            list.extend(real);
            // Where several entries cover a path, the first by precedence is named.
            list.sort_by_key(|entry| entry.rule.0);
        }
    }
    followed
}

/// Where a path really lies, if elsewhere. What does not exist yet is looked for by its nearest existing ancestor; a
/// link that leads to nothing stands for what it names, one that leads in circles for itself.
#[must_use]
pub fn real_path(path: &Path) -> Option<PathBuf> {
    Some(Way::of(path).end).filter(|end| end != path)
}

/// The rules that match this path or a folder above it.
fn hits_by_path(compiled: &Compiled, table: &Automaton, path: &Path) -> Hits {
    let bytes = match path.as_os_str().as_bytes() {
        // The automaton wants no slash at the end.
        [rest @ .., b'/'] if !rest.is_empty() => rest,
        whole => whole,
    };
    literal_hits(compiled, path).or(automaton::scan(table, bytes))
}

fn is_open_device(path: &Path) -> bool {
    OPEN_DEVICES.iter().any(|device| path.starts_with(device))
}

fn literal_hits(compiled: &Compiled, path: &Path) -> Hits {
    let covering = compiled.paths.literals.iter().filter(|literal| path.starts_with(&literal.path));
    covering.fold(Hits::NONE, |hits, literal| hits.or(literal.effect.hits(literal.rule)))
}

/// Every policy that has lists must allow it; of those that do, the first rule that does is named.
fn by_allow_lists(compiled: &Compiled, path: &Path, operation: Operation) -> Verdict {
    let mut rule = None;
    for lists in &compiled.paths.allow {
        let write = || lists.write.iter().find(|entry| covers(entry, path) || is_sibling(entry, path));
        let found = match operation {
            Operation::Change => write().map(|entry| entry.rule).or(lists.any_write),
            // What an entry makes writable is readable too.
            Operation::Read => {
                lists.read.iter().find(|entry| covers(entry, path)).or_else(write).map(|entry| entry.rule)
            }
        };
        match found {
            Some(found) => rule = rule.or_else(|| compiled.rule(found.0).cloned()),
            None => return Verdict { allowed: false, rule: Some(default_rule(operation)) },
        }
    }
    Verdict { allowed: true, rule }
}

fn covers(entry: &AllowedPath, path: &Path) -> bool {
    path.starts_with(&entry.path)
}

/// `NAME.*` beside a writable file `NAME`: its lock, its temporary. Not beside a folder.
fn is_sibling(entry: &AllowedPath, path: &Path) -> bool {
    let names = entry.path.file_name().zip(path.file_name());
    let is_name = names.is_some_and(|(entry, name)| {
        name.as_bytes()
            .strip_prefix(entry.as_bytes())
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with(b"."))
    });
    is_name && path.parent() == entry.path.parent() && !entry.path.is_dir()
}

/// What is named when no allow entry matched.
fn default_rule(operation: Operation) -> RuleInfo {
    let id = match operation {
        Operation::Read => "default/filesystem.read",
        Operation::Change => "default/filesystem.write",
    };
    RuleInfo { id: RuleId(id.to_owned()), layer: Layer::Builtin }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::id::RuleIndex;

    fn allowed(path: &Path) -> AllowedPath {
        AllowedPath { path: path.to_owned(), rule: RuleIndex(1) }
    }

    #[test]
    fn a_writable_file_brings_its_siblings_and_a_folder_does_not() {
        let bed = tempfile::tempdir().unwrap();
        let (file, folder, absent) =
            (bed.path().join("a.json"), bed.path().join("sub"), bed.path().join("absent"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&folder).unwrap();
        for sibling in ["a.json.lock", "a.json.tmp.12"] {
            assert!(is_sibling(&allowed(&file), &bed.path().join(sibling)), "{sibling}");
        }
        for stranger in ["a.json", "a.json.", "a.jsonx", "b.json.lock", "sub/a.json.lock"] {
            assert!(!is_sibling(&allowed(&file), &bed.path().join(stranger)), "{stranger}");
        }
        assert!(!is_sibling(&allowed(&folder), &bed.path().join("sub.bak")));
        assert!(is_sibling(&allowed(&absent), &bed.path().join("absent.lock")), "it may come to be a file");
    }

    #[test]
    fn paths_are_compared_by_component() {
        assert!(covers(&allowed(Path::new("/home/u")), Path::new("/home/u/x")));
        assert!(!covers(&allowed(Path::new("/home/u")), Path::new("/home/user")));
    }

    #[test]
    fn a_rule_is_found_behind_its_symlink_too() {
        let bed = tempfile::tempdir().unwrap();
        let root = bed.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        assert_eq!(real_path(&root.join("link")), Some(root.join("real")));
        assert_eq!(real_path(&root.join("link/not/yet")), Some(root.join("real/not/yet")));
        assert_eq!(real_path(&root.join("real")), None);
        // A link to what is not there yet, by way of another one.
        std::os::unix::fs::symlink("link/later", root.join("dangling")).unwrap();
        std::os::unix::fs::symlink("circle", root.join("circle")).unwrap();
        assert_eq!(real_path(&root.join("dangling")), Some(root.join("real/later")));
        assert_eq!(real_path(&root.join("dangling/below")), Some(root.join("real/later/below")));
        assert_eq!(real_path(&root.join("circle")), None);
    }
}
