//! The backend `fanotify`: what it refuses, each with the same access by a run without the rule.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use govsandbox::{
    backend::{
        fanotify::{Inbox, Input, Mode, Refusal, Setup, Verdicts, channel, prepare, probe},
        perform::{PERFORMED, PathPerformer, Reports},
    },
    id::RuleIndex,
    launch::{LaunchPlan, seccomp::SeccompPlan, spawn},
    policy::{
        automaton,
        compile::{AllowLists, AllowedPath, GlobRule, LiteralRule, PathEffect, PathPlan},
    },
};
use govsandbox_ebpf::abi::rule::RULE_OWN;

use crate::bed::{Bed, Outcome, supervise};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("the_probe_holds_here", the_probe_holds_here),
    ("a_denied_file_and_folder_are_not_opened", a_denied_file_and_folder_are_not_opened),
    ("other_names_of_a_denied_file_are_refused", other_names_of_a_denied_file_are_refused),
    ("a_denied_path_can_not_be_moved_out_of_its_rule", a_denied_path_can_not_be_moved_out_of_its_rule),
    ("a_file_that_comes_later_is_judged_by_its_name", a_file_that_comes_later_is_judged_by_its_name),
    ("an_existing_match_of_a_glob_can_not_be_renamed", an_existing_match_of_a_glob_can_not_be_renamed),
    ("descriptors_give_no_second_way", descriptors_give_no_second_way),
    ("a_protected_path_is_read_and_not_changed", a_protected_path_is_read_and_not_changed),
    ("a_protected_name_that_comes_later_is_not_written", a_protected_name_that_comes_later_is_not_written),
    ("audit_mode_refuses_nothing_and_tells_all", audit_mode_refuses_nothing_and_tells_all),
    ("a_flood_loses_no_refusal", a_flood_loses_no_refusal),
    ("processes_outside_are_not_touched", processes_outside_are_not_touched),
    ("nothing_is_read_while_the_guards_die", nothing_is_read_while_the_guards_die),
    ("a_redirected_file_that_is_denied_does_not_start", a_redirected_file_that_is_denied_does_not_start),
];

/// Rules as a policy would give them.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    pub(crate) deny: Vec<PathBuf>,
    pub(crate) deny_globs: Vec<&'static str>,
    pub(crate) protect: Vec<PathBuf>,
    pub(crate) protect_globs: Vec<&'static str>,
    pub(crate) audit: bool,
}

impl Rules {
    pub(crate) fn setup(&self, bed: &Bed) -> Setup {
        let mut paths = PathPlan::default();
        let mut number = RULE_OWN;
        let mut next = || {
            number += 1;
            RuleIndex(number)
        };
        for (literals, globs, effect) in [
            (&self.deny, &self.deny_globs, PathEffect::Deny),
            (&self.protect, &self.protect_globs, PathEffect::Protect),
        ] {
            paths.literals.extend(literals.iter().map(|path| LiteralRule {
                path: path.clone(),
                effect,
                rule: next(),
            }));
            paths.globs.extend(globs.iter().map(|glob| GlobRule {
                pattern: glob.as_bytes().to_vec(),
                effect,
                rule: next(),
            }));
        }
        let write = vec![AllowedPath { path: bed.path(), rule: next() }];
        paths.allow.push(AllowLists { write, ..AllowLists::default() });
        let mode = if self.audit { Mode::Audit } else { Mode::Enforce };
        let automaton = automaton::build(&paths.globs).unwrap();
        prepare(Input { paths: &paths, automaton, own_files: Vec::new(), mode, programs: None }).unwrap()
    }
}

/// What a supervisor does on this backend; refusals go to stderr, one line each.
fn launch(plan: LaunchPlan, setup: Setup, mode: Mode) -> i32 {
    launch_with(plan, setup, mode, Performed::No)
}

/// The same with performed calls.
pub(crate) fn launch_performed(plan: LaunchPlan, setup: Setup, mode: Mode) -> i32 {
    launch_with(plan, setup, mode, Performed::Yes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Performed {
    Yes,
    No,
}

fn launch_with(mut plan: LaunchPlan, setup: Setup, mode: Mode, performed: Performed) -> i32 {
    let (sender, inbox) = channel();
    let over = Arc::new(AtomicBool::new(false));
    (plan.mounts, plan.fanotify, plan.seccomp) = (setup.mounts, Some(setup.fanotify), SeccompPlan::FANOTIFY);
    let rules = Arc::new(setup.rules);
    if performed == Performed::Yes {
        plan.seccomp.performed = PERFORMED;
        plan.performer = Some(Arc::new(PathPerformer::new(Arc::clone(&rules), mode, &Vec::new(), None)));
    }
    let (mut threads, mut reader) = (None, None);
    let prepared = spawn(&plan, |forked| {
        let reports = Reports::start(forked, sender.clone(), Vec::new(), (0, 0))?;
        threads = Some((Verdicts::start(forked, rules, mode, sender)?, reports));
        let over = Arc::clone(&over);
        reader = Some(std::thread::spawn(move || read(&inbox, &over)));
        Ok(())
    });
    let ended = prepared.and_then(|prepared| prepared.release()).and_then(|running| running.wait());
    let counts = threads.map(|(verdicts, reports)| {
        if let Some(reports) = reports {
            reports.stop();
        }
        verdicts.stop()
    });
    over.store(true, Ordering::Release);
    for refusal in reader.map(|reader| reader.join().unwrap()).unwrap_or_default() {
        eprintln!(
            "refused={} rule={} write={} list={} tgid={} {}",
            refusal.refused,
            refusal.rule,
            refusal.write,
            refusal.list,
            refusal.tgid != 0,
            String::from_utf8_lossy(&refusal.path)
        );
    }
    eprintln!("{counts:?}");
    match ended {
        Ok(ended) => i32::from(ended.status()),
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            125
        }
    }
}

/// What arrives until it is over.
fn read(inbox: &Inbox, over: &AtomicBool) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    loop {
        let is_over = over.load(Ordering::Acquire);
        let before = refusals.len();
        refusals.extend(inbox.take());
        (before..refusals.len()).for_each(|_| inbox.told());
        if is_over {
            return refusals;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

pub(crate) fn run(bed: &Bed, rules: &Rules, script: &str) -> Outcome {
    let (plan, setup) = (bed.plan(&["sh", "-c", script]), rules.setup(bed));
    let mode = if rules.audit { Mode::Audit } else { Mode::Enforce };
    supervise(move || launch(plan, setup, mode)).finish()
}

/// The script's output without the rule holds `canary`, with it not; returns what happened with it.
fn refuses(bed: &Bed, rules: &Rules, script: &str, canary: &str) -> Outcome {
    let bare = run(bed, &Rules::default(), script);
    assert!(bare.stdout.contains(canary), "the control reads it: {bare:?}");
    let held = run(bed, rules, script);
    assert!(!held.stdout.contains(canary), "{canary} left the sandbox: {held:?}");
    held
}

fn the_probe_holds_here() {
    probe().unwrap();
}

fn a_denied_file_and_folder_are_not_opened() {
    let bed = Bed::new();
    let (file, folder) = (bed.file("secret", "CANARY-1"), bed.file("keys/deep/id", "CANARY-2"));
    bed.file("plain", "public");
    let keys = bed.path().join("keys");
    let rules = Rules { deny: vec![file.clone(), keys.clone()], ..Rules::default() };
    let outcome = refuses(&bed, &rules, "cat secret; cat plain", "CANARY-1");
    assert_eq!(outcome.stdout, "public", "{outcome:?}");
    let line = format!("refused=true rule=2 write=false list=false tgid=true {}", file.display());
    assert!(outcome.stderr.contains(&line), "{outcome:?}");
    assert!(outcome.stderr.contains("Operation not permitted"), "{outcome:?}");
    refuses(&bed, &rules, "cat keys/deep/id", "CANARY-2");
    let listed = refuses(&bed, &rules, "ls keys", "deep");
    assert!(
        listed.stderr.contains(&format!("rule=3 write=false list=true tgid=true {}", keys.display())),
        "{listed:?}"
    );
    assert!(folder.exists());
}

fn other_names_of_a_denied_file_are_refused() {
    let bed = Bed::new();
    let file = bed.file("a/secret", "CANARY-3");
    fs::hard_link(&file, bed.path().join("hard")).unwrap();
    std::os::unix::fs::symlink(&file, bed.path().join("soft")).unwrap();
    let rules = Rules { deny: vec![file], ..Rules::default() };
    for script in [
        "cat hard",
        "cat soft",
        "cat a/../a/secret",
        "cat /proc/self/cwd/a/secret",
        "cat /proc/1/../self/root/$PWD/hard",
    ] {
        refuses(&bed, &rules, script, "CANARY-3");
    }
    // A link made inside.
    let outcome = refuses(&bed, &rules, "ln -f a/secret new; cat new; rm -f new", "CANARY-3");
    assert!(
        outcome.stderr.contains("ross-device") || outcome.stderr.contains("not permitted"),
        "{outcome:?}"
    );
}

fn a_denied_path_can_not_be_moved_out_of_its_rule() {
    let bed = Bed::new();
    let file = bed.file("a/b/secret", "CANARY-4");
    let rules = Rules { deny: vec![file.clone()], ..Rules::default() };
    for script in [
        "mv a/b/secret x && cat x; mv x a/b/secret",
        "mv a/b c && cat c/secret; mv c a/b",
        "mv a z && cat z/b/secret; mv z a",
    ] {
        refuses(&bed, &rules, script, "CANARY-4");
        assert!(file.exists(), "{script} moved it");
    }
    // Without `mv`'s way of copying where a rename is refused: EBUSY for the folders, EXDEV out of the mount.
    let script = "python3 -c '
import os, errno
for old, new in (\"a/b/secret\", \"x\"), (\"a/b\", \"c\"), (\"a\", \"z\"):
    try:
        os.rename(old, new)
        print(\"renamed\")
    except OSError as error:
        print(errno.errorcode[error.errno])'";
    let outcome = run(&bed, &rules, script);
    assert!(outcome.stdout.lines().all(|line| line == "EBUSY" || line == "EXDEV"), "{outcome:?}");
    assert_eq!(
        run(&bed, &rules, "echo x > a/b/secret; rm -rf a; test -e a/b/secret && echo there").stdout,
        "there\n"
    );
}

fn a_file_that_comes_later_is_judged_by_its_name() {
    let bed = Bed::new();
    let rules = Rules { deny_globs: vec!["/**/.env", "/**/*.pem"], ..Rules::default() };
    let outcome =
        refuses(&bed, &rules, "mkdir -p d; echo CANARY-5 > d/x; mv d/x d/.env; cat d/.env", "CANARY-5");
    assert!(outcome.stderr.contains("rule=2"), "{outcome:?}");
    // A neighbour that only looks like it.
    assert_eq!(run(&bed, &rules, "echo fine > d/.envrc; cat d/.envrc").stdout, "fine\n");
}

fn an_existing_match_of_a_glob_can_not_be_renamed() {
    let bed = Bed::new();
    bed.file("app/.env", "CANARY-6");
    let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
    refuses(&bed, &rules, "mv app/.env app/plain && cat app/plain; mv app/plain app/.env", "CANARY-6");
    // Its folder may be renamed; the file is held all the same.
    refuses(&bed, &rules, "mv app else && cat else/.env; mv else app", "CANARY-6");
    refuses(&bed, &rules, "ln app/.env link && cat link; rm -f link", "CANARY-6");
}

fn descriptors_give_no_second_way() {
    let bed = Bed::new();
    bed.file("secret", "CANARY-7");
    let rules = Rules { deny: vec![bed.path().join("secret")], ..Rules::default() };
    // O_PATH asks nobody; what it gives is opened by way of /proc.
    let script = "python3 -c '
import os
fd = os.open(\"secret\", os.O_PATH)
print(os.read(os.open(f\"/proc/self/fd/{fd}\", os.O_RDONLY), 99))'";
    refuses(&bed, &rules, script, "CANARY-7");
    let script = "python3 -c '
import os
fd = os.open(\".\", os.O_PATH | os.O_DIRECTORY)
print(os.read(os.open(\"secret\", os.O_RDONLY, dir_fd=fd), 99))'";
    refuses(&bed, &rules, script, "CANARY-7");
}

fn a_protected_path_is_read_and_not_changed() {
    let bed = Bed::new();
    let file = bed.file("repo/.git/config", "old");
    bed.file("repo/.git/hooks/pre", "old");
    let rules = Rules { protect: vec![file.clone(), bed.path().join("repo/.git/hooks")], ..Rules::default() };
    let script = "cat repo/.git/config; echo new > repo/.git/config; echo new > repo/.git/hooks/post; chmod 777 repo/.git/config; \
                  rm -f repo/.git/config; mv repo/.git g2; mv repo r2; echo x > y; mv y repo/.git/config; rm -rf repo; true";
    let outcome = run(&bed, &rules, script);
    assert_eq!(outcome.stdout, "old", "{outcome:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    assert_eq!(fs::read_dir(bed.path().join("repo/.git/hooks")).unwrap().count(), 1);
    assert!(
        outcome.stderr.contains("Read-only file system") && outcome.stderr.contains("busy"),
        "{outcome:?}"
    );
    // Inside a pinned folder work goes on.
    assert_eq!(
        run(&bed, &rules, "echo 1 > repo/.git/a; mv repo/.git/a repo/.git/b; cat repo/.git/b").stdout,
        "1\n"
    );
    let bare = run(&bed, &Rules::default(), "echo new > repo/.git/config; cat repo/.git/config");
    assert_eq!(bare.stdout, "new\n", "the control writes it");
}

fn a_protected_name_that_comes_later_is_not_written() {
    let bed = Bed::new();
    let rules = Rules { protect_globs: vec!["/**/.mcp.json"], ..Rules::default() };
    let script = "echo CANARY-8 > .mcp.json; cat .mcp.json";
    let outcome = run(&bed, &rules, script);
    assert!(
        !outcome.stdout.contains("CANARY-8") && outcome.stderr.contains("rule=2 write=true"),
        "{outcome:?}"
    );
    // Reading what another name brought there is no change.
    assert_eq!(run(&bed, &rules, "echo 1 > x; mv x sub.mcp; cat sub.mcp").stdout, "1\n");
    bed.file("other/.mcp.json", "readable");
    assert_eq!(run(&bed, &rules, "cat other/.mcp.json").stdout, "readable");
    assert!(
        run(&bed, &Rules::default(), "rm -f .mcp.json; echo CANARY-8 > .mcp.json; cat .mcp.json")
            .stdout
            .contains("CANARY-8")
    );
}

fn audit_mode_refuses_nothing_and_tells_all() {
    let bed = Bed::new();
    let file = bed.file("secret", "CANARY-9");
    let rules = Rules { deny: vec![file], audit: true, ..Rules::default() };
    let outcome = run(&bed, &rules, "cat secret");
    assert_eq!(outcome.stdout, "CANARY-9", "{outcome:?}");
    assert!(outcome.stderr.contains("refused=false rule=2"), "{outcome:?}");
}

fn a_flood_loses_no_refusal() {
    let bed = Bed::new();
    bed.file("secret", "CANARY-A");
    bed.file("plain", "public");
    let rules =
        Rules { deny: vec![bed.path().join("secret")], deny_globs: vec!["/**/.env"], ..Rules::default() };
    let script = "python3 -c '
import os, threading
denied = [0] * 8
def work(n):
    for i in range(2000):
        os.close(os.open(\"plain\", os.O_RDONLY))
        try:
            os.close(os.open(\"secret\", os.O_RDONLY))
        except PermissionError:
            denied[n] += 1
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sum(denied))'";
    let start = Instant::now();
    let outcome = run(&bed, &rules, script);
    println!("measured: 16,000 refused and 16,000 allowed opens in {:?}", start.elapsed());
    assert_eq!(outcome.stdout, "16000\n", "{}", outcome.stderr.lines().last().unwrap_or_default());
    assert_eq!(outcome.stderr.matches("refused=true").count(), 16_000);
}

fn processes_outside_are_not_touched() {
    let bed = Bed::new();
    let file = bed.file("secret", "CANARY-B");
    let link = bed.path().join("link");
    fs::hard_link(&file, &link).unwrap();
    let rules = Rules { deny: vec![file.clone()], ..Rules::default() };
    let (plan, setup) = (bed.plan(&["sh", "-c", "cat link; echo up; sleep 1"]), rules.setup(&bed));
    let mut supervisor = supervise(move || launch(plan, setup, Mode::Enforce));
    assert_eq!(supervisor.line(), "up");
    let start = Instant::now();
    assert_eq!(fs::read_to_string(&file).unwrap(), "CANARY-B");
    assert_eq!(fs::read_to_string(&link).unwrap(), "CANARY-B");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    let outcome = supervisor.finish();
    assert_eq!(outcome.stderr.matches("refused=true").count(), 1, "{outcome:?}");
}

/// Eight processes try to read a denied file without a pause and copy it out when they can, while the guards are killed.
fn nothing_is_read_while_the_guards_die() {
    for victims in [&[Victim::Supervisor][..], &[Victim::Guardian], &[Victim::Guardian, Victim::Supervisor]] {
        let bed = Bed::new();
        let file = bed.file("secret", "CANARY-C");
        let rules = Rules { deny: vec![file], deny_globs: vec!["/**/.env"], ..Rules::default() };
        let script = "python3 -c '
import os
for n in range(8):
    if os.fork() == 0:
        while True:
            try:
                got = os.read(os.open(\"secret\", os.O_RDONLY), 99)
                os.write(os.open(f\"out{n}\", os.O_WRONLY | os.O_CREAT), got)
            except PermissionError:
                pass
print(\"up\", flush=True)
os.wait()'";
        let (plan, setup) = (bed.plan(&["sh", "-c", script]), rules.setup(&bed));
        let mut supervisor = supervise(move || launch(plan, setup, Mode::Enforce));
        assert_eq!(supervisor.line(), "up");
        std::thread::sleep(Duration::from_millis(200));
        let guardian = crate::end::guardians_of(&supervisor)[0];
        for victim in victims {
            match victim {
                Victim::Guardian => {
                    rustix::process::kill_process(guardian, rustix::process::Signal::KILL).unwrap();
                }
                Victim::Supervisor => supervisor.kill(rustix::process::Signal::KILL),
            }
        }
        supervisor.finish();
        std::thread::sleep(Duration::from_millis(300));
        let out: Vec<String> =
            (0..8).filter_map(|n| fs::read_to_string(bed.path().join(format!("out{n}"))).ok()).collect();
        assert!(!out.iter().any(|text| text.contains("CANARY-C")), "{victims:?}: {out:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Supervisor,
    Guardian,
}

fn a_redirected_file_that_is_denied_does_not_start() {
    let bed = Bed::new();
    let file = bed.file("secret", "CANARY-D");
    let with_stdin = |rules: Rules, path: &Path| {
        let (plan, setup) = (bed.plan(&["cat"]), rules.setup(&bed));
        let opened = fs::File::open(path).unwrap();
        supervise(move || {
            rustix::stdio::dup2_stdin(&opened).unwrap();
            launch(plan, setup, Mode::Enforce)
        })
        .finish()
    };
    let held = with_stdin(Rules { deny: vec![file.clone()], ..Rules::default() }, &file);
    assert_eq!((held.status, held.stdout.as_str()), (125, ""), "{held:?}");
    assert_eq!(with_stdin(Rules::default(), &file).stdout, "CANARY-D");
}
