//! Signals to the supervisor reach the command, once.

use std::time::Duration;

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
        sh("touch up; while [ ! -e go ]; do sleep 0.02; done; kill -STOP $(cat go) 2>/dev/null; echo $?; kill -9 $PPID; echo alive"),
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
