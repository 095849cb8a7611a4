//! How runs end: by themselves, by a signal, by the death of a guard.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, Supervisor, cgroups_of, launch, processes_with, run, supervise};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("the_status_is_the_commands_own", the_status_is_the_commands_own),
    ("nothing_is_left_behind", nothing_is_left_behind),
    ("a_killed_supervisor_takes_its_tree_along", a_killed_supervisor_takes_its_tree_along),
    ("a_killed_guardian_ends_the_run", a_killed_guardian_ends_the_run),
    ("killed_together_they_leave_no_tree", killed_together_they_leave_no_tree),
    ("a_signal_to_the_supervisor_reaches_the_command", a_signal_to_the_supervisor_reaches_the_command),
    ("a_command_that_stops_stops_the_supervisor", a_command_that_stops_stops_the_supervisor),
];

/// Longest time from the guardian's death to the end: nothing passes meanwhile, the supervisor is there.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
/// Longest time from the supervisor's death to that of the last process, on a real processor and on an emulated one.
const GONE_WITHIN: Duration = Duration::from_millis(100);
const GONE_WITHIN_EMULATED: Duration = Duration::from_secs(2);

/// Is the tree gone in time, once of three? A busy machine slows one end, and a guard that does nothing all of them.
fn is_gone_in_time(took: impl FnMut(u32) -> Duration) {
    let emulated = std::env::var_os("GOVSANDBOX_TEST_EMULATED").is_some();
    let at_most = if emulated { GONE_WITHIN_EMULATED } else { GONE_WITHIN };
    assert!((0..3).map(took).any(|took| took < at_most), "three times more than {at_most:?}");
}

fn the_status_is_the_commands_own() {
    let bed = Bed::new();
    assert_eq!(bed.sh("exit 3").status, 3);
    assert_eq!(bed.sh("kill -TERM $$").status, 143);
    assert_eq!(bed.sh("exit 0").status, 0);
}

fn nothing_is_left_behind() {
    let bed = Bed::new();
    let mark = format!("7{:05}", std::process::id());
    let supervisor =
        supervise(|| launch(&bed.plan(&["sh", "-c", &format!("setsid sleep {mark} & sleep 0.1")])));
    let pid = supervisor.process.pid.as_raw_nonzero().get();
    let outcome = supervisor.finish();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(processes_with(&mark), Vec::<u32>::new());
    assert_eq!(cgroups_of(pid), Vec::<PathBuf>::new());
}

/// A tree of 30 processes that try to get away: sessions of their own, double forks, stopped ones.
fn escaping_tree(bed: &Bed, mark: &str) -> Supervisor {
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do setsid sleep {mark} & (setsid sh -c 'sleep {mark} & :' &) ; \
         sh -c 'kill -STOP $$; sleep {mark}' & done; sleep 0.3; echo up; sleep {mark}"
    );
    let plan = bed.plan(&["sh", "-c", &script]);
    let mut supervisor = supervise(move || launch(&plan));
    assert_eq!(supervisor.line(), "up");
    assert!(processes_with(mark).len() >= 30, "the tree is there: {:?}", processes_with(mark));
    supervisor
}

fn wait_until_gone(mark: &str, since: Instant) -> Duration {
    while !processes_with(mark).is_empty() {
        assert!(since.elapsed() < Duration::from_secs(10), "still there: {:?}", processes_with(mark));
    }
    since.elapsed()
}

fn wait_for_cgroup(pid: i32) {
    let start = Instant::now();
    while !cgroups_of(pid).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(2), "the cgroup stays");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The two guardians.
pub(crate) fn guardians_of(supervisor: &Supervisor) -> Vec<Pid> {
    let wanted = supervisor.process.pid.as_raw_nonzero().get().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let guardians = pids.into_iter().filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("Name:\tgovsandbox-guar") && status.contains(&format!("PPid:\t{wanted}\n"))
    });
    let guardians: Vec<Pid> = guardians.filter_map(Pid::from_raw).collect();
    assert_eq!(guardians.len(), 2, "{guardians:?}");
    guardians
}

fn a_killed_supervisor_takes_its_tree_along() {
    is_gone_in_time(killed_supervisor);
}

fn killed_supervisor(time: u32) -> Duration {
    let bed = Bed::new();
    let mark = format!("71{time}{:05}", std::process::id());
    let supervisor = escaping_tree(&bed, &mark);
    let pid = supervisor.process.pid.as_raw_nonzero().get();
    let start = Instant::now();
    supervisor.kill(Signal::KILL);
    let took = wait_until_gone(&mark, start);
    println!("measured: supervisor killed, 30 processes gone after {took:?}");
    wait_for_cgroup(pid);
    took
}

fn a_killed_guardian_ends_the_run() {
    let bed = Bed::new();
    let mark = format!("72{:05}", std::process::id());
    let supervisor = escaping_tree(&bed, &mark);
    let start = Instant::now();
    kill_process(guardians_of(&supervisor)[0], Signal::KILL).unwrap();
    let took = wait_until_gone(&mark, start);
    println!("measured: guardian killed, 30 processes gone after {took:?}");
    assert!(took < ENDED_WITHIN, "{took:?}");
    let outcome = supervisor.finish();
    assert_eq!(outcome.status, 125, "{outcome:?}");
    assert!(outcome.stderr.contains("guardian"), "{outcome:?}");
}

fn killed_together_they_leave_no_tree() {
    is_gone_in_time(killed_together);
}

fn killed_together(time: u32) -> Duration {
    let bed = Bed::new();
    let mark = format!("73{time}{:05}", std::process::id());
    let supervisor = escaping_tree(&bed, &mark);
    let guardians = guardians_of(&supervisor);
    let start = Instant::now();
    guardians.iter().for_each(|guardian| kill_process(*guardian, Signal::KILL).unwrap());
    supervisor.kill(Signal::KILL);
    let took = wait_until_gone(&mark, start);
    println!("measured: all guards killed, 30 processes gone after {took:?}");
    // The next start takes the empty cgroup away.
    let pid = supervisor.process.pid.as_raw_nonzero().get();
    supervisor.finish();
    assert_eq!(bed.sh("true").status, 0);
    assert_eq!(cgroups_of(pid), Vec::<PathBuf>::new());
    took
}

fn a_signal_to_the_supervisor_reaches_the_command() {
    let bed = Bed::new();
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::USR1, "USR1")] {
        let script = format!("trap 'echo got {name}; exit 7' {name}; echo up; while :; do sleep 0.05; done");
        let plan = bed.plan(&["sh", "-c", &script]);
        let mut supervisor = supervise(|| launch(&plan));
        assert_eq!(supervisor.line(), "up");
        supervisor.kill(signal);
        let outcome = supervisor.finish();
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (7, format!("got {name}\n").as_str()),
            "{outcome:?}"
        );
    }
}

fn a_command_that_stops_stops_the_supervisor() {
    let bed = Bed::new();
    let plan = bed.plan(&["sh", "-c", "echo up; kill -STOP $$; echo on"]);
    let mut supervisor = supervise(|| launch(&plan));
    assert_eq!(supervisor.line(), "up");
    let start = Instant::now();
    let state = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", supervisor.process.pid.as_raw_nonzero()));
        status.unwrap().lines().find_map(|line| line.strip_prefix("State:\t")?.chars().next()).unwrap()
    };
    while state() != 'T' {
        assert!(start.elapsed() < Duration::from_secs(5), "the supervisor runs on");
        std::thread::sleep(Duration::from_millis(1));
    }
    supervisor.kill(Signal::CONT);
    let outcome = supervisor.finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "on\n"), "{outcome:?}");
    // The same command, not stopping, ends at once: the stop was the cause.
    assert_eq!(run(&bed.plan(&["sh", "-c", "echo on"])).stdout, "on\n");
}
