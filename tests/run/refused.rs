//! Bad input: each is told in words, with what to do, and nothing is started.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::bed::{Run, Start, TestBed, args, backend, binary, sh};

/// Holds that it did not start, and that the message has these words.
#[track_caller]
fn refused(bed: &TestBed, start: Start<'_>, words: &[&str]) -> Run {
    let run = start.finish();
    assert_eq!(run.status.code(), Some(125), "{run}");
    for word in words {
        assert!(run.err().contains(word), "`{word}` is not said: {run}");
    }
    assert!(!bed.project().join("started").exists(), "it started: {run}");
    assert_eq!(run.out(), "", "{run}");
    run
}

fn touch() -> Vec<std::ffi::OsString> {
    sh("touch started; cat secret")
}

#[test]
fn policies_that_cannot_be_read_or_understood() {
    let bed = TestBed::new("refused-policy");
    bed.file("secret", "CANARY");
    let cases: &[(&str, &str, &[&str])] = &[
        ("no-version", "name = \"x\"\n", &["version"]),
        ("future", "version = 99\n", &["version", "99"]),
        ("unknown-key", "version = 1\n[filesystem]\ndenny = []\n", &["denny", "deny", "3"]),
        ("unknown-section", "version = 1\n[filesytem]\ndeny = []\n", &["filesytem", "filesystem"]),
        ("no-toml", "version = 1\n[filesystem\n", &["2"]),
        ("wrong-type", "version = 1\n[filesystem]\ndeny = 7\n", &["deny"]),
        ("relative", "version = 1\n[filesystem]\ndeny = [\"a/b\"]\n", &["a/b", "{project}/a/b"]),
        ("dotdot", "version = 1\n[filesystem]\ndeny = [\"/a/../b\"]\n", &["/a/../b"]),
        ("variable", "version = 1\n[filesystem]\ndeny = [\"{nowhere}/x\"]\n", &["nowhere"]),
        ("tilde", "version = 1\n[filesystem]\ndeny = [\"~someone/x\"]\n", &["~someone"]),
        ("host", "version = 1\n[network]\nallow = [\"a*b.example\"]\n", &["a*b.example"]),
        ("cidr", "version = 1\n[network]\nallow = [\"10.0.0.0/33\"]\n", &["10.0.0.0/33"]),
        ("port", "version = 1\n[network]\nallow = [\"10.0.0.1:70000\"]\n", &["70000"]),
        ("mode", "version = 1\nmode = \"off\"\n", &["off"]),
        ("not-yet", "version = 1\n[audit]\nsinks = [\"https://siem.example/\"]\n", &["sinks"]),
        ("not-yet-listen", "version = 1\n[network]\nlisten = []\n", &["listen"]),
        ("parent", "version = 1\nextends = [\"no-such-profile\"]\n", &["no-such-profile"]),
    ];
    for (name, text, words) in cases {
        let policy = bed.raw_policy(name, text);
        println!("{name}");
        let run = refused(&bed, bed.start(&[&policy], touch()), words);
        assert!(run.err().contains(&format!("{name}.toml")), "the file is not named: {run}");
    }
}

#[test]
fn policies_that_are_not_there_or_no_files() {
    let bed = TestBed::new("refused-absent");
    let absent = bed.root().join("policies/absent.toml");
    refused(&bed, bed.start(&[&absent], touch()), &["absent.toml"]);
    refused(&bed, bed.start(&[Path::new("no-such-profile")], touch()), &["no-such-profile"]);
    refused(&bed, bed.start(&[&bed.project()], touch()), &["project"]);
    let huge = bed.raw_policy("huge", &format!("version = 1\n# {}\n", "x".repeat(64 << 20)));
    refused(&bed, bed.start(&[&huge], touch()), &["huge.toml"]);
    let binary = bed.root().join("policies/binary.toml");
    fs::write(&binary, b"version = 1\n\xff\xfe\n").unwrap();
    refused(&bed, bed.start(&[&binary], touch()), &["binary.toml"]);
}

#[test]
fn a_backend_weaker_than_the_policy_demands() {
    let bed = TestBed::new("refused-require");
    bed.file("secret", "CANARY");
    let policy = bed.policy("test", "require = \"kernel\"\n");
    if backend() == "lsm" || backend() == "fmod_ret" {
        let run = bed.run(&policy, sh("cat secret"));
        assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "CANARY"), "{run}");
    } else {
        refused(&bed, bed.start(&[&policy], touch()), &["kernel", backend(), "help:"]);
    }
}

#[test]
fn a_user_without_root() {
    let bed = TestBed::new("refused-user");
    let own = bed.root().join("govsandbox");
    bed.program(binary(), &own);
    let policy = bed.deny(&[]);
    let output = bed.bare(args![
        &own,
        "run",
        "-p",
        &policy,
        "--audit-log",
        &bed.home().join("log"),
        "--",
        "touch",
        "started"
    ]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{told}");
    assert!(told.contains("root") && told.contains("sudo") && told.contains("help:"), "{told}");
    assert!(!bed.project().join("started").exists());
}

#[test]
fn a_log_that_the_sandbox_could_write() {
    let bed = TestBed::new("refused-log");
    let policy = bed.deny(&[]);
    for log in [bed.project().join("audit.jsonl"), bed.folder("sub").join("audit.jsonl")] {
        let run = refused(&bed, bed.start_with_log(&[&policy], log.clone(), touch()), &["audit", "help:"]);
        assert!(!log.exists() || fs::read(&log).unwrap().is_empty(), "{run}");
    }
    // By way of a symlink that looks innocent.
    let link = bed.root().join("log/link.jsonl");
    std::os::unix::fs::symlink(bed.project().join("target.jsonl"), &link).unwrap();
    refused(&bed, bed.start_with_log(&[&policy], link, touch()), &["audit"]);
    // No folder, or a folder in its place.
    refused(
        &bed,
        bed.start_with_log(&[&policy], "/proc/no/such/audit.jsonl".into(), touch()),
        &["/proc/no/such"],
    );
    refused(&bed, bed.start_with_log(&[&policy], bed.root().join("log"), touch()), &["log"]);
}

#[test]
fn the_log_is_roots_and_out_of_the_commands_reach() {
    let bed = TestBed::new("refused-touch-log");
    let policy = bed.policy("test", "[filesystem]\nwrite = [\"/\"]\n");
    let log = bed.root().join("log/own.jsonl");
    let script = format!("echo forged >> {0}; rm {0}; mv {0} {0}.old; : > {0}; exit 0", log.display());
    fs::set_permissions(bed.root().join("log"), PermissionsExt::from_mode(0o755)).unwrap();
    let start = bed.start_with_log(&[&policy], log.clone(), sh(script));
    let run = start.finish();
    // Either the whole run is refused, or nothing that it tried changed the log (which `Log::read` has checked).
    if run.status.code() == Some(0) {
        assert_eq!(run.log.events.last().unwrap().kind(), "session.end", "{run}");
        assert!(!fs::read_to_string(&log).unwrap().contains("forged\n"), "{run}");
    } else {
        assert_eq!(run.status.code(), Some(125), "{run}");
    }
}

#[test]
fn command_lines_that_make_no_sense() {
    let bed = TestBed::new("refused-usage");
    for words in [
        &["run"][..],
        &["run", "--no-such-option", "true"],
        &["run", "--mode", "sometimes", "true"],
        &["run", "--tag", "no-equals-sign", "true"],
        &["run", "--user", "no-such-user-here", "true"],
        &["run", "--project", "/no/such/folder", "true"],
        &["run", "--"],
    ] {
        let output =
            std::process::Command::new(binary()).args(words).current_dir(bed.project()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{words:?}: {told}");
        assert!(!told.is_empty() && output.stdout.is_empty(), "{words:?}: {output:?}");
    }
}

#[test]
fn a_deny_path_that_does_not_exist_is_no_error() {
    let bed = TestBed::new("refused-nodeny");
    let run = bed.run(&bed.deny(&["/no/such/place/at/all", "{project}/nothing", "~/.ssh"]), sh("echo works"));
    assert_eq!(
        (run.status.code(), run.out().as_str(), run.err().as_str()),
        (Some(0), "works\n", ""),
        "{run}"
    );
}
