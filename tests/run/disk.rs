//! A full disk under the log.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::bed::{
    TestBed, args,
    procs::{self, until},
    sh, worker,
};

/// A tmpfs that is full but for some pages; it goes with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(bed: &TestBed) -> Self {
        let folder = bed.root().join("log/small");
        fs::create_dir(&folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m,mode=0700", "small"])
            .arg(&folder)
            .output()
            .unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        let disk = Self(folder);
        fs::write(disk.ballast(), vec![0; (256 << 20) - (64 << 10)]).unwrap();
        disk
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// More events than wait in memory while the disk is full, denials first; then, when there is room, a few more.
fn script(bed: &TestBed) -> Vec<OsString> {
    let worker = bed.worker(args![]);
    let opens = format!("'{}' {} opens 4 40000 many", worker[0].display(), worker::MARK);
    sh(format!(
        "n=0; while [ $n -lt 300 ]; do cat secret 2>/dev/null; n=$((n+1)); done; {opens} >/dev/null; : > full; \
         while [ ! -e room ]; do sleep 0.05; done; cat secret 2>/dev/null; sleep 2; cat public >/dev/null; echo over"
    ))
}

fn policy(bed: &TestBed, required: bool) -> PathBuf {
    bed.policy(
        "test",
        &format!(
            "[filesystem]\nwrite = [\"{{project}}\"]\ndeny = [\"secret\"]\n[trace]\nopens = \"all\"\n[audit]\nrequired = {required}\n"
        ),
    )
}

fn files(bed: &TestBed) -> (PathBuf, PathBuf) {
    bed.file("public", "x");
    for name in ["many/a", "many/b", "many/c"] {
        bed.file(name, "x");
    }
    bed.file("secret", "CANARY");
    (bed.project().join("full"), bed.project().join("room"))
}

fn events(log: &Path) -> usize {
    fs::read(log).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn the_run_goes_on_says_so_once_and_tells_what_is_missing() {
    let bed = TestBed::new("disk-full");
    let disk = SmallDisk::mount(&bed);
    let (full, room) = files(&bed);
    let log = disk.0.join("audit.jsonl");
    let mut start = bed.start_with_log(&[&policy(&bed, false)], log.clone(), script(&bed));
    let child = start.spawn();
    assert!(until(Duration::from_secs(60), || full.exists()), "the run does not go on");
    let before = events(&log);
    fs::remove_file(disk.ballast()).unwrap();
    fs::write(room, "").unwrap();
    let run = start.read(procs::wait_with_output(child, Duration::from_secs(60)));
    assert_eq!(
        (run.status.code(), run.out().as_str()),
        (Some(0), "over\n"),
        "enforcing all the while: {run}"
    );
    let said = run.err().lines().filter(|line| line.contains("cannot write")).count();
    assert_eq!(said, 1, "once: {run}");
    let gaps = run.log.of("audit.gap");
    assert!(!gaps.is_empty(), "{run}");
    let lost: u64 = gaps.iter().map(|gap| gap.0["object"]["count"].as_u64().unwrap()).sum();
    assert!(lost > 100, "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| !gap.object("kind").is_empty() && gap.object("from") <= gap.object("to")),
        "{gaps:?}"
    );
    assert!(run.log.events.len() > before, "it goes on writing when there is room: {run}");
    assert_eq!(run.log.events.last().unwrap().kind(), "session.end", "{run}");
    // The counts know of what the file does not.
    let counts = &run.log.of("session.end")[0].0["object"]["counts"];
    assert!(counts["file.open.denied"].as_u64().unwrap() > 300, "{counts}");
    drop(disk);
}

#[test]
fn a_required_log_ends_the_run() {
    let bed = TestBed::new("disk-required");
    let disk = SmallDisk::mount(&bed);
    let (_, room) = files(&bed);
    let log = disk.0.join("audit.jsonl");
    let mut start = bed.start_with_log(&[&policy(&bed, true)], log, script(&bed));
    let child = start.spawn();
    let run = start.read(procs::wait_with_output(child, Duration::from_secs(60)));
    assert_eq!((run.status.code(), run.out().as_str()), (Some(125), ""), "{run}");
    assert!(!room.exists() && run.err().contains("audit.jsonl"), "{run}");
    drop(disk);
}

#[test]
fn a_disk_that_is_full_from_the_start_is_told_before() {
    let bed = TestBed::new("disk-start");
    let disk = SmallDisk::mount(&bed);
    files(&bed);
    let _ = fs::write(disk.0.join("more"), vec![0; 64 << 10]);
    let log = disk.0.join("audit.jsonl");
    let run = bed.start_with_log(&[&policy(&bed, true)], log, sh("touch started")).finish();
    assert_eq!(run.status.code(), Some(125), "{run}");
    drop(disk);
}
