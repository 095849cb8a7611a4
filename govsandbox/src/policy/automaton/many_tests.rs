//! Ten thousand patterns of each kind, in one table.

use govsandbox_ebpf::{
    abi::rule::{AUTOMATON_LENGTHS, AUTOMATON_WORDS, Automaton, Hits},
    decide::automaton::{below, scan},
};

use super::build;
use crate::{
    id::RuleIndex,
    policy::compile::{GlobRule, PathEffect},
};

const MANY: u16 = 10_000;

/// Rules numbered from `first`, one for each number below [`MANY`]; each third one protects.
fn rules(first: u16, pattern: impl Fn(u16) -> String) -> Vec<GlobRule> {
    let rule = |number: u16| GlobRule {
        pattern: pattern(number).into_bytes(),
        effect: if number.is_multiple_of(3) { PathEffect::Protect } else { PathEffect::Deny },
        rule: RuleIndex(first + number),
    };
    (0..MANY).map(rule).collect()
}

/// What the rule of this number says.
fn said(first: u16, number: u16) -> Hits {
    let rule = first + number;
    if number.is_multiple_of(3) { Hits { deny: 0, protect: rule } } else { Hits { deny: rule, protect: 0 } }
}

/// Asks for every rule, by paths that it covers and by others that nearly are.
fn check(table: &Automaton, first: u16, covered: impl Fn(u16) -> String, missed: impl Fn(u16) -> String) {
    for number in 0..MANY {
        let (covered, missed) = (covered(number), missed(number));
        assert_eq!(scan(table, covered.as_bytes()), said(first, number), "{covered}");
        assert_eq!(scan(table, format!("{covered}/below/it").as_bytes()), said(first, number), "{covered}");
        assert_eq!(scan(table, missed.as_bytes()), Hits::NONE, "{missed}");
    }
    let used = table.words[AUTOMATON_LENGTHS + 1] as usize;
    assert!(used < AUTOMATON_WORDS / 2, "{used} words: no room for other rules beside these");
}

#[test]
fn ten_thousand_names_at_any_depth() {
    let table = build(&rules(1, |number| format!("/**/secret{number:04}.key"))).unwrap();
    let covered = |number| format!("/secret/x/secret{number:04}.key");
    check(&table, 1, covered, |number| format!("/secret{number:04}/secret{number:04}.ke"));
}

#[test]
fn ten_thousand_patterns_over_two_components() {
    let table = build(&rules(1, |number| format!("/**/cfg-{number:04}*/x?.pem"))).unwrap();
    let covered = |number| format!("/cfg-/cfg-{number:04}-cfg/xx.pem");
    check(&table, 1, covered, |number| format!("/cfg-{number:04}/x.pem/cfg-{number:04}/y/xx.pem"));
}

#[test]
fn ten_thousand_folders_with_alternatives_and_classes() {
    let pattern = |number| format!("/home/user/project/dir{number:04}/**/[a-f]?.{{key,p12}}");
    let table = build(&rules(1, pattern)).unwrap();
    let covered = |number| format!("/home/user/project/dir{number:04}/x/k.key/f_.p12");
    check(&table, 1, covered, |number| format!("/home/user/project/dir{number:04}/gx.key/a.key"));
}

#[test]
fn ten_thousand_endings() {
    let table = build(&rules(1, |number| format!("/**/*.x{number:04}"))).unwrap();
    let covered = |number| format!("/a/.x{}.x{number:04}", number / 10);
    check(&table, 1, covered, |number| format!("/a.x{number:04}x/b.x{number:04}.x{}", number / 10));
}

#[test]
fn all_kinds_at_once() {
    let mut all = rules(1, |number| format!("/**/secret{number:04}.key"));
    all.extend(rules(1 + MANY, |number| format!("/**/cfg-{number:04}*/x?.pem")));
    all.extend(rules(1 + 2 * MANY, |number| format!("/home/user/dir{number:04}/{{a,b}}[0-9]/**")));
    let table = build(&all).unwrap();
    for number in 0..MANY {
        let at =
            |first, path: String| assert_eq!(scan(&table, path.as_bytes()), said(first, number), "{path}");
        at(1, format!("/cfg-{number:04}/secret{number:04}.key"));
        at(1 + MANY, format!("/home/user/cfg-{number:04}/xs.pem"));
        at(1 + 2 * MANY, format!("/home/user/dir{number:04}/a7"));
        at(1 + 2 * MANY, format!("/home/user/dir{number:04}/b0/secret{number:04}"));
    }
    assert_eq!(scan(&table, b"/home/user/dir0000/c7/x.pem"), Hits::NONE);
    assert_ne!(below(&table, b"/home/user/dir0001"), below(&table, b"/home/user/dir0002"));
    assert_eq!(below(&table, b"/home/user/dir"), below(&table, b"/home/user/secret/dir0001"));
}

#[test]
fn names_beside_patterns_that_multiply_with_them_are_refused_with_their_number() {
    let mut all = rules(1, |number| format!("/**/secret{number:04}.key"));
    let wild = rules(1 + MANY, |number| format!("/srv/{number:04}/**/*.pem"));
    all.truncate(1_000);
    all.extend(wild.into_iter().take(100));
    let error = build(&all).unwrap_err().to_string();
    assert!(error.starts_with("the 1100 patterns of this policy are too many or too wild"), "{error}");
    assert!(error.contains("` needs most by itself, "), "{error}");
}
