//! What is no file and no folder: named pipes and devices that a policy denies or protects.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::bed::{Run, TestBed, backend, procs::until, sh};

/// Each denied one, by what its rule is.
const DENIED: [&str; 6] =
    ["named", "vault/deep/pipe", "vault/top", "deep/x.pipe", "deep/keys/a/pipe", "other-name"];
const PROTECTED: [&str; 3] = ["ctl", "sealed/deep/ctl", "deep/y.ctl"];
const POLICY: &str = "[filesystem]\nwrite = [\"{project}\"]\n\
    deny = [\"{project}/named\", \"{project}/vault\", \"**/*.pipe\", \"**/keys\"]\n\
    protect = [\"{project}/ctl\", \"{project}/sealed\", \"**/*.ctl\"]\n";

/// A named pipe of the test's user; the file keeps opens from waiting for each other.
fn pipe(bed: &TestBed, name: &str) -> File {
    let path = bed.project().join(name);
    bed.folder(path.parent().unwrap());
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    bed.give(&path);
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// Opens each that is there for reading, for writing and for both; a line for each that succeeds.
fn opens<'a>(paths: impl IntoIterator<Item = &'a str>) -> String {
    let each = |path: &str| {
        [("r", "<"), ("w", ">"), ("b", "<>")]
            .map(|(word, how)| {
                format!("test -e {path} && (exec 3{how}{path}) 2>/dev/null && echo {word} {path}; ")
            })
            .concat()
    };
    paths.into_iter().map(each).chain(["true".to_owned()]).collect()
}

fn all_of(paths: &[&str]) -> Vec<String> {
    paths.iter().flat_map(|path| ["r", "w", "b"].map(|word| format!("{word} {path}"))).collect()
}

fn lines(run: &Run) -> Vec<String> {
    run.out().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn named_pipes_are_opened_neither_where_a_rule_denies_nor_to_write_where_it_protects() {
    let bed = TestBed::new("special-pipes");
    let named: Vec<&str> = DENIED[..5].iter().chain(&PROTECTED).copied().chain(["free"]).collect();
    let _open: Vec<File> = named.iter().map(|name| pipe(&bed, name)).collect();
    fs::hard_link(bed.project().join("named"), bed.project().join("other-name")).unwrap();
    let all: Vec<&str> = DENIED.iter().chain(&PROTECTED).copied().chain(["free"]).collect();
    let script = || sh(opens(all.iter().copied()));
    // Positive control.
    assert_eq!(String::from_utf8(bed.bare(script()).stdout).unwrap().lines().count(), 3 * all.len());
    let run = bed.run(&bed.policy("test", POLICY), script());
    // Who only reads what is protected may, where the kernel can be asked which of both an open is.
    let read = PROTECTED.map(|path| format!("r {path}")).to_vec();
    let read = if backend() == "lsm" { read } else { Vec::new() };
    assert_eq!(lines(&run), [read, all_of(&["free"])].concat(), "{run}");
    for (name, rule) in DENIED.iter().zip([0, 1, 1, 2, 3, 0]) {
        let events = run.log.denied("file.open", &bed.project().join(name));
        let rule = format!("test/filesystem.deny/{rule}");
        // What lies over another name has none that a rule knows.
        if backend() == "lsm" || *name != "other-name" {
            assert_eq!(events.len(), 3, "{name}: {run}");
            assert!(events.iter().all(|event| event.rule() == Some(&rule)), "{name}: {run}");
        }
    }
    for (place, name) in PROTECTED.iter().enumerate() {
        let rule = format!("test/filesystem.protect/{place}");
        let events = run.log.denied("file.open", &bed.project().join(name));
        assert!(events.iter().any(|event| event.rule() == Some(&rule)), "{name}: {run}");
    }
}

/// A listener's command pipe hears nothing, whatever is done to its name and the folders above.
#[test]
fn a_pipe_stays_closed_under_other_names_that_it_gets() {
    let bed = TestBed::new("special-names");
    let _open = ["top/vault/pipe", "top/x.pipe"].map(|name| pipe(&bed, name));
    let places = ["plain", "other", "moved/vault/pipe", "vault/pipe", "moved/x.pipe", "top/x.pipe"];
    let script = || {
        sh(format!(
            "mv top/x.pipe plain; ln top/x.pipe plain; mv top/vault/pipe other; mv top moved; mv top/vault vault; {}",
            opens(places)
        ))
    };
    let policy = bed.deny(&["{project}/top/vault", "**/*.pipe"]);
    let run = bed.run(&policy, script());
    assert_eq!(lines(&run), Vec::<String>::new(), "{run}");
    assert!(bed.project().join("top/vault/pipe").symlink_metadata().unwrap().file_type().is_fifo());
    let bare = String::from_utf8(bed.bare(script()).stdout).unwrap();
    assert!(bare.lines().any(|line| line == "b plain") && bare.contains("b other"), "{bare}");
}

/// What every sandbox may open otherwise.
#[test]
fn devices_are_closed_by_name_by_folder_and_by_pattern() {
    let bed = TestBed::new("special-devices");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"/dev/full\", \"/dev/zer?\", \"/dev/pts\", \"/dev/ptmx\"]\n\
         protect = [\"/dev/random\"]\n",
    );
    let (denied, free) =
        (["/dev/full", "/dev/zero", "/dev/ptmx", "/dev/pts/ptmx"], ["/dev/null", "/dev/urandom"]);
    let all: Vec<&str> = denied.iter().chain(&["/dev/random"]).chain(&free).copied().collect();
    let script = || sh(opens(all.iter().copied()));
    let bare = String::from_utf8(bed.bare(script()).stdout).unwrap();
    for path in denied[..3].iter().chain(&free) {
        assert!(bare.contains(&format!("b {path}\n")), "{bare}");
    }
    let run = bed.run(&policy, script());
    let read = if backend() == "lsm" { vec!["r /dev/random".to_owned()] } else { Vec::new() };
    assert_eq!(lines(&run), [read, all_of(&free)].concat(), "{run}");
    run.log.denied("file.open", Path::new("/dev/full")).iter().for_each(|event| {
        assert_eq!(event.rule(), Some("test/filesystem.deny/0"), "{run}");
    });
    assert_eq!(run.log.denied("file.open", Path::new("/dev/zero")).len(), 3, "{run}");
}

/// The kernel asks nobody about a pipe's open, and what is not there at the start is not covered.
#[test]
fn what_is_not_covered_is_not_held_on_fanotify() {
    let bed = TestBed::new("special-later");
    bed.file("vault/file", "");
    // Nor another name, older than the run, where nobody inside could write.
    let _named = pipe(&bed, "named");
    fs::hard_link(bed.project().join("named"), bed.outside().join("other")).unwrap();
    let script = "echo >up; while [ ! -e go ]; do sleep 0.02; done; (exec 3<>vault/pipe) && echo open; \
        (exec 3<../outside/other) && echo other; true";
    let mut run = None;
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bed.run(&bed.deny(&["{project}/vault", "{project}/named"]), sh(script)));
        assert!(until(Duration::from_secs(120), || bed.project().join("up").exists()));
        let _open = pipe(&bed, "vault/pipe");
        bed.file("go", "");
        run = Some(running.join().unwrap());
    });
    let run = run.unwrap();
    assert_eq!(run.out(), if backend() == "lsm" { "" } else { "open\nother\n" }, "{run}");
    let not_held = run.log.of("session.start")[0].0["object"]["not_held"].to_string();
    assert_eq!(not_held.contains("named pipes"), backend() == "fanotify", "{not_held}");
}

const READ: &str = "for path in $paths; do head -c1 $path >/dev/null 2>&1 && echo $path; done; true";

/// Reads each; those that can be read.
fn readable(bed: &TestBed, policy: &Path, paths: &str) -> Run {
    bed.run(policy, sh(format!("paths='{paths}'; {READ}")))
}

fn bare_readable(bed: &TestBed, paths: &str) -> String {
    String::from_utf8(bed.bare(sh(format!("paths='{paths}'; {READ}"))).stdout).unwrap()
}

/// Nothing there can be marked.
#[test]
fn files_of_proc_and_sysfs_are_held_by_name_by_folder_and_by_pattern() {
    let bed = TestBed::new("special-proc");
    let denied = "/proc/kallsyms /proc/sys/vm/swappiness /proc/sys/kernel/osrelease /proc/sys/kernel/ostype \
                  /sys/kernel/uevent_seqnum /sys/kernel/mm/transparent_hugepage/enabled";
    let free = "/proc/version /proc/sys/kernel/pid_max /sys/kernel/notes /proc/self/stat";
    let policy = bed.deny(&[
        "/proc/kallsyms",
        "/proc/sys/vm",
        "/proc/sys/kernel/os*",
        "/sys/kernel/ueven*",
        "/sys/kernel/mm",
    ]);
    let all = format!("{denied} {free}");
    let bare = bare_readable(&bed, &all);
    let there = |paths: &str| -> Vec<String> {
        paths.split_whitespace().filter(|path| bare.contains(*path)).map(ToOwned::to_owned).collect()
    };
    assert!(there(denied).len() >= 4 && there(free).len() >= 3, "{bare}");
    let run = readable(&bed, &policy, &all);
    assert_eq!(lines(&run), there(free), "{run}");
    for path in there(denied) {
        let events = run.log.denied("file.open", Path::new(&path));
        assert_eq!(events.len(), 1, "{path}: {run}");
        assert!(events[0].rule().unwrap().starts_with("test/filesystem.deny/"), "{run}");
    }
}

const OF_PROCESSES: &str =
    "/proc/self/environ /proc/thread-self/environ /proc/self/task/*/environ /proc/[1-9]*/environ";

/// `/proc/self` in a rule is whoever asks, and every process has its files under its own number.
#[test]
fn a_rule_about_files_of_processes_holds_or_the_run_does_not_start() {
    let bed = TestBed::new("special-self");
    assert!(bare_readable(&bed, OF_PROCESSES).contains("/proc/self/environ\n"));
    for pattern in ["/proc/self/environ", "/proc/thread-self/environ", "/proc/*/environ", "/proc/1/environ"] {
        let run = readable(&bed, &bed.deny(&[pattern]), &format!("{OF_PROCESSES} /proc/self/stat"));
        if backend() == "lsm" {
            assert_eq!(run.out(), "/proc/self/stat\n", "{pattern}: {run}");
            assert!(!run.log.all_denied("file.open").is_empty(), "{run}");
        } else {
            assert_eq!(run.status.code(), Some(125), "{pattern}: {run}");
            assert!(run.err().contains("what processes have in /proc"), "{run}");
        }
    }
    let audit = bed.policy("test", "mode = \"audit\"\n[filesystem]\ndeny = [\"/proc/self/environ\"]\n");
    let run = readable(&bed, &audit, "/proc/self/environ");
    let not_held = run.log.of("session.start")[0].0["object"]["not_held"].to_string();
    assert_eq!(not_held.contains("/environ: what processes have in /proc"), backend() == "fanotify", "{run}");
}

#[test]
fn a_name_at_any_depth_is_not_held_in_proc_on_fanotify() {
    let bed = TestBed::new("special-name");
    let run = readable(&bed, &bed.deny(&["environ"]), OF_PROCESSES);
    assert_eq!(run.out().contains("/proc/self/environ\n"), backend() == "fanotify", "{run}");
    let not_held = run.log.of("session.start")[0].0["object"]["not_held"].to_string();
    assert_eq!(not_held.contains("files in /proc"), backend() == "fanotify", "{not_held}");
}

/// A `/proc` of the machine that is mounted elsewhere, for a chroot, shows all processes, and uid 0 may write to it.
#[test]
fn another_mount_of_proc_shows_nothing() {
    let bed = TestBed::new("special-other-proc");
    let policy = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\n");
    let mount = "mkdir -p root/proc && mount -t proc proc root/proc";
    let script = "cat root/proc/1/comm; (exec 3>>root/proc/sys/kernel/domainname) && echo open; true";
    let bare = bed.root_command(sh(format!("unshare -m --propagation private sh -c '{mount}; {script}'")));
    let bare = String::from_utf8({ bare }.output().unwrap().stdout).unwrap();
    assert!(bare.ends_with("open\n") && bare.lines().count() == 2, "{bare}");
    for by_root in [false, true] {
        let start = bed.start(&[&policy], sh(script)).after_in_own_mounts(mount);
        let run = if by_root { start.by_root() } else { start }.finish();
        assert_eq!((run.out().as_str(), run.status.code()), ("", Some(0)), "{run}");
    }
}

/// What the kernel tells uid 0 of others, without asking for a capability.
#[test]
fn traces_and_crashes_are_not_seen() {
    let bed = TestBed::new("special-traces");
    let policy = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\n");
    let mount = "mount -t debugfs none /sys/kernel/debug 2>/dev/null || true; \
        mount -t tracefs none /sys/kernel/tracing 2>/dev/null || true; \
        mount -t pstore none /sys/fs/pstore 2>/dev/null || true";
    let script = "for path in /sys/kernel/debug /sys/kernel/tracing /sys/fs/pstore /sys/fs/bpf; do \
        ls $path >/dev/null 2>&1 && echo $path; done; cat /sys/kernel/tracing/trace_clock 2>/dev/null; \
        ls /sys/kernel/debug/tracing 2>/dev/null; true";
    let mounted = |words: &str| sh(format!("unshare -m --propagation private sh -c '{mount}; {words}'"));
    let bare = bed.root_command(mounted(script)).output().unwrap();
    let bare = String::from_utf8(bare.stdout).unwrap();
    assert!(bare.contains("/sys/fs/bpf\n"), "{bare}");
    let kinds = fs::read_to_string("/proc/mounts").unwrap()
        + &{
            let mounts = bed.root_command(mounted("cat /proc/mounts")).output().unwrap();
            String::from_utf8(mounts.stdout).unwrap()
        };
    let run = bed.start(&[&policy], sh(script)).after_in_own_mounts(mount).by_root().finish();
    let shown = lines(&run);
    for (path, kind) in [
        ("/sys/kernel/debug", "debugfs"),
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/fs/pstore", "pstore"),
        ("/sys/fs/bpf", "bpf"),
    ] {
        // Where this kernel has no such thing, the folder is empty.
        let is_mounted = kinds.contains(&format!(" {path} {kind} "));
        assert!(!is_mounted || !shown.contains(&path.to_owned()), "{path}: {run}");
        assert!(is_mounted || kind != "bpf", "{kinds}");
    }
    assert!(!run.out().contains("local"), "{run}");
}

/// Segments and semaphores of POSIX are files in `/dev/shm`.
#[test]
fn shared_memory_of_others_is_not_there_and_the_own_goes_with_the_run() {
    let bed = TestBed::new("special-shm");
    let name = format!("govsandbox-special.{}", std::process::id());
    let (theirs, own) = (format!("/dev/shm/{name}"), format!("/dev/shm/{name}.own"));
    fs::write(&theirs, "CANARY").unwrap();
    bed.give(Path::new(&theirs));
    let script = format!(
        "cat {theirs}; echo own >{own} && cat {own}; python3 -c '\
from multiprocessing import Lock, Semaphore, Process, shared_memory
with Lock(), Semaphore(2): print(\"lock\")
m = shared_memory.SharedMemory(create=True, size=4096)
def child(name): s = shared_memory.SharedMemory(name); s.buf[0] = 7
p = Process(target=child, args=(m.name,)); p.start(); p.join(); print(m.buf[0]); m.unlink()'"
    );
    let shared = |folder: &str| format!("[filesystem]\nwrite = [\"{{project}}\", \"{folder}\"]\n");
    let bare = bed.bare(sh(&script));
    assert!(String::from_utf8_lossy(&bare.stdout).starts_with("CANARYown\nlock\n7\n"), "{bare:?}");
    fs::remove_file(&own).unwrap();
    for audit in ["", "mode = \"audit\"\n"] {
        let policy = bed.policy("test", &format!("{audit}{}", shared("/dev/shm")));
        let run = bed.run(&policy, sh(&script));
        assert_eq!(run.out(), "own\nlock\n7\n", "{run}");
        assert!(!Path::new(&own).exists(), "{run}");
    }
    // Who writes elsewhere alone does not read theirs either.
    let run = bed.run(&bed.deny(&[]), sh(format!("cat {theirs}; echo x >{own} && echo made; true")));
    assert_eq!(run.out(), "", "{run}");
    // What rules deny or protect there is not there.
    let rules = format!("write = [\"{{project}}\"]\ndeny = [\"{theirs}\"]\nprotect = [\"{theirs}\"]\n");
    let run = bed
        .run(&bed.policy("test", &format!("[filesystem]\n{rules}")), sh(format!("cat {theirs}; echo end")));
    assert_eq!(run.out(), "end\n", "{run}");
    // What a policy names there is what it is.
    let run = bed.run(&bed.policy("test", &shared(&theirs)), sh(format!("cat {theirs}")));
    assert_eq!(run.out(), "CANARY", "{run}");
    fs::remove_file(&theirs).unwrap();
}

/// `devtmpfs` holds files where somebody makes some; without a mount at `/dev/shm` that is there.
#[test]
fn names_are_held_among_devices_too() {
    let bed = TestBed::new("special-devtmpfs");
    let name = format!("govsandbox-special.{}", std::process::id());
    let mount = format!(
        "mkdir -p dev && mount -t devtmpfs none dev && mkdir -p dev/{name} && chmod 777 dev/{name} && rm -f dev/{name}/.env"
    );
    let script =
        format!("echo S >dev/{name}/.env; cat dev/{name}/.env; echo S >dev/{name}/env; cat dev/{name}/env");
    let run = bed.start(&[&bed.deny(&["**/.env"])], sh(&script)).after_in_own_mounts(&mount).finish();
    assert_eq!(run.out(), "S\n", "{run}");
    let denied = [run.log.all_denied("file.open"), run.log.all_denied("file.change")].concat();
    assert!(denied.iter().any(|event| event.rule() == Some("test/filesystem.deny/0")), "{run}");
    let bare = format!("unshare -m --propagation private sh -c '{mount}; {script}; rm -r dev/{name}'");
    let bare = bed.root_command(sh(&bare)).output().unwrap();
    assert_eq!(bare.stdout, b"S\nS\n", "{bare:?}");
}
