//! An audit log that someone else has written: reading, verifying and going to its end come to an end, and nothing that
//! is shown of it steers a terminal.
#![no_main]

use std::{fs, path::PathBuf};

use govsandbox::{
    audit::{
        read::{Entry, LogReader},
        verify::verify,
    },
    event::text::misleads,
    report::{
        details, json,
        layout::Layout,
        line,
        stats::{Counter, write_stats},
    },
};
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = PathBuf::from(format!("/dev/shm/govsandbox-fuzz-log.{}", std::process::id()));
    fs::write(&path, data).expect("/dev/shm can be written");
    let _ = verify(&path);
    let mut lines = 0;
    let mut counter = Counter::default();
    let mut reader = LogReader::open(&path).expect("the file is there");
    while let Some(entry) = reader.next_entry().expect("a file can be read") {
        lines += 1;
        assert_eq!(entry.line, lines);
        match &entry.record {
            Ok(record) => counter.add(record),
            Err(_) => counter.add_damaged(),
        }
        show(&entry);
    }
    let mut out = Vec::new();
    write_stats(&mut out, &counter.finish(), &layout(None)).expect("memory can be written");
    is_harmless(&out);
    if let Ok(mut last) = LogReader::open_at_last(&path, 3) {
        let mut count = 0;
        while last.next_entry().expect("a file can be read").is_some() {
            count += 1;
        }
        assert_eq!(count, lines.min(3), "the last lines of {lines}");
    }
    fs::remove_file(&path).expect("it is ours");
});

fn show(entry: &Entry) {
    let mut out = Vec::new();
    if let Ok(record) = &entry.record {
        for columns in [None, Some(40)] {
            line::write_line(&mut out, record, &layout(columns)).expect("memory can be written");
        }
        details::write_session(&mut out, record, &layout(None)).expect("memory can be written");
        details::write_details(&mut out, record, &layout(None)).expect("memory can be written");
        json::write_entry(&mut out, entry).expect("memory can be written");
    }
    out.extend(line::damage(entry, "log".as_ref()).unwrap_or_default().bytes());
    is_harmless(&out);
}

fn layout(columns: Option<usize>) -> Layout {
    Layout { columns, colour: false, zone: TimeZone::UTC }
}

fn is_harmless(out: &[u8]) {
    let text = std::str::from_utf8(out).expect("what is shown is text");
    let bad = text.chars().find(|character| *character != '\n' && misleads(*character));
    assert_eq!(bad, None, "{text:?}");
}
