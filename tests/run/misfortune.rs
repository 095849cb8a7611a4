//! What can happen to a run from outside: limits, memory, the log's folder, bpffs, cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use rustix::process::Signal;

use crate::bed::{
    DENIED, Start, TestBed, args,
    log::Log,
    machine::Machine,
    procs::{self, gone, pidfd, until},
    sh,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a file, and reads the secret ever again; counts its rounds.
const LOOP: &str = "setsid sh -c 'while :; do cat secret >> got 2>/dev/null; echo >> rounds; sleep 0.01; done' & \
                    while [ ! -e over ]; do sleep 0.02; done";

struct Looping {
    bed: TestBed,
    policy: PathBuf,
}

impl Looping {
    fn new(name: &str) -> Self {
        let bed = TestBed::new(name);
        bed.file("secret", "CANARY");
        let policy = bed.deny(&["{project}/secret", "*.pem"]);
        Self { bed, policy }
    }

    fn start(&self) -> Start<'_> {
        self.bed.start(&[&self.policy], sh(LOOP))
    }

    fn rounds(&self) -> u64 {
        fs::metadata(self.bed.project().join("rounds")).map_or(0, |found| found.len())
    }

    /// Some more rounds are made, and the secret stays where it is.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.rounds();
        assert!(until(PATIENCE, || self.rounds() > before + 3), "it does not go on");
        assert_eq!(fs::read(self.bed.project().join("got")).unwrap_or_default(), b"", "the secret was read");
    }

    fn end(&self) {
        self.bed.file("over", "");
    }

    /// With its supervisor the whole tree goes.
    fn dies_with(&self, mut child: Child) {
        assert!(
            until(Duration::from_secs(10), || procs::of_user(self.bed.uid()).is_empty()),
            "the tree lives on"
        );
        assert!(!child.wait().unwrap().success());
        assert_eq!(fs::read(self.bed.project().join("got")).unwrap_or_default(), b"", "the secret was read");
    }
}

/// Positive control.
#[test]
fn bare_the_loop_reads_the_secret() {
    let looping = Looping::new("misfortune-bare");
    looping.bed.file("over", "");
    let output = looping.bed.bare(sh("cat secret; cat secret > got; cat got"));
    assert_eq!(output.stdout, b"CANARYCANARY");
}

/// The limit on a file's size counts for the log too: like a full disk, and nobody dies of SIGXFSZ.
#[test]
fn a_log_that_reaches_the_size_limit_is_a_full_disk() {
    let bed = TestBed::new("misfortune-size");
    bed.file("public", "p");
    let policy = |required: bool| {
        bed.policy(
            "test",
            &format!("[filesystem]\nwrite = [\"{{project}}\"]\n[trace]\nopens = \"all\"\n[audit]\nrequired = {required}\n"),
        )
    };
    let many = |pause: &str| {
        sh(format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do cat public public public; done >/dev/null; sleep {pause}; echo over"
        ))
    };
    let run = bed.start(&[&policy(false)], many("0.5")).after("ulimit -f 16").finish();
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "over\n"), "{run}");
    assert_eq!(run.err().lines().filter(|line| line.contains("cannot write")).count(), 1, "{run}");
    let ended = bed.start(&[&policy(true)], many("30")).after("ulimit -f 16").finish();
    assert_eq!((ended.status.code(), ended.out().as_str()), (Some(125), ""), "{ended}");
    let control = bed.start(&[&policy(true)], many("0.5")).finish();
    assert_eq!(control.status.code(), Some(0), "{control}");
}

/// However few descriptors there are: it starts whole, or not at all. The command has as many as its caller.
#[test]
fn too_few_descriptors_are_no_start() {
    let bed = TestBed::new("misfortune-files");
    bed.file("secret", "CANARY");
    let policy = bed.deny(&["secret"]);
    let command = || sh("ulimit -n; cat secret 2>/dev/null; exit 7");
    let soft = bed.start(&[&policy], command()).after("ulimit -S -n 10").finish();
    assert_eq!((soft.status.code(), soft.out().as_str()), (Some(7), "10\n"), "{soft}");
    let (mut started, mut refused) = (0, 0);
    for limit in [5, 6, 8, 10, 12, 16, 20, 25, 30, 35, 40, 45, 50, 60, 80, 120] {
        let run = bed.start(&[&policy], command()).after(&format!("ulimit -n {limit}")).finish();
        match run.status.code() {
            Some(7) => started += 1,
            // 126: the verdict thread could not be handed the program, so the kernel refused its open.
            Some(125 | 126) => refused += 1,
            other => panic!("{limit}: {other:?}: {run}"),
        }
        assert!(!run.out().contains("CANARY"), "{limit}: {run}");
        assert_eq!(run.status.code() == Some(7), run.out().starts_with(&limit.to_string()), "{limit}: {run}");
    }
    // Where root may have more than it was given, all of them start.
    assert!(started > 0, "{started} started, {refused} did not");
}

/// A group of processes with a bound on its memory, whichever version of cgroups has the controller.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(max_bytes: u64) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let v1 = own
            .lines()
            .find_map(|line| line.split_once(":memory:"))
            .map(|(_, path)| path.trim_start_matches('/'));
        let name = format!("misfortune-{}", std::process::id());
        let (folder, file) = match v1 {
            Some(path) => (Path::new("/sys/fs/cgroup/memory").join(path).join(name), "memory.limit_in_bytes"),
            None => {
                fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").unwrap();
                (Path::new("/sys/fs/cgroup").join(name), "memory.max")
            }
        };
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(file), max_bytes.to_string()).unwrap();
        if v1.is_none() {
            // All of it at once, but for who says that it is not to be killed.
            fs::write(folder.join("memory.oom.group"), "1").unwrap();
        }
        Self(folder)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let removed = until(Duration::from_secs(10), || fs::remove_dir(&self.0).is_ok());
        assert!(removed || std::thread::panicking(), "{} is left", self.0.display());
    }
}

/// Where memory runs out it is the supervisor that is killed: the guardians are not, and kill the tree.
#[test]
fn a_supervisor_that_is_killed_for_memory_takes_the_tree_along() {
    let looping = Looping::new("misfortune-memory");
    let group = MemoryGroup::new(400 << 20);
    let mut start = looping.start().after(&format!("echo $$ > {}/cgroup.procs", group.0.display()));
    let child = start.spawn();
    looping.goes_on();
    fs::write(format!("/proc/{}/oom_score_adj", child.id()), "1000").unwrap();
    let worker = looping.bed.worker(args!["allocate", "800"]);
    let mut hog = Command::new("/bin/sh")
        .args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""])
        .arg(&group.0)
        .args(worker)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let supervisor = pidfd(child.id());
    assert!(gone(&supervisor, PATIENCE), "the supervisor is not killed");
    looping.dies_with(child);
    let _ = hog.kill();
    hog.wait().unwrap();
    drop(group);
}

/// Moved away by root in the middle of a run: what is written later begins a log of its own at the old place.
#[test]
fn a_log_whose_folder_goes_is_begun_anew() {
    let bed = TestBed::new("misfortune-folder");
    let policy = bed.deny(&[]);
    let folder = bed.root().join("log/deep");
    for way in ["moved", "removed"] {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let log = folder.join("audit.jsonl");
        let script =
            "echo up > up; while [ ! -e go ]; do sleep 0.02; done; /bin/true later; sleep 0.3; exit 7";
        for name in ["up", "go"] {
            let _ = fs::remove_file(bed.project().join(name));
        }
        let mut start = bed.start_with_log(&[&policy], log.clone(), sh(script));
        let child = start.spawn();
        assert!(until(PATIENCE, || bed.project().join("up").exists()));
        assert!(until(PATIENCE, || Log::so_far(&log).events.len() > 2));
        let elsewhere = bed.root().join("log/elsewhere");
        fs::rename(&folder, &elsewhere).unwrap();
        let before = Log::so_far(&elsewhere.join("audit.jsonl"));
        if way == "removed" {
            fs::remove_dir_all(&elsewhere).unwrap();
        }
        bed.file("go", "");
        let output = procs::wait_with_output(child, PATIENCE);
        assert_eq!(output.status.code(), Some(7), "{way}: {output:?}");
        let after = Log::read(&log);
        assert!(!after.execs(&["/bin/true", "later"]).is_empty(), "{way}: {output:?}: {after:?}");
        assert_eq!(after.events.last().unwrap().kind(), "session.end", "{way}");
        assert_eq!(before.events[0].kind(), "session.start", "{way}");
        let _ = fs::remove_dir_all(&elsewhere);
    }
}

/// Pins taken away under a run, and bpffs with them: the programs stay attached, and the next run loads them anew.
#[test]
fn a_run_outlives_its_pins() {
    let looping = Looping::new("misfortune-pins");
    let machine = Machine::new();
    let mut start = looping.start().on(&machine);
    let child = start.spawn();
    looping.goes_on();
    for folder in machine.pins() {
        fs::remove_dir_all(folder).unwrap();
    }
    machine.run("umount -l /sys/fs/bpf");
    looping.goes_on();
    let denied = || Log::so_far(start.log()).denied("file.open", &looping.bed.project().join("secret")).len();
    let before = denied();
    assert!(until(PATIENCE, || denied() > before), "refusals are no longer told");
    looping.end();
    let output = procs::wait_with_output(child, PATIENCE);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Between two runs it is gone too, and mounted by the next one.
    let _ = fs::remove_file(looping.bed.project().join("over"));
    let next = looping.bed.start(&[&looping.policy], sh("cat secret || exit 7")).on(&machine).finish();
    assert_eq!(next.status.code(), Some(7), "{next}");
    assert!(next.err().contains("bpffs was not mounted"), "{next}");
    let errnos: Vec<_> =
        next.log.all_denied("file.open").iter().map(|event| event.text("errno").to_owned()).collect();
    assert!(errnos.iter().any(|errno| DENIED.contains(&errno.as_str())), "{next}");
}

/// Root moves a process of the tree into another cgroup: it ends with the tree all the same.
#[test]
fn a_process_that_was_moved_out_of_the_cgroup_is_still_held() {
    let looping = Looping::new("misfortune-moved");
    let top = cgroups();
    let move_all = || {
        for process in procs::of_user(looping.bed.uid()) {
            let _ = fs::write(top.join("cgroup.procs"), process.pid.to_string());
        }
    };
    let mut start = looping.start();
    let child = start.spawn();
    looping.goes_on();
    move_all();
    looping.goes_on();
    looping.end();
    assert_eq!(procs::wait_with_output(child, PATIENCE).status.code(), Some(0));
    assert!(until(PATIENCE, || procs::of_user(looping.bed.uid()).is_empty()), "the moved ones live on");
    // And with the supervisor.
    let _ = fs::remove_file(looping.bed.project().join("over"));
    let mut start = looping.start();
    let child = start.spawn();
    looping.goes_on();
    move_all();
    procs::signal(child.id(), Signal::KILL);
    looping.dies_with(child);
}

/// Root freezes the cgroup: the tree stands still, and is killed all the same.
#[test]
fn a_frozen_tree_dies_with_its_supervisor() {
    let looping = Looping::new("misfortune-frozen");
    let mut start = looping.start();
    let child = start.spawn();
    looping.goes_on();
    let ending = format!("-{}", child.id());
    let groups = fs::read_dir(cgroups().join("govsandbox")).unwrap().flatten().map(|entry| entry.path());
    let own = groups.into_iter().find(|path| path.to_string_lossy().ends_with(&ending)).unwrap();
    fs::write(own.join("cgroup.freeze"), "1").unwrap();
    let frozen = || fs::read_to_string(own.join("cgroup.events")).unwrap().contains("frozen 1");
    assert!(until(PATIENCE, frozen));
    procs::signal(child.id(), Signal::KILL);
    looping.dies_with(child);
}

fn cgroups() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.exists() { unified } else { PathBuf::from("/sys/fs/cgroup") }
}
