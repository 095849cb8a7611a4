//! Lines as they stand in the file, and the chain over them.

use std::{fs, io::Write as _};

use govsandbox::{
    audit::{
        log::{AuditLog, LogError},
        read::LogReader,
        verify::{VerifyError, verify},
    },
    event::{
        model::{Event, Kind},
        text::Text,
    },
};
use proptest::prelude::*;

use crate::bed::{denied, gaps, open, records, session};

#[test]
fn a_line_has_the_fields_of_the_schema_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    log.append(&denied(open(123_456_789, "/home/dev/.ssh/id_ed25519")), &session("01JD8Z")).unwrap();
    log.append(&open(2, Text(b"/tmp/\xff\\\x1b]0;x\x07\xe2\x80\xae".to_vec())), &session("01JD8Z")).unwrap();
    insta::assert_snapshot!(fs::read_to_string(&path).unwrap());
}

#[test]
fn a_record_is_written_again_as_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    log.append(&denied(open(123_456_789, Text(b"/\xff\\".to_vec()))), &session("01JD8Z")).unwrap();
    let again = serde_json::to_string(&records(&path)[0]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), again + "\n");
}

#[test]
fn each_event_is_in_the_file_when_append_returns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    for number in 1..=3 {
        log.append(&open(number, "/a"), &session("s")).unwrap();
        assert_eq!(verify(&path).unwrap().records, u64::try_from(number).unwrap());
    }
}

#[test]
fn a_later_run_goes_on_with_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    for run in ["first", "second"] {
        let mut log = AuditLog::open(&path, None).unwrap();
        log.append_all(&[open(1, "/a"), open(2, "/b")], &session(run)).unwrap();
    }
    let seqs: Vec<u64> = records(&path).iter().map(|record| record.seq).collect();
    assert_eq!((seqs, verify(&path).unwrap().records), (vec![1, 2, 3, 4], 4));
}

#[test]
fn a_changed_removed_or_swapped_line_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let events: Vec<Event> = (1..=5).map(|number| open(number, "/home/dev/a")).collect();
    AuditLog::open(&path, None).unwrap().append_all(&events, &session("s")).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let broken_at = |lines: &[&str]| {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        match verify(&path) {
            Err(VerifyError::Broken { line, .. }) => Some(line),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    };
    assert_eq!(broken_at(&lines), None);
    let changed = lines[2].replace("/home/dev/a", "/home/dev/b");
    assert_eq!(broken_at(&[lines[0], lines[1], &changed, lines[3]]), Some(3));
    assert_eq!(broken_at(&[lines[0], lines[2], lines[3]]), Some(2));
    assert_eq!(broken_at(&[lines[1], lines[2]]), Some(1));
    assert_eq!(broken_at(&[lines[0], lines[2], lines[1]]), Some(2));
    assert_eq!(broken_at(&[lines[0], "not json", lines[1]]), Some(2));
}

#[test]
fn half_a_line_is_cut_off_and_told_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    AuditLog::open(&path, None).unwrap().append(&open(1, "/a"), &session("s")).unwrap();
    for torn in [r#"{"schema":"govsandbox.event/1","seq":2,"ti"#.as_bytes(), &[0; 700]] {
        let before = records(&path).len();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
        assert_eq!(verify(&path).unwrap().unfinished_bytes, torn.len() as u64);

        AuditLog::open(&path, None).unwrap().append(&open(2, "/b"), &session("s")).unwrap();
        let records = records(&path);
        assert_eq!((records.len(), verify(&path).unwrap().unfinished_bytes), (before + 2, 0));
        let detail = records[before].object.detail.as_deref().unwrap();
        assert!(detail.contains(&format!("{} bytes", torn.len())), "{detail}");
    }
}

#[test]
fn a_log_that_began_with_half_a_line_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, r#"{"schema":"govsandbox.event/1","se"#).unwrap();
    AuditLog::open(&path, None).unwrap().append(&open(2, "/b"), &session("s")).unwrap();
    assert_eq!(verify(&path).unwrap().records, 2);
}

#[test]
fn a_file_of_others_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    for content in ["my notes", "my notes\n", "{}\n", "{\"schema\":\"govsandbox.event/1\"}\nhalf", "\n"] {
        fs::write(&path, content).unwrap();
        let error = AuditLog::open(&path, None).unwrap_err();
        assert!(matches!(error, LogError::NotALog(_)), "{content:?}: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn what_is_no_plain_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("target"), "").unwrap();
    std::os::unix::fs::symlink(path("target"), path("symlink")).unwrap();
    std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::create_dir(path("folder")).unwrap();
    for log in [path("symlink"), path("dangling"), path("pipe"), path("folder"), "/dev/null".into()] {
        let error = AuditLog::open(&log, None).unwrap_err();
        assert!(matches!(error, LogError::NotRegular(_)), "{}: {error:?}", log.display());
    }
    fs::hard_link(path("target"), path("second name")).unwrap();
    assert!(matches!(AuditLog::open(&path("target"), None), Err(LogError::HardLink { links: 2, .. })));
    assert!(!path("nowhere").exists());
}

#[test]
fn a_rotated_log_begins_a_chain_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    log.append_all(&[open(1, "/a"), open(2, "/b")], &session("s")).unwrap();
    let rotated = folder.path().join("audit.jsonl.1");
    fs::rename(&path, &rotated).unwrap();
    log.append(&open(3, "/c"), &session("s")).unwrap();
    assert_eq!((verify(&rotated).unwrap().records, verify(&path).unwrap().records), (2, 1));
}

#[test]
fn a_shortened_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    log.append_all(&[open(1, "/a"), open(2, "/b"), open(3, "/c")], &session("s")).unwrap();
    let first_line = fs::read_to_string(&path).unwrap().find('\n').unwrap() + 1;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(first_line as u64).unwrap();
    log.append(&open(4, "/d"), &session("s")).unwrap();
    let records = records(&path);
    assert_eq!(gaps(&records)[0].object.count, Some(2));
    assert_eq!(verify(&path).unwrap().records, 3);
}

#[test]
fn long_paths_and_many_arguments_are_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let long = Text(b"/\xfe".iter().copied().cycle().take(4095).collect());
    let mut event = open(1, long.clone());
    let argv: Vec<Text> = (0..2000).map(|number| Text::from(format!("{number}").as_str())).collect();
    event.process.as_mut().unwrap().argv = Some(argv.clone());
    AuditLog::open(&path, None).unwrap().append(&event, &session("s")).unwrap();
    let records = records(&path);
    assert_eq!(records[0].object.path, Some(long));
    assert_eq!(records[0].process.as_ref().unwrap().argv, Some(argv));
    assert_eq!(records[0].escaped, ["object.path"]);
}

#[test]
fn a_command_line_of_megabytes_is_cut_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut event = open(1, "/a");
    event.object.command = Some(vec![Text(vec![b'a'; 100]), Text(vec![0xff; 2 << 20]), "b".into()]);
    let mut log = AuditLog::open(&path, None).unwrap();
    log.append_all(&[event, open(2, "/b")], &session("s")).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    let first = &records(&path)[0];
    assert_eq!(first.object.command.as_ref().map(Vec::len), Some(2));
    assert!(first.object.detail.as_deref().is_some_and(|detail| detail.contains("too long")));
    verify(&path).unwrap();
}

#[test]
fn a_damaged_line_is_one_entry_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = AuditLog::open(&path, None).unwrap();
    log.append_all(&[open(1, "/a"), open(2, "/b"), open(3, "/c")], &session("s")).unwrap();
    let damaged = fs::read_to_string(&path).unwrap().replacen("\"seq\":2", "\"seq\":x", 1);
    fs::write(&path, damaged).unwrap();
    for mut reader in [LogReader::open(&path).unwrap(), LogReader::open_at_last(&path, 2).unwrap()] {
        let entries: Vec<_> = std::iter::from_fn(|| reader.next_entry().unwrap()).collect();
        let damaged: Vec<u64> =
            entries.iter().filter(|entry| entry.record.is_err()).map(|entry| entry.line).collect();
        assert_eq!(damaged, [2]);
    }
}

#[test]
fn the_last_lines_are_found_from_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let events: Vec<Event> = (1..=500).map(|number| open(number, "/some/path")).collect();
    AuditLog::open(&path, None).unwrap().append_all(&events, &session("s")).unwrap();
    for (count, expected) in [(0, 0), (1, 1), (2, 2), (300, 300), (500, 500), (1000, 500)] {
        let mut reader = LogReader::open_at_last(&path, count).unwrap();
        let entries: Vec<_> = std::iter::from_fn(|| reader.next_entry().unwrap()).collect();
        assert_eq!(entries.len(), expected);
        assert!(entries.iter().all(|entry| entry.record.as_ref().unwrap().seq == entry.line));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_bytes_in_any_batches_make_a_whole_chain(
        batches in proptest::collection::vec(proptest::collection::vec(any::<Vec<u8>>(), 0..8), 0..8)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut log = AuditLog::open(&path, None).unwrap();
        for batch in &batches {
            let events: Vec<Event> = batch.iter().map(|bytes| open(1, bytes.as_slice())).collect();
            log.append_all(&events, &session("s")).unwrap();
        }
        let paths: Vec<Vec<u8>> = records(&path).into_iter().map(|record| record.object.path.unwrap().0).collect();
        prop_assert_eq!(&paths, &batches.concat());
        prop_assert_eq!(verify(&path).unwrap().records, paths.len() as u64);
    }
}

/// The examples of `docs/events.md` are the sample log, so they can't go stale.
#[test]
fn the_documentation_shows_an_example_of_each_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    crate::sample::write(&path);
    let mut examples = String::new();
    for kind in Kind::ALL {
        let lines = fs::read_to_string(&path).unwrap();
        let of_kind = || {
            lines.lines().filter(|line| line.contains(&format!("\"kind\":\"{}\",\"action\"", kind.name())))
        };
        let denied = of_kind().find(|line| line.contains("\"outcome\":\"denied\""));
        examples += &shortened(denied.or_else(|| of_kind().next()).unwrap());
    }
    let documentation =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md")).unwrap();
    let shown = documentation.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    assert!(shown == examples, "the examples of docs/events.md should be:\n{examples}");
}

/// Long hex strings by their beginning.
fn shortened(line: &str) -> String {
    let is_hash = |part: &&str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut line = line.to_owned();
    for hash in line.clone().split(['"', ':']).filter(is_hash) {
        line = line.replace(hash, &format!("{}…", &hash[..8]));
    }
    line + "\n"
}
