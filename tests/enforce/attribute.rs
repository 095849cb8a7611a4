//! Attributes, and folders above: what changes a file or its name without touching either by path.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::bed::{DENIED_CHANGE, TestBed, args, backend};

const VERBS: [&str; 5] = ["fchmod", "set-times", "set-flags", "set-acl", "chmod"];

#[test]
fn attributes_of_a_protected_file_stay_whatever_descriptor_they_are_set_by() {
    let bed = TestBed::new("attribute");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\nprotect = [\"{project}/held\", \"{project}/**/*.lock\"]\n",
    );
    let steps = |file: &Path| VERBS.iter().flat_map(|verb| args![verb, file]).collect::<Vec<_>>();
    let free = bed.file("free", "as it was");
    let bare = bed.bare_steps(steps(&free));
    assert_eq!(bare, ["ok"; VERBS.len()], "positive control: the file system has to know all of them");
    for name in ["held", "sub/glob.lock"] {
        let file = bed.file(name, "as it was");
        let before = fs::metadata(&file).unwrap();
        let (run, answers) = bed.run_steps(&policy, steps(&file));
        for (verb, answer) in VERBS.iter().zip(&answers) {
            assert!(DENIED_CHANGE.contains(&answer.as_str()), "{name} {verb}: {answers:?}: {run}");
        }
        let after = fs::metadata(&file).unwrap();
        assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()), "{run}");
        // Reading it goes on, which open files and ioctls that only ask are part of.
        let (run, answers) = bed.run_steps(&policy, args!["read", &file]);
        assert_eq!(answers, ["ok as it was"], "{run}");
    }
    let other = bed.file("other", "as it was");
    let (run, answers) = bed.run_steps(&policy, steps(&other));
    assert_eq!(answers, ["ok"; VERBS.len()], "neighbour control: {run}");
}

#[test]
fn a_refusal_of_a_call_that_names_no_path_hides_no_other() {
    let bed = TestBed::new("attribute-next");
    let policy =
        bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\nprotect = [\"{project}/held\"]\n");
    let outside = bed.file(bed.outside().join("file"), "as it was");
    let held = bed.file("held", "as it was");
    let steps = || args!["fchmod", &held, "write", &outside];
    assert_eq!(bed.bare_steps(steps()), ["ok"; 2]);
    let (run, answers) = bed.run_steps(&policy, steps());
    assert!(answers.iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(run.log.denied("file.open", &outside).len(), 1, "{run}");
}

#[test]
fn a_folder_is_not_renamed_from_under_a_rule_by_name() {
    let bed = TestBed::new("attribute-folder");
    let settings = bed.file("app/.tool/settings.json", "as it was");
    bed.file("app/secret-of/token", "CANARY");
    bed.file("app/plain/token", "plain");
    bed.file("app/other/settings.json", "evil");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"**/secret-of/token\"]\nprotect = [\"**/.tool/settings*.json\"]\n",
    );
    let app = bed.project().join("app");
    let from_under = || {
        args![
            "rename",
            &app.join(".tool"),
            &app.join("moved"),
            "rename",
            &app.join("secret-of"),
            &app.join("public"),
            "read",
            &app.join("public/token")
        ]
    };
    let (run, answers) = bed.run_steps(&policy, from_under());
    assert!(answers[..2].iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(answers[2], "ENOENT", "{run}");
    assert_eq!(run.log.all_denied("file.change").len(), 2, "{run}");
    assert_eq!(fs::read_to_string(&settings).unwrap(), "as it was");
    // Neighbour control: names that no rule means.
    let (run, answers) =
        bed.run_steps(&policy, args!["rename", &app.join("plain"), &bed.project().join("elsewhere")]);
    assert_eq!(answers, ["ok"], "{run}");
    // A folder that takes the place of one that a rule means brings its files under the rule: they would be the agent's.
    fs::rename(&settings, app.join("gone")).unwrap();
    fs::remove_dir(app.join(".tool")).unwrap();
    let (run, answers) = bed.run_steps(&policy, args!["rename", &app.join("other"), &app.join(".tool")]);
    assert!(DENIED_CHANGE.contains(&answers[0].as_str()), "{answers:?}: {run}");
    let denied = run.log.all_denied("file.change");
    assert_eq!(denied.len(), 1, "{run}");
    let rule = if backend() == "lsm" { "builtin/renamed-folder" } else { "test/filesystem.protect/0" };
    assert_eq!(denied[0].rule(), Some(rule), "{run}");
    // Positive control.
    let bare = bed.bare_steps(args![
        "rename",
        &app.join("other"),
        &app.join("back"),
        "rename",
        &app.join("secret-of"),
        &app.join("public")
    ]);
    assert_eq!(bare, ["ok", "ok"]);
}
