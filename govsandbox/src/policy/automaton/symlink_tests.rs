//! Where a symlink may stand, by the states of the table, against what `globset` says of paths below.

use std::collections::{HashSet, VecDeque};

use govsandbox_ebpf::{
    abi::rule::{Automaton, Hits},
    decide::automaton::{START, below, below_other, decide_symlink, hits, next, scan},
};
use proptest::prelude::*;

use super::{
    build,
    globset_tests::{Oracle, case, ours},
};
use crate::{
    id::RuleIndex,
    policy::compile::{GlobRule, PathEffect},
};

/// Stands for all names that no rule is about.
const OTHER: [u8; 32] = [0; 32];
/// What paths are looked for with: bytes that the oracle tells apart.
const BYTES: [u8; 15] = *b"ab.-]\n!^\\z*?[{}";

fn rule(pattern: &str) -> GlobRule {
    GlobRule { pattern: pattern.into(), effect: PathEffect::Protect, rule: RuleIndex(1) }
}

fn allowed(table: &Automaton, path: &[u8]) -> bool {
    let folder = path.iter().rposition(|byte| *byte == b'/').unwrap();
    let behind = path[..=folder].iter().fold(START, |state, byte| next(table, state, *byte));
    decide_symlink(table, behind, below(table, path)).allow
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    [folder, b"/", name].concat()
}

fn path_of(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| join(b"", name)).collect()
}

#[test]
fn a_symlink_is_refused_where_its_name_counts_for_what_is_below() {
    let patterns = [
        "/**/.env",
        "/**/*.pem",
        "/**/.env.*.local",
        "/**/.claude/settings*.json",
        "/**/.{cursor,vscode}/mcp.json",
        "/p/conf/**/*.key",
        "/p/*/lock",
        "/p/.git/hooks",
        "/home/u/.config/not/yet",
    ];
    let table = build(&patterns.map(rule)).unwrap();
    for place in [
        "/p/.claude",
        "/x/y/.claude",
        "/.cursor",
        "/p/.vscode",
        "/p",
        "/p/conf",
        "/p/any",
        "/p/.git",
        "/home",
        "/home/u/.config",
        "/home/u/.config/not",
    ] {
        assert!(!allowed(&table, place.as_bytes()), "{place}");
    }
    for place in [
        "/x/node_modules/.bin/tsc",
        "/x/.venv/bin/python3",
        "/x/.venv/lib64",
        "/x/target/debug",
        "/x/.clauderc",
        "/x/.claude/agents",
        "/p/any/a",
        "/p/conf/a",
        "/p/conf/a/b",
        "/q",
        "/home/v",
        "/home/u/.cache",
    ] {
        assert!(allowed(&table, place.as_bytes()), "{place}");
    }
}

#[test]
fn without_patterns_a_symlink_stands_anywhere() {
    assert!(allowed(&build(&[]).unwrap(), b"/a/b"));
}

/// A path on which the two states come to other rules, no rule matching before on either.
fn telling_apart(table: &Automaton, pair: (u32, u32)) -> Option<Vec<u8>> {
    let mut seen = HashSet::from([pair]);
    let mut waiting = VecDeque::from([(pair, Vec::new())]);
    while let Some(((one, other), path)) = waiting.pop_front() {
        let is_name = path.last().is_some_and(|byte| *byte != b'/');
        if is_name && hits(table, one) != hits(table, other) {
            return Some(path);
        }
        let may_end = is_name && hits(table, one).is_none();
        for byte in BYTES.iter().chain(may_end.then_some(&b'/')) {
            let pair = (next(table, one, *byte), next(table, other, *byte));
            if seen.insert(pair) {
                waiting.push_back((pair, [path.as_slice(), &[*byte]].concat()));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_symlink_stands_just_where_rules_mean_the_same_below_names_that_they_do_not_have((patterns, paths) in case()) {
        let rule = |place: usize| RuleIndex(place as u16 + 1);
        let rules: Vec<_> = (0..patterns.len())
            .map(|place| GlobRule { pattern: ours(&patterns[place]), effect: PathEffect::Deny, rule: rule(place) })
            .collect();
        let Ok(table) = build(&rules) else { return Ok(()) };
        let oracles: Vec<_> = patterns.iter().map(|pattern| Oracle::of(pattern)).collect();
        let said = |path: &[u8]| oracles.iter().position(|oracle| oracle.covers(path));
        let names = |path: &[u8]| path.split(|byte| *byte == b'/').skip(1).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let tails: Vec<_> = paths.iter().flat_map(|path| {
            let names = names(path);
            (0..names.len()).map(move |from| names[from..].join(&b'/')).collect::<Vec<_>>()
        }).filter(|tail| !tail.is_empty()).collect();
        let places = paths.iter().flat_map(|path| {
            let names = names(path);
            (1..=names.len()).map(move |end| path_of(&names[..end])).collect::<Vec<_>>()
        });
        for place in places.filter(|place| place.len() > 1 && scan(&table, place) == Hits::NONE).collect::<HashSet<_>>() {
            let folder = &place[..place.iter().rposition(|byte| *byte == b'/').unwrap()];
            let others = [join(folder, &OTHER), join(&place, &OTHER)];
            if allowed(&table, &place) {
                for tail in &tails {
                    for other in others.iter().filter(|other| said(other).is_none()) {
                        prop_assert_eq!(
                            said(&join(&place, tail)), said(&join(other, tail)),
                            "{:?} below {:?}", tail.escape_ascii().to_string(), place.escape_ascii().to_string()
                        );
                    }
                }
            } else {
                let state = below(&table, &place);
                let behind = folder.iter().chain(b"/").fold(START, |state, byte| next(&table, state, *byte));
                for (other, state_of_other) in others.iter().zip([below_other(&table, behind), below_other(&table, state)]) {
                    let Some(tail) = telling_apart(&table, (state, state_of_other)) else { continue };
                    if said(other).is_none() {
                        prop_assert_ne!(said(&join(&place, &tail)), said(&join(other, &tail)));
                    }
                }
            }
        }
    }
}
