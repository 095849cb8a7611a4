//! The whole process tree: whatever way a process is started, it is in the sandbox and its events say so.

use std::collections::BTreeSet;

use crate::bed::{TestBed, args, backend, sh};

const CANARY: &str = "CANARY-tree";

#[test]
fn every_way_to_start_a_process_stays_in_the_sandbox() {
    let bed = TestBed::new("tree-ways");
    let ways = ["thread", "orphan", "spawn"];
    let secrets: Vec<_> = ways.iter().map(|way| bed.file(format!("vault/{way}"), CANARY)).collect();
    let steps =
        || ways.iter().zip(&secrets).flat_map(|(way, secret)| args![way, "read", secret]).collect::<Vec<_>>();
    assert_eq!(bed.bare_steps(steps()), vec![format!("ok {CANARY}"); 3]);
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/vault"]), steps());
    assert!(!run.out().contains(CANARY), "{answers:?}: {run}");
    let id = &run.log.of("session.start")[0].0["sandbox_id"];
    for secret in &secrets {
        run.assert_denied_once("file.open", secret, "test/filesystem.deny/0");
        assert_eq!(&run.log.denied("file.open", secret)[0].0["sandbox_id"], id, "{run}");
    }
    let denials = run.log.all_denied("file.open");
    let pids: BTreeSet<u64> = denials.iter().map(|event| event.pid()).collect();
    assert_eq!(pids.len(), 3, "thread, orphan and spawned program are three processes: {run}");
    let thread = run.log.denied("file.open", &secrets[0])[0];
    assert_ne!(thread.0["process"]["tid"], thread.0["process"]["pid"], "{thread:?}");
}

#[test]
fn shells_in_other_sessions_and_scripts_stay_in_the_sandbox() {
    let bed = TestBed::new("tree-shells");
    let names = ["setsid", "background", "subshell", "script", "pipe", "nohup"];
    for name in names {
        bed.file(format!("vault/{name}"), CANARY);
    }
    bed.script("script.sh", "#!/bin/sh\ncat vault/script\n");
    let all = || {
        sh(
            "setsid -w sh -c 'cat vault/setsid'; (cat vault/subshell); cat vault/background & wait; ./script.sh; \
            sh -c 'sh -c \"cat vault/pipe\"' | cat; nohup cat vault/nohup 2>&1 | cat; true",
        )
    };
    let bare = bed.bare(all());
    assert_eq!(String::from_utf8_lossy(&bare.stdout).matches(CANARY).count(), names.len(), "{bare:?}");
    let run = bed.run(&bed.deny(&["{project}/vault"]), all());
    assert!(!run.out().contains(CANARY), "{run}");
    for name in names {
        run.assert_denied_once(
            "file.open",
            &bed.project().join("vault").join(name),
            "test/filesystem.deny/0",
        );
    }
    // Each of them hangs below the command.
    let root = run.log.of("process.exec")[0].pid();
    let denials = run.log.all_denied("file.open");
    assert!(denials.iter().all(|event| run.log.descends(event.pid(), root)), "{run}");
}

/// A kernel worker opens for the process: it is seen as the process, or there are no such workers.
#[test]
fn an_io_uring_worker_is_in_the_sandbox() {
    let bed = TestBed::new("tree-uring");
    let (secret, public) = (bed.file("secret", CANARY), bed.file("public", "public"));
    let steps = || args!["io-uring", &secret, "io-uring", &public];
    assert_eq!(bed.bare_steps(steps()), [format!("ok {CANARY}"), "ok public".to_owned()]);
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/secret"]), steps());
    if backend() == "lsm" {
        assert_eq!(answers[1], "ok public", "{run}");
        run.assert_denied_once("file.open", &secret, "test/filesystem.deny/0");
        let told = run.log.about("file.open", &public);
        assert_eq!(told.len(), 1, "the worker's open is in the trace: {run}");
        assert_eq!(told[0].pid(), run.log.of("process.exec")[0].pid(), "{run}");
    } else {
        assert_eq!(answers, ["ENOSYS", "ENOSYS"], "{run}");
    }
}

#[test]
fn exits_are_told_with_status_or_signal() {
    let bed = TestBed::new("tree-exit");
    let run =
        bed.run(&bed.deny(&[]), sh("sh -c 'exit 7'; sh -c 'kill -KILL $$'; sh -c 'kill -TERM $$'; exit 3"));
    assert_eq!(run.status.code(), Some(3), "{run}");
    let exit_of = |argv: &[&str]| {
        let execs = run.log.execs(argv);
        assert_eq!(execs.len(), 1, "{argv:?}: {run}");
        let exits = run.log.of("process.exit");
        let own: Vec<_> = exits.into_iter().filter(|event| event.pid() == execs[0].pid()).collect();
        assert_eq!(own.len(), 1, "{argv:?}: {run}");
        (own[0].0["object"]["exit_code"].as_i64(), own[0].0["object"]["signal"].as_i64())
    };
    assert_eq!(exit_of(&["sh", "-c", "exit 7"]), (Some(7), None));
    assert_eq!(exit_of(&["sh", "-c", "kill -KILL $$"]), (None, Some(9)));
    assert_eq!(exit_of(&["sh", "-c", "kill -TERM $$"]), (None, Some(15)));
    let end = run.log.events.last().unwrap();
    assert_eq!((end.kind(), end.0["object"]["exit_code"].as_i64()), ("session.end", Some(3)), "{end:?}");
}

#[test]
fn a_process_that_outlives_the_command_does_not_outlive_the_run() {
    let bed = TestBed::new("tree-leftover");
    let run = bed.run(&bed.deny(&[]), sh("setsid sleep 300 >/dev/null 2>&1 & exit 0"));
    assert_eq!(run.status.code(), Some(0), "{run}");
    // The bed's own check at its end: no process of this user is left.
}

#[test]
fn processes_outside_of_the_sandbox_are_neither_refused_nor_told() {
    let bed = TestBed::new("tree-outside");
    let secret = bed.file("secret", CANARY);
    let mut start = bed
        .start(&[&bed.deny(&["{project}/secret"])], sh("touch up; while [ ! -e go ]; do sleep 0.01; done"));
    let child = start.spawn();
    assert!(crate::bed::procs::until(crate::bed::patience(), || bed.project().join("up").exists()));
    let beside = bed.bare(args!["cat", &secret]);
    bed.file("go", "");
    let run = start.read(child.wait_with_output().unwrap());
    assert_eq!(beside.stdout, CANARY.as_bytes());
    assert!(run.log.about("file.open", &secret).is_empty(), "{run}");
}
