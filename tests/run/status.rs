//! Exit statuses: the command's own, or one that says whose failure it is.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::bed::{TestBed, args, sh};

#[test]
fn the_commands_own_status_comes_through() {
    let bed = TestBed::new("status-own");
    let policy = bed.deny(&[]);
    for status in [0, 1, 2, 42, 125, 126, 127, 255] {
        let script = || sh(format!("exit {status}"));
        assert_eq!(bed.bare(script()).status.code(), Some(status));
        let run = bed.run(&policy, script());
        assert_eq!(run.status.code(), Some(status), "{run}");
        assert_eq!(run.log.of("session.end")[0].0["object"]["exit_code"], status, "{run}");
        assert_eq!(
            (run.out(), run.err()),
            (String::new(), String::new()),
            "nothing but the command speaks: {run}"
        );
    }
}

#[test]
fn a_signal_is_told_as_128_and_its_number() {
    let bed = TestBed::new("status-signal");
    let policy = bed.deny(&[]);
    for (name, number) in [("TERM", 15), ("KILL", 9), ("INT", 2), ("SEGV", 11), ("PIPE", 13), ("HUP", 1)] {
        let run = bed.run(&policy, sh(format!("kill -{name} $$")));
        assert_eq!(run.shell_status(), 128 + number, "{run}");
        assert_eq!(run.log.of("session.end")[0].0["object"]["signal"], number, "{run}");
    }
}

#[test]
fn a_command_that_does_not_exist_is_127() {
    let bed = TestBed::new("status-127");
    let policy = bed.deny(&[]);
    for name in ["no-such-command", "./no-such-file", "/no/such/path"] {
        let run = bed.run(&policy, args![name]);
        assert_eq!(run.status.code(), Some(127), "{run}");
        assert!(run.err().contains(name), "{run}");
    }
}

/// sudo keeps a PATH with folders that its caller can't search.
#[test]
fn a_closed_folder_in_path_has_no_commands() {
    let bed = TestBed::new("status-path");
    let closed = bed.root().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let policy = bed.deny(&[]);
    for (name, status) in [("no-such-command", 127), ("true", 0)] {
        let mut start = bed.start(&[&policy], args![name]);
        start.process.env("PATH", format!("{}:/usr/bin:/bin", closed.display()));
        let run = start.finish();
        assert_eq!(run.status.code(), Some(status), "{run}");
    }
}

#[test]
fn a_file_that_cannot_be_executed_is_126() {
    let bed = TestBed::new("status-126");
    let policy = bed.deny(&[]);
    let plain = bed.file("plain", "no program");
    let folder = bed.folder("folder");
    let broken = bed.script("broken", b"\x7fELF no program either");
    for path in [&plain, &folder, &broken] {
        let run = bed.run(&policy, args![path]);
        assert_eq!(run.status.code(), Some(126), "{path:?}: {run}");
        assert!(run.err().contains(path.file_name().unwrap().to_str().unwrap()), "{run}");
    }
}

#[test]
fn options_end_at_the_first_word_that_is_none() {
    let bed = TestBed::new("status-words");
    let policy = bed.deny(&[]);
    let mut start = bed.start(&[&policy], args![]);
    // `… --` and then nothing: take the mark away and give the words without it.
    let words: Vec<_> =
        start.process.get_args().filter(|word| *word != "--").map(ToOwned::to_owned).collect();
    let mut process = std::process::Command::new(start.process.get_program());
    process.args(words).args(["echo", "-p", "--mode", "--", "-n"]).env_clear();
    for (name, value) in start.process.get_envs() {
        process.env(name, value.unwrap_or_default());
    }
    process.current_dir(bed.project());
    start.process = process;
    let run = start.finish();
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "-p --mode -- -n\n"), "{run}");
}

#[test]
fn the_command_runs_as_sudos_caller_in_the_callers_folder_with_the_callers_environment() {
    let bed = TestBed::new("status-who");
    let mut start = bed.start(
        &[&bed.deny(&[])],
        sh("id -u; id -g; id -G; pwd; echo $MARK; umask; grep -E '^(CapEff|CapPrm|CapInh|CapAmb|NoNewPrivs)' /proc/self/status"),
    );
    start.process.env("MARK", "kept");
    let run = start.finish();
    let uid = bed.uid();
    let expected = format!("{uid}\n{uid}\n{uid}\n{}\nkept\n0022\n", bed.project().display());
    assert!(run.out().starts_with(&expected), "{run}");
    let rest: String = run.out()[expected.len()..].split_whitespace().collect::<Vec<_>>().join(" ");
    let none = "0000000000000000";
    assert_eq!(
        rest,
        format!("CapInh: {none} CapPrm: {none} CapEff: {none} CapAmb: {none} NoNewPrivs: 1"),
        "{run}"
    );
}

#[test]
fn plain_root_gets_uid_0_without_a_capability_and_a_warning() {
    let bed = TestBed::new("status-root");
    let policy = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\n");
    let command =
        || sh("id -u; grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status; cat ../log/* >/dev/null 2>&1; echo $?");
    let run = bed.start(&[&policy], command()).by_root().finish();
    assert_eq!(run.status.code(), Some(0), "{run}");
    let words: Vec<String> = run.out().split_whitespace().map(str::to_owned).collect();
    let none = "0000000000000000";
    assert_eq!(words[..7], ["0", "CapPrm:", none, "CapEff:", none, "CapBnd:", none], "{run}");
    assert!(run.err().contains("uid 0"), "no warning: {run}");
    let policy = bed.policy("refuse", "[process]\nroot = \"refuse\"\n");
    let run = bed.start(&[&policy], command()).by_root().finish();
    assert_eq!((run.status.code(), run.out().as_str()), (Some(125), ""), "{run}");
}

#[test]
fn the_summary_is_one_line_and_quiet_leaves_it_out() {
    let bed = TestBed::new("status-summary");
    let secret = bed.file("secret", "CANARY");
    let policy = bed.deny(&["secret"]);
    let script = || sh("cat secret 2>/dev/null; cat secret 2>/dev/null; true");
    let run = bed.run(&policy, script());
    assert_eq!(run.err().lines().count(), 1, "{run}");
    assert!(run.err().starts_with("govsandbox:") && run.err().contains('2'), "{run}");
    assert_eq!(run.log.denied("file.open", &secret).len(), 2, "{run}");
    let mut start = bed.start(&[&policy], args![]);
    let log = start.log().to_owned();
    start.process = std::process::Command::new(crate::bed::binary());
    start
        .process
        .args(["run", "--quiet", "-p"])
        .arg(&policy)
        .arg("--audit-log")
        .arg(log)
        .arg("--")
        .args(script());
    start.process.current_dir(bed.project()).env("HOME", bed.home());
    start.process.env("SUDO_UID", bed.uid().to_string()).env("SUDO_GID", bed.uid().to_string());
    let run = start.finish();
    assert_eq!((run.status.code(), run.err().as_str()), (Some(0), ""), "{run}");
}
