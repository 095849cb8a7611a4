//! A disk without room: a small tmpfs in a mount namespace of the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use govsandbox::{
    audit::{
        log::AuditLog,
        recorder::{Recorder, RecorderOptions},
        verify::verify,
    },
    event::model::{Event, Outcome},
};

use crate::bed::{denied, gaps, open, records, session};

const FOLDER: &str = "GOVSANDBOX_TEST_FOLDER";

/// Runs the test again in a mount namespace of its own with a tmpfs of 256 KiB on its folder; `None` is the run outside.
fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return Some(folder.into());
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=256k none \"$1\" && shift && exec \"$@\"";
    // Without root a user namespace gives the right to mount, where the machine lets users have one.
    let rights: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
    let status = Command::new("unshare")
        .args(rights)
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("disk::{test}"), "--nocapture"])
        .env(FOLDER, folder.path())
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{test} failed inside (it needs root or user namespaces to mount a tmpfs): {status}"
    );
    None
}

fn fill(folder: &Path, bytes_left: u64) -> PathBuf {
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![0; (256 << 10) - usize::try_from(bytes_left).unwrap()]).unwrap();
    ballast
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited for 10 s in vain");
}

#[test]
fn a_full_disk_leaves_no_half_line_and_what_waits_is_written_when_there_is_room() {
    let Some(folder) =
        small_disk("a_full_disk_leaves_no_half_line_and_what_waits_is_written_when_there_is_room")
    else {
        return;
    };
    let path = folder.join("audit.jsonl");
    let log = AuditLog::open(&path, None).unwrap();
    let ballast = fill(&folder, 16 << 10);
    let recorder = Recorder::spawn(log, session("s"), RecorderOptions::default()).unwrap();
    for number in 0..100 {
        recorder.record(if number % 2 == 0 { denied(open(number, "/a")) } else { open(number, "/a") });
    }
    wait_for(|| fs::metadata(&path).unwrap().len() > 8 << 10);
    std::thread::sleep(Duration::from_millis(100));
    let full = verify(&path).unwrap();
    assert_eq!(full.unfinished_bytes, 0);
    assert!(full.records > 0 && full.records < 100, "{full:?}");
    assert!(!recorder.is_fatal());

    fs::remove_file(ballast).unwrap();
    let summary = recorder.finish(None);
    assert_eq!((summary.written, summary.lost), (100, 0));
    assert_eq!(verify(&path).unwrap().records, 100);
}

#[test]
fn what_a_full_disk_cost_is_a_gap_with_the_errno_once_there_is_room() {
    let Some(folder) = small_disk("what_a_full_disk_cost_is_a_gap_with_the_errno_once_there_is_room") else {
        return;
    };
    let path = folder.join("audit.jsonl");
    let log = AuditLog::open(&path, None).unwrap();
    let ballast = fill(&folder, 0);
    let limits = govsandbox::audit::Limits { event_bytes_max: 20_000, denial_bytes_max: 100_000 };
    let options = RecorderOptions { limits, ..RecorderOptions::default() };
    let recorder = Recorder::spawn(log, session("s"), options).unwrap();
    (0..500).for_each(|number| recorder.record(open(number, "/a")));
    (0..20).for_each(|number| recorder.record(denied(open(number, "/secret"))));
    std::thread::sleep(Duration::from_secs(1));
    fs::remove_file(ballast).unwrap();
    wait_for(|| !records(&path).is_empty());
    let summary = recorder.finish(None);

    let records = records(&path);
    let gaps = gaps(&records);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0].errno.as_deref(), Some("ENOSPC"));
    assert_eq!(gaps[0].object.count, Some(summary.lost));
    assert_eq!(records.iter().filter(|record| record.outcome == Outcome::Denied).count(), 20);
    assert_eq!(summary.written + summary.lost, 520);
}

#[test]
fn a_disk_that_stays_full_ends_in_a_summary_that_says_so() {
    let Some(folder) = small_disk("a_disk_that_stays_full_ends_in_a_summary_that_says_so") else { return };
    let path = folder.join("audit.jsonl");
    let log = AuditLog::open(&path, None).unwrap();
    fill(&folder, 0);
    let recorder = Recorder::spawn(log, session("s"), RecorderOptions::default()).unwrap();
    (0..50).for_each(|number| recorder.record(open(number, "/a")));
    let summary = recorder.finish(Some(open(50, "/end")));
    assert_eq!((summary.written, summary.lost), (0, 51));
}

#[test]
fn a_required_log_that_cannot_be_written_is_fatal() {
    let Some(folder) = small_disk("a_required_log_that_cannot_be_written_is_fatal") else { return };
    let log = AuditLog::open(&folder.join("audit.jsonl"), None).unwrap();
    fill(&folder, 0);
    let (told, tells) = mpsc::channel();
    let options = RecorderOptions {
        required: true,
        on_fatal: Some(Box::new(move |error| told.send(error.errno()).unwrap())),
        ..RecorderOptions::default()
    };
    let recorder = Recorder::spawn(log, session("s"), options).unwrap();
    recorder.record(open(1, "/a"));
    assert_eq!(tells.recv_timeout(Duration::from_secs(5)).unwrap(), Some(28));
    assert!(recorder.is_fatal());
}

#[test]
fn one_event_is_all_or_nothing() {
    let Some(folder) = small_disk("one_event_is_all_or_nothing") else { return };
    let path = folder.join("audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    let events: Vec<Event> = (0..1000).map(|number| open(number, "/home/dev/app/some/file")).collect();
    let unwritten = log.append_all(&events, &session("s")).unwrap_err();
    assert_eq!(unwritten.error.errno(), Some(28));
    let whole = verify(&path).unwrap();
    assert_eq!((whole.records, whole.unfinished_bytes), (unwritten.written as u64, 0));
    assert!(whole.records > 100);
}
