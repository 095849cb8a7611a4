//! Opens for reading: what `filesystem.deny` names stays unread by every way that leads there.

use std::{ffi::OsString, fs, path::Path};

use crate::bed::{DENIED, TestBed, args, backend, procs, sh};

const CANARY: &str = "CANARY-7f3a";
const RULE: &str = "test/filesystem.deny/0";

/// One way to a denied file: bare it brings the canary, in the sandbox a refusal and one event.
#[track_caller]
fn holds(bed: &TestBed, policy: &Path, steps: Vec<OsString>, told_path: &Path) {
    let public = bed.file("public", "public");
    let with_neighbour = || [steps.clone(), args!["read", &public]].concat();
    // Positive control: without the sandbox the same steps read the canary.
    assert_eq!(bed.bare_steps(with_neighbour()), [format!("ok {CANARY}"), "ok public".to_owned()]);
    let (run, answers) = bed.run_steps(policy, with_neighbour());
    assert!(DENIED.contains(&answers[0].as_str()), "{answers:?}: {run}");
    // Neighbour control: the rule is the cause, not the sandbox.
    assert_eq!(answers[1], "ok public", "{run}");
    run.assert_denied_once("file.open", told_path, RULE);
}

#[test]
fn a_denied_file_is_not_read() {
    let bed = TestBed::new("open-file");
    let secret = bed.file("secret", CANARY);
    let policy = bed.deny(&["{project}/secret"]);
    holds(&bed, &policy, args!["read", &secret], &secret);
}

#[test]
fn a_shell_sees_the_errno_and_the_run_tells_of_it() {
    let bed = TestBed::new("open-shell");
    let secret = bed.file("secret", CANARY);
    bed.file("public", "public");
    let script = || sh("cat secret; echo $?; cat public");
    assert_eq!(bed.bare(script()).stdout, format!("{CANARY}0\npublic").as_bytes());
    let run = bed.run(&bed.deny(&["{project}/secret"]), script());
    assert_eq!(run.out(), "1\npublic", "{run}");
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert!(
        ["Permission denied", "Operation not permitted"].iter().any(|text| run.err().contains(text)),
        "{run}"
    );
    run.assert_denied_once("file.open", &secret, RULE);
    let event = run.log.denied("file.open", &secret)[0];
    assert_eq!((event.text("action"), event.process("exe")), ("read", "/usr/bin/cat"), "{run}");
    assert_eq!(event.argv(), ["cat", "secret"], "{run}");
    assert_eq!(event.0["rule"]["layer"], "session", "{run}");
    let own_lines: Vec<&str> =
        run.stderr.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok()).collect();
    assert_eq!(
        own_lines.iter().filter(|line| line.starts_with("govsandbox:")).count(),
        1,
        "the summary: {run}"
    );
}

#[test]
fn everything_below_a_denied_folder_is_denied() {
    let bed = TestBed::new("open-folder");
    let secret = bed.file("vault/a/b/c/secret", CANARY);
    let policy = bed.deny(&["{project}/vault"]);
    holds(&bed, &policy, args!["read", &secret], &secret);
}

#[test]
fn a_denied_folder_is_not_listed_and_stat_and_the_parents_listing_stay() {
    let bed = TestBed::new("open-list");
    let vault = bed.file("vault/secret", CANARY).parent().unwrap().to_owned();
    let steps =
        || args!["list", &vault, "stat", &vault, "stat", &vault.join("secret"), "list", &bed.project()];
    assert_eq!(bed.bare_steps(steps()), ["ok secret", "ok", "ok", "ok vault"]);
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/vault"]), steps());
    assert!(DENIED.contains(&answers[0].as_str()), "{answers:?}: {run}");
    assert_eq!(answers[1..], ["ok", "ok", "ok vault"], "{run}");
    run.assert_denied_once("file.open", &vault, RULE);
    assert_eq!(run.log.denied("file.open", &vault)[0].text("action"), "list", "{run}");
}

#[test]
fn a_hard_link_older_than_the_run_is_denied() {
    let bed = TestBed::new("open-hardlink");
    let secret = bed.file("secret", CANARY);
    let alias = bed.project().join("alias");
    fs::hard_link(&secret, &alias).unwrap();
    let policy = bed.deny(&["{project}/secret"]);
    holds(&bed, &policy, args!["read", &alias], &alias);
}

#[test]
fn a_hard_link_into_a_denied_folder_is_made_neither_from_nor_to_it() {
    let bed = TestBed::new("open-newlink");
    let secret = bed.file("secret", CANARY);
    let alias = bed.project().join("alias");
    let steps = || args!["link", &secret, &alias, "read", &alias];
    assert_eq!(bed.bare_steps(steps()), ["ok".to_owned(), format!("ok {CANARY}")]);
    fs::remove_file(&alias).unwrap();
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/secret"]), steps());
    assert_ne!(answers[0], "ok", "{run}");
    assert!(!answers[1].starts_with("ok"), "{answers:?}: {run}");
}

#[test]
fn symlinks_lead_to_the_same_refusal() {
    let bed = TestBed::new("open-symlink");
    let secret = bed.file("vault/secret", CANARY);
    let (to_file, to_folder) = (bed.project().join("to-file"), bed.project().join("to-folder"));
    std::os::unix::fs::symlink(&secret, &to_file).unwrap();
    std::os::unix::fs::symlink(secret.parent().unwrap(), &to_folder).unwrap();
    let policy = bed.deny(&["{project}/vault/secret"]);
    holds(&bed, &policy, args!["read", &to_file], &secret);
    holds(&bed, &policy, args!["read", &to_folder.join("secret")], &secret);
}

#[test]
fn a_rule_on_a_symlink_holds_its_target() {
    let bed = TestBed::new("open-linkrule");
    let secret = bed.file("kept/elsewhere", CANARY);
    std::os::unix::fs::symlink(&secret, bed.project().join("named")).unwrap();
    let policy = bed.deny(&["{project}/named"]);
    holds(&bed, &policy, args!["read", &secret], &secret);
    holds(&bed, &policy, args!["read", &bed.project().join("named")], &secret);
}

#[test]
fn proc_and_descriptors_are_no_way_around() {
    let bed = TestBed::new("open-proc");
    let secret = bed.file("secret", CANARY);
    let policy = bed.deny(&["{project}/secret"]);
    let below_root = Path::new("/proc/self/root").join(secret.strip_prefix("/").unwrap());
    holds(&bed, &policy, args!["read", &below_root], &secret);
    holds(&bed, &policy, args!["read", "/proc/self/cwd/secret"], &secret);
    holds(&bed, &policy, args!["read", "/proc/self/../thread-self/cwd/./secret"], &secret);
    holds(&bed, &policy, args!["o-path", &secret], &secret);
}

/// What a backend can't decide it closes as a whole: then the neighbour is as unread as the secret.
#[test]
fn openat2_and_io_uring_bring_nothing() {
    let bed = TestBed::new("open-calls");
    let (secret, public) = (bed.file("secret", CANARY), bed.file("public", "public"));
    for call in ["openat2", "io-uring"] {
        let steps = || args![call, &secret, call, &public];
        assert_eq!(bed.bare_steps(steps()), [format!("ok {CANARY}"), "ok public".to_owned()], "{call}");
        let (run, answers) = bed.run_steps(&bed.deny(&["{project}/secret"]), steps());
        if backend() == "lsm" {
            assert!(DENIED.contains(&answers[0].as_str()), "{call}: {answers:?}: {run}");
            assert_eq!(answers[1], "ok public", "{call}: {run}");
            run.assert_denied_once("file.open", &secret, RULE);
        } else {
            assert_eq!(answers, ["ENOSYS", "ENOSYS"], "{call}: {run}");
        }
    }
}

#[test]
fn names_and_globs_hold_at_any_depth_and_nothing_beside_them() {
    let bed = TestBed::new("open-globs");
    let policy = bed.deny(&[".env", "*.pem", "key.*", "{project}/src/**/private"]);
    let denied = [
        (".env", 0),
        ("deep/er/.env", 0),
        ("tls/server.pem", 1),
        (".pem", 1),
        ("key.json", 2),
        ("a/key.", 2),
        ("src/private", 3),
        ("src/a/b/private/file", 3),
    ];
    let free = [
        "env",
        ".envrc",
        "x.env",
        "server.pem.txt",
        "serverpem",
        "monkey.json",
        "key",
        "private",
        "src/privately",
        "PEM.Pem",
    ];
    let mut steps = Vec::new();
    for name in denied.iter().map(|(name, _)| *name).chain(free) {
        steps.extend(args!["read", &bed.file(name, CANARY)]);
    }
    let all = denied.len() + free.len();
    assert_eq!(bed.bare_steps(steps.clone()), vec![format!("ok {CANARY}"); all]);
    let (run, answers) = bed.run_steps(&policy, steps);
    for (place, (name, rule)) in denied.iter().enumerate() {
        assert!(DENIED.contains(&answers[place].as_str()), "{name}: {} {run}", answers[place]);
        run.assert_denied_once(
            "file.open",
            &bed.project().join(name),
            &format!("test/filesystem.deny/{rule}"),
        );
    }
    for (name, answer) in free.iter().zip(&answers[denied.len()..]) {
        assert_eq!(answer, &format!("ok {CANARY}"), "{name}: {run}");
    }
}

#[test]
fn a_symlink_with_a_denied_name_is_judged_as_its_target() {
    let bed = TestBed::new("open-linkname");
    let public = bed.file("public", "public");
    let link = bed.project().join(".env");
    std::os::unix::fs::symlink(&public, &link).unwrap();
    let (run, answers) = bed.run_steps(&bed.deny(&[".env"]), args!["read", &link]);
    assert_eq!(answers, ["ok public"], "{run}");
}

#[test]
fn a_file_that_comes_during_the_run_is_denied_from_its_first_open() {
    let bed = TestBed::new("open-later");
    let policy = bed.deny(&[".env", "{project}/later/secret", "{project}/vault"]);
    bed.folder("sub");
    bed.folder("later");
    bed.folder("vault");
    let names = ["sub/.env", "later/secret", "vault/new", "sub/public"];
    let script = || {
        sh(format!(
            "echo ready > waits; while [ ! -e go ]; do sleep 0.01; done; for f in {}; do cat $f || echo no; done",
            names.join(" ")
        ))
    };
    let while_running = || {
        let is_up = procs::until(crate::bed::patience(), || bed.project().join("waits").exists());
        for name in names {
            bed.file(name, format!("{name}\n"));
        }
        bed.file("go", "");
        assert!(is_up, "it does not start");
    };
    let clean = || {
        for name in names.iter().copied().chain(["go", "waits"]) {
            let _ = fs::remove_file(bed.project().join(name));
        }
    };
    let bare = std::thread::scope(|scope| {
        let running = scope.spawn(|| bed.bare(script()));
        while_running();
        running.join().unwrap()
    });
    assert_eq!(bare.stdout, format!("{}\n", names.join("\n")).as_bytes());
    clean();
    let run = std::thread::scope(|scope| {
        let running = scope.spawn(|| bed.run(&policy, script()));
        while_running();
        running.join().unwrap()
    });
    assert_eq!(run.out(), "no\nno\nno\nsub/public\n", "{run}");
    for (rule, name) in names[..3].iter().enumerate() {
        run.assert_denied_once(
            "file.open",
            &bed.project().join(name),
            &format!("test/filesystem.deny/{rule}"),
        );
    }
}

#[test]
fn a_denied_path_that_does_not_exist_is_not_created_from_inside() {
    let bed = TestBed::new("open-absent");
    let absent = bed.project().join("later/secret");
    let steps = || args!["mkdir", absent.parent().unwrap(), "create", &absent, "read", &absent];
    assert_eq!(bed.bare_steps(steps()), ["ok", "ok", "ok made"]);
    fs::remove_dir_all(absent.parent().unwrap()).unwrap();
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/later/secret"]), steps());
    assert!(!answers[1].starts_with("ok") && !answers[2].starts_with("ok made"), "{answers:?}: {run}");
    assert!(
        !run.log.denied("file.open", &absent).is_empty()
            || !run.log.denied("file.change", &absent).is_empty(),
        "{run}"
    );
}

/// A rename may be refused or not; under no name does the file become readable.
#[test]
fn neither_the_file_nor_a_folder_above_it_can_be_renamed_out_of_a_rule() {
    let bed = TestBed::new("open-rename");
    let build = || {
        let _ = fs::remove_dir_all(bed.project().join("top"));
        let _ = fs::remove_dir_all(bed.project().join("moved"));
        bed.file("top/middle/secret", CANARY)
    };
    let (secret, top, moved) = (build(), bed.project().join("top"), bed.project().join("moved"));
    let steps = || {
        args![
            "rename",
            &secret,
            &bed.project().join("plain"),
            "read",
            &bed.project().join("plain"),
            "rename",
            &bed.project().join("plain"),
            &secret,
            "rename",
            &top,
            &moved,
            "read",
            &moved.join("middle/secret")
        ]
    };
    let read = format!("ok {CANARY}");
    assert_eq!(bed.bare_steps(steps()), ["ok", &read, "ok", "ok", &read]);
    build();
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/top/middle/secret"]), steps());
    assert_ne!(answers[0], "ok", "{answers:?}: {run}");
    assert!(!answers.contains(&read), "{answers:?}: {run}");
    let (run, answers) = bed.run_steps(
        &bed.deny(&["{project}/top/middle/secret"]),
        args!["read", &secret, "read", &moved.join("middle/secret")],
    );
    assert!(!answers.contains(&read), "{answers:?}: {run}");
}

#[test]
fn a_file_gets_no_denied_name_by_rename() {
    let bed = TestBed::new("open-rename-to");
    let (plain, env) = (bed.file("plain", "x"), bed.project().join(".env"));
    let steps = || args!["rename", &plain, &env];
    assert_eq!(bed.bare_steps(steps()), ["ok"]);
    fs::rename(&env, &plain).unwrap();
    let (run, answers) = bed.run_steps(&bed.deny(&[".env"]), steps());
    assert!(DENIED.contains(&answers[0].as_str()), "{answers:?}: {run}");
    let events = run.log.all_denied("file.change");
    assert_eq!(events.iter().filter(|event| event.rule() == Some(RULE)).count(), 1, "{run}");
}
