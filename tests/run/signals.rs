//! Signals to the supervisor reach the command, once.

use std::{fs, thread::sleep, time::Duration};

use rustix::process::Signal;

use crate::bed::{
    TestBed,
    procs::{self, until},
    sh,
};

#[test]
fn signals_reach_the_command_and_its_answer_comes_back() {
    let bed = TestBed::new("signals");
    let policy = bed.deny(&[]);
    for (name, signal) in [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
    ] {
        let up = bed.project().join(format!("up-{name}"));
        let script = format!(
            "trap 'echo got {name}; exit 42' {name}; touch {}; while :; do sleep 0.02; done",
            up.display()
        );
        let mut start = bed.start(&[&policy], sh(script));
        let child = start.spawn();
        assert!(until(Duration::from_secs(20), || up.exists()), "{name}: it does not start");
        procs::signal(child.id(), signal);
        let run = start.read(procs::wait_with_output(child, Duration::from_secs(20)));
        assert_eq!((run.status.code(), run.out()), (Some(42), format!("got {name}\n")), "{run}");
    }
}

#[test]
fn a_command_that_does_not_catch_it_ends_by_it() {
    let bed = TestBed::new("signals-default");
    let policy = bed.deny(&[]);
    let mut start = bed.start(&[&policy], sh("touch up; exec sleep 300"));
    let child = start.spawn();
    assert!(until(Duration::from_secs(20), || bed.project().join("up").exists()), "it does not start");
    procs::signal(child.id(), Signal::TERM);
    let run = start.read(procs::wait_with_output(child, Duration::from_secs(20)));
    assert_eq!(run.shell_status(), 143, "{run}");
    assert_eq!(run.log.events.last().unwrap().kind(), "session.end", "{run}");
}

#[test]
fn the_command_cannot_signal_its_guard() {
    let bed = TestBed::new("signals-guard");
    let mut start = bed.start(
        &[&bed.deny(&[])],
        sh("touch up; while [ ! -s go ]; do sleep 0.02; done; kill -STOP $(cat go) 2>/dev/null; echo $?; kill -9 $PPID; echo alive"),
    );
    let child = start.spawn();
    assert!(until(Duration::from_secs(20), || bed.project().join("up").exists()), "it does not start");
    let guards: Vec<String> = procs::below(child.id())
        .into_iter()
        .filter(|process| process.uid != bed.uid())
        .map(|process| process.pid.to_string())
        .chain([child.id().to_string()])
        .collect();
    bed.file("go", guards.join(" "));
    let run = start.read(procs::wait_with_output(child, Duration::from_secs(20)));
    assert!(run.out().starts_with("1\n") && run.out().ends_with("alive\n"), "{run}");
    assert_eq!(run.status.code(), Some(0), "{run}");
}

/// The command stops its first process, and with it who watches it: nothing of the tree runs on unseen.
#[test]
fn a_tree_stands_still_while_its_supervisor_is_stopped() {
    let bed = TestBed::new("signals-stop");
    let script = "(while [ ! -e go ]; do sleep 0.02; done; kill -STOP $$; while :; do date >> on; done) & \
                  touch up; while :; do sleep 0.05; echo first >> first; done";
    let mut start = bed.start(&[&bed.deny(&[])], sh(script));
    let child = start.spawn();
    let path = |name: &str| bed.project().join(name);
    assert!(until(Duration::from_secs(20), || path("up").exists()), "it does not start");
    bed.file("go", "");
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.contains(") T ")
    };
    let size = |name: &str| fs::metadata(path(name)).map_or(0, |found| found.len());
    for time in 0..2 {
        assert!(until(Duration::from_secs(20), is_stopped), "the supervisor does not stop along");
        let before = (size("on"), size("first"));
        sleep(Duration::from_secs(1));
        assert_eq!((size("on"), size("first")), before, "it goes on at time {time}");
        // Positive control: it goes on with the supervisor.
        procs::signal(child.id(), Signal::CONT);
        let goes_on = || size("on") > before.0 && size("first") > before.1;
        assert!(until(Duration::from_secs(20), goes_on), "it does not go on at time {time}");
        let all = procs::below(child.id());
        let init = all.iter().find(|process| process.name == "govsandbox-init").unwrap().pid;
        let first = all.iter().find(|process| process.ppid == init && process.uid == bed.uid()).unwrap();
        procs::signal(first.pid, Signal::STOP);
    }
    // Killed while all stands still, nothing is left.
    assert!(until(Duration::from_secs(20), is_stopped), "the supervisor does not stop along");
    procs::signal(child.id(), Signal::KILL);
    assert!(until(Duration::from_secs(10), || procs::of_user(bed.uid()).is_empty()), "some live on");
    let run = start.read(procs::wait_with_output(child, Duration::from_secs(20)));
    assert!(!run.status.success(), "{run}");
}
