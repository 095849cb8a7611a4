//! What people see of a log.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use govsandbox::{
    audit::log::AuditLog,
    event::{
        model::{Action, Event, Kind, Object, Outcome, Process},
        text::Text,
    },
    report::{details, layout::Layout, line, stats},
};
use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthStr as _;

use crate::{
    bed::{open, process, records, session, time},
    sample,
};

fn layout(columns: Option<usize>) -> Layout {
    Layout { columns, colour: false, zone: TimeZone::UTC }
}

fn lines(columns: Option<usize>, colour: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    let mut out = Vec::new();
    for record in records(&log) {
        line::write_line(&mut out, &record, &Layout { colour, ..layout(columns) }).unwrap();
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_for_a_pipe() {
    insta::assert_snapshot!(lines(None, false));
}

#[test]
fn lines_at_120_columns() {
    insta::assert_snapshot!(lines(Some(120), false));
}

#[test]
fn lines_at_60_columns() {
    insta::assert_snapshot!(lines(Some(60), false));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for columns in 40..200 {
        for line in lines(Some(columns), false).lines() {
            assert!(line.width() <= columns, "{columns}: {line}");
        }
    }
}

#[test]
fn colours_change_nothing_else() {
    let coloured = lines(Some(120), true);
    let codes = ["\u{1b}[1;31m", "\u{1b}[33m", "\u{1b}[35m", "\u{1b}[0m"];
    assert!(codes.iter().all(|code| coloured.contains(code)));
    let plain = codes.iter().fold(coloured, |text, code| text.replace(code, ""));
    assert_eq!(plain, lines(Some(120), false));
}

#[test]
fn details_of_each_kind() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    let mut out = Vec::new();
    let records = records(&log);
    details::write_session(&mut out, &records[0], &layout(None)).unwrap();
    for record in &records {
        details::write_details(&mut out, record, &layout(Some(120))).unwrap();
    }
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

fn stats_text(columns: Option<usize>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    stats_of(&log, columns)
}

fn stats_of(log: &Path, columns: Option<usize>) -> String {
    let mut counter = stats::Counter::default();
    records(log).iter().for_each(|record| counter.add(record));
    let mut out = Vec::new();
    stats::write_stats(&mut out, &counter.finish(), &layout(columns)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn stats_for_a_pipe() {
    insta::assert_snapshot!(stats_text(None));
}

#[test]
fn stats_at_60_columns() {
    insta::assert_snapshot!(stats_text(Some(60)));
}

/// A name that would steer a terminal, one of two columns a character, one longer than a line, an address without a name.
#[test]
fn egress_by_host_and_program_at_60_columns() {
    let of = |kind, outcome, program: &str, object| Event {
        time: time(0),
        kind,
        action: Action::Connect,
        outcome,
        errno: None,
        rule: None,
        process: Some(Process { exe: Some(Text::from(program)), ..process() }),
        object,
    };
    let net = |name: Option<&str>| Object {
        address: Some("192.0.2.7".to_owned()),
        name: name.map(str::to_owned),
        port: Some(443),
        ..Object::default()
    };
    let closed =
        |name, sent, received| Object { bytes_sent: Some(sent), bytes_received: Some(received), ..net(name) };
    let (curl, node) = ("/usr/bin/curl", "/usr/lib/node\u{1b}[2J");
    let long = format!("{}.exfil.example", "a".repeat(200));
    let reset = Object { server_name: Some("evil.example".to_owned()), ..net(Some("good.example")) };
    let query = Object { address: Some("127.0.0.53".to_owned()), name: Some(long), ..Object::default() };
    let events = [
        of(Kind::NetConnect, Outcome::Allowed, curl, net(Some("good.example"))),
        of(Kind::NetClose, Outcome::Allowed, curl, closed(Some("good.example"), 5 << 30, 1 << 10)),
        of(Kind::NetConnect, Outcome::Allowed, curl, net(Some("日本語.example"))),
        of(Kind::NetClose, Outcome::Allowed, curl, closed(Some("日本語.example"), u64::MAX, u64::MAX)),
        of(Kind::NetClose, Outcome::Allowed, curl, closed(Some("日本語.example"), u64::MAX, u64::MAX)),
        // Of several names of one address the relay has seen one.
        of(
            Kind::NetConnect,
            Outcome::Allowed,
            curl,
            Object { address: Some("192.0.2.9".to_owned()), ..net(None) },
        ),
        of(
            Kind::NetClose,
            Outcome::Allowed,
            curl,
            Object {
                address: Some("192.0.2.9".to_owned()),
                server_name: Some("shared.example".to_owned()),
                ..closed(None, 9, 9)
            },
        ),
        of(Kind::NetConnect, Outcome::Denied, node, reset),
        of(Kind::DnsQuery, Outcome::Denied, node, query),
        of(Kind::NetConnect, Outcome::WouldDeny, node, net(None)),
        of(Kind::NetConnect, Outcome::Failed, node, net(Some("\u{202e}\n\u{1b}[31mgood.example"))),
    ];
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    AuditLog::open(&log, None).unwrap().append_all(&events, &session("01S")).unwrap();
    for columns in 42..100 {
        let text = stats_of(&log, Some(columns));
        assert!(text.lines().all(|line| line.width() <= columns && !line.contains('\u{1b}')), "{text}");
    }
    let text = stats_of(&log, Some(60));
    insta::assert_snapshot!(
        text.split_once("\negress by host").unwrap().1.split_once("\nsessions").unwrap().0
    );
}

fn govsandbox(args: &[&str], log: &Path) -> Output {
    command(args, log).output().unwrap()
}

fn command(args: &[&str], log: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_govsandbox"));
    command.arg("audit").args(args).arg("--log").arg(log).env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn show_prints_what_the_filters_leave() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    AuditLog::open(&log, None).unwrap().append(&open(1, "/other"), &session("01OTHER")).unwrap();
    let count = |args: &[&str]| {
        let output = govsandbox(args, &log);
        (
            output.status.code().unwrap(),
            text(&output.stdout).lines().filter(|line| line.starts_with('{')).count(),
        )
    };
    assert_eq!(count(&["show", "--format=json"]), (0, 20), "the last session is the last that started");
    assert_eq!(count(&["show", "all", "--format=json"]), (0, 21));
    assert_eq!(count(&["show", "01OTH", "--format=json"]), (0, 1));
    assert_eq!(count(&["show", "--format=json", "--outcome=denied"]), (0, 5));
    assert_eq!(count(&["show", "--format=json", "--outcome=denied", "--kind=file.open"]), (0, 2));
    assert_eq!(count(&["show", "--format=json", "--pid=812", "--kind=session.start"]), (1, 0));
    assert_eq!(count(&["show", "01", "--format=json"]), (1, 0), "two sessions begin so");
    assert_eq!(count(&["show", "02", "--format=json"]), (1, 0));
    assert_eq!(count(&["show", "--kind=file.opened"]).0, 2);
}

#[test]
fn json_is_the_line_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    let output = govsandbox(&["show", "--format=json"], &log);
    assert_eq!(text(&output.stdout), std::fs::read_to_string(&log).unwrap());
}

#[test]
fn a_foreign_log_steers_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    let foreign = std::fs::read_to_string(&log)
        .unwrap()
        .replace("host-1", "h\u{9b}2J\u{202e}")
        .replace("claude", "c\u{7f}");
    std::fs::write(&log, foreign + "{\"\u{9b}31m\":\n").unwrap();
    for args in [
        ["show", "--format=json"],
        ["show", "--format=text"],
        ["show", "--details"],
        ["stats", "--format=json"],
        ["stats", "--format=text"],
    ] {
        let output = govsandbox(&args, &log);
        for shown in [text(&output.stdout), text(&output.stderr)] {
            let is_steering =
                |character: char| character != '\n' && govsandbox::event::text::misleads(character);
            assert!(!shown.contains(is_steering), "{args:?}: {shown:?}");
        }
    }
}

#[test]
fn tail_prints_the_last_lines_and_names_damaged_ones() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    sample::write(&log);
    let damaged = std::fs::read_to_string(&log).unwrap().replace("\"seq\":18", "\"seq\":?");
    std::fs::write(&log, damaged).unwrap();
    let output = govsandbox(&["tail", "-n", "3"], &log);
    insta::assert_snapshot!(text(&output.stdout));
    assert!(text(&output.stderr).contains("line 18 of"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn tail_follows_a_log_that_begins_later_and_rotates() {
    use std::io::BufRead as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut child = command(&["tail", "--follow", "--format=json"], &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut shown = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut log = AuditLog::open(&path, None).unwrap();
    for (number, name) in ["/a", "/b", "/c"].iter().enumerate() {
        log.append(&open(i128::try_from(number).unwrap(), *name), &session("s")).unwrap();
        let line = shown.next().unwrap().unwrap();
        assert!(line.contains(&format!("\"path\":\"{name}\"")), "{line}");
        if number == 1 {
            std::fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    let events: Vec<_> = (0..5000).map(|number| open(number, "/a")).collect();
    AuditLog::open(&log, None).unwrap().append_all(&events, &session("s")).unwrap();
    let mut child = command(&["show"], &log).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_log_that_is_missing_is_a_failure_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    for args in [["tail", "-n1"], ["show", "last"], ["stats", "all"]] {
        let output = govsandbox(&args, &folder.path().join("none"));
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(text(&output.stderr).contains("--log FILE"), "{}", text(&output.stderr));
    }
    assert!(time(0) < time(1));
}
