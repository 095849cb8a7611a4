//! Hard links that are older than the run: a file is held by all its names, though a rule means but one.

use std::{fs, path::Path};

use crate::bed::{DENIED, DENIED_CHANGE, TestBed, args};

const CANARY: &str = "CANARY-links";

#[test]
fn other_names_of_what_a_pattern_or_a_folder_means_are_held() {
    let bed = TestBed::new("links-older");
    let denied = [
        ("deep/.env", "plain"),
        ("conf/.env", "../outside/env"),
        ("vault/in/key", "key"),
        ("secrets/in/token", "../outside/token"),
    ];
    let protected = [("deep/x.lock", "unlocked"), ("sealed/in/file", "../outside/file")];
    let link = |(name, other): (&str, &str)| {
        let (name, other) = (bed.file(name, CANARY), bed.project().join(other));
        fs::hard_link(&name, &other).unwrap();
        other
    };
    let (denied, protected) = (denied.map(link), protected.map(link));
    let free = link(("deep/free", "other"));
    let policy = bed.policy(
        "test",
        &format!(
            "[filesystem]\nwrite = [\"{{project}}\", {:?}]\ndeny = [\"**/.env\", \"**/secrets\", \"{{project}}/vault\"]\n\
             protect = [\"*.lock\", \"{{project}}/sealed\"]\n",
            bed.outside()
        ),
    );
    let read = |paths: &[std::path::PathBuf]| -> Vec<_> {
        paths.iter().flat_map(|path| args!["read", path]).collect()
    };
    let change =
        |path: &Path| args!["append", path, "chmod", path, "truncate", path, "rename", path, "elsewhere"];
    assert!(bed.bare_steps(read(&denied)).iter().all(|answer| answer.ends_with(CANARY)));

    let (run, answers) = bed.run_steps(&policy, read(&denied));
    assert!(answers.iter().all(|answer| DENIED.contains(&answer.as_str())), "{answers:?}: {run}");
    let (run, answers) = bed.run_steps(&policy, read(&protected));
    assert!(answers.iter().all(|answer| answer.ends_with(CANARY)), "{answers:?}: {run}");
    for path in denied.iter().chain(&protected) {
        let (run, answers) = bed.run_steps(&policy, change(path));
        let held = answers.iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str()));
        assert!(held, "{}: {answers:?}: {run}", path.display());
        assert_eq!(fs::read_to_string(path).unwrap(), CANARY, "{run}");
    }
    // Positive control.
    assert_eq!(bed.run_steps(&policy, change(&free)).1, ["ok"; 4]);
}
