//! Events and sessions as a run makes them.

use std::{collections::BTreeMap, path::Path};

use govsandbox::{
    audit::{read::LogReader, record::Record},
    event::{
        model::{Action, Event, Kind, Object, Outcome, Process, Rule, SessionFields},
        text::Text,
    },
    id::{RuleId, SessionId},
    policy::compile::Layer,
};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(crate) fn session(name: &str) -> SessionFields {
    SessionFields {
        session: SessionId(name.to_owned()),
        sandbox_id: 7,
        trace_id: TRACE.to_owned(),
        policy: format!("sha256:{}", "ab".repeat(32)),
        user: "dev".to_owned(),
        uid: 1000,
        agent: "claude".to_owned(),
        tags: BTreeMap::from([("team".to_owned(), "payments".to_owned())]),
        host: "host-1".to_owned(),
    }
}

pub(crate) fn time(ns: i128) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(1_795_243_201_000_000_000 + ns).unwrap()
}

pub(crate) fn process() -> Process {
    Process {
        pid: 812,
        tid: 812,
        ppid: 790,
        start_ns: 123,
        uid: 1000,
        exe: Some("/usr/bin/cat".into()),
        argv: Some(vec!["cat".into(), "/home/dev/.ssh/id_ed25519".into()]),
        cwd: Some("/home/dev/app".into()),
        ..Process::default()
    }
}

/// A read of `path` that was allowed, `ns` after the start.
pub(crate) fn open(ns: i128, path: impl Into<Text>) -> Event {
    Event {
        time: time(ns),
        kind: Kind::FileOpen,
        action: Action::Read,
        outcome: Outcome::Allowed,
        errno: None,
        rule: None,
        process: Some(process()),
        object: Object {
            path: Some(path.into()),
            dev: Some("259:1".to_owned()),
            ino: Some(1234),
            flags: Some("O_RDONLY|O_CLOEXEC".to_owned()),
            ..Object::default()
        },
    }
}

pub(crate) fn denied(event: Event) -> Event {
    denied_by("base/filesystem.deny/0", event)
}

pub(crate) fn denied_by(rule: &str, event: Event) -> Event {
    let rule = Rule { id: RuleId(rule.to_owned()), layer: Layer::Builtin };
    Event { outcome: Outcome::Denied, errno: Some(1), rule: Some(rule), ..event }
}

/// All lines, each of them an event.
pub(crate) fn records(log: &Path) -> Vec<Record> {
    let mut reader = LogReader::open(log).unwrap();
    std::iter::from_fn(|| reader.next_entry().unwrap()).map(|entry| entry.record.unwrap()).collect()
}

pub(crate) fn gaps(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.kind == Kind::AuditGap).collect()
}
