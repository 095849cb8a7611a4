//! Events that the record takes in a second. Budget: 300,000 a second for 10 s, nothing lost.
//!
//! `cargo bench --bench audit [-- SECONDS]`; the log lies in the folder for temporary files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../tests/audit/bed.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod bed;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use govsandbox::audit::{
    log::AuditLog,
    recorder::{Recorder, RecorderOptions},
};

/// Of the budget.
const EVENTS_PER_S: u64 = 300_000;

fn main() {
    let seconds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(10);
    write_alone();
    record_at_the_rate_of_the_budget(seconds);
}

/// One thread: JSON, hash, write.
fn write_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(&folder.path().join("audit.jsonl"), None).unwrap();
    let events: Vec<_> = (0..100_000).map(|number| bed::open(number, "/home/dev/app/src/main.rs")).collect();
    let begin = cpu_time();
    log.append_all(&events, &bed::session("bench")).unwrap();
    let ns = (cpu_time() - begin).as_nanos() / 100_000;
    println!("audit/append_all: {ns} ns of CPU an event, {} events/s on one core", 1_000_000_000 / ns.max(1));
}

/// Of this thread: other work on the machine must not count. Source: `/proc/thread-self/schedstat`.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// A sender that makes a batch each millisecond, and the recorder's thread.
fn record_at_the_rate_of_the_budget(seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let log = AuditLog::open(&folder.path().join("audit.jsonl"), None).unwrap();
    let recorder = Recorder::spawn(log, bed::session("bench"), RecorderOptions::default()).unwrap();
    let begin = Instant::now();
    let mut sent = 0;
    let mut sending = Duration::ZERO;
    while begin.elapsed() < Duration::from_secs(seconds) {
        let due = EVENTS_PER_S * u64::try_from(begin.elapsed().as_micros()).unwrap() / 1_000_000;
        let events: Vec<_> =
            (sent..due).map(|number| bed::open(number.into(), "/home/dev/app/src/main.rs")).collect();
        sent = due;
        let start = Instant::now();
        events.into_iter().for_each(|event| recorder.record(black_box(event)));
        sending += start.elapsed();
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = Instant::now();
    let summary = recorder.finish(None);
    println!(
        "audit/record: {} events in {seconds} s, {} lost, {} ns in record() each, {} ms to finish",
        summary.written,
        summary.lost,
        sending.as_nanos() / u128::from(sent.max(1)),
        end.elapsed().as_millis(),
    );
}
