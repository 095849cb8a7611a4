//! All path patterns of a sandbox → one table that [`govsandbox_ebpf::decide::automaton`] runs over a path's bytes.
//!
//! Each pattern becomes a regular expression, all of them one deterministic automaton. What a state then keeps is only
//! its best deny and its best protect rule, so that states that differ in nothing else are merged.

use std::collections::HashMap;

use govsandbox_ebpf::abi::rule::{AUTOMATON_STATES_MAX, AUTOMATON_TRANSITIONS_MAX, Automaton, Hits};
use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartError, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start, syntax},
};
use zerocopy::FromZeros;

use super::{
    compile::{GlobRule, PathEffect},
    rule::glob::{self, GlobError, Part, Segment},
};

/// Memory for building, in bytes. A policy that needs more would not fit the table either.
const BUILD_BYTES_MAX: usize = 64 << 20;

/// Why patterns can't become a table.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum AutomatonError {
    /// The table has no room.
    #[error(
        "the path patterns of this policy are too many or too wild: {states} states of {classes} byte classes"
    )]
    #[diagnostic(
        code(policy::automaton::too_large),
        help(
            "the kernel's table holds {AUTOMATON_STATES_MAX} states and {AUTOMATON_TRANSITIONS_MAX} transitions; \
             use fewer patterns with `**` or `*` in their middle, or name folders"
        )
    )]
    TooLarge {
        /// States needed.
        states: usize,
        /// Byte classes needed.
        classes: usize,
    },
    /// Not even building it fits into memory.
    #[error("the path patterns of this policy are too many or too wild to be built in {} MiB", BUILD_BYTES_MAX >> 20)]
    #[diagnostic(
        code(policy::automaton::too_large_to_build),
        help("use fewer patterns with `**` or `*` in their middle, or name folders")
    )]
    Build(#[source] Box<dense::BuildError>),
    /// The library built something else than it was asked for.
    #[error("the automaton of the path patterns has no start")]
    #[diagnostic(code(policy::automaton::start))]
    Start(#[from] StartError),
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
    let mut expressions = Vec::with_capacity(globs.len());
    for glob in globs {
        let segments = glob::segments(&glob.pattern).map_err(|source| AutomatonError::Pattern {
            pattern: String::from_utf8_lossy(&glob.pattern).into_owned(),
            source,
        })?;
        expressions.push(expression(&segments));
    }
    let dfa = dense::Builder::new()
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .dfa_size_limit(Some(BUILD_BYTES_MAX))
                .determinize_size_limit(Some(BUILD_BYTES_MAX)),
        )
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(BUILD_BYTES_MAX)))
        .build_many(&expressions)
        .map_err(|error| AutomatonError::Build(Box::new(error)))?;
    let graph = Graph::of(&dfa, globs)?;
    graph.merged().table()
}

/// The regular expression for whole paths that a pattern matches.
fn expression(segments: &[Segment]) -> String {
    let mut out = String::new();
    for segment in segments {
        match segment {
            Segment::AnyDepth => out.push_str("(?:/[^/]+)*"),
            Segment::Name(parts) if *parts == [Part::Run] => out.push_str("/[^/]+"),
            Segment::Name(parts) => {
                out.push('/');
                push_parts(parts, &mut out);
            }
        }
    }
    // Anchored at the start by the search, at the end here.
    out.push_str(r"\z");
    out
}

fn push_parts(parts: &[Part], out: &mut String) {
    for part in parts {
        match part {
            Part::Byte(byte) => push_byte(*byte, out),
            Part::One => out.push_str("[^/]"),
            Part::Run => out.push_str("[^/]*"),
            Part::Class { negated, ranges } => {
                out.push_str(if *negated { "[^/" } else { "[" });
                for (first, last) in ranges {
                    push_byte(*first, out);
                    out.push('-');
                    push_byte(*last, out);
                }
                // A range such as `[!-~]` runs over the slash, which no name has.
                out.push_str(if *negated { "]" } else { "&&[^/]]" });
            }
            Part::Either(alternatives) => {
                for (index, alternative) in alternatives.iter().enumerate() {
                    out.push_str(if index == 0 { "(?:" } else { "|" });
                    push_parts(alternative, out);
                }
                out.push(')');
            }
        }
    }
}

fn push_byte(byte: u8, out: &mut String) {
    use std::fmt::Write;
    // Writing to a String can't fail.
    let _ = write!(out, r"\x{byte:02X}");
}

/// A deterministic automaton, states numbered from 0; 0 is dead, 1 is the start.
struct Graph {
    /// For each state what matches if a component ends there.
    hits: Vec<Hits>,
    /// For each state the next one, by byte class.
    next: Vec<Vec<u16>>,
    /// Class of each byte.
    classes: [u8; 256],
}

/// Room for states before they are merged: numbers are `u16`.
const UNMERGED_STATES_MAX: usize = u16::MAX as usize;

impl Graph {
    /// What can be reached of a built automaton.
    fn of(dfa: &dense::DFA<Vec<u32>>, globs: &[GlobRule]) -> Result<Self, AutomatonError> {
        let built = dfa.byte_classes();
        // One byte of each class stands for all of them.
        let mut representatives: Vec<u8> = Vec::new();
        let mut classes = [0; 256];
        for (byte, class) in (0..=u8::MAX).zip(&mut classes) {
            *class = built.get(byte);
            if representatives.last().is_none_or(|last| built.get(*last) < *class) {
                representatives.push(byte);
            }
        }
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::Yes))?;
        let mut graph = Self { hits: vec![Hits::NONE], next: vec![vec![0; representatives.len()]], classes };
        let mut numbers: HashMap<StateID, u16> = HashMap::new();
        let mut queue = vec![start];
        numbers.insert(start, 1);
        let mut done = 0;
        while let Some(state) = queue.get(done).copied() {
            done += 1;
            graph.hits.push(hits(dfa, state, globs));
            let mut row = Vec::with_capacity(representatives.len());
            for byte in &representatives {
                let next = dfa.next_state(state, *byte);
                row.push(if dfa.is_dead_state(next) {
                    0
                } else if let Some(number) = numbers.get(&next) {
                    *number
                } else {
                    queue.push(next);
                    let number = u16::try_from(queue.len()).map_err(|_| AutomatonError::TooLarge {
                        states: UNMERGED_STATES_MAX,
                        classes: representatives.len(),
                    })?;
                    numbers.insert(next, number);
                    number
                });
            }
            graph.next.push(row);
        }
        Ok(graph)
    }

    /// The smallest automaton that does the same: states are merged unless some path tells them apart (Moore, 1956).
    fn merged(&self) -> Self {
        let mut block_of: Vec<u16> = number_distinct(self.hits.iter().map(|hits| (hits.deny, hits.protect)));
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
            Self { hits: vec![Hits::NONE; count], next: vec![Vec::new(); count], classes: self.classes };
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
            merged.hits.push(Hits::NONE);
            merged.next.extend(merged.next.first().cloned());
        }
        merged
    }

    /// The kernel's form.
    fn table(&self) -> Result<Box<Automaton>, AutomatonError> {
        let classes = self.used_classes();
        let class_count = classes.iter().max().map_or(1, |last| usize::from(*last) + 1);
        let class_bits = class_count.next_power_of_two().trailing_zeros();
        let states = self.hits.len();
        if states > AUTOMATON_STATES_MAX || states << class_bits > AUTOMATON_TRANSITIONS_MAX {
            return Err(AutomatonError::TooLarge { states, classes: class_count });
        }
        let mut table = Automaton::new_box_zeroed().map_err(|_| AutomatonError::Memory)?;
        table.classes = classes;
        table.class_bits = class_bits;
        for (to, from) in table.hits.iter_mut().zip(&self.hits) {
            *to = *from;
        }
        for (state, row) in self.next.iter().enumerate() {
            for (byte_class, class) in self.classes.iter().zip(&classes) {
                let index = (state << class_bits) + usize::from(*class);
                if let (Some(to), Some(next)) =
                    (table.transitions.get_mut(index), row.get(usize::from(*byte_class)))
                {
                    *to = *next;
                }
            }
        }
        Ok(table)
    }

    /// Class of each byte, bytes that no state tells apart in one class.
    fn used_classes(&self) -> [u8; 256] {
        let columns = self.classes.iter().map(|class| {
            let column: Vec<_> = self.next.iter().map(|row| row.get(usize::from(*class)).copied()).collect();
            column
        });
        let mut classes = [0; 256];
        for (to, number) in classes.iter_mut().zip(number_distinct(columns)) {
            // 256 bytes have at most 256 columns.
            *to = u8::try_from(number).unwrap_or(u8::MAX);
        }
        classes
    }
}

/// The best rules of those that match if the path ends in this state.
fn hits(dfa: &dense::DFA<Vec<u32>>, state: StateID, globs: &[GlobRule]) -> Hits {
    // The automaton knows of a match one step late: at the end of the input.
    let end = dfa.next_eoi_state(state);
    let matching = if dfa.is_match_state(end) { dfa.match_len(end) } else { 0 };
    let matching = (0..matching).filter_map(|index| globs.get(dfa.match_pattern(end, index).as_usize()));
    matching.fold(Hits::NONE, |hits, glob| {
        hits.or(match glob.effect {
            PathEffect::Deny => Hits { deny: glob.rule.0, protect: 0 },
            PathEffect::Protect => Hits { deny: 0, protect: glob.rule.0 },
        })
    })
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
    use globset::GlobBuilder;
    use govsandbox_ebpf::decide::automaton::scan;
    use proptest::prelude::*;

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
        let globs = [deny(1, &format!("/**/*a{}", "?".repeat(16)))];
        let error = build(&globs).unwrap_err();
        assert!(matches!(error, AutomatonError::TooLarge { .. } | AutomatonError::Build(_)), "{error}");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains("use fewer patterns"), "{help}");
    }

    /// A pattern that this grammar and globset read alike, in which wildcards are likely to matter.
    fn pattern() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            4 => "[ab.]{1,3}",
            2 => "[ab.]{0,2}\\*[ab.]{0,2}",
            1 => "[ab]?\\?[ab]?",
            1 => Just("[a-b]".to_owned()),
            1 => Just("[!a]".to_owned()),
            1 => Just("{a,b.}b".to_owned()),
            2 => Just("**".to_owned()),
        ];
        prop::collection::vec(name, 1..5)
            .prop_filter("has a meaning", |names| !names.iter().all(|name| name == "**"))
            .prop_filter("no dot folders", |names| names.iter().all(|name| name != "." && name != ".."))
            .prop_map(|names| format!("/{}", names.join("/")))
    }

    fn path() -> impl Strategy<Value = String> {
        // No path of the kernel has `.` or `..` in it.
        let name = "[ab.]{1,3}".prop_filter("a name", |name| name != "." && name != "..");
        prop::collection::vec(name, 1..5).prop_map(|names| format!("/{}", names.join("/")))
    }

    /// What globset says of the path and each folder above it.
    fn oracle(pattern: &str, path: &str) -> bool {
        let mut pattern = pattern;
        while let Some(shorter) = pattern.strip_suffix("/**") {
            pattern = shorter;
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).build().unwrap().compile_matcher();
        std::path::Path::new(path)
            .ancestors()
            .filter(|path| path.parent().is_some())
            .any(|path| glob.is_match(path))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn matches_what_globset_matches(patterns in prop::collection::vec(pattern(), 1..6), paths in prop::collection::vec(path(), 1..20)) {
            let globs: Vec<_> = (1..).zip(&patterns).map(|(rule, pattern)| deny(rule, pattern)).collect();
            let table = build(&globs).unwrap();
            for path in &paths {
                let expected = (1u16..).zip(&patterns).find(|(_, pattern)| oracle(pattern, path)).map_or(0, |(rule, _)| rule);
                prop_assert_eq!(scan(&table, path.as_bytes()).deny, expected, "{} in {:?}", path, patterns);
            }
        }
    }
}
