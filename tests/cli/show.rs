//! `policy show`: what holds in the end.

use insta::assert_snapshot;

use crate::bed::Bed;

/// The lists; what stands above them differs between users. Columns are as wide as the longest path, which differs too.
fn lists(out: &str) -> String {
    let start = out.find("filesystem.deny").unwrap();
    let lines = out.get(start..).unwrap().lines().map(|line| {
        let cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        format!("{}{}\n", if line.starts_with(' ') { "  " } else { "" }, cells.join(" | "))
    });
    lines.collect()
}

#[test]
fn each_rule_is_shown_with_where_it_was_written() {
    let bed = Bed::new();
    bed.write("site.toml", "version = 1\nname = 'site'\n[filesystem]\ndeny = ['~/.ssh', '**/.env']\n");
    let policy = "version = 1\nextends = ['./site.toml']\n[filesystem]\nwrite = ['{project}', '/srv']\n[network]\nallow = ['a.example', 'localhost:8080']\n";
    bed.write("mine.toml", policy);
    bed.write(
        ".govsandbox.toml",
        "version = 1\n[filesystem]\nwrite = ['{project}/src']\n[network]\nallow = []\n",
    );
    let ran = bed.run(&["policy", "show", "-p", "./mine.toml"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_snapshot!(lists(&ran.out));
}

#[test]
fn the_command_picks_the_profile() {
    let bed = Bed::new();
    for (command, profile) in [("/opt/bin/claude", "claude"), ("some-agent", "default")] {
        let ran = bed.run(&["policy", "show", command]);
        assert!(ran.out.starts_with(&format!("policy  {profile}\ndigest  sha256:")), "{}", ran.out);
    }
}

#[test]
fn json_has_the_same_and_parses() {
    let bed = Bed::new();
    let ran = bed.run(&["policy", "show", "-p", "ci", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(shown.get("name").unwrap(), "ci");
    let lists = shown.get("lists").unwrap().as_array().unwrap();
    let first = lists.first().unwrap();
    assert_eq!(first.pointer("/rules/0/id").unwrap(), "base/filesystem.deny/0");
    assert_eq!(first.pointer("/rules/0/from/layer").unwrap(), "builtin");
}

#[test]
fn an_invalid_policy_is_no_and_shows_nothing() {
    let bed = Bed::new();
    bed.write("wrong.toml", "version = 3\n");
    let ran = bed.run(&["policy", "show", "-p", "./wrong.toml"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
}

#[test]
fn the_home_is_no_project_unless_named() {
    let bed = Bed::new();
    let ran = bed.run_in(&bed.home(), &["policy", "show", "-p", "default"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.err.contains("more than a project") && ran.err.contains("--project DIR"), "{}", ran.err);
    let ran = bed.run_in(&bed.home(), &["policy", "show", "-p", "default", "--project", "."]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
}
