//! Other names, older than the run, of files that rules mean by a name or by a folder above them: hard links. They are
//! found by the names that rules do mean, in the folders where files can be linked at all, and held by inode.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{
    abi::rule::{Automaton, Hits},
    decide::automaton::Scan,
};

use crate::sys::file_system;

/// Names looked at, at most: some 10 ms of each start.
const NAMES_MAX: usize = 10_000;
/// Files held, at most: each is kept open.
pub(super) const FILES_MAX: usize = 4096;
/// What a run says where that was not enough.
pub(super) const NOT_ALL_HELD: &str = "hard links, made before the run, of files that a pattern or a folder's rule means: \
    there are too many names to look at them all";

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Linked {
    /// Files with more than one name, with the rules that one of these names meets.
    pub(super) files: Vec<(PathBuf, Hits)>,
    /// `false`: a bound was reached, there may be more.
    pub(super) complete: bool,
}

/// Looks through folders (absolute, resolved) that rules hold as a whole, or none but the patterns do. Follows no symlinks.
pub(super) fn find(automaton: &Automaton, roots: impl IntoIterator<Item = (PathBuf, Hits)>) -> Linked {
    let mut search = Search { automaton, names: 0, found: Linked { files: Vec::new(), complete: true } };
    for (root, hits) in roots {
        if root.is_dir() && !file_system::is_of_the_kernel(&root) {
            let scan = Scan::behind(automaton, root.as_os_str().as_bytes());
            search.walk(&root, hits, scan);
        }
    }
    search.found
}

struct Search<'a> {
    automaton: &'a Automaton,
    names: usize,
    found: Linked,
}

impl Search<'_> {
    fn walk(&mut self, folder: &Path, held: Hits, scan: Scan) {
        // What root can't list holds nothing that the command could open.
        let Ok(entries) = fs::read_dir(folder) else { return };
        let below = scan.step(self.automaton, b'/');
        for entry in entries.flatten() {
            self.names += 1;
            if self.names > NAMES_MAX || self.found.files.len() >= FILES_MAX {
                self.found.complete = false;
                return;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let scan = below.through(self.automaton, name.as_bytes());
            if kind.is_dir() {
                self.walk(&entry.path(), held, scan);
            } else if !kind.is_symlink() {
                let hits = held.or(scan.end(self.automaton));
                if !hits.is_none() && entry.metadata().is_ok_and(|found| found.nlink() > 1) {
                    self.found.files.push((entry.path(), hits));
                }
            }
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

    #[test]
    fn files_with_another_name_are_found_where_a_rule_means_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for (name, other) in [
            ("a/.env", "a/link"),
            ("a/plain", "a/other"),
            ("secrets/deep/file", "outside"),
            ("vault/in/file", "b"),
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::hard_link(path, root.join(other)).unwrap();
        }
        fs::write(root.join("a/b.env"), "").unwrap();
        let glob = |pattern: &str, rule| GlobRule {
            pattern: pattern.into(),
            effect: PathEffect::Deny,
            rule: RuleIndex(rule),
        };
        let table =
            automaton::build(&[glob("/**/.env", 1), glob("/**/secrets", 2), glob("/**/*.env", 3)]).unwrap();
        let protect = Hits { deny: 0, protect: 4 };
        let mut found = find(
            &table,
            [(root.join("a"), Hits::NONE), (root.join("secrets"), Hits::NONE), (root.join("vault"), protect)],
        );
        found.files.sort_by(|(one, _), (other, _)| one.cmp(other));
        let deny = |rule| Hits { deny: rule, protect: 0 };
        let expected = vec![
            (root.join("a/.env"), deny(1)),
            (root.join("secrets/deep/file"), deny(2)),
            (root.join("vault/in/file"), protect),
        ];
        assert_eq!(found, Linked { files: expected, complete: true });
        assert_eq!(find(&table, [(PathBuf::from("/proc"), protect)]).files, []);
    }
}
