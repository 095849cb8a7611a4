//! What leads out of a sandbox without naming a file: refused, and told by the name of the call or hook.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::Command,
    time::Duration,
};

use govsandbox::launch::landlock::{SCOPE_ABI_MIN, strength};

use crate::bed::{Run, TestBed, args, backend, lines, procs, sh};

/// A refused system call as a step of the worker, with the errno that the sandbox gives, its name and the rule.
struct Refused {
    verb: &'static str,
    words: String,
    errno: &'static str,
    name: &'static str,
    rule: &'static str,
}

fn refused(call: i64, arguments: &str, name: &'static str, rule: &'static str) -> Refused {
    Refused { verb: "call", words: format!("{call},{arguments}"), errno: "EPERM", name, rule }
}

/// Calls that root may make, or that fail in another way than in a sandbox: nothing is changed by them.
fn calls() -> Vec<Refused> {
    const MACHINE: &str = "builtin/privileges";
    const NAMESPACES: &str = "default/process.namespaces";
    let socket = |words: &str, errno| Refused {
        errno,
        ..refused(libc::SYS_socket, words, "socket", "builtin/sockets")
    };
    vec![
        refused(libc::SYS_bpf, "9999,0,0", "bpf", MACHINE),
        refused(libc::SYS_perf_event_open, "0,0,-1,-1,0", "perf_event_open", MACHINE),
        refused(libc::SYS_keyctl, "0,-4,1", "keyctl", MACHINE),
        refused(libc::SYS_add_key, "0,0,0,0,0", "add_key", MACHINE),
        refused(libc::SYS_open_by_handle_at, "-100,0,0", "open_by_handle_at", MACHINE),
        refused(libc::SYS_personality, "0x0400000", "personality", MACHINE),
        refused(libc::SYS_mount, "0,0,0,0,0", "mount", NAMESPACES),
        refused(libc::SYS_fsopen, "0,0", "fsopen", NAMESPACES),
        refused(libc::SYS_mount_setattr, "-1,0,0,0,0", "mount_setattr", NAMESPACES),
        refused(libc::SYS_setns, "-1,0", "setns", NAMESPACES),
        refused(libc::SYS_unshare, "0x04000000", "unshare", NAMESPACES),
        // SIGCHLD and CLONE_NEWUSER with CLONE_FS, which no kernel takes together.
        refused(libc::SYS_clone, "0x10000211,0,0,0,0", "clone", NAMESPACES),
        refused(libc::SYS_userfaultfd, "0x7fff", "userfaultfd", "default/process.userfaultfd"),
        refused(libc::SYS_ioctl, "-1,0x5412,0", "ioctl", "builtin/terminal"),
        refused(libc::SYS_ioctl, "-1,0xbad0000541c,0", "ioctl", "builtin/terminal"),
        refused(libc::SYS_ioctl, "-1,0x4b47,0", "ioctl", "builtin/terminal"),
        refused(libc::SYS_setpriority, "1,0,0", "setpriority", "builtin/processes"),
        refused(libc::SYS_ioprio_set, "2,0,0", "ioprio_set", "builtin/processes"),
        refused(libc::SYS_fcntl, "-1,1024,1", "fcntl", "builtin/processes"),
        refused(libc::SYS_fcntl, "-1,0xbad00000402,4", "fcntl", "builtin/processes"),
        refused(libc::SYS_setsockopt, "-1,0,4,0,0", "setsockopt", "builtin/sockets"),
        refused(libc::SYS_setsockopt, "-1,41,78,0,0", "setsockopt", "builtin/sockets"),
        socket("2,3,1", "EPERM"),
        socket("2,2,1", "EPERM"),
        socket("16,3,9", "EPERM"),
        socket("17,3,768", "EAFNOSUPPORT"),
    ]
}

fn steps(calls: &[Refused]) -> Vec<OsString> {
    calls.iter().flat_map(|call| args![call.verb, &call.words]).collect()
}

/// One event of the call tells of the refusal.
#[track_caller]
fn assert_told(run: &Run, call: &Refused, times: usize) {
    let told = run.log.all_denied("privilege.use");
    let of_call: Vec<_> = told
        .iter()
        .filter(|event| event.text("action") == call.name && event.text("errno") == call.errno)
        .collect();
    assert!(of_call.len() >= times, "{} {}: {run}", call.name, call.words);
    assert!(of_call.iter().all(|event| event.rule() == Some(call.rule)), "{of_call:?}");
}

#[test]
fn calls_that_lead_out_are_refused_and_told_by_name() {
    let bed = TestBed::new("privilege-calls");
    let calls = calls();
    // Positive control: to root outside the kernel gives another answer, whatever it is.
    let mut worker = bed.worker(steps(&calls)).into_iter();
    let bare = Command::new(worker.next().unwrap()).args(worker).output().unwrap();
    let bare = lines(&bare.stdout);
    assert_eq!(bare.len(), calls.len(), "{bare:?}");
    for (call, answer) in calls.iter().zip(&bare) {
        assert_ne!(answer, call.errno, "{} {}", call.name, call.words);
    }
    let policy = bed.deny(&[]);
    for by_root in [false, true] {
        // Twice, and told once.
        let start = bed.start(&[&policy], bed.worker([steps(&calls), steps(&calls)].concat()));
        let run = if by_root { start.by_root() } else { start }.finish();
        let answers = lines(&run.stdout);
        for (call, answer) in calls.iter().chain(&calls).zip(&answers) {
            assert_eq!(answer, call.errno, "{} {}: {run}", call.name, call.words);
        }
        assert_eq!(answers.len(), 2 * calls.len(), "{run}");
        for call in &calls {
            let same = |other: &&Refused| (other.name, other.errno) == (call.name, call.errno);
            assert_told(&run, call, calls.iter().filter(same).count());
        }
        assert_eq!(run.log.all_denied("privilege.use").len(), calls.len(), "{run}");
    }
}

#[test]
fn calls_of_32_bit_programs_and_of_x32_do_not_exist() {
    let bed = TestBed::new("privilege-foreign");
    // getpid(2) of i386 and of x32.
    let steps = args!["call-of-32-bits", "20", "call", "0x40000027"];
    let bare = bed.bare_steps(steps.clone());
    assert_eq!(bare[0], "ok", "this kernel runs no 32-bit programs, so the test proves nothing: {bare:?}");
    let (run, answers) = bed.run_steps(&bed.deny(&[]), steps);
    assert_eq!(answers, ["ENOSYS", "ENOSYS"], "{run}");
    let told = run.log.all_denied("privilege.use");
    let rules: Vec<_> = told.iter().map(|event| (event.text("action"), event.rule())).collect();
    assert_eq!(rules, [("syscall", Some("builtin/architecture")); 2], "{run}");
}

#[test]
fn what_programs_try_and_do_without_is_no_denial() {
    let bed = TestBed::new("privilege-quiet");
    // A thread: clone3 is answered with ENOSYS, and clone used. MPTCP: programs try it first.
    let own = bed.file("own", "own");
    let mptcp = format!("{},2,1,262", libc::SYS_socket);
    let (run, answers) = bed.run_steps(&bed.deny(&[]), args!["thread", "read", &own, "call", &mptcp]);
    assert_eq!(answers[0], "ok own", "{run}");
    assert!(answers[1].contains("not supported"), "{run}");
    assert!(run.log.of("privilege.use").is_empty(), "{run}");
    assert_eq!(run.err(), "", "{run}");
}

#[test]
fn no_further_landlock_domain_where_calls_are_performed_outside_of_it() {
    let bed = TestBed::new("privilege-landlock");
    // LANDLOCK_CREATE_RULESET_VERSION: which ABI there is.
    let ask = || args!["call", format!("{},0,0,1", libc::SYS_landlock_create_ruleset)];
    assert_eq!(bed.bare_steps(ask()), ["ok"]);
    let (run, answers) = bed.run_steps(&bed.deny(&[]), ask());
    assert_eq!(answers, [if backend() == "fanotify" { "ENOSYS" } else { "ok" }], "{run}");
    assert!(run.log.of("privilege.use").is_empty(), "{run}");
}

#[test]
fn a_signal_to_the_own_group_stays_inside() {
    let bed = TestBed::new("privilege-group");
    // The supervisor leads a process group, as a shell's job; another process of the user is in it.
    let script =
        || sh("trap '' USR1; while [ ! -e go ]; do sleep 0.02; done; kill -USR1 0; sleep 0.3; echo over");
    let beside = |mut leader: Command| {
        let leader = leader.process_group(0).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let group = i32::try_from(leader.id()).unwrap();
        let mut other = bed.bare_command(args!["sleep", "60"]).process_group(group).spawn().unwrap();
        bed.file("go", "");
        let output = procs::wait_with_output(leader, Duration::from_secs(60));
        std::fs::remove_file(bed.project().join("go")).unwrap();
        other.kill().unwrap();
        (output, other.wait().unwrap().signal())
    };
    let (_, signal) = beside(bed.bare_command(script()));
    assert_eq!(signal, Some(libc::SIGUSR1), "positive control: outside, the other process is reached");
    let mut start = bed.start(&[&bed.deny(&[])], script());
    let process = std::mem::replace(&mut start.process, Command::new("true"));
    let (output, signal) = beside(process);
    let run = start.read(output);
    assert_eq!((signal, run.out().as_str()), (Some(libc::SIGKILL), "over\n"), "{run}");
    // Landlock's scope (ABI 6) answers before the hook, and tells nobody.
    if backend() == "lsm" && strength().abi < SCOPE_ABI_MIN {
        let told = run.log.all_denied("privilege.use");
        assert!(told.iter().any(|event| event.text("action") == "task_kill"), "{run}");
    }
}

#[test]
fn io_uring_makes_no_socket_that_socket_does_not() {
    let bed = TestBed::new("privilege-ring");
    // TCP, a raw one and packets.
    let steps =
        || args!["io-uring-socket", "2,1,6", "io-uring-socket", "2,3,1", "io-uring-socket", "17,3,768"];
    let (run, answers) = bed.run_steps(&bed.deny(&[]), steps());
    if backend() == "lsm" {
        assert_eq!(answers, ["ok", "EPERM", "EPERM"], "{run}");
        let told = run.log.all_denied("privilege.use");
        let names: Vec<_> = told.iter().map(|event| (event.text("action"), event.rule())).collect();
        assert_eq!(names, [("socket_create", Some("builtin/sockets")); 2], "{run}");
    } else {
        assert_eq!(answers, ["ENOSYS"; 3], "{run}");
    }
    // Positive control: root outside gets them all.
    let mut worker = bed.worker(steps()).into_iter();
    let bare = Command::new(worker.next().unwrap()).args(worker).output().unwrap();
    assert_eq!(lines(&bare.stdout), ["ok"; 3], "{bare:?}");
}

#[test]
fn userfaultfd_is_as_the_policy_says() {
    let bed = TestBed::new("privilege-userfaultfd");
    // UFFD_USER_MODE_ONLY, and the command of /dev/userfaultfd on what is no such device.
    let (call, command) = (format!("{},1", libc::SYS_userfaultfd), format!("{},0,0xaa00,0", libc::SYS_ioctl));
    let steps = || args!["call", &call, "call", &command];
    // Positive control: outside the kernel answers by itself, whether it has the call or not.
    let bare = bed.bare_steps(steps());
    assert!(bare.iter().all(|answer| answer != "EPERM"), "{bare:?}");
    let allows = bed.policy("allows", "[process]\nuserfaultfd = \"allow\"\n");
    let (run, answers) = bed.run_steps(&allows, steps());
    assert_eq!(answers, bare, "{run}");
    let (run, answers) = bed.run_steps(&bed.deny(&[]), steps());
    assert_eq!(answers, ["EPERM", "EPERM"], "{run}");
    let told = run.log.all_denied("privilege.use");
    let names: Vec<_> = told.iter().map(|event| (event.text("action"), event.rule())).collect();
    let rule = Some("default/process.userfaultfd");
    assert_eq!(names, [("userfaultfd", rule), ("ioctl", rule)], "{run}");
}
