//! Finds what globs match already: only what exists at the start can be held against a rename.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{
    abi::rule::{Automaton, Hits},
    decide::automaton::Scan,
};

/// Names looked at, at most: some 0.5 s.
const NAMES_MAX: usize = 500_000;
/// Objects held by mounts of their own, at most (`fs.mount-max` is 100,000 a namespace).
const MATCHES_MAX: usize = 4096;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Existing {
    /// Outermost matches, with the rules that match.
    pub(super) matches: Vec<(PathBuf, Hits)>,
    /// `false`: a bound was reached, there may be more.
    pub(super) complete: bool,
}

/// Walks `roots` (absolute, resolved), following no symlinks.
pub(super) fn find(automaton: &Automaton, roots: &[PathBuf]) -> Existing {
    let mut found = Existing { matches: Vec::new(), complete: true };
    let mut names = 0;
    for root in
        roots.iter().filter(|root| !roots.iter().any(|other| *root != other && root.starts_with(other)))
    {
        let start = Scan::behind(automaton, root.as_os_str().as_bytes());
        // What lies above is no root, so nothing holds it: a rule that matches there holds the root itself.
        if !start.end(automaton).is_none() {
            found.matches.push((root.clone(), start.end(automaton)));
        }
        if root.is_dir() {
            walk(automaton, root, start, &mut names, &mut found);
        }
    }
    found
}

fn walk(automaton: &Automaton, folder: &Path, scan: Scan, names: &mut usize, found: &mut Existing) {
    let above = scan.end(automaton);
    if above.deny != 0 {
        return; // all below is denied by the folder's own mount
    }
    // What root can't list holds nothing that the command could open.
    let Ok(entries) = fs::read_dir(folder) else { return };
    let below = scan.step(automaton, b'/');
    for entry in entries.flatten() {
        *names += 1;
        if *names > NAMES_MAX || found.matches.len() >= MATCHES_MAX {
            found.complete = false;
            return;
        }
        let name = entry.file_name();
        let scan = below.through(automaton, name.as_bytes());
        let hits = scan.end(automaton);
        let Ok(kind) = entry.file_type() else { continue };
        if hits != above && !kind.is_symlink() {
            found.matches.push((entry.path(), hits));
        }
        if kind.is_dir() {
            walk(automaton, &entry.path(), scan, names, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::RuleIndex,
        policy::{
            automaton,
            compile::{GlobRule, PathEffect},
        },
    };

    fn glob(pattern: &str, effect: PathEffect, rule: u16) -> GlobRule {
        GlobRule { pattern: pattern.as_bytes().to_vec(), effect, rule: RuleIndex(rule) }
    }

    #[test]
    fn outermost_matches_are_found_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["a/.env", "a/b/.env", "secrets/deep/file", "conf/x", "conf/.env", "plain"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", root.join("a/link.env")).unwrap();
        let table = automaton::build(&[
            glob("/**/.env", PathEffect::Deny, 1),
            glob("/**/secrets", PathEffect::Deny, 2),
            glob("/**/conf", PathEffect::Protect, 3),
        ])
        .unwrap();
        let mut found = find(&table, &[root.join("a"), root.clone()]);
        found.matches.sort_by(|(a, _), (b, _)| a.cmp(b));
        let expected = [
            (root.join("a/.env"), Hits { deny: 1, protect: 0 }),
            (root.join("a/b/.env"), Hits { deny: 1, protect: 0 }),
            (root.join("conf"), Hits { deny: 0, protect: 3 }),
            (root.join("conf/.env"), Hits { deny: 1, protect: 3 }),
            (root.join("secrets"), Hits { deny: 2, protect: 0 }),
        ];
        assert_eq!((found.matches.as_slice(), found.complete), (&expected[..], true));
        // A pattern that matched above the only writable folder held nothing in it.
        let inside = find(&table, &[root.join("secrets/deep")]);
        assert_eq!(inside.matches, [(root.join("secrets/deep"), Hits { deny: 2, protect: 0 })]);
    }
}
