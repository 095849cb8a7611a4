//! Bounds on processes and memory: met inside, and told; nobody else is touched.

use std::path::Path;

use crate::bed::{Event, Run, TestBed, args, backend, sh};

/// Makes it look as if no hierarchy had a controller: bind mounts, seen by nobody else.
const NO_CONTROLLERS: &str = "for f in /sys/fs/cgroup /sys/fs/cgroup/unified; do \
     if [ -e $f/cgroup.controllers ]; then for n in cgroup.controllers cgroup.subtree_control; do \
     mount --bind /dev/null $f/$n; done; fi; done; \
     if grep -q ' /sys/fs/cgroup/pids ' /proc/self/mountinfo; then umount /sys/fs/cgroup/pids; fi";
/// Prints the bound on the shell's own group.
const PIDS_MAX: &str = "own=$(sed -n 's/^[0-9]*:pids://p' /proc/self/cgroup); \
     if [ -n \"$own\" ]; then cat /sys/fs/cgroup/pids$own/pids.max; else \
     cat /sys/fs/cgroup/$(sed -n 's/^0:://p' /proc/self/cgroup)/pids.max; fi";

fn limits(bed: &TestBed, keys: &str) -> std::path::PathBuf {
    bed.policy("test", &format!("[filesystem]\nwrite = [\"{{project}}\"]\n[limits]\n{keys}\n"))
}

fn told<'run>(run: &'run Run, rule: &str) -> Vec<&'run Event> {
    let mut events = run.log.all_denied("privilege.use");
    events.retain(|event| event.rule() == Some(rule));
    events
}

#[track_caller]
fn number(answer: &str) -> usize {
    answer.strip_prefix("ok ").and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn processes_and_threads_are_bounded_and_it_is_told() {
    let bed = TestBed::new("limits-pids");
    let policy = limits(&bed, "pids_max = 20");
    for verb in ["forks", "threads"] {
        let steps = || args![verb, "60"];
        assert_eq!(bed.bare_steps(steps()), ["ok 60"]);
        let (run, answers) = bed.run_steps(&policy, steps());
        // The worker itself is one of them.
        assert_eq!(number(&answers[0]), 19, "{run}");
        let events = told(&run, "test/limits.pids_max");
        assert!(!events.is_empty(), "{run}");
        assert!(events.iter().all(|event| event.0["object"]["count"].as_u64() > Some(0)), "{run}");
        assert!(events.iter().all(|event| event.text("errno") == "EAGAIN"), "{run}");
    }
    // Below the bound nothing is told.
    let (run, answers) = bed.run_steps(&policy, args!["forks", "10"]);
    assert_eq!((answers, told(&run, "test/limits.pids_max").len()), (vec!["ok 10".to_owned()], 0), "{run}");
}

/// While it rages, others fork as they like; then it ends with the command, whole.
#[test]
fn a_fork_bomb_stays_inside() {
    let bed = TestBed::new("limits-bomb");
    let policy = limits(&bed, "pids_max = 100");
    let mut start =
        bed.start(&[&policy], sh(": > on; bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 2; true"));
    let child = start.spawn();
    let on = bed.project().join("on");
    assert!(
        crate::bed::procs::until(std::time::Duration::from_secs(60), || on.exists()),
        "it does not start"
    );
    for _ in 0..20 {
        // Who looks from number to number meets some twice: a place that one gives back is another's at once.
        let there = (0..5).map(|_| crate::bed::procs::of_user(bed.uid()).len()).min().unwrap();
        assert!(there <= 100, "{there} processes");
        assert_eq!(number(&bed.bare_steps(args!["forks", "30"])[0]), 30, "a fork outside fails");
    }
    let run = start.read(crate::bed::procs::wait_with_output(child, std::time::Duration::from_secs(60)));
    assert!(!told(&run, "test/limits.pids_max").is_empty(), "{run}");
}

#[test]
fn without_a_bound_in_the_policy_there_is_one() {
    let bed = TestBed::new("limits-default");
    let run = bed.run(&bed.deny(&[]), sh(PIDS_MAX));
    // Those of ours that live beside the command count too: the init, and on `fanotify` the performer.
    let own = if backend() == "lsm" { 1 } else { 2 };
    let half = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        text.trim().parse::<u64>().unwrap() / 2
    };
    let user =
        rustix::process::getrlimit(rustix::process::Resource::Nproc).current.map_or(u64::MAX, |max| max / 2);
    let expected = [8192, half("threads-max"), half("pid_max"), user].into_iter().min().unwrap();
    assert_eq!(run.out(), format!("{}\n", expected + own), "{run}");
    // Of what the user may have, the half; who is root may have all.
    let run = bed.start(&[&bed.deny(&[])], sh(PIDS_MAX)).after("prlimit --pid $$ --nproc=600").finish();
    assert_eq!(run.out(), format!("{}\n", 300 + own), "{run}");
    let run =
        bed.start(&[&bed.deny(&[])], sh(PIDS_MAX)).after("prlimit --pid $$ --nproc=600").by_root().finish();
    assert_ne!(run.out(), format!("{}\n", 300 + own), "{run}");
}

/// What would not fit goes to no swap either.
#[test]
fn the_bound_on_memory_is_one_on_swap_too() {
    let bed = TestBed::new("limits-swap");
    let script = "own=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup); \
        if [ -n \"$own\" ]; then cat /sys/fs/cgroup/memory$own/memory.memsw.limit_in_bytes; else \
        cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.swap.max; fi 2>/dev/null; true";
    let run = bed.run(&limits(&bed, &format!("memory_max_bytes = {}", 100 << 20)), sh(script));
    let kept = [String::new(), "0\n".to_owned(), format!("{}\n", 100 << 20)];
    assert!(kept.contains(&run.out()), "{run}");
    let is_counted = std::path::Path::new("/proc/swaps").exists();
    assert!(!is_counted || !run.out().is_empty(), "{run}");
}

#[test]
fn what_takes_too_much_memory_is_killed_and_nothing_else() {
    let bed = TestBed::new("limits-memory");
    let worker = bed.worker(args!["allocate", "300"]);
    let [program, words @ ..] = worker.as_slice() else { panic!("{worker:?}") };
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let script = || sh(format!("'{}' {}; echo status $?", Path::new(program).display(), words.join(" ")));
    let bare = bed.bare(script());
    assert_eq!(String::from_utf8_lossy(&bare.stdout), format!("ok {}\nstatus 0\n", 300 << 20));
    let run = bed.run(&limits(&bed, &format!("memory_max_bytes = {}", 100 << 20)), script());
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "status 137\n"), "{run}");
    let events = told(&run, "test/limits.memory_max_bytes");
    assert_eq!(
        events.iter().map(|event| event.0["object"]["count"].as_u64().unwrap()).sum::<u64>(),
        1,
        "{run}"
    );
    let enough = bed.run(&limits(&bed, &format!("memory_max_bytes = {}", 1000 << 20)), script());
    assert!(enough.out().ends_with("status 0\n"), "{enough}");
}

#[test]
fn a_bound_that_cannot_be_held_is_no_start_and_the_default_is_told_to_be_missing() {
    let bed = TestBed::new("limits-none");
    let policy = limits(&bed, "pids_max = 20");
    let refused = bed.start(&[&policy], sh("touch started")).after_in_own_mounts(NO_CONTROLLERS).finish();
    assert_eq!(refused.status.code(), Some(125), "{refused}");
    assert!(refused.err().contains("pids") && !bed.project().join("started").exists(), "{refused}");
    // Control: with the controllers, and without the key.
    assert_eq!(bed.run(&policy, args!["/bin/true"]).status.code(), Some(0));
    let run = bed.start(&[&bed.deny(&[])], args!["/bin/true"]).after_in_own_mounts(NO_CONTROLLERS).finish();
    assert_eq!(run.status.code(), Some(0), "{run}");
    let not_held = run.log.of("session.start")[0].0["object"]["not_held"].to_string();
    assert!(not_held.contains("number of processes"), "{not_held}");
}
