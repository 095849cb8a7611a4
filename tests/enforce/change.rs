//! Changes: what `filesystem.protect` names stays as it is, and nothing outside of `filesystem.write` is written.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt, path::Path};

use crate::bed::{DENIED_CHANGE, Event, TestBed, args, log::written};

/// Each on a file of its own, so that the rule's index tells which one an event is about.
const CHANGES: [&str; 9] = [
    "write",
    "append",
    "truncate",
    "open-truncate",
    "unlink",
    "chmod",
    "rename-away",
    "rename-over",
    "link-over",
];

fn steps(folder: &Path, change: &str) -> Vec<OsString> {
    let (file, other) = (folder.join(change), folder.join(format!("{change}.other")));
    match change {
        "rename-away" => args!["rename", &file, &folder.join("gone")],
        "rename-over" => args!["rename", &other, &file],
        // link(2) never replaces a name: first away, then another file in its place.
        "link-over" => args!["unlink", &file, "link", &other, &file],
        _ => args![change, &file],
    }
}

fn build(bed: &TestBed, folder: &str) {
    for change in CHANGES {
        bed.file(format!("{folder}/{change}"), "as it was");
        bed.file(format!("{folder}/{change}.other"), "other");
    }
}

/// A rename or link names two paths, and either may be the protected one.
fn is_about(event: &Event, path: &Path) -> bool {
    let path = written(path.as_os_str().as_encoded_bytes());
    event.object("path") == path || event.object("target") == path
}

#[test]
fn a_protected_file_is_read_and_not_changed_in_any_way() {
    let bed = TestBed::new("change-protect");
    build(&bed, "free");
    build(&bed, "held");
    let rules: Vec<String> = CHANGES.iter().map(|change| format!("\"{{project}}/held/{change}\"")).collect();
    let policy = bed.policy(
        "test",
        &format!("[filesystem]\nwrite = [\"{{project}}\"]\nprotect = [{}]\n", rules.join(", ")),
    );
    let (free, held) = (bed.project().join("free"), bed.project().join("held"));
    let all = |folder: &Path| CHANGES.iter().flat_map(|change| steps(folder, change)).collect::<Vec<_>>();
    // Positive control.
    let bare = bed.bare_steps(all(&free));
    assert!(bare.iter().all(|answer| answer == "ok"), "{bare:?}");
    build(&bed, "free");
    let (run, answers) = bed.run_steps(&policy, all(&held));
    for (place, change) in CHANGES.iter().enumerate() {
        let (file, answer) = (held.join(change), &answers[place]);
        assert!(DENIED_CHANGE.contains(&answer.as_str()), "{change}: {answers:?}: {run}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "as it was", "{change}");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644, "{change}");
        let rule = format!("test/filesystem.protect/{place}");
        let events: Vec<&Event> =
            [run.log.all_denied("file.change"), run.log.all_denied("file.open")].concat();
        let own: Vec<&&Event> = events.iter().filter(|event| event.rule() == Some(&rule)).collect();
        assert_eq!(own.iter().filter(|event| is_about(event, &file)).count(), 1, "{change}: {run}");
        assert_eq!(own.len(), 1, "{change}: {run}");
    }
    // Neighbour control: the same changes beside it, and reading what is protected.
    let (run, answers) = bed.run_steps(&policy, all(&free));
    assert!(answers.iter().all(|answer| answer == "ok"), "{answers:?}: {run}");
    let (run, answers) = bed.run_steps(&policy, args!["read", &held.join("write")]);
    assert_eq!(answers, ["ok as it was"], "{run}");
}

#[test]
fn what_lies_below_a_protected_folder_is_not_changed_and_nothing_new_comes_into_it() {
    let bed = TestBed::new("change-folder");
    let hook = bed.file("hooks/deep/pre-commit", "as it was");
    let hooks = bed.project().join("hooks");
    let policy =
        bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\nprotect = [\"{project}/hooks\"]\n");
    let steps = |hooks: &Path| {
        args![
            "create",
            &hooks.join("new"),
            "mkdir",
            &hooks.join("deep/new"),
            "write",
            &hooks.join("deep/pre-commit"),
            "unlink",
            &hooks.join("deep/pre-commit"),
            "rename",
            &hooks.join("deep"),
            &hooks.join("other"),
            "rename",
            hooks,
            &bed.project().join("moved")
        ]
    };
    bed.file("free/deep/pre-commit", "as it was");
    let bare = bed.bare_steps(steps(&bed.project().join("free")));
    assert!(bare.iter().all(|answer| answer == "ok"), "{bare:?}");
    fs::remove_dir_all(bed.project().join("moved")).unwrap();
    let (run, answers) = bed.run_steps(&policy, steps(&hooks));
    assert!(answers.iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(fs::read_to_string(hook).unwrap(), "as it was");
    assert!(!hooks.join("new").exists() || fs::read(hooks.join("new")).unwrap().is_empty(), "created: {run}");
    let events = [run.log.all_denied("file.change"), run.log.all_denied("file.open")].concat();
    let own = events.iter().filter(|event| event.rule() == Some("test/filesystem.protect/0")).count();
    assert_eq!(own, answers.len(), "{run}");
}

#[test]
fn a_folder_above_a_protected_file_is_not_moved_away() {
    let bed = TestBed::new("change-ancestor");
    let config = bed.file("dot-git/sub/config", "as it was");
    let (top, moved) = (bed.project().join("dot-git"), bed.project().join("moved"));
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\nprotect = [\"{project}/dot-git/sub/config\"]\n",
    );
    assert_eq!(bed.bare_steps(args!["rename", &top, &moved, "rename", &moved, &top]), ["ok", "ok"]);
    let (run, answers) =
        bed.run_steps(&policy, args!["rename", &top, &moved, "create", &top.join("sub/beside")]);
    assert!(DENIED_CHANGE.contains(&answers[0].as_str()), "{answers:?}: {run}");
    assert_eq!(answers[1], "ok", "work beside it goes on: {run}");
    assert_eq!(fs::read_to_string(config).unwrap(), "as it was");
    let events = run.log.all_denied("file.change");
    assert_eq!(events.iter().filter(|event| is_about(event, &top)).count(), 1, "{run}");
}

#[test]
fn a_denied_file_is_not_changed_either() {
    let bed = TestBed::new("change-denied");
    let secret = bed.file("secret", "as it was");
    let steps = || args!["write", &secret, "truncate", &secret, "unlink", &secret];
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/secret"]), steps());
    assert!(answers.iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "as it was");
    let events = [run.log.denied("file.change", &secret), run.log.denied("file.open", &secret)].concat();
    assert_eq!(events.len(), answers.len(), "{run}");
    assert!(events.iter().all(|event| event.rule() == Some("test/filesystem.deny/0")), "{run}");
    assert_eq!(bed.bare_steps(steps()), ["ok", "ok", "ok"]);
}

#[test]
fn nothing_is_written_outside_of_the_allow_list() {
    let bed = TestBed::new("change-outside");
    let steps = |name: &str| {
        let folder = bed.outside().join(name);
        args![
            "write",
            &folder.join("old"),
            "create",
            &folder.join("new"),
            "mkdir",
            &folder.join("folder"),
            "unlink",
            &folder.join("old"),
            "rename",
            &folder.join("other"),
            &folder.join("renamed")
        ]
    };
    for name in ["bare", "held"] {
        bed.file(bed.outside().join(name).join("old"), "as it was");
        bed.file(bed.outside().join(name).join("other"), "as it was");
    }
    assert_eq!(bed.bare_steps(steps("bare")), ["ok"; 5]);
    let inside = bed.project().join("inside");
    let (run, answers) = bed.run_steps(&bed.deny(&[]), [steps("held"), args!["create", &inside]].concat());
    assert!(answers[..5].iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(answers[5], "ok", "{run}");
    let events = [run.log.all_denied("file.change"), run.log.all_denied("file.open")].concat();
    assert_eq!(events.len(), 5, "{run}");
    assert!(events.iter().all(|event| event.rule() == Some("default/filesystem.write")), "{run}");
    assert_eq!(fs::read_to_string(bed.outside().join("held/old")).unwrap(), "as it was");
}

#[test]
fn audit_mode_refuses_nothing_and_tells_what_it_would_have() {
    let bed = TestBed::new("change-audit");
    let (secret, kept) = (bed.file("secret", "CANARY"), bed.file("kept", "as it was"));
    let policy = bed.policy(
        "test",
        "mode = \"audit\"\n[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/secret\"]\nprotect = [\"{project}/kept\"]\n",
    );
    let (run, answers) = bed.run_steps(&policy, args!["read", &secret, "write", &kept]);
    assert_eq!(answers, ["ok CANARY", "ok"], "{run}");
    for (path, rule) in [(&secret, "test/filesystem.deny/0"), (&kept, "test/filesystem.protect/0")] {
        let events = run.log.about("file.open", path);
        let would: Vec<_> = events.iter().filter(|event| event.text("outcome") == "would_deny").collect();
        assert_eq!(would.len(), 1, "{run}");
        assert_eq!((would[0].rule(), would[0].text("errno")), (Some(rule), ""), "{run}");
    }
}
