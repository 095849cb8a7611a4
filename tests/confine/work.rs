//! What people do inside goes on working, on the stricter of the filters.

use std::{
    fs::File,
    io::{Read, Write},
    time::{Duration, Instant},
};

use govsandbox::{launch::seccomp::SeccompPlan, sys::clone};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{getpgrp, ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::tcgetpgrp,
};

use crate::bed::{Bed, Outcome, launch, run};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("git_python_and_node_work", git_python_and_node_work),
    ("an_interactive_shell_has_job_control", an_interactive_shell_has_job_control),
    ("typing_into_the_terminal_is_refused", typing_into_the_terminal_is_refused),
];

fn strict(bed: &Bed, script: &str) -> Outcome {
    let mut plan = bed.plan(&["sh", "-c", script]);
    plan.seccomp = SeccompPlan::FANOTIFY;
    plan.env.push(("HOME".into(), bed.path().into()));
    run(&plan)
}

fn git_python_and_node_work() {
    let bed = Bed::new();
    let git = "git init -q a && cd a && git config user.email a@b && git config user.name n && echo 1 > f && git add f && \
               git commit -qm one && cd .. && git clone -q file://$PWD/a b && cat b/f";
    let outcome = strict(&bed, git);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "1\n"), "{outcome:?}");
    let threads = "/usr/bin/python3 -u -c 'import subprocess, threading; t = threading.Thread(target=print, args=(1,)); t.start(); \
                   t.join(); subprocess.run([\"echo\", \"2\"])'";
    let outcome = strict(&bed, threads);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "1\n2\n"), "{outcome:?}");
    let node = "node -e 'require(\"fs\").promises.writeFile(\"x\", \"3\").then(() => \
                console.log(require(\"child_process\").execSync(\"cat x\").toString()))'";
    let outcome = strict(&bed, node);
    assert_eq!((outcome.status, outcome.stdout.trim()), (0, "3"), "{outcome:?}");
}

/// A supervisor whose terminal is ours; its status is 200 when it had not got the terminal back at the end.
fn on_terminal(bed: &Bed, command: &[&str], typed: &[&str]) -> (i32, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    // The sandbox's user may open it, as a login's would be.
    std::os::unix::fs::chown(&name, Some(crate::bed::UID), None).unwrap();
    let mut plan = bed.plan(command);
    plan.env.push(("PS1".into(), "$ ".into()));
    let process = clone::fork(clone::Descriptors::All, || {
        setsid().unwrap();
        let terminal = File::options().read(true).write(true).open(&name).unwrap();
        ioctl_tiocsctty(&terminal).unwrap();
        rustix::stdio::dup2_stdin(&terminal).unwrap();
        rustix::stdio::dup2_stdout(&terminal).unwrap();
        rustix::stdio::dup2_stderr(&terminal).unwrap();
        let status = launch(&plan);
        if tcgetpgrp(&terminal) == Ok(getpgrp()) { status } else { 200 }
    })
    .unwrap();
    let mut master = File::from(master);
    if !typed.is_empty() {
        // Its prompt: what is typed before is read in one go, and a job that was killed has no time to end.
        let prompt = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&master, PollFlags::IN)], Some(&prompt)).unwrap(), 1, "no prompt");
    }
    for line in typed {
        // A control character throws away what was typed before it and not yet read.
        std::thread::sleep(Duration::from_millis(300));
        if master.write_all(line.as_bytes()).is_err() {
            break; // the shell has ended, and its side of the terminal with it
        }
    }
    let (mut seen, start) = (Vec::new(), Instant::now());
    let mut buffer = [0; 4096];
    loop {
        let mut watched = [PollFd::new(&master, PollFlags::IN)];
        let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut watched, Some(&wait)).unwrap();
        assert!(
            ready == 1 && start.elapsed() < Duration::from_secs(20),
            "{}",
            String::from_utf8_lossy(&seen)
        );
        // EIO: the last descriptor of the other side is closed.
        let Ok(length) = master.read(&mut buffer) else { break };
        seen.extend_from_slice(&buffer[..length]);
    }
    let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&process.pidfd));
    let ended = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).unwrap().unwrap();
    (ended.exit_status().unwrap_or(-1), String::from_utf8_lossy(&seen).into_owned())
}

fn an_interactive_shell_has_job_control() {
    let bed = Bed::new();
    for shell in [&["bash", "--norc", "-i"][..], &["dash", "-i"]] {
        let typed = &[
            "sleep 600 | cat &\n",
            "jobs\n",
            "fg\n",
            "\u{1a}",
            "jobs\n",
            "kill -KILL %1\n",
            // A shell asks before it leaves a stopped job: until it has heard of this one's end.
            "while jobs | grep -q 'Stop[p]ed'; do sleep 0.1; done\n",
            "wait\n",
            "echo sum=$((6*7))\n",
            "exit 5\n",
        ];
        let (status, seen) = on_terminal(&bed, shell, typed);
        // dash gives the terminal back to the group that it came from, which has no number in the pid namespace, and
        // takes the failure for its own: 2.
        assert_eq!(status, if shell[0] == "dash" { 2 } else { 5 }, "{shell:?}: {seen}");
        assert!(seen.contains("sum=42") && seen.contains("Stopped"), "{shell:?}: {seen}");
        assert!(!seen.contains("no job control") && !seen.contains("can't access tty"), "{shell:?}: {seen}");
    }
}

fn typing_into_the_terminal_is_refused() {
    let bed = Bed::new();
    let script = "import fcntl, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b\"x\")
    print(\"typed\")
except OSError as error:
    print(\"errno\", error.errno)
print(\"size\", len(fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))))";
    let (status, seen) = on_terminal(&bed, &["/usr/bin/python3", "-c", script], &[]);
    // Another request on the same terminal goes through: the filter is the cause.
    assert!(status == 0 && seen.contains("errno 1") && seen.contains("size 8"), "{status} {seen}");
}
