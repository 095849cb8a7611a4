//! Policies that are right in every word and can't be meant: `policy check` says so, with the rule.

use std::{fs, os::unix::fs::symlink};

use insta::assert_snapshot;

use crate::bed::Bed;

/// What `policy check` says of a policy, paths of this machine's loader and libraries left away.
fn said(bed: &Bed, status: i32, rules: &str) -> String {
    bed.write("mine.toml", format!("version = 1\nname = 'mine'\n[filesystem]\n{rules}\n"));
    let ran = bed.run(&["policy", "check", "mine.toml"]);
    assert_eq!(ran.status, Some(status), "{ran:?}");
    ran.err
}

#[test]
fn a_policy_that_locks_its_command_out_is_an_error_that_names_the_rule() {
    let bed = Bed::new();
    for rules in
        ["deny = ['/']", "deny = ['**/*.so*']", "deny = ['/usr', '/lib', '/lib64']", "read = ['{project}']"]
    {
        let text = said(&bed, 1, rules);
        assert!(text.contains("locks the command out") && text.contains("mine.toml:4:"), "{rules}: {text}");
        assert!(text.contains("the loader (/lib"), "{rules}: {text}");
    }
    // Nothing is refused in audit mode.
    bed.write("mine.toml", "version = 1\nmode = 'audit'\n[filesystem]\ndeny = ['/']\n");
    assert_eq!(bed.run(&["policy", "check", "mine.toml"]).status, Some(0));
}

#[test]
fn what_most_programs_need_is_a_warning() {
    let bed = Bed::new();
    assert_snapshot!(said(&bed, 0, "deny = ['/etc/passwd', '/bin/sh']"));
    assert!(said(&bed, 0, "deny = ['~']").contains("the home (HOME), the project (HOME/app)"));
    assert_eq!(said(&bed, 0, "deny = ['~/.ssh', '**/.env']\nprotect = ['/']"), "");
}

#[test]
fn rules_that_say_nothing_new_or_lead_nowhere_are_warnings() {
    let bed = Bed::new();
    symlink("loop", bed.project().join("loop")).unwrap();
    assert_snapshot!(said(
        &bed,
        0,
        "deny = ['{project}/loop', '~/secret', '{home}/secret/**']\nprotect = ['~/secret', '**/x', 'x']"
    ));
}

#[test]
fn what_exceeds_the_kernels_bounds_is_refused_with_the_numbers() {
    let bed = Bed::new();
    let (deep, long, endless) = ("/d".repeat(65), "n".repeat(256), "p/".repeat(2100));
    for (pattern, told) in [
        (deep, "a pattern of 65 components is deeper than the kernel's programs look; they go up 64"),
        (format!("/{long}"), "a name of 256 bytes matches no file; the longest has 255"),
        (format!("/{endless}"), "a pattern of 4201 bytes matches no path; the longest has 4096"),
        (format!("**/*a{}", "?".repeat(20)), "`/**/*a????????????????????` needs most by itself"),
    ] {
        let text = said(&bed, 1, &format!("deny = ['**/.env', '{pattern}']"));
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn a_file_with_the_name_of_a_shipped_policy_is_told_to_be_unused() {
    let bed = Bed::new();
    let folder = bed.home().join(".config/govsandbox/policies");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("base.toml"), "version = 1\n").unwrap();
    let ran = bed.run(&["policy", "check", "base"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_snapshot!(ran.err);
}

#[test]
fn ten_thousand_rules_are_checked_in_seconds() {
    let bed = Bed::new();
    let list = |prefix: &str| {
        let rules: Vec<_> = (0..5000).map(|number| format!("'{{project}}/{prefix}/{number}'")).collect();
        rules.join(", ")
    };
    let start = std::time::Instant::now();
    let rules = format!("write = ['{{project}}']\ndeny = [{}]\nprotect = [{}]", list("a"), list("b"));
    assert_eq!(said(&bed, 0, &rules), "");
    // A debug build on a busy machine; compared each with each they took minutes.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn the_schema_is_the_committed_one() {
    let bed = Bed::new();
    let ran = bed.run(&["policy", "schema"]);
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/schema.json");
    let known = fs::read_to_string(committed).unwrap_or_default();
    assert_eq!(
        (ran.status, ran.out == known),
        (Some(0), true),
        "run: govsandbox policy schema > policies/schema.json"
    );
}

#[test]
fn what_is_not_reached_from_a_network_of_its_own_is_a_warning() {
    let bed = Bed::new();
    let network =
        "namespace = 'own'\nallow = ['localhost', 'a.example', { host = '192.0.2.1', protocol = 'udp' }]";
    assert_snapshot!(said(&bed, 0, &format!("[network]\n{network}")));
    assert_eq!(said(&bed, 0, &format!("[network]\n{}", network.replace("own", "host"))), "");
}
