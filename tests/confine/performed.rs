//! Performed calls: they come to what the kernel would have answered, they hold names, and the performer is out of reach.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

use govsandbox::backend::fanotify::Mode;

use crate::{
    bed::{Bed, Outcome, UID, processes_with, supervise},
    fanotify::{Rules, launch_performed, run},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("odd_calls_come_to_the_same", odd_calls_come_to_the_same),
    ("a_name_that_comes_later_is_held_in_every_call", a_name_that_comes_later_is_held_in_every_call),
    ("a_held_file_from_outside_is_not_changed", a_held_file_from_outside_is_not_changed),
    ("a_link_on_the_way_stays", a_link_on_the_way_stays),
    ("a_folder_brings_no_held_name_and_frees_none", a_folder_brings_no_held_name_and_frees_none),
    ("the_performer_is_out_of_reach", the_performer_is_out_of_reach),
    ("without_the_performer_nothing_goes_on", without_the_performer_nothing_goes_on),
    ("calls_are_the_users_own", calls_are_the_users_own),
    ("arguments_that_change_meanwhile_are_read_once", arguments_that_change_meanwhile_are_read_once),
    ("signals_do_not_break_a_call", signals_do_not_break_a_call),
    ("many_callers_all_get_their_turn", many_callers_all_get_their_turn),
];

fn performed(bed: &Bed, rules: &Rules, script: &str) -> Outcome {
    let (plan, setup) = (bed.plan(&["sh", "-c", script]), rules.setup(bed));
    let mode = if rules.audit { Mode::Audit } else { Mode::Enforce };
    supervise(move || launch_performed(plan, setup, mode)).finish()
}

fn python(script: &str) -> String {
    format!("python3 -c '{script}'")
}

/// Same seed, same calls: by the kernel alone, and performed.
fn odd_calls_come_to_the_same() {
    let script = include_str!("odd_calls.py");
    for seed in 1..=2 {
        let answers = [false, true].map(|is_performed| {
            let bed = Bed::new();
            bed.file("odd_calls.py", script);
            bed.file("tree/.keep", "");
            fs::remove_file(bed.path().join("tree/.keep")).unwrap();
            let command = format!("cd tree && python3 ../odd_calls.py {seed} 1500 && true");
            let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
            let outcome =
                if is_performed { performed(&bed, &rules, &command) } else { run(&bed, &rules, &command) };
            assert_eq!(outcome.status, 0, "{}", outcome.stderr);
            let top = bed.path().file_name().unwrap().to_str().unwrap().to_owned();
            outcome.stdout.replace(&top, "BED")
        });
        let [bare, performed] = answers.each_ref().map(|text| text.lines().collect::<Vec<_>>());
        assert!(bare.iter().filter(|line| line.ends_with("= ok")).count() > 50, "the calls are of use");
        // Links of /proc keep their owner (`builtin/proc-attribute`).
        let is_kept = |line: &str| line.contains("lchown b'/proc/") && line.ends_with("= EPERM");
        let pairs = bare.iter().zip(&performed);
        let differing: Vec<_> = pairs.filter(|(a, b)| a != b && !is_kept(b)).collect();
        assert!(differing.is_empty() && bare.len() == performed.len(), "seed {seed}: {differing:#?}");
    }
}

/// What each step of a Python script came to, one word a line.
const STEPS: &str = "
import ctypes, errno, os
def step(call, *words, **more):
    try:
        call(*words, **more)
        print(\"ok\")
    except OSError as error:
        print(errno.errorcode[error.errno])
";

fn a_name_that_comes_later_is_held_in_every_call() {
    let bed = Bed::new();
    let rules =
        Rules { deny_globs: vec!["/**/.env"], protect: vec![bed.path().join("later")], ..Rules::default() };
    let script = python(&format!(
        "{STEPS}
libc = ctypes.CDLL(None, use_errno=True)
def follow(fd, name):
    if libc.linkat(-100, f\"/proc/self/fd/{{fd}}\".encode(), -100, name.encode(), 0x400): raise OSError(ctypes.get_errno(), \"\")
for name in \".env\", \"later\", \"sub/../later\", \"/proc/self/cwd/.env\":
    open(\"plain\", \"w\").close(); os.makedirs(\"sub\", exist_ok=True)
    step(os.rename, \"plain\", name); step(os.link, \"plain\", name); step(os.symlink, \"plain\", name)
    step(os.mkdir, name); step(os.mkfifo, name); step(os.mknod, name); step(os.rename, \"sub\", name)
    fd = os.open(\".\", os.O_TMPFILE | os.O_WRONLY)
    step(follow, fd, name); os.close(fd)
    if os.path.lexists(name): print(\"there\"); os.system(\"rm -rf \" + name)"
    ));
    let bare = performed(&bed, &Rules::default(), &script);
    assert_eq!(
        bare.stdout.lines().filter(|line| *line == "ok").count(),
        4,
        "the controls go through: {bare:?}"
    );
    let held = performed(&bed, &rules, &script);
    let expected = "EPERM\n".repeat(32);
    assert_eq!(held.stdout, expected, "{held:?}");
    assert_eq!(held.stderr.matches("refused=true").count(), 32, "{held:?}");
}

/// A file that came into being outside, during the run, and matches by its name alone.
fn a_held_file_from_outside_is_not_changed() {
    let steps = |name: &str| {
        python(&format!(
            "{STEPS}
import time
while not os.path.exists(\"go\"): time.sleep(0.01)
libc = ctypes.CDLL(None, use_errno=True)
def follow(fd, name):
    if libc.linkat(-100, f\"/proc/self/fd/{{fd}}\".encode(), -100, name.encode(), 0x400): raise OSError(ctypes.get_errno(), \"\")
name = \"{name}\"
fd = os.open(name, os.O_RDONLY)
step(os.chmod, name, 0o600); step(os.chmod, fd, 0o600); step(os.chown, name, -1, os.getgid())
step(os.chown, fd, -1, os.getgid()); step(os.setxattr, name, \"user.x\", b\"1\"); step(os.setxattr, fd, \"user.x\", b\"1\")
step(os.truncate, name, 0); step(os.link, name, \"other\"); step(os.chmod, f\"/proc/self/fd/{{fd}}\", 0o600)
step(follow, fd, \"other\")
step(os.rename, name, \"moved\"); step(os.unlink, name); step(os.rename, \"go\", name)"
        ))
    };
    let run = |name: &'static str| {
        let bed = Bed::new();
        let (plan, folder) = (bed.plan(&["sh", "-c", &steps(name)]), bed.path());
        let setup = Rules { protect_globs: vec!["/**/*.lock"], ..Rules::default() }.setup(&bed);
        let supervisor = supervise(move || launch_performed(plan, setup, Mode::Enforce));
        bed.file(name, "as it was");
        bed.file("go", "");
        let outcome = supervisor.finish();
        let left = fs::read_to_string(folder.join(name)).unwrap_or_default();
        (outcome, left)
    };
    let (bare, _) = run("later.free");
    assert_eq!(bare.stdout.lines().filter(|line| *line == "ok").count(), 11, "{bare:?}");
    let (held, left) = run("later.lock");
    assert_eq!((held.stdout, left.as_str()), ("EPERM\n".repeat(13), "as it was"), "{}", held.stderr);
    assert_eq!(held.stderr.matches("refused=true").count(), 13, "{}", held.stderr);
}

fn a_link_on_the_way_stays() {
    let bed = Bed::new();
    bed.file("real/deep/key", "CANARY-P");
    symlink("real", bed.path().join("one")).unwrap();
    symlink(bed.path().join("one"), bed.path().join("two")).unwrap();
    let rules = Rules { protect: vec![bed.path().join("two/deep/key")], ..Rules::default() };
    let script =
        "mv one x; mv two x; rm -f one two; ln -sfn /tmp two; mkdir y; mv -T y two; ls -l | grep -c -- '->'";
    let held = performed(&bed, &rules, script);
    assert_eq!(held.stdout, "2\n", "{held:?}");
    assert_eq!(fs::read_link(bed.path().join("two")).unwrap(), bed.path().join("one"));
    let bare = performed(&bed, &Rules::default(), "mv one x && rm two && echo gone");
    assert_eq!(bare.stdout, "gone\n", "the control replaces them: {bare:?}");
}

fn a_folder_brings_no_held_name_and_frees_none() {
    let bed = Bed::new();
    let rules = Rules {
        protect_globs: vec!["/**/.git/config", "/**/.git/hooks"],
        deny: vec![bed.path().join("app/key")],
        ..Rules::default()
    };
    let script = python(&format!(
        "{STEPS}
os.makedirs(\"g/deep\"); open(\"g/config\", \"w\").close()
os.makedirs(\"free/deep\"); open(\"free/conf\", \"w\").close()
os.makedirs(\"holder/k/app\"); open(\"holder/k/app/key\", \"w\").close()
step(os.rename, \"g\", \".git\"); step(os.rename, \"free\", \".git\"); step(os.rename, \"holder/k\", \"../\" + os.path.basename(os.getcwd()) + \"/k\")
step(os.rename, \"k/app\", \"app\")
libc = ctypes.CDLL(None, use_errno=True)
def exchange(one, other):
    if libc.renameat2(-100, one.encode(), -100, other.encode(), 2): raise OSError(ctypes.get_errno(), \"\")
step(exchange, \"g\", \".git\")
os.mkdir(\"other\"); step(exchange, \"other\", \".git\"); step(os.rename, \".git\", \"freed\")"
    ));
    let bare = performed(&bed, &Rules::default(), &script);
    assert!(bare.stdout.starts_with("ok\n"), "{bare:?}");
    let bed_script = format!("rm -rf .git g free freed holder other k app; {script}");
    let held = performed(&bed, &rules, &bed_script);
    assert_eq!(held.stdout, "EPERM\nok\nok\nEPERM\nEPERM\nok\nok\n", "{held:?}");
}

/// The pids, as the sandbox sees them, are those of init, command and performer.
fn the_performer_is_out_of_reach() {
    let script = python(&format!(
        "{STEPS}
import signal
pid = next(int(p) for p in os.listdir(\"/proc\") if p.isdigit() and open(f\"/proc/{{p}}/comm\").read() == \"govsandbox-perf\\n\")
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *words):
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in words]
    if libc.syscall(number, *words) < 0: raise OSError(ctypes.get_errno(), \"\")
for name in signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, 0:
    step(os.kill, pid, name)
step(call, 424, os.pidfd_open(pid), 9, 0, 0)
step(call, 101, 16, pid, 0, 0); step(call, 101, 0x4206, pid, 0, 0)
buffer = ctypes.create_string_buffer(8)
iov = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
step(call, 310, pid, iov, 1, iov, 1, 0); step(call, 311, pid, iov, 1, iov, 1, 0)
step(call, 438, os.pidfd_open(pid), 3, 0)
for name in \"mem\", \"environ\", \"fd/0\", \"cwd\", \"root\", \"exe\", \"maps\", \"syscall\", \"oom_score_adj\":
    try:
        at = f\"/proc/{{pid}}/{{name}}\"
        if name in (\"fd/0\", \"cwd\", \"root\", \"exe\"): os.readlink(at)
        elif name == \"oom_score_adj\": open(at, \"w\").write(\"1000\")
        else: os.read(os.open(at, os.O_RDONLY), 9)
        print(name)
    except OSError as error:
        print(\"refused\")
step(call, 302, pid, 7, (ctypes.c_ulong * 2)(0, 0), 0)
step(os.kill, -1, 0); step(os.killpg, 0, 0)
try: os.kill(-1, signal.SIGTERM)
except OSError: pass
step(os.mkdir, \"served\")"
    ));
    for uid in [UID, 0] {
        let bed = Bed::new();
        fs::set_permissions(bed.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
        let (mut plan, setup) =
            (bed.plan(&["sh", "-c", &format!("trap '' TERM; {script}")]), rules.setup(&bed));
        (plan.identity.uid, plan.identity.gid, plan.identity.groups) = (uid, uid, vec![uid]);
        let outcome = supervise(move || launch_performed(plan, setup, Mode::Enforce)).finish();
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let [kills @ .., _, _, served] = lines.as_slice() else { panic!("{outcome:?}") };
        assert_eq!((*served, outcome.status), ("ok", 0), "{outcome:?}");
        assert!(
            kills.iter().all(|line| ["EPERM", "EACCES", "refused"].contains(line)),
            "uid {uid}: {outcome:?}"
        );
        assert_eq!(kills.len(), 20, "{outcome:?}");
    }
}

/// Killed from outside: nothing that waits goes through, and the whole tree ends.
fn without_the_performer_nothing_goes_on() {
    let bed = Bed::new();
    let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
    let mark = format!("perform-{}", std::process::id());
    let script = format!(
        "python3 -c '
import os
for n in range(4):
    if os.fork() == 0:
        while True:
            try: os.mkdir(\".env\"); open(\"through\", \"w\")
            except PermissionError: pass
            except OSError as error: open(f\"errno{{error.errno}}\", \"w\")
print(\"up\", flush=True)
os.wait()' {mark}"
    );
    let (plan, setup) = (bed.plan(&["sh", "-c", &script]), rules.setup(&bed));
    let mut supervisor = supervise(move || launch_performed(plan, setup, Mode::Enforce));
    assert_eq!(supervisor.line(), "up");
    let performer = performer_of(supervisor.process.pid.as_raw_nonzero().get());
    rustix::process::kill_process(performer, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    let outcome = supervisor.finish();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    println!("measured: the tree ended {:?} after the performer", start.elapsed());
    assert_eq!(outcome.status, 137, "{outcome:?}");
    assert_eq!(processes_with(&mark), [0_u32; 0]);
    assert!(!bed.path().join("through").exists() && !bed.path().join(".env").exists());
}

fn performer_of(supervisor: i32) -> rustix::process::Pid {
    let children = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_ascii_whitespace().map(|one| one.parse().unwrap()).collect::<Vec<i32>>()
    };
    let comm = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let found = children(supervisor)
        .into_iter()
        .flat_map(children)
        .find(|pid| comm(*pid) == "govsandbox-perf\n")
        .expect("a performer");
    rustix::process::Pid::from_raw(found).unwrap()
}

fn calls_are_the_users_own() {
    let bed = Bed::new();
    fs::create_dir(bed.path().join("roots")).unwrap();
    fs::set_permissions(bed.path().join("roots"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(bed.path().join("roots/file"), "x").unwrap();
    let outside: PathBuf = Bed::new().path();
    let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
    let script = python(&format!(
        "{STEPS}
step(os.mkdir, \"roots/new\"); step(os.unlink, \"roots/file\"); step(os.chmod, \"roots\", 0o777); step(os.chown, \"roots\", os.getuid(), -1)
step(os.rename, \"roots/file\", \"mine\"); step(os.mkdir, \"{}\"); step(os.truncate, \"roots/file\", 0); step(os.link, \"roots/file\", \"mine\")
os.umask(0o027); step(os.mkdir, \"own\"); print(oct(os.stat(\"own\").st_mode), os.stat(\"own\").st_uid)",
        outside.join("x").display()
    ));
    let held = performed(&bed, &rules, &script);
    let kernels = run(&bed, &rules, &script.replace("\"own\"", "\"own2\""));
    assert_eq!(held.stdout, kernels.stdout, "{held:?}");
    assert!(held.stdout.ends_with(&format!("ok\n0o40750 {UID}\n")), "{held:?}");
    assert!(!held.stdout.trim_end().lines().take(7).any(|line| line == "ok"), "{held:?}");
}

/// One thread writes the path, another asks with it.
fn arguments_that_change_meanwhile_are_read_once() {
    let bed = Bed::new();
    let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
    let script = python(
        "
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
path = ctypes.create_string_buffer(b\"xenv\")
done = False
def flip():
    while not done:
        path[0] = b\".\"; path[0] = b\"x\"
def take():
    while not done:
        libc.mkdir(path, 0o755); os.path.isdir(\"xenv\") and libc.rmdir(b\"xenv\")
        if os.path.exists(\".env\"): print(\"made\", flush=True); os._exit(0)
threads = [threading.Thread(target=flip), threading.Thread(target=take), threading.Thread(target=take)]
[t.start() for t in threads]
time.sleep(3); done = True
[t.join() for t in threads]
print(\"over\")",
    );
    assert_eq!(performed(&bed, &Rules::default(), &script).stdout, "made\n", "the control makes it");
    fs::remove_dir(bed.path().join(".env")).unwrap();
    let held = performed(&bed, &rules, &script);
    assert_eq!(held.stdout, "over\n", "{}", held.stderr.lines().last().unwrap_or_default());
    assert!(held.stderr.contains("refused=true"), "both were tried");
}

fn signals_do_not_break_a_call() {
    let bed = Bed::new();
    let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
    let script = python(
        "
import os, signal
count = 0
def tick(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for n in range(1000):
    os.mkdir(\"d\"); os.rename(\"d\", \"e\"); os.rmdir(\"e\")
signal.setitimer(signal.ITIMER_REAL, 0)
print(count > 20, os.listdir(\".\"))",
    );
    let outcome = performed(&bed, &rules, &script);
    assert_eq!(outcome.stdout, "True []\n", "{}", outcome.stderr);
}

fn many_callers_all_get_their_turn() {
    let bed = Bed::new();
    let rules = Rules { deny_globs: vec!["/**/.env"], ..Rules::default() };
    let script = python(
        "
import os, time
for n in range(20):
    if os.fork() == 0:
        while True: os.mkdir(f\"d{n}\"); os.rmdir(f\"d{n}\")
worst = 0
for n in range(100):
    before = time.monotonic()
    os.mkdir(\"mine\"); os.rmdir(\"mine\")
    worst = max(worst, time.monotonic() - before)
print(worst, flush=True)
os.kill(-1, 9)",
    );
    let outcome = performed(&bed, &rules, &script);
    let worst: f64 = outcome.stdout.trim().parse().unwrap_or(f64::MAX);
    println!("measured: with 20 others without pause, the longest of 100 mkdir and rmdir took {worst:.4} s");
    assert!(worst < 2.0, "{outcome:?}");
}
