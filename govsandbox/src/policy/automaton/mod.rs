//! All path patterns of a sandbox → one table that [`govsandbox_ebpf::decide::automaton`] runs over a path's bytes.
//!
//! Each byte that a pattern asks for is a position; `Positions` has for each what may follow it (Glushkov's
//! construction). A state of the table is the set of positions that a path may have come to. What a state then keeps is
//! only its best deny and its best protect rule, so that states that differ in nothing else are merged.

pub mod exec;
#[cfg(test)]
mod globset_tests;
mod positions;
#[cfg(test)]
mod symlink_tests;

use std::collections::{HashMap, VecDeque};

use govsandbox_ebpf::abi::rule::{AUTOMATON_STATES_MAX, AUTOMATON_TRANSITIONS_MAX, Automaton, Hits};
use positions::{Mark, Positions, Set};
use zerocopy::FromZeros;

use super::{
    compile::{GlobRule, PathEffect},
    effective,
    rule::glob::{self, GlobError},
};

/// Memory for the sets of positions while building, in bytes. What needs more would not fit the table either.
const BUILD_BYTES_MAX: usize = 64 << 20;
/// States before they are merged. Merging seldom saves more than a tenth.
const UNMERGED_STATES_MAX: usize = 4 * AUTOMATON_STATES_MAX;

/// Why patterns can't become a table.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum AutomatonError {
    /// The table has no room.
    #[error(
        "the patterns of this policy need more than {states} states of {classes} byte classes, `{largest}` most of all"
    )]
    #[diagnostic(
        code(policy::automaton::too_large),
        help(
            "the kernel's table holds {AUTOMATON_STATES_MAX} states and {AUTOMATON_TRANSITIONS_MAX} transitions; \
             use fewer patterns with `**` or `*` in their middle, or name folders"
        )
    )]
    TooLarge {
        /// States it has so far.
        states: usize,
        /// Byte classes that the patterns tell apart.
        classes: usize,
        /// The path pattern that needs most by itself.
        largest: String,
    },
    /// A pattern that is none: the caller didn't check it.
    #[error("`{pattern}` is not a path pattern")]
    #[diagnostic(code(policy::automaton::pattern))]
    Pattern {
        /// As given, bytes that are not UTF-8 replaced.
        pattern: String,
        /// Why.
        #[source]
        source: GlobError,
    },
    /// The machine has no memory left.
    #[error("out of memory for the table of path patterns")]
    #[diagnostic(code(policy::automaton::memory))]
    Memory,
}

/// Builds the table for `globs`. Without any, nothing matches.
///
/// # Errors
/// [`AutomatonError`]; [`AutomatonError::Pattern`] never for patterns of a [`super::compile::Compiled`].
pub fn build(globs: &[GlobRule]) -> Result<Box<Automaton>, AutomatonError> {
    build_table(globs).map_err(|error| match error {
        AutomatonError::TooLarge { states, classes, .. } => {
            AutomatonError::TooLarge { states, classes, largest: largest(globs) }
        }
        other => other,
    })
}

/// The pattern that needs most states by itself.
fn largest(globs: &[GlobRule]) -> String {
    let states = |glob: &&GlobRule| {
        let mut positions = Positions::new(b'/');
        positions.add(&glob::segments(&glob.pattern).unwrap_or_default(), Hits::NONE);
        match Graph::of(&positions) {
            Ok(graph) => graph.hits.len(),
            Err(_) => usize::MAX,
        }
    };
    let largest = globs.iter().max_by_key(states);
    largest.map(|glob| effective::readable(&glob.pattern)).unwrap_or_default()
}

fn build_table(globs: &[GlobRule]) -> Result<Box<Automaton>, AutomatonError> {
    let mut positions = Positions::new(b'/');
    for glob in globs {
        let segments = glob::segments(&glob.pattern).map_err(|source| AutomatonError::Pattern {
            pattern: String::from_utf8_lossy(&glob.pattern).into_owned(),
            source,
        })?;
        let hits = match glob.effect {
            PathEffect::Deny => Hits { deny: glob.rule.0, protect: 0 },
            PathEffect::Protect => Hits { deny: 0, protect: glob.rule.0 },
        };
        positions.add(&segments, hits);
    }
    Graph::of(&positions)?.merged().table()
}

/// A deterministic automaton, states numbered from 0; 0 is dead, 1 is the start.
struct Graph<H> {
    /// For each state what matches if a component ends there.
    hits: Vec<H>,
    /// For each state the next one, by byte class.
    next: Vec<Vec<u16>>,
    /// Class of each byte.
    classes: [u8; 256],
}

impl<H: Mark> Graph<H> {
    /// All sets of positions that some path comes to.
    fn of(positions: &Positions<H>) -> Result<Self, AutomatonError> {
        let (classes, members) = positions.classes();
        let mut graph = Self { hits: vec![H::default()], next: vec![vec![0; members.len()]], classes };
        // The start is no position, so it has a number and no set; neither has the dead state.
        graph.hits.push(positions.hits_at_start());
        let mut numbers: HashMap<Set, u16> = HashMap::from([(positions.empty(), 0)]);
        let mut waiting = VecDeque::from([positions.after_start()]);
        let set_bytes = size_of_val(positions.empty().as_slice());
        while let Some(after) = waiting.pop_front() {
            let mut row = Vec::with_capacity(members.len());
            for member in &members {
                let set = positions::both(&after, member);
                if let Some(number) = numbers.get(&set) {
                    row.push(*number);
                    continue;
                }
                let states = graph.hits.len();
                let too_large =
                    AutomatonError::TooLarge { states, classes: members.len(), largest: String::new() };
                // A waiting set and a numbered one for each state.
                if states >= UNMERGED_STATES_MAX || 2 * states * set_bytes > BUILD_BYTES_MAX {
                    return Err(too_large);
                }
                let number = u16::try_from(states).map_err(|_| too_large)?;
                graph.hits.push(positions.hits(&set));
                waiting.push_back(positions.after(&set));
                numbers.insert(set, number);
                row.push(number);
            }
            graph.next.push(row);
        }
        Ok(graph)
    }

    /// The smallest automaton that does the same: states are merged unless some path tells them apart (Moore, 1956).
    fn merged(&self) -> Self {
        let mut block_of: Vec<u16> = number_distinct(self.hits.iter().map(|hits| hits.key()));
        let mut count = 0;
        loop {
            let signatures = self.next.iter().zip(&block_of).map(|(row, block)| {
                let next: Vec<u16> = row.iter().map(|state| at(&block_of, *state)).collect();
                (*block, next)
            });
            let refined = number_distinct(signatures);
            let refined_count = refined.iter().max().map_or(0, |last| usize::from(*last) + 1);
            block_of = refined;
            if refined_count == count {
                break;
            }
            count = refined_count;
        }
        let mut merged =
            Self { hits: vec![H::default(); count], next: vec![Vec::new(); count], classes: self.classes };
        for ((row, hits), block) in self.next.iter().zip(&self.hits).zip(&block_of) {
            let block = usize::from(*block);
            if let (Some(to), Some(hits_to)) = (merged.next.get_mut(block), merged.hits.get_mut(block)) {
                *hits_to = *hits;
                *to = row.iter().map(|state| at(&block_of, *state)).collect();
            }
        }
        // Blocks are numbered as they first come, so the dead state stays 0 and the start is 1; but if nothing can
        // match, both are one.
        if count == 1 {
            merged.hits.push(H::default());
            merged.next.extend(merged.next.first().cloned());
        }
        merged
    }
}

impl Graph<Hits> {
    /// The kernel's form.
    fn table(&self) -> Result<Box<Automaton>, AutomatonError> {
        let class_count = self.next.first().map_or(1, Vec::len);
        let class_bits = class_count.next_power_of_two().trailing_zeros();
        let states = self.hits.len();
        if states > AUTOMATON_STATES_MAX || states << class_bits > AUTOMATON_TRANSITIONS_MAX {
            return Err(AutomatonError::TooLarge { states, classes: class_count, largest: String::new() });
        }
        let mut table = Automaton::new_box_zeroed().map_err(|_| AutomatonError::Memory)?;
        table.classes = self.classes;
        table.class_bits = class_bits;
        for (to, from) in table.hits.iter_mut().zip(&self.hits) {
            *to = *from;
        }
        for (to, row) in table.transitions.chunks_exact_mut(1 << class_bits).zip(&self.next) {
            for (to, next) in to.iter_mut().zip(row) {
                *to = *next;
            }
        }
        Ok(table)
    }
}

/// Numbers values from 0 in the order in which they first come; equal values have equal numbers.
fn number_distinct<T: std::hash::Hash + Eq>(values: impl Iterator<Item = T>) -> Vec<u16> {
    let mut numbers = HashMap::new();
    let mut of_each = Vec::new();
    for value in values {
        let fresh = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
        of_each.push(*numbers.entry(value).or_insert(fresh));
    }
    of_each
}

fn at(numbers: &[u16], index: u16) -> u16 {
    numbers.get(usize::from(index)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use govsandbox_ebpf::decide::automaton::{below, decide_moved, scan};

    use super::*;
    use crate::id::RuleIndex;

    fn deny(rule: u16, pattern: &str) -> GlobRule {
        GlobRule { pattern: pattern.into(), effect: PathEffect::Deny, rule: RuleIndex(rule) }
    }

    fn protect(rule: u16, pattern: &str) -> GlobRule {
        GlobRule { effect: PathEffect::Protect, ..deny(rule, pattern) }
    }

    fn denied_by(globs: &[GlobRule], path: &str) -> u16 {
        scan(&build(globs).unwrap(), path.as_bytes()).deny
    }

    #[test]
    fn a_folder_moves_freely_unless_its_name_counts_for_what_is_below() {
        let table = build(&[
            deny(1, "/**/.env"),
            protect(2, "/**/.claude/settings*.json"),
            deny(3, "/p/conf/**/*.key"),
            deny(4, "/p/.git/hooks"),
        ])
        .unwrap();
        let moved = |old: &str, new: &str| {
            decide_moved(below(&table, old.as_bytes()), below(&table, new.as_bytes())).allow
        };
        for (old, new) in
            [("/p/a", "/p/b"), ("/p/a", "/tmp/x/y"), ("/p/.en", "/.en"), ("/p/conf/a", "/p/conf/b/c")]
        {
            assert!(moved(old, new), "{old} {new}");
        }
        for (old, new) in [
            ("/p/.claude", "/p/x"),
            ("/p/x", "/p/sub/.claude"),
            ("/p/conf", "/p/x"),
            ("/p/conf/a", "/p/a"),
            ("/tmp/a", "/p/conf/a"),
            ("/p/x", "/p/.git"),
            ("/p", "/q"),
        ] {
            assert!(!moved(old, new), "{old} {new}");
        }
    }

    #[test]
    fn without_patterns_nothing_matches() {
        assert_eq!(scan(&build(&[]).unwrap(), b"/home/user/.env"), Hits::NONE);
        assert_eq!(scan(&build(&[]).unwrap(), b"/"), Hits::NONE);
    }

    #[test]
    fn a_match_covers_everything_below() {
        let globs = [deny(1, "/**/private")];
        for path in ["/private", "/a/private", "/a/private/b/c", "/private/private"] {
            assert_eq!(denied_by(&globs, path), 1, "{path}");
        }
        for path in ["/", "/privately", "/a/not-private", "/a/private.txt/b"] {
            assert_eq!(denied_by(&globs, path), 0, "{path}");
        }
    }

    #[test]
    fn a_star_is_each_child_and_not_the_folder() {
        let globs = [deny(1, "/a/*")];
        assert_eq!(
            (denied_by(&globs, "/a"), denied_by(&globs, "/a/b"), denied_by(&globs, "/a/b/c")),
            (0, 1, 1)
        );
        assert_eq!(denied_by(&[deny(1, "/*")], "/"), 0);
    }

    #[test]
    fn of_several_matches_the_best_of_each_effect_is_kept() {
        let globs = [protect(7, "/**/x"), deny(3, "/**/*.pem"), deny(2, "/a/**/k.pem"), protect(5, "/a/*")];
        let table = build(&globs).unwrap();
        assert_eq!(scan(&table, b"/a/x/k.pem"), Hits { deny: 2, protect: 5 });
        assert_eq!(scan(&table, b"/b/x/k.pem"), Hits { deny: 3, protect: 7 });
        assert_eq!(scan(&table, b"/b/y"), Hits::NONE);
    }

    #[test]
    fn names_are_bytes() {
        let globs = [deny(1, "/**/?.key"), deny(2, "/**/[!a-z].txt")];
        let table = build(&globs).unwrap();
        assert_eq!(scan(&table, b"/\xff.key").deny, 1);
        assert_eq!(scan(&table, b"/\n.txt").deny, 2);
        // Two bytes are not one.
        assert_eq!(scan(&table, "/é.key".as_bytes()).deny, 0);
        // A set never matches the slash, negated or not.
        assert_eq!(scan(&build(&[deny(1, "/a[!-~]b")]).unwrap(), b"/a/b").deny, 0);
    }

    #[test]
    fn many_names_at_any_depth_fit() {
        let globs: Vec<_> =
            (1..=300).map(|number| deny(number, &format!("/**/secret-{number}.txt"))).collect();
        let table = build(&globs).unwrap();
        assert_eq!(scan(&table, b"/x/secret-299.txt/y").deny, 299);
    }

    #[test]
    fn too_wild_patterns_are_an_error_that_names_the_limit() {
        // The n-th byte from the end: a deterministic automaton must remember the last n.
        let globs = [deny(2, "/**/.env"), deny(1, &format!("/**/*a{}", "?".repeat(16)))];
        let error = build(&globs).unwrap_err();
        assert!(matches!(error, AutomatonError::TooLarge { .. }), "{error}");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains("use fewer patterns"), "{help}");
        assert!(error.to_string().contains("`/**/*a????????????????` most of all"), "{error}");
    }
}
