use globset::GlobBuilder;
use govsandbox_ebpf::decide::{
    Decision,
    exec::{decide, scan},
};
use proptest::prelude::*;

use super::*;
use crate::{
    id::RuleIndex,
    policy::{
        parse::Spanned,
        raw::{RawExecRule, RawExecTable},
        rule::exec::{ExecPattern, Program},
    },
};

/// A rule as written: the command, and its arguments.
type Written<'a> = (&'a str, Option<&'a [&'a str]>);

fn pattern(command: &str, args: Option<&[&str]>) -> ExecPattern {
    let spanned = |text: &str| Spanned { value: text.to_owned(), span: 0..0 };
    let raw = RawExecTable {
        command: spanned(command),
        args: args.map(|args| args.iter().map(|arg| spanned(arg)).collect()),
        matches: None,
    };
    ExecPattern::check(&RawExecRule::Table(raw), false).unwrap()
}

fn rule(number: u16, effect: ExecEffect, written: Written<'_>) -> ExecRule {
    let pattern = pattern(written.0, written.1);
    let program = match pattern.program() {
        Program::Name(name) => ExecProgram::Name(name.clone()),
        Program::Path(_) if written.0.contains(['*', '?', '[', '{']) => {
            ExecProgram::Paths(vec![ExpandedPath::Glob(written.0.as_bytes().to_vec())])
        }
        Program::Path(_) => ExecProgram::Paths(vec![ExpandedPath::Literal(written.0.into())]),
    };
    let arguments = pattern.arguments().cloned();
    ExecRule { program, arguments, effect, by_content: false, rule: RuleIndex(number) }
}

/// Deny rules numbered from 1, then one allow-list for each slice.
fn table(deny: &[Written<'_>], allow: &[&[Written<'_>]]) -> Box<ExecTable> {
    let mut plan = ExecPlan { rules: Vec::new(), allow_lists: allow.len() };
    for (number, written) in (1..).zip(deny) {
        plan.rules.push(rule(number, ExecEffect::Deny, *written));
    }
    for (place, list) in allow.iter().enumerate() {
        plan.rules.extend(list.iter().map(|written| rule(900, ExecEffect::Allow(place), *written)));
    }
    build(&plan, &Found::default()).unwrap()
}

fn call(table: &ExecTable, path: &str, argv: &[&str]) -> Decision {
    let words: Vec<u8> = argv.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    decide(table, scan(&table.names, path.as_bytes()), &words)
}

/// The rule that denies `argv`, 0: none; a program lies in /usr/bin.
fn denied(table: &ExecTable, argv: &[&str]) -> u16 {
    call(table, &format!("/usr/bin/{}", argv[0]), argv).rule
}

const PUSH: Written<'_> = ("git", Some(&["push", "**"]));

#[test]
fn a_bare_name_is_the_base_name_and_no_folder() {
    let table = table(&[("docker", None), ("/opt/tools", None), ("**/bin/x*", None)], &[]);
    for (path, rule) in [
        ("/usr/bin/docker", 1),
        ("/home/u/docker", 1),
        ("/home/u/docker/build.sh", 0),
        ("/usr/bin/dockerd", 0),
        ("/opt/tools", 2),
        ("/opt/tools/a/b", 2),
        ("/opt/tools2/a", 0),
        ("/usr/bin/xz", 3),
        ("/bin/x", 3),
    ] {
        assert_eq!(call(&table, path, &["anything"]).rule, rule, "{path}");
    }
}

#[test]
fn options_before_the_subcommand_are_skipped_with_their_values() {
    let table = table(&[PUSH], &[]);
    for argv in [
        &["git", "push"][..],
        &["git", "push", "origin", "main"],
        &["git", "-C", "/srv", "push"],
        &["git", "-c", "a=b", "-c", "push=x", "push"],
        &["git", "--git-dir=/x", "--no-pager", "-p", "push", "-f"],
        &["git", "--git-dir", "status", "push"],
        &["git", "-C", "", "push", ""],
    ] {
        assert_eq!(denied(&table, argv), 1, "{argv:?}");
    }
    for argv in [
        &["git"][..],
        &["git", "status"],
        &["git", "pushy"],
        &["git", "stash", "push"],
        &["git", "-C", "push", "status"],
        &["git", "-C", "push"],
        &["git", "--git-dir", "push", "log", "push"],
        &["git", ""],
        &["gitk", "push"],
    ] {
        assert_eq!(denied(&table, argv), 0, "{argv:?}");
    }
}

#[test]
fn a_dashed_name_is_the_subcommand() {
    let table = table(&[PUSH], &[]);
    assert_eq!(call(&table, "/usr/bin/git", &["git-push", "origin"]).rule, 1);
    assert_eq!(call(&table, "/usr/lib/git-core/git-push", &["/usr/lib/git-core/git-push"]).rule, 1);
    assert_eq!(
        call(&table, "/usr/bin/git", &["/usr/lib/git-core/git-fetch", "push"]).rule,
        1,
        "as `git push`"
    );
    assert_eq!(call(&table, "/usr/bin/git", &["git-fetch", "origin"]).rule, 0);
}

#[test]
fn an_allowed_subcommand_is_not_had_by_another_name() {
    let table = table(&[], &[&[("git", Some(&["status"]))]]);
    assert!(call(&table, "/usr/bin/git", &["git", "status"]).allow);
    assert!(!call(&table, "/usr/bin/git", &["git-push", "status"]).allow);
    assert!(!call(&table, "/usr/bin/git", &["git", "push", "status"]).allow);
}

#[test]
fn a_multi_call_binary_is_what_it_is_called() {
    let table = table(&[("wget", None), ("nc", Some(&["-l", "**"]))], &[]);
    for argv in [
        &["wget", "http://x"][..],
        &["/bin/wget"],
        &["busybox", "wget"],
        &["/x/busybox", "busybox", "/bin/wget", "-q"],
        &["coreutils", "--coreutils-prog=wget"],
    ] {
        assert_eq!(call(&table, "/bin/busybox", argv).rule, 1, "{argv:?}");
    }
    assert_eq!(call(&table, "/bin/busybox", &["busybox", "nc", "-l", "80"]).rule, 2);
    assert_eq!(call(&table, "/bin/busybox", &["nc", "-l"]).rule, 2);
    assert_eq!(call(&table, "/bin/busybox", &["nc", "host", "-l"]).rule, 0);
    assert_eq!(call(&table, "/bin/busybox", &["sh", "wget"]).rule, 0);
    // Of another program `argv[0]` is what its caller likes.
    assert_eq!(call(&table, "/bin/echo", &["wget"]).rule, 0);
}

#[test]
fn every_allow_list_must_have_it_and_deny_wins() {
    let lists: [&[Written<'_>]; 2] = [&[("git", None), ("sh", None)], &[("/usr/bin", None)]];
    let table = table(&[PUSH], &lists);
    assert!(call(&table, "/usr/bin/git", &["git", "log"]).allow);
    assert_eq!(call(&table, "/usr/bin/git", &["git", "push"]), Decision::deny(1));
    assert_eq!(call(&table, "/home/u/git", &["git", "log"]), Decision::DENY_DEFAULT);
    assert_eq!(call(&table, "/usr/bin/env", &["env"]), Decision::DENY_DEFAULT);
}

#[test]
fn an_empty_allow_list_allows_nothing_and_none_everything() {
    assert!(!call(&table(&[], &[&[]]), "/bin/true", &["true"]).allow);
    assert!(call(&table(&[], &[]), "/bin/true", &["true"]).allow);
}

#[test]
fn more_rules_with_arguments_than_bits_are_refused() {
    let deny = vec![PUSH; ARG_RULES_MAX + 1];
    let rules = (1..).zip(&deny).map(|(number, written)| rule(number, ExecEffect::Deny, *written)).collect();
    let error = build(&ExecPlan { rules, allow_lists: 0 }, &Found::default()).unwrap_err();
    assert!(matches!(error, ExecTableError::TooManyArgRules { count: 65 }), "{error}");
}

fn glob_matches(pattern: &str, text: &str) -> bool {
    let glob = GlobBuilder::new(pattern).literal_separator(false).build().unwrap();
    glob.compile_matcher().is_match(text)
}

/// Arguments by recursion over `**`, each by globset.
fn words_match(patterns: &[String], words: &[String]) -> bool {
    match (patterns.split_first(), words.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((first, more)), _) if first == "**" => {
            (0..=words.len()).any(|skipped| words_match(more, &words[skipped..]))
        }
        (Some(_), None) => false,
        (Some((first, more)), Some((word, rest))) => glob_matches(first, word) && words_match(more, rest),
    }
}

/// What git itself does with the words before its subcommand.
fn after_git_options(words: &[String]) -> Vec<&[String]> {
    let mut rests = vec![words];
    let mut at = 0;
    while let Some(word) = words.get(at).filter(|word| word.starts_with('-')) {
        let has_value = ["-C", "-c", "--git-dir", "--work-tree", "--namespace"].contains(&word.as_str());
        at += if has_value { 2 } else { 1 };
        if at > words.len() {
            break;
        }
        rests.push(&words[at..]);
    }
    rests
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => "[ab/.-]{0,3}",
        2 => prop::sample::select(vec!["-C", "-c", "--git-dir", "--git-dir=a", "--git-di", "-Ca", "-", "--"])
            .prop_map(str::to_owned),
    ]
}

fn word_pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab/.-]{1,3}",
        2 => "[ab/]{0,2}\\*[ab]{0,2}",
        1 => "[ab]?\\?[ab]?",
        1 => Just("[!a]".to_owned()),
        1 => Just("{a,b/}a".to_owned()),
        2 => Just("**".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arguments_match_what_globset_matches(
        patterns in prop::collection::vec(prop::collection::vec(word_pattern(), 0..4), 1..5),
        calls in prop::collection::vec(prop::collection::vec(word(), 0..5), 1..12),
        command in prop::sample::select(vec!["git", "tool"]),
    ) {
        let borrowed: Vec<Vec<&str>> = patterns.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
        let deny: Vec<Written<'_>> = borrowed.iter().map(|words| (command, Some(&**words))).collect();
        let table = table(&deny, &[]);
        for words in &calls {
            let rests = if command == "git" { after_git_options(words) } else { vec![&words[..]] };
            let matches = |patterns: &Vec<String>| rests.iter().any(|rest| words_match(patterns, rest));
            let expected = patterns.iter().position(matches).map_or(0, |place| place as u16 + 1);
            let argv: Vec<&str> = std::iter::once(command).chain(words.iter().map(String::as_str)).collect();
            prop_assert_eq!(denied(&table, &argv), expected, "{:?} by {:?}", argv, patterns);
        }
    }

    #[test]
    fn programs_match_what_globset_matches(
        names in prop::collection::vec("[ab]{1,2}|[ab]?\\*[ab]?|[ab]\\?", 1..4),
        folders in prop::collection::vec("(/[ab]{1,2}){1,3}|/\\*\\*/[ab]{1,2}|/[ab]/\\*", 1..4),
        paths in prop::collection::vec("(/[ab]{1,3}){1,4}", 1..12),
    ) {
        let deny: Vec<Written<'_>> = names.iter().chain(&folders).map(|text| (text.as_str(), None)).collect();
        let table = table(&deny, &[]);
        for path in &paths {
            let base = path.rsplit('/').next().unwrap();
            let by_name = names.iter().position(|name| glob_matches(name, base));
            let covers = |folder: &String| {
                let glob = GlobBuilder::new(folder).literal_separator(true).build().unwrap().compile_matcher();
                std::path::Path::new(path).ancestors().any(|above| glob.is_match(above))
            };
            let by_path = folders.iter().position(covers).map(|place| place + names.len());
            let expected = by_name.or(by_path).map_or(0, |place| place as u16 + 1);
            prop_assert_eq!(call(&table, path, &[base]).rule, expected, "{} in {:?}", path, deny);
        }
    }
}
