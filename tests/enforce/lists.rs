//! Allow-lists of several policies: an access needs each of them.

use crate::bed::{DENIED, TestBed, args, toml_string};

/// The project's policy had a read list and no write list, and its read list held nothing back: what may be written may
/// be read, and without a list everything may be written.
#[test]
fn a_read_list_without_a_write_list_narrows_reading_and_leaves_writing() {
    let bed = TestBed::new("lists-read");
    let (inside, outside) = (bed.file("inside", "inside"), bed.file(bed.outside().join("secret"), "CANARY"));
    let new = bed.project().join("new");
    let steps = || args!["read", &inside, "read", &outside, "create", &new, "write", &outside];
    assert_eq!(bed.bare_steps(steps()), ["ok inside", "ok CANARY", "ok", "ok"]);
    std::fs::remove_file(&new).unwrap();
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\", \"{home}\", \"{project}/../outside\"]\n"
            .replace("{project}/../outside", bed.outside().to_str().unwrap())
            .as_str(),
    );
    // Positive control: without the project's policy the sandbox reads it.
    let (run, answers) = bed.run_steps(&policy, args!["read", &outside]);
    assert_eq!(answers, ["ok written"], "{run}");
    let worker = bed.root().join("worker");
    let readable = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "{project}", worker.to_str().unwrap()];
    let readable: Vec<String> = readable.iter().map(|path| toml_string(path)).collect();
    bed.file(".govsandbox.toml", format!("version = 1\n[filesystem]\nread = [{}]\n", readable.join(", ")));
    let (run, answers) = bed.run_steps(&policy, steps());
    assert_eq!(
        (answers[0].as_str(), answers[2].as_str(), answers[3].as_str()),
        ("ok inside", "ok", "ok"),
        "{run}"
    );
    assert!(DENIED.contains(&answers[1].as_str()), "{answers:?}: {run}");
    run.assert_denied_once("file.open", &outside, "default/filesystem.read");
}
