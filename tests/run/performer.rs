//! The process that performs calls is killed or stopped, on either backend: nothing that waits for it goes through.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{TestBed, args, patience, procs, sh};

const CONFIG: &str = "[core]\n\tbare = false\n";
/// By every backend somebody performs a rename onto such a config.
const POLICY: &str = "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"**/.env\"]\n\
    protect = [{ path = \"{project}/.git/config\", keys = [\"branch.*\"] }]\n";

struct Stand {
    bed: TestBed,
    policy: PathBuf,
}

impl Stand {
    fn new(name: &str) -> Self {
        let bed = TestBed::new(name);
        bed.file(".git/config", CONFIG);
        for lock in ["first", "second"] {
            bed.file(format!(".git/{lock}"), format!("{CONFIG}[branch \"{lock}\"]\n\trebase = true\n"));
        }
        let policy = bed.policy("test", POLICY);
        // The first start loads the kernel's programs.
        assert!(bed.run(&policy, args!["true"]).status.success());
        Self { bed, policy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bed.project().join(name)
    }

    fn config(&self) -> String {
        fs::read_to_string(self.path(".git/config")).unwrap()
    }
}

fn performer(supervisor: u32) -> Pid {
    let found = || procs::below(supervisor).into_iter().find(|process| process.name == "govsandbox-perf");
    assert!(procs::until(patience(), || found().is_some()), "nobody performs");
    Pid::from_raw(found().unwrap().pid.cast_signed()).unwrap()
}

fn status(pid: Pid, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
}

/// Renames once it may, and says what came of it.
const STEPS: &str = "mv -f .git/first .git/config && echo first > went; until [ -e go ]; do sleep 0.1; done; \
    mv -f .git/second .git/config && echo second > through; mv a .env && echo denied > through; sleep 600; echo on > through";

#[test]
fn without_the_performer_the_run_ends_and_nothing_is_renamed() {
    let stand = Stand::new("performer-killed");
    stand.bed.file("a", "");
    let mut start = stand.bed.start(&[&stand.policy], sh(STEPS));
    let child = start.spawn();
    assert!(procs::until(patience(), || stand.path("went").exists()), "{:?}", child.wait_with_output());
    // Positive control: while there was one, the config was edited.
    let edited = stand.config();
    assert!(edited.contains("[branch \"first\"]"), "{edited}");
    let performer = performer(child.id());
    // What it could do beside is little: it has a filter, and no capability while it acts.
    assert_eq!(
        (status(performer, "Seccomp:").as_str(), status(performer, "NoNewPrivs:").as_str()),
        ("2", "1")
    );
    kill_process(performer, Signal::KILL).unwrap();
    stand.bed.file("go", "");
    let begin = Instant::now();
    let run = start.read(procs::wait_with_output(child, patience()));
    assert!(begin.elapsed() < patience(), "{run}");
    assert_eq!(run.status.code(), Some(137), "{run}");
    assert!(!stand.path("through").exists() && stand.path(".git/second").exists(), "{run}");
    assert_eq!(stand.config(), edited, "{run}");
}

#[test]
fn while_the_performer_stands_still_renames_wait() {
    let stand = Stand::new("performer-stopped");
    let steps = "mv -f .git/first .git/config && echo first > went; until [ -e go ]; do sleep 0.1; done; echo > at; \
        mv -f .git/second .git/config && echo second > through";
    let mut start = stand.bed.start(&[&stand.policy], sh(steps));
    let child = start.spawn();
    assert!(procs::until(patience(), || stand.path("went").exists()), "{:?}", child.wait_with_output());
    let edited = stand.config();
    let performer = performer(child.id());
    kill_process(performer, Signal::STOP).unwrap();
    stand.bed.file("go", "");
    assert!(procs::until(patience(), || stand.path("at").exists()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!stand.path("through").exists() && stand.path(".git/second").exists());
    assert_eq!(stand.config(), edited);
    kill_process(performer, Signal::CONT).unwrap();
    let run = start.read(procs::wait_with_output(child, patience()));
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert!(stand.config().contains("[branch \"second\"]") && !stand.path(".git/second").exists(), "{run}");
}

#[test]
fn a_policy_without_such_keys_needs_no_performer_on_lsm() {
    let bed = TestBed::new("performer-none");
    let policy = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"**/.env\"]\n");
    let mut start = bed.start(&[&policy], sh(": > up; until [ -e go ]; do sleep 0.1; done"));
    let child = start.spawn();
    assert!(procs::until(patience(), || bed.project().join("up").exists()), "{:?}", child.wait_with_output());
    let is_there = procs::below(child.id()).iter().any(|process| process.name == "govsandbox-perf");
    bed.file("go", "");
    let run = start.read(procs::wait_with_output(child, patience()));
    assert_eq!((run.status.code(), is_there), (Some(0), crate::bed::backend() == "fanotify"), "{run}");
}
