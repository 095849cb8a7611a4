//! An audit log that someone else has written: reading, verifying and going to its end come to an end.
#![no_main]

use std::{fs, path::PathBuf};

use govsandbox::audit::{read::LogReader, verify::verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = PathBuf::from(format!("/dev/shm/govsandbox-fuzz-log.{}", std::process::id()));
    fs::write(&path, data).expect("/dev/shm can be written");
    let _ = verify(&path);
    let mut lines = 0;
    let mut reader = LogReader::open(&path).expect("the file is there");
    while let Some(entry) = reader.next_entry().expect("a file can be read") {
        lines += 1;
        assert_eq!(entry.line, lines);
    }
    if let Ok(mut last) = LogReader::open_at_last(&path, 3) {
        let mut count = 0;
        while last.next_entry().expect("a file can be read").is_some() {
            count += 1;
        }
        assert_eq!(count, lines.min(3), "the last lines of {lines}");
    }
    fs::remove_file(&path).expect("it is ours");
});
