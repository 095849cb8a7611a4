//! Several runs on one log, and runs that are killed.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use govsandbox::audit::{
    log::AuditLog,
    read::LogReader,
    recorder::{Recorder, RecorderOptions},
    verify::verify,
};

use crate::bed::{gaps, open, records, session};

const LOG: &str = "GOVSANDBOX_TEST_LOG";
const COUNT: &str = "GOVSANDBOX_TEST_COUNT";

/// Runs [`child_that_writes`] in a process of its own.
fn writer(log: &Path, count: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writers::child_that_writes", "--nocapture"])
        .env(LOG, log)
        .env(COUNT, count.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Without its environment it has nothing to do: it is the other processes of the tests below.
#[test]
fn child_that_writes() {
    let (Some(log), Ok(count)) = (std::env::var_os(LOG), std::env::var(COUNT)) else { return };
    let log = AuditLog::open(Path::new(&log), None).unwrap();
    let name = format!("run-{}", std::process::id());
    let recorder = Recorder::spawn(log, session(&name), RecorderOptions::default()).unwrap();
    for number in 0..count.parse().unwrap() {
        recorder.record(open(number, "/home/dev/app/file"));
        if number % 100 == 0 {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    let summary = recorder.finish(None);
    assert_eq!((i128::from(summary.written), summary.lost), (count.parse().unwrap(), 0));
}

#[test]
fn runs_that_share_a_log_keep_seq_and_chain_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut children: Vec<Child> = (0..3).map(|_| writer(&path, 2000)).collect();
    // A reader in the middle of it sees whole lines only.
    let mut seen = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        let Ok(mut reader) = LogReader::open(&path) else { continue };
        let mut entries = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            assert!(entry.record.is_ok(), "{entry:?}");
            entries += 1;
        }
        assert!(entries >= seen);
        seen = entries;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(verify(&path).unwrap().records, 6000);
    let sessions: std::collections::BTreeSet<String> =
        records(&path).into_iter().map(|record| record.session.0).collect();
    assert_eq!(sessions.len(), 3);
}

#[test]
fn a_run_that_is_killed_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    for round in 0..5_u64 {
        let mut child = writer(&path, 10_000_000);
        let before = std::fs::metadata(&path).map_or(0, |found| found.len());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&path).map_or(0, |found| found.len()) < before + 50_000 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let whole = verify(&path).unwrap();
        AuditLog::open(&path, None).unwrap().append(&open(1, "/next"), &session("next")).unwrap();
        let told = u64::from(whole.unfinished_bytes > 0);
        assert_eq!(verify(&path).unwrap().records, whole.records + told + 1);
    }
    assert!(
        gaps(&records(&path)).iter().all(|gap| gap
            .object
            .detail
            .as_ref()
            .unwrap()
            .contains("middle of a line"))
    );
}
