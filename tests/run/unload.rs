//! `unload` takes everything away, and nothing from under the feet of a sandbox.

use std::{process::Command, time::Duration};

use crate::bed::{
    Start, TestBed, args, binary,
    machine::Machine,
    procs::{until, wait_with_output},
    sh,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn programs_stay_while_a_sandbox_is_alive() {
    let bed = TestBed::new("unload-alive");
    bed.file("secret", "CANARY");
    let script = ": > started; while [ ! -e go ]; do sleep 0.05; done; cat secret || echo held";
    let mut start = bed.start(&[&bed.deny(&["secret"])], sh(script));
    let child = start.spawn();
    let supervisor = child.id();
    assert!(until(PATIENCE, || bed.project().join("started").exists()), "it does not start");

    let unload = Command::new(binary()).arg("unload").output().unwrap();
    let said = String::from_utf8(unload.stdout).unwrap();
    assert_eq!(unload.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("supervised by process {supervisor}")), "{said}");
    assert!(said.contains("nothing was removed"), "{said}");

    bed.file("go", "");
    let run = start.read(wait_with_output(child, PATIENCE));
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "held\n"), "{run}");
}

/// Under a bpffs of the test's own, since other tests use that of the machine.
#[test]
fn nothing_is_left_when_no_sandbox_is_alive() {
    let bed = TestBed::new("unload-all");
    let start = bed.start(&[&bed.deny(&["secret"])], sh("echo ran"));
    let script = "mount -t bpf bpf /sys/fs/bpf && \"$0\" \"$@\" && ls /sys/fs/bpf/govsandbox && \"$0\" unload && \
                  test ! -e /sys/fs/bpf/govsandbox && \"$0\" unload && \"$0\" \"$@\"";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "/bin/sh", "-c", script]);
    shell.arg(start.process.get_program()).args(start.process.get_args()).current_dir(bed.project());
    for (name, value) in start.process.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    // The folder of cgroups is shared with other tests: either unload may be the one that finds it unused.
    let lines: Vec<&str> =
        said.lines().filter(|line| !line.contains("/cgroup") && *line != "nothing is loaded").collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!((lines[0], lines[3]), ("ran", "ran"), "{said}");
    assert!(lines[1].starts_with('v'), "the programs are pinned: {said}");
    assert!(
        lines[2].starts_with("removed  /sys/fs/bpf/govsandbox/v") && lines[2].contains(" programs, "),
        "{said}"
    );
}

/// Held up after it has found the programs, before there is a sandbox that needs them.
struct Starting<'bed> {
    start: Start<'bed>,
    child: std::process::Child,
    gate: std::path::PathBuf,
}

impl<'bed> Starting<'bed> {
    fn new(bed: &'bed TestBed, machine: &Machine) -> Self {
        bed.file("secret", "CANARY");
        let gate = bed.root().join("gate");
        std::fs::write(&gate, "").unwrap();
        let mut start = bed.start(&[&bed.deny(&["secret"])], sh("cat secret || echo held")).on(machine);
        start.process.env("GOVSANDBOX_FAULT", format!("Backend:wait={}", gate.display()));
        let child = start.spawn();
        let comm = format!("/proc/{}/comm", child.id());
        assert!(until(PATIENCE, || std::fs::read_to_string(&comm).is_ok_and(|name| name == "fault\n")));
        Self { start, child, gate }
    }

    fn goes_on(self) {
        std::fs::remove_file(&self.gate).unwrap();
        let run = self.start.read(wait_with_output(self.child, PATIENCE));
        assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "held\n"), "{run}");
    }
}

#[test]
fn programs_stay_while_a_run_starts() {
    let bed = TestBed::new("unload-starting");
    let machine = Machine::new();
    let starting = Starting::new(&bed, &machine);
    let unload = || {
        let mut words = machine.enter();
        words.pop();
        Command::new(&words[0]).args(&words[1..]).arg(binary()).arg("unload").output().unwrap()
    };
    let refused = unload();
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said.contains(&format!("alive    process {}", starting.child.id())), "{said}");
    starting.goes_on();
    assert_eq!(unload().status.code(), Some(0));
    assert_eq!(machine.pins().len(), 0);
}

/// What logs is another build: the folder of its pins has another name.
#[test]
fn another_build_leaves_the_programs_of_a_run_that_starts() {
    let bed = TestBed::new("unload-builds");
    let machine = Machine::new();
    let starting = Starting::new(&bed, &machine);
    let other = || {
        let mut start = bed.start(&[&bed.deny(&[])], args!["/bin/true"]).on(&machine);
        start.process.env("GOVSANDBOX_BPF_LOG", "error");
        let run = start.finish();
        assert_eq!(run.status.code(), Some(0), "{run}");
    };
    other();
    assert_eq!(machine.pins().len(), 2);
    starting.goes_on();
    // Nobody uses it any more: the next one that loads takes it away.
    machine.run("rm -r /sys/fs/bpf/govsandbox/*-log*");
    other();
    assert_eq!(machine.pins().len(), 1);
}
