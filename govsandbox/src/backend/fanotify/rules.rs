//! The rules as the verdict thread asks them: by path and by inode.

use std::{collections::HashMap, fs::File};

use govsandbox_ebpf::{
    abi::rule::{Hits, RULE_OWN, RULE_SYMLINK},
    decide::{
        Decision,
        automaton::{START, Scan, decide_symlink, next, scan},
    },
};

use super::{programs::ProgramRules, verdicts::Mode};
use crate::policy::compile::PathTable;

/// Suffix that the kernel gives to the path of an object whose name is gone (`fs/d_path.c`).
const DELETED: &[u8] = b" (deleted)";

/// Deny and protect rules of one sandbox.
#[derive(Debug)]
pub struct PathRules {
    /// The globs.
    pub(super) automaton: PathTable,
    /// Named paths, each with all below it; absolute, without symlinks.
    pub(super) literals: Vec<(Vec<u8>, Hits)>,
    /// Symlinks on the way to a named path: each by its own path, which is to stay what it is.
    pub(super) links: Vec<(Vec<u8>, Hits)>,
    /// Objects that existed at the start, by `st_dev` and inode: held under every name.
    pub(super) inodes: HashMap<(u64, u64), Hits>,
    /// Those objects, in the supervisor alone: while they are open, their numbers do not become other files'.
    pub(super) held: Vec<File>,
    /// What may be executed; `None`: everything.
    pub(super) programs: Option<ProgramRules>,
}

impl PathRules {
    /// What matches an object by its path now and by itself. `None`: the path is none that rules can be asked about.
    #[must_use]
    pub fn hits(&self, path: &[u8], object: (u64, u64)) -> Option<Hits> {
        if !path.starts_with(b"/") {
            return None;
        }
        let own = self.inodes.get(&object).copied().unwrap_or(Hits::NONE);
        let hits = own.or(self.by_path(path));
        Some(match without_deleted(path) {
            Some(name) => hits.or(self.by_path(name)),
            None => hits,
        })
    }

    /// As [`PathRules::hits`], for a change of the name itself: what leads to a named path counts too.
    #[must_use]
    pub fn name_hits(&self, path: &[u8], object: (u64, u64)) -> Option<Hits> {
        let links = self.links.iter().filter(|(link, _)| link == path);
        Some(links.fold(self.hits(path, object)?, |hits, (_, found)| hits.or(*found)))
    }

    /// `true`: whatever lies below a folder is held alike by name, be the folder called one or the other.
    #[must_use]
    pub fn holds_alike_below(&self, one: &[u8], other: &[u8]) -> bool {
        let below = |path: &[u8]| {
            let scan = Scan::START.through(&self.automaton, path);
            scan.step(&self.automaton, b'/')
        };
        below(one) == below(other) && !self.has_names_below(one) && !self.has_names_below(other)
    }

    /// Does a rule refuse in this mode, or is it told of alone?
    #[must_use]
    pub fn refuses(rule: u16, mode: Mode) -> bool {
        mode == Mode::Enforce || rule == RULE_OWN
    }

    /// May a symlink stand at this path? Not in the place of a folder below which rules hold by name.
    #[must_use]
    pub fn may_be_symlink(&self, path: &[u8]) -> Decision {
        if self.has_names_below(path) {
            return Decision::deny(RULE_SYMLINK);
        }
        let (mut folder, mut state) = (START, START);
        for byte in path {
            state = next(&self.automaton, state, *byte);
            if *byte == b'/' {
                folder = state;
            }
        }
        decide_symlink(&self.automaton, folder, next(&self.automaton, state, b'/'))
    }

    fn has_names_below(&self, folder: &[u8]) -> bool {
        let mut named = self.literals.iter().chain(&self.links);
        named.any(|(path, _)| path != folder && covers(folder, path))
    }

    fn by_path(&self, path: &[u8]) -> Hits {
        let literal = self.literals.iter().filter(|(literal, _)| covers(literal, path));
        literal.fold(scan(&self.automaton, path), |hits, (_, found)| hits.or(*found))
    }
}

/// The name that an object had, if the kernel says that it is gone.
pub(super) fn without_deleted(path: &[u8]) -> Option<&[u8]> {
    path.strip_suffix(DELETED)
}

/// `true`: `path` is `literal` or lies below it.
fn covers(literal: &[u8], path: &[u8]) -> bool {
    match path.strip_prefix(literal) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/") || literal.ends_with(b"/"),
        None => false,
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

    const DENY_GLOB: Hits = Hits { deny: 1, protect: 0 };
    const DENY_LITERAL: Hits = Hits { deny: 2, protect: 0 };
    const PROTECT_INODE: Hits = Hits { deny: 0, protect: 3 };

    fn rules() -> PathRules {
        let glob = GlobRule { pattern: b"/**/.env".to_vec(), effect: PathEffect::Deny, rule: RuleIndex(1) };
        PathRules {
            automaton: automaton::build(&[glob]).unwrap(),
            literals: vec![(b"/home/u/.ssh".to_vec(), DENY_LITERAL)],
            links: vec![(b"/home/u/conf".to_vec(), DENY_LITERAL)],
            inodes: HashMap::from([((8, 42), PROTECT_INODE)]),
            held: Vec::new(),
            programs: None,
        }
    }

    #[test]
    fn literals_cover_what_is_below_and_no_longer_name() {
        let rules = rules();
        assert_eq!(rules.hits(b"/home/u/.ssh", (0, 0)), Some(DENY_LITERAL));
        assert_eq!(rules.hits(b"/home/u/.ssh/id", (0, 0)), Some(DENY_LITERAL));
        assert_eq!(rules.hits(b"/home/u/.sshd", (0, 0)), Some(Hits::NONE));
    }

    #[test]
    fn globs_match_by_the_path_of_the_moment() {
        assert_eq!(rules().hits(b"/srv/app/.env", (0, 0)), Some(DENY_GLOB));
        assert_eq!(rules().hits(b"/srv/app/.envrc", (0, 0)), Some(Hits::NONE));
    }

    #[test]
    fn a_deleted_name_is_still_that_name() {
        assert_eq!(rules().hits(b"/srv/app/.env (deleted)", (0, 0)), Some(DENY_GLOB));
    }

    #[test]
    fn an_inode_is_held_under_every_name() {
        assert_eq!(rules().hits(b"/tmp/other", (8, 42)), Some(PROTECT_INODE));
        assert_eq!(rules().hits(b"/tmp/.env", (8, 42)), Some(Hits { deny: 1, protect: 3 }));
    }

    #[test]
    fn a_link_on_the_way_is_held_by_its_own_name() {
        let rules = rules();
        assert_eq!(rules.name_hits(b"/home/u/conf", (0, 0)), Some(DENY_LITERAL));
        assert_eq!(rules.name_hits(b"/home/u/conf/below", (0, 0)), Some(Hits::NONE));
        assert_eq!(rules.hits(b"/home/u/conf", (0, 0)), Some(Hits::NONE));
    }

    #[test]
    fn folders_differ_where_a_rule_names_something_below_one() {
        let rules = rules();
        assert!(rules.holds_alike_below(b"/srv/a", b"/srv/b/c"));
        assert!(!rules.holds_alike_below(b"/home/u", b"/home/v"));
        assert!(!rules.holds_alike_below(b"/home/v", b"/home"));
        assert!(rules.holds_alike_below(b"/home/ux", b"/home/v"));
    }

    #[test]
    fn a_symlink_stands_where_no_rule_names_something_below() {
        let mut rules = rules();
        let glob = |pattern: &str| GlobRule {
            pattern: pattern.into(),
            effect: PathEffect::Protect,
            rule: RuleIndex(1),
        };
        rules.automaton = automaton::build(&["/**/.claude/settings*.json", "/p/*/x"].map(glob)).unwrap();
        for place in ["/home", "/home/u", "/srv/.claude", "/.claude", "/p", "/p/any"] {
            assert_eq!(rules.may_be_symlink(place.as_bytes()), Decision::deny(RULE_SYMLINK), "{place}");
        }
        for place in ["/home/v", "/home/u/conf", "/home/u/.sshd", "/srv/.claude/agents", "/srv/a", "/p/a/b"] {
            assert!(rules.may_be_symlink(place.as_bytes()).allow, "{place}");
        }
    }

    #[test]
    fn a_path_that_is_not_absolute_can_not_be_judged() {
        assert_eq!(rules().hits(b"(unreachable)/x", (0, 0)), None);
        assert_eq!(rules().hits(b"", (0, 0)), None);
    }
}
