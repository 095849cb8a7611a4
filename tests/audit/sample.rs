//! A log with an event of each kind, as a run under the `claude` profile leaves it.

use std::{collections::BTreeMap, path::Path};

use govsandbox::{
    audit::log::AuditLog,
    event::{
        model::{Action, Event, Kind, Object, Outcome, Process},
        privilege::CallName,
        text::Text,
    },
};

use crate::bed::{denied, denied_by, open, process, session, time};

pub(crate) const SESSION: &str = "01KAJ2V6Q8W3N5T7Y9B1D3F5H7";

pub(crate) fn write(log: &Path) {
    AuditLog::open(log, None).unwrap().append_all(&events(), &session(SESSION)).unwrap();
}

pub(crate) fn events() -> Vec<Event> {
    let ms = |number: i128| number * 1_000_000;
    let event = |at, kind, action, object| Event {
        time: time(ms(at)),
        kind,
        action,
        outcome: Outcome::Allowed,
        errno: None,
        rule: None,
        process: Some(process()),
        object,
    };
    let about_session = |event: Event| Event { process: None, ..event };
    let text = |text: &str| Some(Text::from(text));
    let words = |words: &[&str]| Some(words.iter().map(|word| Text::from(*word)).collect());
    let string = |text: &str| Some(text.to_owned());
    let net = |address: &str, port| Object {
        family: string(if address.contains(':') { "inet6" } else { "inet" }),
        protocol: string("tcp"),
        address: string(address),
        port: Some(port),
        ..Object::default()
    };
    let mut evil = open(ms(7), b"/home/dev/app/\x1b[2J\xff\xe2\x80\xaegnp.sh".as_slice());
    evil.action = Action::Write;
    let mut long =
        denied(open(ms(8), format!("/home/dev/app/{}/secrets/key.pem", "deep/".repeat(30)).as_str()));
    long.process =
        Some(Process { exe: text("/usr/lib/node_modules/@anthropic-ai/claude-code/cli"), ..process() });
    vec![
        about_session(event(
            0,
            Kind::SessionStart,
            Action::Start,
            Object {
                command: words(&["claude", "-p", "fix the build; don't ask"]),
                backend: string("fanotify"),
                not_held: Some(vec!["renames of files that came into being during the run".to_owned()]),
                ..Object::default()
            },
        )),
        Event {
            process: Some(Process {
                argv: words(&["git", "push", "origin main"]),
                exe: text("/usr/bin/git"),
                ..process()
            }),
            ..event(
                1,
                Kind::ProcessExec,
                Action::Exec,
                Object {
                    path: text("/usr/bin/git"),
                    dev: string("259:1"),
                    ino: Some(99),
                    ..Object::default()
                },
            )
        },
        open(ms(2), "/home/dev/app/Cargo.toml"),
        denied(open(ms(3), "/home/dev/.ssh/id_ed25519")),
        Event { outcome: Outcome::WouldDeny, errno: None, ..denied(open(ms(4), "/etc/shadow")) },
        Event { outcome: Outcome::Failed, errno: Some(2), ..open(ms(5), "/home/dev/app/missing") },
        event(
            6,
            Kind::FileChange,
            Action::Rename,
            Object { path: text("/home/dev/app/a"), target: text("/home/dev/app/b"), ..Object::default() },
        ),
        evil,
        long,
        Event {
            object: Object { name: string("api.anthropic.com"), ..net("160.79.104.10", 443) },
            ..event(9, Kind::NetConnect, Action::Connect, Object::default())
        },
        denied_by(
            "default/network.allow",
            event(10, Kind::NetConnect, Action::Connect, net("2001:db8::1", 22)),
        ),
        event(11, Kind::NetSend, Action::Send, Object { protocol: string("udp"), ..net("127.0.0.53", 53) }),
        event(
            11,
            Kind::DnsQuery,
            Action::Query,
            Object {
                address: string("127.0.0.53"),
                port: Some(53),
                protocol: string("udp"),
                name: string("api.example.com"),
                record_type: string("A"),
                answers: Some(vec!["192.0.2.7".to_owned()]),
                ..Object::default()
            },
        ),
        event(11, Kind::NetListen, Action::Listen, net("127.0.0.1", 8080)),
        event(
            11,
            Kind::NetClose,
            Action::Close,
            Object {
                name: string("api.example.com"),
                bytes_sent: Some(715),
                bytes_received: Some(1955),
                duration_ns: Some(3_000_000),
                ..net("192.0.2.7", 443)
            },
        ),
        denied_by(
            "default/process.namespaces",
            event(
                12,
                Kind::PrivilegeUse,
                Action::Call(CallName::parse("unshare").unwrap()),
                Object { detail: string("flags 0x10000000"), ..Object::default() },
            ),
        ),
        denied_by(
            "unknown-hosts",
            event(
                12,
                Kind::Approval,
                Action::Refuse,
                Object {
                    protocol: string("tcp"),
                    name: string("files.example.org"),
                    decided_by: Some(1000),
                    waited_ns: Some(4_200_000_000),
                    detail: string("for the session"),
                    ..Object::default()
                },
            ),
        )
        .with_errno(None),
        event(13, Kind::ProcessExit, Action::Exit, Object { exit_code: Some(128), ..Object::default() }),
        Event::gap(
            time(ms(15)),
            "file.open",
            1234,
            (time(ms(13)), time(ms(14))),
            "events that were not written",
        )
        .with_errno(Some(28)),
        about_session(event(
            16,
            Kind::SessionEnd,
            Action::End,
            Object {
                exit_code: Some(0),
                review: Some(vec![
                    "/home/dev/app/vendor/x/.git/config".into(),
                    "/home/dev/app/.envrc\u{1b}[2J".into(),
                ]),
                counts: Some(BTreeMap::from([
                    ("file.open.denied".to_owned(), 2),
                    ("net.connect.denied".to_owned(), 1),
                ])),
                ..Object::default()
            },
        )),
    ]
}
