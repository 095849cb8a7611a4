//! More than one sandbox at a time, beside each other and within each other.

use std::{path::Path, time::Duration};

use crate::bed::{TestBed, args, binary, procs, sh};

#[test]
fn two_runs_at_once_each_hold_their_own_policy() {
    let bed = TestBed::new("two");
    let (left, right) = (bed.file("left", "LEFT"), bed.file("right", "RIGHT"));
    let policy = |name: &str, deny: &str| {
        bed.policy(
            name,
            &format!("[filesystem]\nwrite = [\"{{project}}\"]\ndeny = [\"{{project}}/{deny}\"]\n"),
        )
    };
    let policies = [policy("no-left", "left"), policy("no-right", "right")];
    let start = |place: usize| {
        let script = format!(
            "touch up{place}; while [ ! -e go ]; do sleep 0.01; done; cat left right; touch over{place}; while [ ! -e end ]; do sleep 0.01; done"
        );
        let mut start = bed.start(&[&policies[place]], sh(script));
        let child = start.spawn();
        (start, child)
    };
    assert_eq!(bed.bare(sh("cat left right")).stdout, b"LEFTRIGHT");
    let ((first, first_child), (second, second_child)) = (start(0), start(1));
    let there = |names: [&str; 2]| {
        procs::until(Duration::from_secs(30), || names.iter().all(|name| bed.project().join(name).exists()))
    };
    assert!(there(["up0", "up1"]), "they do not both start");
    bed.file("go", "");
    assert!(there(["over0", "over1"]), "they do not both end");
    bed.file("end", "");
    let first = first.read(first_child.wait_with_output().unwrap());
    let second = second.read(second_child.wait_with_output().unwrap());
    assert_eq!(first.out(), "RIGHT", "{first}");
    assert_eq!(second.out(), "LEFT", "{second}");
    first.assert_denied_once("file.open", &left, "no-left/filesystem.deny/0");
    second.assert_denied_once("file.open", &right, "no-right/filesystem.deny/0");
    let id = |run: &crate::bed::Run| run.log.of("session.start")[0].0["sandbox_id"].as_u64().unwrap();
    assert_ne!(id(&first), id(&second));
    for run in [&first, &second] {
        assert!(run.log.events.iter().all(|event| event.0["sandbox_id"] == id(run)), "{run}");
    }
}

#[test]
fn eight_short_runs_at_once_do_not_disturb_each_other() {
    let bed = TestBed::new("eight");
    let secret = bed.file("secret", "CANARY");
    let (open, closed) = (bed.policy("open", ""), bed.deny(&["{project}/secret"]));
    std::thread::scope(|scope| {
        for place in 0..8 {
            let (bed, secret, policy) = (&bed, &secret, if place % 2 == 0 { &open } else { &closed });
            scope.spawn(move || {
                let run = bed.run(policy, args!["cat", secret]);
                assert_eq!(run.out(), if place % 2 == 0 { "CANARY" } else { "" }, "{run}");
                assert_eq!(run.log.denied("file.open", secret).len(), place % 2, "{run}");
            });
        }
    });
}

/// The command can start `govsandbox run` itself. What comes of it is narrower, or a refusal that says why.
#[test]
fn a_run_within_a_run_opens_nothing() {
    let bed = TestBed::new("nested");
    let secret = bed.file("secret", "CANARY");
    let open = bed.policy("open", "[filesystem]\nwrite = [\"/\"]\n");
    let inner = bed.root().join("govsandbox");
    bed.program(binary(), &inner);
    let nested = |secret: &Path| {
        args![&inner, "run", "--audit-log", &bed.tmp().join("inner.jsonl"), "-p", &open, "--", "cat", secret]
    };
    for outer in [bed.deny(&["{project}/secret"]), bed.deny(&["secret"])] {
        let run = bed.run(&outer, nested(&secret));
        assert!(!run.out().contains("CANARY"), "{run}");
        assert_ne!(run.status.code(), Some(0), "{run}");
        if run.status.code() == Some(125) {
            assert!(run.err().contains("govsandbox:") && run.err().contains("help:"), "{run}");
        } else {
            run.assert_denied_once("file.open", &secret, "test/filesystem.deny/0");
        }
    }
}
