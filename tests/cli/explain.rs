//! `policy explain`: one verdict, and the rule behind it.

use std::{fs, os::unix::fs::symlink};

use insta::assert_snapshot;

use crate::bed::Bed;

const POLICY: &str = "version = 1
name = 'mine'
[filesystem]
write = ['{project}']
deny = [
  '**/.env',
  '{project}/vault',
]
protect = ['{project}/.git/hooks']
";

/// All answers about these paths, one below the other.
fn answers(bed: &Bed, questions: &[(&str, &str)]) -> String {
    let mut all = String::new();
    for (operation, path) in questions {
        let ran = bed.run(&["policy", "explain", "-p", "./mine.toml", "--op", operation, path]);
        assert_eq!(ran.err, "", "{ran:?}");
        let status = if ran.out.starts_with("denied") { 1 } else { 0 };
        assert_eq!(ran.status, Some(status), "{ran:?}");
        all.push_str(&ran.out);
        all.push('\n');
    }
    all
}

#[test]
fn a_verdict_names_its_rule_and_the_line_it_stands_in() {
    let bed = Bed::new();
    bed.write("mine.toml", POLICY);
    assert_snapshot!(answers(
        &bed,
        &[
            ("read", "src/main.rs"),
            ("read", "sub/.env"),
            ("write", "src/main.rs"),
            ("write", ".git/hooks/pre-commit"),
            ("read", ".git/hooks/pre-commit"),
            ("write", "/etc/passwd"),
            ("write", "/dev/null"),
            ("write", "mine.toml"),
        ]
    ));
}

#[test]
fn other_names_of_an_object_lead_to_the_same_rule() {
    let bed = Bed::new();
    bed.write("mine.toml", POLICY);
    let secret = bed.write("vault/deep/key", "x");
    fs::hard_link(&secret, bed.project().join("alias")).unwrap();
    symlink("vault/deep", bed.project().join("to-folder")).unwrap();
    symlink("loop", bed.project().join("loop")).unwrap();
    assert_snapshot!(answers(
        &bed,
        &[
            ("read", "to-folder/key"),
            ("read", "to-folder/../other"),
            ("remove", "to-folder"),
            ("read", "loop/x"),
            ("remove", ".git"),
            ("remove", "src"),
        ]
    ));
    // A file below a denied folder is not held by itself: its other name is.
    let linked = "version = 1\nname = 'linked'\n[filesystem]\ndeny = ['{project}/vault/deep/key']\n";
    bed.write("mine.toml", linked);
    assert_snapshot!(answers(&bed, &[("read", "alias")]));
}

#[test]
fn json_has_the_same() {
    let bed = Bed::new();
    bed.write("mine.toml", format!("mode = 'audit'\n{POLICY}"));
    let ran = bed.run(&["policy", "explain", "-p", "./mine.toml", "--format", "json", "a/.env"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert_snapshot!(ran.out);
}

#[test]
fn what_can_not_be_decided_is_no_verdict() {
    let bed = Bed::new();
    bed.write("wrong.toml", "version = 3\n");
    let ran = bed.run(&["policy", "explain", "-p", "./wrong.toml", "x"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(125), ""), "{ran:?}");
    bed.write("mine.toml", POLICY);
    let ran = bed.run(&["policy", "explain", "-p", "./mine.toml", "no/such/../x"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(125), ""), "{ran:?}");
    assert!(ran.err.contains("leads up from a folder that does not exist"), "{}", ran.err);
    let ran = bed.run(&["policy", "explain", "--op", "fly", "x"]);
    assert_eq!(ran.status, Some(2), "{ran:?}");
}
