//! The recorder: nothing lost in silence, nobody kept waiting.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use govsandbox::{
    audit::{
        Limits,
        log::AuditLog,
        recorder::{Recorder, RecorderOptions},
        verify::verify,
    },
    event::model::{Action, Event, Kind, Object},
};

use crate::bed::{denied, gaps, open, records, session, time};

fn recorder(path: &Path, options: RecorderOptions) -> Recorder {
    Recorder::spawn(AuditLog::open(path, None).unwrap(), session("s"), options).unwrap()
}

#[test]
fn events_are_in_the_log_in_their_order_with_counts_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let recorder = recorder(&path, RecorderOptions::default());
    for number in 0..1000 {
        let event = open(number, "/a");
        recorder.record(if number % 10 == 0 { denied(event) } else { event });
    }
    let end = Event {
        kind: Kind::SessionEnd,
        action: Action::End,
        process: None,
        object: Object::default(),
        ..open(1000, "")
    };
    let summary = recorder.finish(Some(end));

    assert_eq!((summary.written, summary.lost, summary.denied()), (1001, 0, 100));
    assert_eq!(summary.counts["file.open.allowed"], 900);
    let records = records(&path);
    assert!(records.windows(2).all(|pair| pair[0].time < pair[1].time));
    let counts = records[1000].object.counts.as_ref().unwrap();
    assert_eq!((counts["file.open.denied"], counts["file.open.allowed"]), (100, 900));
    assert_eq!(verify(&path).unwrap().records, 1001);
}

#[test]
fn an_event_is_in_the_log_long_before_the_session_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let recorder = recorder(&path, RecorderOptions::default());
    recorder.record(open(1, "/a"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while records(&path).is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(recorder);
}

#[test]
fn what_finds_no_room_is_counted_and_denials_have_room_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let limits = Limits { event_bytes_max: 10_000, denial_bytes_max: 1 << 20 };
    let recorder = recorder(&path, RecorderOptions { limits, ..RecorderOptions::default() });
    for number in 0..20_000 {
        recorder.record(open(number, "/a"));
        if number % 100 == 0 {
            recorder.record(denied(open(number, "/secret")));
        }
    }
    let summary = recorder.finish(None);
    let records = records(&path);
    let lost: u64 = gaps(&records).iter().map(|gap| gap.object.count.unwrap()).sum();
    assert!(lost > 0, "{summary:?}");
    assert_eq!((summary.lost, summary.written + lost), (lost, 20_200));
    assert_eq!(summary.denied(), 200);
    for gap in gaps(&records) {
        assert_eq!(gap.object.kind.as_deref(), Some("file.open"));
        let [from, to] = [&gap.object.from, &gap.object.to]
            .map(|at| at.as_ref().unwrap().parse::<jiff::Timestamp>().unwrap());
        assert!(time(0) <= from && from <= to && to < time(20_000));
    }
    verify(&path).unwrap();
}

#[test]
fn a_recorder_that_is_dropped_writes_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let recorder = recorder(&path, RecorderOptions::default());
    let handle = recorder.handle();
    std::thread::spawn(move || (0..500).for_each(|number| handle.record(open(number, "/a")))).join().unwrap();
    drop(recorder);
    assert_eq!(records(&path).len(), 500);
}

/// What is refused faster than it is written waits; nothing of it is dropped.
#[test]
fn denials_wait_for_room_as_long_as_the_log_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let limits = Limits { event_bytes_max: 10_000, denial_bytes_max: 10_000 };
    let recorder = recorder(&path, RecorderOptions { limits, ..RecorderOptions::default() });
    for number in 0..5_000 {
        recorder.record(denied(open(number, "/secret")));
    }
    let summary = recorder.finish(None);
    assert_eq!((summary.lost, summary.denied(), gaps(&records(&path)).len()), (0, 5_000, 0), "{summary:?}");
    verify(&path).unwrap();
}
