//! Named pipes and devices below what rules name: the kernel asks nobody about their opens.

use std::{
    collections::HashSet,
    fs::{self, FileType},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{abi::rule::Automaton, decide::automaton::Scan};

use crate::sys::file_system;

/// Names looked at below each root, at most: some 50 ms.
const NAMES_MAX: usize = 50_000;
/// Of those, covered each by a mount of its own, at most.
const FOUND_MAX: usize = 4096;
/// What a run says where that was not enough.
pub(super) const NOT_ALL_HELD: &str = "named pipes and devices below a folder that a rule names: not all of it could be \
    looked through";

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Special {
    pub(super) paths: Vec<PathBuf>,
    /// `false`: there may be more.
    pub(super) complete: bool,
}

/// Is it asked about by nobody? A socket's file is opened by nobody, and connecting is judged elsewhere.
pub(super) fn is_special(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
}

/// Looks through what rules hold with all below it (absolute, resolved), and by the patterns alone through `by_name`.
/// Follows no symlinks.
pub(super) fn find<'a>(
    automaton: &Automaton,
    held: impl IntoIterator<Item = &'a PathBuf>,
    by_name: &[PathBuf],
) -> Special {
    let mut search = Search::new(automaton);
    held.into_iter().for_each(|root| search.root(root, true));
    by_name.iter().for_each(|root| search.root(root, false));
    search.found
}

/// Finds the other names, in `roots`, of those that have some.
pub(super) fn other_names(automaton: &Automaton, special: &mut Special, roots: &[PathBuf]) {
    let linked = |path: &PathBuf| {
        let found = path.symlink_metadata().ok()?;
        (found.nlink() > 1).then_some((found.dev(), found.ino()))
    };
    let held: HashSet<_> = special.paths.iter().filter_map(linked).collect();
    if held.is_empty() {
        return;
    }
    let mut search = Search::new(automaton);
    roots.iter().for_each(|root| search.root(root, true));
    let more =
        search.found.paths.into_iter().filter(|path| linked(path).is_some_and(|id| held.contains(&id)));
    special.paths.extend(more);
    special.complete &= search.found.complete;
}

struct Search<'a> {
    automaton: &'a Automaton,
    names: usize,
    found: Special,
}

impl<'a> Search<'a> {
    fn new(automaton: &'a Automaton) -> Self {
        Self { automaton, names: 0, found: Special { paths: Vec::new(), complete: true } }
    }

    fn root(&mut self, root: &Path, all: bool) {
        self.names = 0;
        let Ok(kind) = root.symlink_metadata().map(|found| found.file_type()) else { return };
        if kind.is_dir() {
            if !file_system::is_of_the_kernel(root) {
                self.walk(root, all, Scan::behind(self.automaton, root.as_os_str().as_bytes()));
            }
        } else if is_special(kind) && all {
            self.found.paths.push(root.to_owned());
        }
    }

    fn walk(&mut self, folder: &Path, all: bool, scan: Scan) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => {
                self.found.complete = false;
                return;
            }
        };
        let below = scan.step(self.automaton, b'/');
        for entry in entries.flatten() {
            self.names += 1;
            if self.names > NAMES_MAX || self.found.paths.len() >= FOUND_MAX {
                self.found.complete = false;
                return;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let scan = below.through(self.automaton, entry.file_name().as_bytes());
            if kind.is_dir() {
                self.walk(&entry.path(), all, scan);
            } else if is_special(kind) && (all || !scan.end(self.automaton).is_none()) {
                self.found.paths.push(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::{
        id::RuleIndex,
        policy::{
            automaton,
            compile::{GlobRule, PathEffect},
        },
    };

    #[test]
    fn pipes_are_found_where_a_rule_means_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["vault/deep/pipe", "a/x.pipe", "a/pipe", "a/keys/pipe", "pipe"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        }
        fs::write(root.join("vault/file"), "").unwrap();
        fs::write(root.join("a/y.pipe"), "").unwrap();
        std::os::unix::fs::symlink("pipe", root.join("a/z.pipe")).unwrap();
        let glob = |pattern: &str| GlobRule {
            pattern: pattern.into(),
            effect: PathEffect::Deny,
            rule: RuleIndex(1),
        };
        let table = automaton::build(&["/**/*.pipe", "/**/keys"].map(glob)).unwrap();
        let held = [root.join("vault"), root.join("pipe")];
        let mut found = find(&table, &held, &[root.join("a"), root.join("a/y.pipe")]);
        found.paths.sort();
        let paths = |names: &[&str]| names.iter().map(|name| root.join(name)).collect::<Vec<_>>();
        let expected = paths(&["a/keys/pipe", "a/x.pipe", "pipe", "vault/deep/pipe"]);
        assert_eq!(found, Special { paths: expected, complete: true });
        fs::hard_link(root.join("pipe"), root.join("a/other")).unwrap();
        let mut found = find(&table, &held[1..], &[]);
        other_names(&table, &mut found, &[root.join("a")]);
        assert_eq!(found, Special { paths: paths(&["pipe", "a/other"]), complete: true });
    }
}
