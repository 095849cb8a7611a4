//! Fail closed: whichever guard dies, the tree dies at once, and nothing gets through meanwhile.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::bed::{
    TestBed, is_emulated,
    procs::{self, Process, gone, pidfd, until},
    sh,
};

/// As it calls itself.
const EGRESS_SERVICE: &str = "govsandbox-egr";
/// Time from the guard's end to the last process of the tree, on a real processor and on an emulated one.
const TREE_GONE_MAX: Duration = Duration::from_millis(100);
const TREE_GONE_EMULATED_MAX: Duration = Duration::from_secs(2);

struct Busy {
    bed: TestBed,
    child: Child,
}

/// Eight loops, some of them in sessions of their own, that try to read the secret and to write down what they got.
fn busy(name: &str) -> Busy {
    let bed = TestBed::new(name);
    bed.file("secret", "CANARY");
    bed.file("public", "p");
    let script = "for n in 1 2 3 4 5 6 7 8; do setsid sh -c \
        'while :; do cat secret >> got 2>/dev/null; cat public > live$0 && : > up$0; done' $n & done; wait";
    let mut start = bed.start(&[&bed.deny(&["secret"])], sh(script));
    let child = start.process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let all_up = || (1..=8).all(|number| bed.project().join(format!("up{number}")).exists());
    assert!(until(Duration::from_secs(30), all_up), "they do not all start");
    Busy { bed, child }
}

impl Busy {
    /// All but the command's tree and the egress service, which is started again when it dies.
    fn guards(&self) -> Vec<Process> {
        let is_guard = |process: &Process| process.uid != self.bed.uid() && process.name != EGRESS_SERVICE;
        procs::below(self.child.id()).into_iter().filter(is_guard).collect()
    }

    /// Kills guards, one right after the other, and measures how long the tree lives on.
    fn kill(mut self, pids: &[u32], what: &str) -> Duration {
        let tree = procs::of_user(self.bed.uid());
        assert!(tree.len() >= 8, "{tree:?}");
        let handles: Vec<_> = tree.iter().filter_map(|process| procs::try_pidfd(process.pid)).collect();
        let begin = Instant::now();
        pids.iter().for_each(|pid| procs::signal(*pid, Signal::KILL));
        for handle in &handles {
            assert!(gone(handle, Duration::from_secs(5)), "the tree lives on after the end of {what}");
        }
        let took = begin.elapsed();
        println!("{what} killed: {} processes gone after {took:?}", handles.len());
        // Those that came into being while the others died.
        assert!(
            until(Duration::from_secs(2), || procs::of_user(self.bed.uid()).is_empty()),
            "new ones live on"
        );
        let got = fs::read_to_string(self.bed.project().join("got")).unwrap_or_default();
        assert_eq!(got, "", "the secret was read");
        assert!(gone(&pidfd(self.child.id()), Duration::from_secs(5)), "the supervisor lives on");
        let status = self.child.wait().unwrap();
        assert!(!status.success(), "{status}");
        took
    }
}

/// Kills guards of one run after another. A busy machine slows one end, and a guard that does nothing all of them.
fn kill(name: &str, victims: impl Fn(&Busy) -> Vec<u32>, what: &str) {
    let at_most = if is_emulated() { TREE_GONE_EMULATED_MAX } else { TREE_GONE_MAX };
    let in_time = (0..3).any(|time| {
        let busy = busy(&format!("{name}-{time}"));
        let pids = victims(&busy);
        busy.kill(&pids, what) <= at_most
    });
    assert!(in_time, "{what}: three times more than {at_most:?}");
}

/// Positive control: the same loops without the sandbox read the secret.
#[test]
fn bare_the_loops_read_the_secret() {
    let bed = TestBed::new("killed-bare");
    bed.file("secret", "CANARY");
    let output = bed.bare(sh("for n in 1 2; do setsid sh -c 'cat secret >> got' & done; wait; cat got"));
    assert_eq!(output.stdout, b"CANARYCANARY");
}

#[test]
fn the_tree_dies_with_the_supervisor() {
    kill("killed-supervisor", |busy| vec![busy.child.id()], "supervisor");
}

/// Whichever of the processes that stand beside the tree it is.
#[test]
fn the_tree_dies_with_each_guard() {
    let count = {
        let busy = busy("killed-count");
        let guards = busy.guards();
        let pid = busy.child.id();
        busy.kill(&[pid], "supervisor");
        assert!(!guards.is_empty(), "there is no guardian");
        guards.len()
    };
    for place in 0..count {
        let guard = |busy: &Busy| vec![busy.guards()[place].pid];
        kill(&format!("killed-guard{place}"), guard, &format!("guard {place}"));
    }
}

/// Nobody is left to give a verdict, and the init is killed by the kernel.
#[test]
fn nothing_gets_through_when_all_guards_die_at_the_same_moment() {
    for first in 0..3 {
        let all = |busy: &Busy| {
            let guardians = busy.guards().into_iter().filter(|guard| guard.name == "govsandbox-guar");
            let mut pids: Vec<u32> = guardians.map(|guard| guard.pid).chain([busy.child.id()]).collect();
            assert_eq!(pids.len(), 3);
            pids.rotate_left(first);
            pids
        };
        kill(&format!("killed-all{first}"), all, "supervisor and both guardians");
    }
}

/// A supervisor that stands still decides nothing, and so nothing is opened.
#[test]
fn a_stopped_supervisor_lets_nothing_through() {
    let busy = busy("killed-stopped");
    procs::signal(busy.child.id(), Signal::STOP);
    std::thread::sleep(Duration::from_millis(500));
    let got = fs::read_to_string(busy.bed.project().join("got")).unwrap_or_default();
    assert_eq!(got, "", "the secret was read");
    let pid = busy.child.id();
    busy.kill(&[pid], "stopped supervisor");
}
