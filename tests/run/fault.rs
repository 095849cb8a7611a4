//! A launch that is ended, hindered or held up between any two of its steps: the command never runs unconfined, and
//! nothing is left that the next run and `unload` do not clear away.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use govsandbox::fault::Step;
use rustix::process::Signal;

use crate::bed::{
    Start, TestBed, args, backend, binary,
    log::Log,
    machine::Machine,
    procs::{self, Process, gone, pidfd, until},
    sh,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What programs that run nowhere else find missing.
const ERRNOS: [i32; 3] = [libc::ENOMEM, libc::EMFILE, libc::ENOSPC];
/// Steps that only a first run takes.
const FIRST: [Step; 3] = [Step::Object, Step::Links, Step::Maps];

/// Steps after which the launch does not wait for who took them: the command may run, confined.
const GOES_ON: [Step; 3] = [Step::Told, Step::Go, Step::Released];

/// One place for all faults of a test.
struct Stand {
    bed: TestBed,
    machine: Machine,
    log: PathBuf,
    policy: PathBuf,
}

impl Stand {
    fn new(name: &str) -> Self {
        let bed = TestBed::new(name);
        bed.file("secret", "CANARY");
        let policy = bed.policy(
            "test",
            "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/secret\", \"*.pem\"]\n\
             [network]\nallow = [\"10.0.0.0/8\"]\n",
        );
        let log = bed.root().join("log/audit.jsonl");
        let stand = Self { bed, machine: Machine::new(), log, policy };
        stand.works();
        stand
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bed.project().join(name)
    }

    fn start(&mut self, step: Step, action: &str) -> Start<'_> {
        if FIRST.contains(&step) {
            self.machine = Machine::new();
        }
        for name in ["ran", "got"] {
            let _ = fs::remove_file(self.path(name));
        }
        // A canary: its first step leaves a trace, its second is what the policy denies.
        let command = sh(": > ran; cat secret > got 2>/dev/null; exit 7");
        let mut start = self.bed.start_with_log(&[&self.policy], self.log.clone(), command).on(&self.machine);
        start.process.env("GOVSANDBOX_FAULT", format!("{step:?}:{action}"));
        start
    }

    /// The launch is held up there, until the gate goes.
    fn held(&mut self, step: Step) -> Held {
        let gate = self.bed.root().join("gate");
        fs::write(&gate, "").unwrap();
        let child = self.start(step, &format!("wait={}", gate.display())).spawn();
        let pid = child.id();
        let is_there = || {
            let own = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            own == "fault\n" || procs::below(pid).iter().any(|process| process.name == "fault")
        };
        assert!(until(PATIENCE, is_there), "{step:?} is never taken: {:?}", child.wait_with_output());
        Held { child, gate, below: procs::below(pid) }
    }

    /// The command ran confined, or not at all.
    #[track_caller]
    fn nothing_got_out(&self, step: Step, what: &str) {
        assert_eq!(fs::read_to_string(self.path("got")).unwrap_or_default(), "", "{step:?}, {what}");
        if !GOES_ON.contains(&step) {
            assert!(!self.path("ran").exists(), "{step:?}, {what}: the command ran");
        }
    }

    /// The next run works, and leaves nothing of this one or of those before.
    #[track_caller]
    fn works(&self) {
        let command = args!["/bin/true"];
        let run =
            self.bed.start_with_log(&[&self.policy], self.log.clone(), command).on(&self.machine).finish();
        assert_eq!(run.status.code(), Some(0), "{run}");
        assert_eq!(self.machine.entries(), [], "entries are left: {run}");
        let probes = fs::read_dir("/run/govsandbox").unwrap().flatten();
        let dead = probes.filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("probe-").is_some_and(|pid| !PathBuf::from("/proc").join(pid).exists())
        });
        assert_eq!(dead.map(|entry| entry.path()).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }

    fn unloads(&self) {
        let mut words = self.machine.enter();
        words.pop();
        let output = Command::new(&words[0]).args(&words[1..]).arg(binary()).arg("unload").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.machine.pins(), Vec::<PathBuf>::new());
    }
}

struct Held {
    child: Child,
    gate: PathBuf,
    below: Vec<Process>,
}

impl Held {
    fn init(&self) -> Option<&Process> {
        let own = procs::depth(self.child.id());
        self.below.iter().find(|process| process.ppid == self.child.id() && process.depth > own)
    }

    fn guardian(&self) -> Option<&Process> {
        let own = procs::depth(self.child.id());
        let is_guardian = |process: &&Process| process.depth == own && process.name != "govsandbox-egr";
        self.below.iter().filter(|process| process.ppid == self.child.id()).find(is_guardian)
    }

    fn open_gate(&self) {
        fs::remove_file(&self.gate).unwrap();
    }

    /// Waits for the supervisor and everything that it started.
    fn end(self, step: Step, what: &str) -> Output {
        let others: Vec<_> = self.below.iter().filter_map(|process| procs::try_pidfd(process.pid)).collect();
        let output = procs::wait_with_output(self.child, PATIENCE);
        let begin = Instant::now();
        for (other, process) in others.iter().zip(&self.below) {
            assert!(gone(other, Duration::from_secs(5)), "{step:?}, {what}: {process:?} lives on");
        }
        assert!(begin.elapsed() < Duration::from_secs(5));
        output
    }
}

#[test]
fn a_step_that_fails_is_no_start() {
    let mut stand = Stand::new("fault-error");
    for (place, step) in Step::ALL.iter().enumerate() {
        let errno = ERRNOS[place % ERRNOS.len()];
        let output = {
            let child = stand.start(*step, &format!("error={errno}")).spawn();
            procs::wait_with_output(child, PATIENCE)
        };
        assert_eq!(output.status.code(), Some(125), "{step:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{step:?} says nothing");
        stand.nothing_got_out(*step, "an error");
        assert!(until(PATIENCE, || procs::of_user(stand.bed.uid()).is_empty()), "{step:?}");
        stand.works();
    }
    stand.unloads();
    Log::read(&stand.log);
}

#[test]
fn a_launch_without_its_supervisor_is_no_start() {
    let mut stand = Stand::new("fault-supervisor");
    for step in Step::ALL {
        let held = stand.held(*step);
        procs::signal(held.child.id(), Signal::KILL);
        assert!(gone(&pidfd(held.child.id()), PATIENCE));
        held.open_gate();
        held.end(*step, "the supervisor killed");
        stand.nothing_got_out(*step, "the supervisor killed");
        stand.works();
    }
    stand.unloads();
    Log::read(&stand.log);
}

#[test]
fn a_launch_without_its_init_is_no_start() {
    let mut stand = Stand::new("fault-init");
    let mut tried = 0;
    for step in Step::ALL {
        let held = stand.held(*step);
        if let Some(init) = held.init() {
            let handle = pidfd(init.pid);
            procs::signal(init.pid, Signal::KILL);
            tried += 1;
            // With everything in its namespace.
            assert!(gone(&handle, PATIENCE));
            held.open_gate();
            let output = held.end(*step, "the init killed");
            // Once it has the word it was killed; before, it was not started; between the two it may be either.
            let expected: &[i32] = match step {
                Step::Go => &[137],
                Step::Told => &[7, 125, 137],
                Step::Released => &[7, 137],
                _ => &[125],
            };
            assert!(expected.contains(&output.status.code().unwrap()), "{step:?}: {output:?}");
            stand.nothing_got_out(*step, "the init killed");
        } else {
            held.open_gate();
            assert_eq!(held.end(*step, "left alone").status.code(), Some(7), "{step:?}");
        }
    }
    assert!(tried > 20, "{tried} steps have an init");
    stand.works();
    stand.unloads();
}

#[test]
fn a_launch_without_a_guardian_is_no_start() {
    let mut stand = Stand::new("fault-guardian");
    let mut tried = 0;
    for step in Step::ALL {
        let held = stand.held(*step);
        if let Some(guardian) = held.guardian() {
            let handle = pidfd(guardian.pid);
            procs::signal(guardian.pid, Signal::KILL);
            tried += 1;
            assert!(gone(&handle, PATIENCE));
            held.open_gate();
            let output = held.end(*step, "a guardian killed");
            let expected: &[i32] = if GOES_ON.contains(step) { &[7, 125] } else { &[125] };
            assert!(expected.contains(&output.status.code().unwrap()), "{step:?}: {output:?}");
            stand.nothing_got_out(*step, "a guardian killed");
        } else {
            held.open_gate();
            assert_eq!(held.end(*step, "left alone").status.code(), Some(7), "{step:?}");
        }
    }
    assert!(tried > 20, "{tried} steps have a guardian");
    stand.works();
    stand.unloads();
}

#[test]
fn a_launch_whose_supervisor_stands_still_goes_no_further() {
    let mut stand = Stand::new("fault-stopped");
    for step in Step::ALL {
        let held = stand.held(*step);
        procs::signal(held.child.id(), Signal::STOP);
        held.open_gate();
        std::thread::sleep(Duration::from_millis(50));
        stand.nothing_got_out(*step, "the supervisor stopped");
        procs::signal(held.child.id(), Signal::CONT);
        let output = held.end(*step, "the supervisor stopped");
        assert_eq!(output.status.code(), Some(7), "{step:?} on {}: {output:?}", backend());
        assert!(stand.path("ran").exists(), "{step:?}: the control");
        assert_eq!(fs::read_to_string(stand.path("got")).unwrap(), "", "{step:?}");
    }
    stand.unloads();
    Log::read(&stand.log);
}
