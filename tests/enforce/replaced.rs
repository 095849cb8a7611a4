//! What a rule names by its path stays held when a process outside replaces it, as all who save by a rename do.

use std::{fs, path::Path};

use crate::{
    bed::{DENIED, DENIED_CHANGE, TestBed},
    stale::Inside,
};

const OWN: &str = "builtin/own-files";

/// Saves as git, editors and token refreshers do: a file beside, then a rename.
fn replace(bed: &TestBed, path: &Path) {
    let beside = path.with_extension("saved");
    fs::write(&beside, "CANARY-7f3a").unwrap();
    bed.give(&beside);
    fs::rename(&beside, path).unwrap();
}

/// Each way to change a file; none takes it away but the last.
const CHANGES: [&str; 5] = ["append", "truncate", "chmod", "open-truncate", "unlink"];

fn refuses_changes(inside: &mut Inside<'_>, path: &Path) {
    for change in CHANGES {
        let answer = inside.step(&[Path::new(change), path]);
        assert!(DENIED_CHANGE.contains(&answer.as_str()), "{change} {}: {answer}", path.display());
    }
    let renamed = inside.step(&[Path::new("rename"), path, &path.with_extension("old")]);
    assert!(DENIED_CHANGE.contains(&renamed.as_str()), "{}: {renamed}", path.display());
}

#[test]
fn what_is_named_is_held_after_a_process_outside_replaced_it() {
    let bed = TestBed::new("replaced");
    let names = ["token", "sealed", "plain"].map(|name| bed.file(name, "before"));
    let home = bed.file(bed.home().join("credentials"), "before");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/token\", \"{home}/credentials\"]\n\
         protect = [\"{project}/sealed\"]\n",
    );
    let [token, sealed, plain] = &names;
    let mut inside = Inside::start_with(&bed, &policy);
    for (time, read) in ["ok before", "ok CANARY-7f3a"].into_iter().enumerate() {
        for denied in [token, &home] {
            let answer = inside.step(&[Path::new("read"), denied]);
            assert!(DENIED.contains(&answer.as_str()), "{} at time {time}: {answer}", denied.display());
            let changed = inside.step(&[Path::new("append"), denied]);
            assert!(
                DENIED_CHANGE.contains(&changed.as_str()),
                "{} at time {time}: {changed}",
                denied.display()
            );
        }
        refuses_changes(&mut inside, sealed);
        for readable in [sealed, plain] {
            assert_eq!(inside.step(&[Path::new("read"), readable]), read, "{}", readable.display());
        }
        for path in names.iter().chain([&home]) {
            replace(&bed, path);
        }
    }
    // Positive control.
    assert_eq!(CHANGES.map(|change| inside.step(&[Path::new(change), plain])), ["ok"; 5]);
    let run = inside.end();
    assert!(run.log.denied("file.open", token).len() >= 4, "{run}");
    assert_eq!(fs::read_to_string(sealed).unwrap(), "CANARY-7f3a", "{run}");
}

/// What the command may write but for this one file, whatever else holds it, and though nothing else is refused.
#[track_caller]
fn own_stays(bed: &TestBed, body: &str) {
    let policy = bed.policy("test", body);
    let own = bed.file("policy.toml", fs::read(&policy).unwrap());
    let plain = bed.file("plain.toml", "before");
    let mut inside = Inside::start_with(bed, &own);
    refuses_changes(&mut inside, &own);
    replace(bed, &own);
    refuses_changes(&mut inside, &own);
    assert_eq!(inside.step(&[Path::new("read"), &own]), "ok CANARY-7f3a");
    // Positive control.
    assert_eq!(CHANGES.map(|change| inside.step(&[Path::new(change), &plain])), ["ok"; 5]);
    let run = inside.end();
    assert_eq!(fs::read_to_string(&own).unwrap(), "CANARY-7f3a", "{run}");
    let denied = run.log.all_denied("file.change");
    assert!(denied.iter().filter(|event| event.rule() == Some(OWN)).count() > CHANGES.len(), "{run}");
}

#[test]
fn a_policy_in_use_is_held_after_a_process_outside_replaced_it() {
    own_stays(&TestBed::new("replaced-own"), "[filesystem]\nwrite = [\"{project}\"]\n");
}

#[test]
fn in_audit_mode_it_is_too_though_another_rule_matches() {
    own_stays(
        &TestBed::new("replaced-audit"),
        "mode = \"audit\"\n[filesystem]\nwrite = [\"{project}\"]\nprotect = [\"**/policy.*\"]\ndeny = [\"**/*.old\"]\n",
    );
}
