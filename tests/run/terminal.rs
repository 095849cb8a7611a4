//! The terminal: a run in it is a job like any other, and a shell within a run has job control of its own.

use std::{process::Command, time::Duration};

use crate::bed::{
    TestBed, args,
    procs::{self, gone, pidfd},
    pty::Pty,
    sh,
};

/// An interactive shell on a terminal, of root, as after `sudo -s`: it starts runs as its jobs.
fn shell() -> Command {
    let mut shell = Command::new("/bin/bash");
    shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "% ").env("TERM", "dumb");
    shell.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    shell
}

/// A start as a line for that shell.
fn line(start: &crate::bed::Start<'_>) -> String {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let words = std::iter::once(start.process.get_program()).chain(start.process.get_args()).map(quoted);
    let variables = start
        .process
        .get_envs()
        .map(|(name, value)| format!("{}={}", name.to_str().unwrap(), quoted(value.unwrap_or_default())));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// Does its cgroup stand still?
fn is_frozen(pid: u32) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|line| line.split_once(" cgroup2 ")?.0.split_once(' ')).unwrap().1;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    std::fs::read_to_string(format!("{root}{group}/cgroup.events")).unwrap().contains("frozen 1")
}

#[test]
fn the_command_has_the_terminal_itself() {
    let bed = TestBed::new("tty-self");
    let pty = Pty::new();
    pty.give(bed.uid());
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all three; echo to it > /dev/tty; stty size; \
                  read line; echo \"read $line\"";
    let start = bed.start(&[&bed.deny(&[])], sh(script));
    let mut child = pty.start(&start.process);
    pty.expect("all three");
    pty.expect("to it");
    pty.expect("24 80");
    pty.send("typed\n");
    pty.expect("read typed");
    assert!(child.wait().unwrap().success(), "{}", pty.screen());
}

/// Terminals are an instance of the sandbox's own; the caller's has its name in it, and new ones are made beside.
#[test]
fn the_terminal_keeps_its_name_and_new_ones_are_made() {
    let bed = TestBed::new("tty-name");
    let (other, pty) = (Pty::new(), Pty::new());
    other.give(bed.uid());
    pty.give(bed.uid());
    let script = format!(
        "tty; echo by its name > \"$(tty)\"; test -e {} || echo no other; \
         script -qec 'test -t 0 && tty >/dev/null && echo within' /dev/null; ls /dev/pts | tr '\\n' ' '",
        other.name()
    );
    let start = bed.start(&[&bed.deny(&[])], sh(script));
    let mut child = pty.start(&start.process);
    let own = pty.name();
    pty.expect(&own);
    pty.expect("by its name");
    pty.expect("no other");
    pty.expect("within");
    pty.expect(&format!("{} ptmx", own.rsplit('/').next().unwrap()));
    assert!(child.wait().unwrap().success(), "{}", pty.screen());
}

#[test]
fn a_resize_reaches_the_command() {
    let bed = TestBed::new("tty-resize");
    let pty = Pty::new();
    pty.give(bed.uid());
    let script = "trap 'stty size; exit 0' WINCH; echo up; while :; do sleep 0.02; done";
    let start = bed.start(&[&bed.deny(&[])], sh(script));
    let mut child = pty.start(&start.process);
    pty.expect("up");
    pty.resize(40, 132);
    pty.expect("40 132");
    assert!(child.wait().unwrap().success(), "{}", pty.screen());
}

#[test]
fn ctrl_c_interrupts_the_command_once() {
    let bed = TestBed::new("tty-int");
    let pty = Pty::new();
    pty.give(bed.uid());
    let script = "trap 'n=$((n+1))' INT; n=0; echo up; while [ $n = 0 ]; do sleep 0.1; done; sleep 0.5; echo count $n; exit 9";
    let start = bed.start(&[&bed.deny(&[])], sh(script));
    let mut child = pty.start(&start.process);
    pty.expect("up");
    pty.send("\x03");
    pty.expect("count 1");
    assert_eq!(child.wait().unwrap().code(), Some(9), "{}", pty.screen());
}

#[test]
fn a_run_is_a_job_that_stops_goes_on_and_ends() {
    let bed = TestBed::new("tty-job");
    let pty = Pty::new();
    pty.give(bed.uid());
    let mut child = pty.start(shell().current_dir(bed.project()));
    pty.expect("% ");
    // `up` is from who has executed: between vfork(2) and that a stopped child holds its parent where nobody sees it stop.
    let script = "sh -c 'echo up; exec sleep 1'; read line; echo got $line; sleep 300";
    let start = bed.start(&[&bed.deny(&[])], sh(script));
    pty.send(&format!("{}\n", line(&start)));
    pty.expect("\nup");
    pty.send("\x1a");
    pty.expect("Stopped");
    // The shell is back, and the tree stands still.
    pty.send("echo shell-$((40+2))\n");
    pty.expect("shell-42");
    let states = procs::of_user(bed.uid());
    assert!(!states.is_empty(), "{}", pty.screen());
    for process in &states {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
        assert!(status.contains(") T ") || is_frozen(process.pid), "{process:?} goes on: {status}");
    }
    pty.send("fg\n");
    pty.send("word\n");
    pty.expect("got word");
    std::thread::sleep(Duration::from_millis(300)); // the last command is there
    pty.send("\x03");
    pty.expect("% ");
    pty.send("echo status-$?\n");
    pty.expect("status-130");
    // In the background, and brought back.
    let start = bed.start(&[&bed.deny(&[])], sh("echo back; sleep 300"));
    pty.send(&format!("{} &\n", line(&start)));
    pty.expect("back\r\n");
    pty.send("fg\n");
    pty.expect("sleep 300");
    std::thread::sleep(Duration::from_millis(300));
    pty.send("\x03");
    pty.expect("% ");
    pty.send("echo again-$?\n");
    pty.expect("again-130");
    pty.send("exit\n");
    assert!(gone(&pidfd(child.id()), Duration::from_secs(10)), "{}", pty.screen());
    child.wait().unwrap();
}

#[test]
fn a_shell_in_a_run_has_job_control() {
    let bed = TestBed::new("tty-inner");
    let pty = Pty::new();
    pty.give(bed.uid());
    let mut start = bed.start(&[&bed.deny(&["secret"])], args!["/bin/bash", "--norc", "--noprofile", "-i"]);
    start.process.env("PS1", "% ");
    bed.file("secret", "CANARY");
    let mut child = pty.start(&start.process);
    pty.expect("% ");
    let shell = pty.foreground();
    let job_is_up =
        || assert!(procs::until(Duration::from_secs(20), || pty.foreground() != shell), "{}", pty.screen());
    pty.send("sleep 300\n");
    job_is_up();
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.send("bg\n");
    pty.send("jobs\n");
    pty.expect("Running");
    pty.send("fg\n");
    job_is_up();
    pty.send("\x03");
    pty.expect("% ");
    pty.send("echo status-$?\n");
    pty.expect("status-130");
    pty.send("cat secret | cat; echo over-$((1+1))\n");
    pty.expect("over-2");
    assert!(!pty.screen().contains("CANARY") && !pty.screen().contains("no job control"), "{}", pty.screen());
    pty.send("exit 5\n");
    assert_eq!(child.wait().unwrap().code(), Some(5), "{}", pty.screen());
}

/// A process of the command's own group reads the terminal while another group of the command's has it.
const READS_IN_THE_BACKGROUND: &str =
    "(sleep 1; read line < /dev/tty; echo was-read) & set -m; sleep 3; echo over-$((40+2))";

#[test]
fn a_command_can_not_stop_what_it_is_piped_to() {
    let bed = TestBed::new("tty-pipeline");
    let pty = Pty::new();
    pty.give(bed.uid());
    let mut child = pty.start(shell().current_dir(bed.project()));
    pty.expect("% ");
    // Positive control: without a sandbox the whole job stops.
    pty.send(&format!("bash -c '{READS_IN_THE_BACKGROUND}' | cat\n"));
    pty.expect("Stopped");
    pty.send("kill -KILL %1; wait; echo killed-$((40+2))\n");
    pty.expect("killed-42");
    let start = bed.start(&[&bed.deny(&[])], args!["/bin/bash", "-c", READS_IN_THE_BACKGROUND]);
    pty.send(&format!("{} | cat\n", line(&start)));
    pty.expect("over-42");
    pty.expect("% "); // what is typed before goes to who reads in there
    pty.send("echo status-$?-$(jobs | wc -l)\n");
    pty.expect("status-0-0");
    pty.send("exit\n");
    assert!(gone(&pidfd(child.id()), Duration::from_secs(10)), "{}", pty.screen());
    child.wait().unwrap();
}

#[test]
fn a_job_that_reads_from_the_background_stops_and_comes_back() {
    let bed = TestBed::new("tty-background");
    let pty = Pty::new();
    pty.give(bed.uid());
    let mut child = pty.start(shell().current_dir(bed.project()));
    pty.expect("% ");
    let start = bed.start(&[&bed.deny(&[])], sh("read line; echo got-$line"));
    pty.send(&format!("{} &\n", line(&start)));
    pty.send("while ! jobs | grep -q 'Stop[p]ed'; do sleep 0.1; done; jobs\n");
    pty.expect("Stopped");
    pty.send("fg\n");
    pty.expect("read line");
    pty.send("word\n");
    pty.expect("got-word");
    pty.send("exit\n");
    assert!(gone(&pidfd(child.id()), Duration::from_secs(10)), "{}", pty.screen());
    child.wait().unwrap();
}

#[test]
fn a_terminal_that_goes_away_ends_the_run() {
    let bed = TestBed::new("tty-hangup");
    let pty = Pty::new();
    pty.give(bed.uid());
    let start = bed.start(&[&bed.deny(&[])], sh("echo up; exec sleep 300"));
    let mut child = pty.start(&start.process);
    pty.expect("up");
    pty.hang_up();
    assert!(gone(&pidfd(child.id()), Duration::from_secs(10)), "it goes on without a terminal");
    child.wait().unwrap();
}
