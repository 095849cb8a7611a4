use govsandbox_ebpf::abi::{
    event::{FLAG_HOOK, FLAG_PATH_CUT, FLAG_TARGET_FIRST, RecordAction as Did, TEXT_BYTES_MAX},
    privilege::Hook,
    rule::TraceOpens,
};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::{
    event::privilege::CallName,
    id::RuleIndex,
    policy::{
        automaton,
        compile::{
            AllowLists, AllowedPath, DnsRefusal, EgressEffect, EgressLists, EgressRule, GlobRule, Icmp,
            LiteralRule, Mode, Namespaces, NetworkNamespace, PathEffect, PathPlan, PortRange, Protocol,
            Require, RootPolicy, Seconds, Userfaultfd, Verify,
        },
    },
};

#[path = "decode_failure_tests.rs"]
mod failures;

const DENY: RuleIndex = RuleIndex(1);
const DENY_GLOB: RuleIndex = RuleIndex(2);
const PROTECT: RuleIndex = RuleIndex(3);
const WRITE: RuleIndex = RuleIndex(4);
const NETWORK: RuleIndex = RuleIndex(5);
const PARENT: u32 = 500;
const CHILD: u32 = 501;
const NOW_NS: u64 = 1_000_000;

/// `/` readable, `/app` writable, `/home/u/.ssh` and `**/*.pem` denied, `/app/.git/hooks` protected.
fn compiled() -> Compiled {
    let names = ["t/filesystem.deny/0", "t/filesystem.deny/1", "t/filesystem.protect/0"];
    let others = ["t/filesystem.write/0", "t/network.allow/0"];
    let allowed = |path: &str, rule| AllowedPath { path: path.into(), rule };
    let literal = |path: &str, effect, rule| LiteralRule { path: path.into(), effect, rule };
    Compiled {
        name: "t".to_owned(),
        digest: String::new(),
        mode: Mode::Enforce,
        require: Require::Any,
        root: RootPolicy::Drop,
        userfaultfd: Userfaultfd::Deny,
        namespaces: Namespaces::Deny,
        rules: names
            .iter()
            .chain(&others)
            .map(|id| RuleInfo { id: RuleId((*id).to_owned()), layer: Layer::Session })
            .collect(),
        exec: crate::policy::compile::ExecPlan::default(),
        paths: PathPlan {
            allow: vec![AllowLists {
                any_write: None,
                read: vec![allowed("/", RuleIndex(4))],
                write: vec![allowed("/app", WRITE)],
            }],
            literals: vec![
                literal("/home/u/.ssh", PathEffect::Deny, DENY),
                literal("/app/.git/hooks", PathEffect::Protect, PROTECT),
            ],
            globs: vec![GlobRule {
                pattern: b"/**/*.pem".to_vec(),
                effect: PathEffect::Deny,
                rule: DENY_GLOB,
            }],
            keys: Vec::new(),
        },
        egress: vec![EgressLists {
            rules: vec![EgressRule {
                target: EgressTarget::Name("api.example.com".to_owned()),
                ports: vec![PortRange { first: 443, last: 443 }],
                protocol: Protocol::Tcp,
                effect: EgressEffect::Allow,
                rule: NETWORK,
            }],
        }],
        verify: Verify::WhereShared,
        network_namespace: NetworkNamespace::Host,
        icmp: Icmp::Deny,
        dns_refusal: DnsRefusal::Nxdomain,
        ask_timeout: Seconds(30),
        proxy: None,
        listen: Vec::new(),
        unix: Default::default(),
        trace_opens: TraceOpens::All,
        trace_args: true,
        audit_log: PathBuf::new(),
        audit_required: false,
        pids_max: None,
        memory_max_bytes: None,
    }
}

fn decoder_at(root: &Path, enforcing: bool) -> Decoder {
    let compiled = compiled();
    let automaton = automaton::build(&compiled.paths.globs).unwrap();
    Decoder::new(Arc::new(compiled), automaton, root.to_owned(), enforcing, filter())
}

/// Refuses `bpf` (321) and nothing else.
fn filter() -> Filter {
    Filter(Box::new(|attempt| {
        let call = CallName::parse("bpf").unwrap();
        (attempt.number == 321).then(|| Refused {
            call,
            rule: "builtin/privileges",
            detail: format!("command {}", attempt.arguments[0]),
        })
    }))
}

fn decoder() -> Decoder {
    decoder_at(Path::new("/nonexistent/root"), true)
}

fn head(kind: RecordKind, action: Did, outcome: RecordOutcome) -> EventRecord {
    EventRecord {
        time_boot_ns: NOW_NS,
        start_boot_ns: 900,
        sandbox_id: 1,
        tgid: CHILD,
        tid: CHILD + 1,
        ppid: PARENT,
        uid: 1000,
        kind: kind as u8,
        action: action as u8,
        outcome: outcome as u8,
        ..EventRecord::new_zeroed()
    }
}

fn bytes(head: EventRecord, path: &str, second: &str, argv: &str) -> Vec<u8> {
    let length = |text: &str| u32::try_from(text.len()).unwrap();
    let head =
        EventRecord { path_len: length(path), second_len: length(second), argv_len: length(argv), ..head };
    [head.as_bytes(), path.as_bytes(), second.as_bytes(), argv.as_bytes()].concat()
}

fn only(decoder: &mut Decoder, bytes: &[u8]) -> Event {
    decoder.record(bytes).unwrap().unwrap()
}

fn exec(decoder: &mut Decoder, exe: &str, argv: &str) -> Event {
    let record = head(RecordKind::Exec, Did::None, RecordOutcome::Allowed);
    only(decoder, &bytes(record, exe, "/app", argv))
}

fn path(event: &Event) -> String {
    event.object.path.as_ref().map(|path| path.escaped().into_owned()).unwrap_or_default()
}

fn target(event: &Event) -> String {
    event.object.target.as_ref().map(|path| path.escaped().into_owned()).unwrap_or_default()
}

fn rule(event: &Event) -> Option<&str> {
    event.rule.as_ref().map(|rule| rule.id.0.as_str())
}

#[test]
fn an_exec_tells_its_program_and_what_follows_is_done_by_it() {
    let mut decoder = decoder();
    let record = EventRecord {
        dev: 259 << 20 | 1,
        ino: 42,
        ..head(RecordKind::Exec, Did::None, RecordOutcome::Allowed)
    };
    let event = only(&mut decoder, &bytes(record, "/usr/bin/cat", "/app", "cat\0\0x\0"));
    assert_eq!(
        (event.kind, event.action, event.outcome),
        (Kind::ProcessExec, Action::Exec, Outcome::Allowed)
    );
    assert_eq!((path(&event).as_str(), target(&event).as_str()), ("/usr/bin/cat", ""));
    assert_eq!((event.object.dev.as_deref(), event.object.ino), (Some("259:1"), Some(42)));
    assert_eq!((event.errno, event.rule.clone()), (None, None));
    let process = event.process.unwrap();
    assert_eq!((process.pid, process.tid, process.ppid), (CHILD, CHILD + 1, PARENT));
    assert_eq!((process.start_ns, process.uid, process.argv_truncated), (900, 1000, false));
    assert_eq!(process.argv, Some(vec!["cat".into(), "".into(), "x".into()]));
    assert_eq!(process.cwd, Some("/app".into()));

    let record = head(RecordKind::Open, Did::Read, RecordOutcome::Allowed);
    let event = only(&mut decoder, &bytes(record, "/app/file", "", ""));
    assert_eq!(event.process.unwrap().exe, Some("/usr/bin/cat".into()));
}

#[test]
fn arguments_that_were_cut_say_so() {
    let mut decoder = decoder();
    let record =
        EventRecord { flags: FLAG_ARGV_CUT, ..head(RecordKind::Exec, Did::None, RecordOutcome::Allowed) };
    let process = only(&mut decoder, &bytes(record, "/bin/x", "/", "x\0lon")).process.unwrap();
    assert_eq!((process.argv, process.argv_truncated), (Some(vec!["x".into(), "lon".into()]), true));
}

#[test]
fn a_fork_is_no_event_and_its_child_is_the_command() {
    let mut decoder = decoder();
    decoder.command(PARENT, &["agent".into(), "--yes".into()], Path::new("/app"));
    let fork = EventRecord {
        tgid: PARENT,
        start_boot_ns: 700,
        value: u64::from(CHILD),
        ..head(RecordKind::Fork, Did::None, RecordOutcome::Allowed)
    };
    assert_eq!(decoder.record(&bytes(fork, "", "", "")), Ok(None));
    let record = EventRecord { ppid: 1, ..head(RecordKind::Open, Did::Read, RecordOutcome::Allowed) };
    let process = only(&mut decoder, &bytes(record, "/app/file", "", "")).process.unwrap();
    assert_eq!(process.argv, Some(vec!["agent".into(), "--yes".into()]));
}

#[test]
fn an_exit_is_told_once_with_its_code_or_signal() {
    for (status, code, signal) in
        [(0, Some(0), None), (3 << 8, Some(3), None), (9, None, Some(9)), (0x8b, None, Some(11))]
    {
        let mut decoder = decoder();
        exec(&mut decoder, "/bin/sh", "sh\0");
        let record =
            EventRecord { value: status, ..head(RecordKind::Exit, Did::None, RecordOutcome::Allowed) };
        let event = only(&mut decoder, &bytes(record, "", "", ""));
        assert_eq!((event.kind, event.action), (Kind::ProcessExit, Action::Exit));
        assert_eq!((event.object.exit_code, event.object.signal), (code, signal));
        assert_eq!(event.process.unwrap().exe, Some("/bin/sh".into()));
        assert_eq!(decoder.record(&bytes(record, "", "", "")), Ok(None));
    }
}

#[test]
fn an_open_names_its_flags_its_object_and_its_rule() {
    let mut decoder = decoder();
    let record = EventRecord {
        value: u64::from((libc::O_WRONLY | libc::O_CREAT).cast_unsigned()),
        dev: 8 << 20 | 17,
        ino: 7,
        rule: PROTECT.0,
        errno: 1,
        flags: FLAG_PATH_CUT,
        ..head(RecordKind::Open, Did::Write, RecordOutcome::Denied)
    };
    let event = only(&mut decoder, &bytes(record, "/app/.git/hooks/x", "", ""));
    assert_eq!((event.kind, event.action, event.outcome), (Kind::FileOpen, Action::Write, Outcome::Denied));
    assert_eq!((event.errno, rule(&event)), (Some(1), Some("t/filesystem.protect/0")));
    assert_eq!(event.rule.unwrap().layer, Layer::Session);
    let object = event.object;
    assert_eq!(object.flags.as_deref(), Some("O_WRONLY|O_CREAT"));
    assert_eq!((object.dev.as_deref(), object.ino, object.path_truncated), (Some("8:17"), Some(7), true));
}

#[test]
fn what_the_kernel_program_could_not_judge_is_a_rule_of_ours() {
    let mut decoder = decoder();
    for (kind, action) in [(RecordKind::Open, Did::Read), (RecordKind::Change, Did::Unlink)] {
        let event = only(&mut decoder, &bytes(head(kind, action, RecordOutcome::Denied), "/deep", "", ""));
        assert_eq!(rule(&event), Some("builtin/path-unreadable"));
        assert_eq!(event.rule.unwrap().layer, Layer::Builtin);
    }
    let event =
        only(&mut decoder, &bytes(head(RecordKind::Open, Did::Read, RecordOutcome::Allowed), "/x", "", ""));
    assert_eq!(event.rule, None);
}

#[test]
fn the_old_name_is_the_path_whichever_of_both_was_weighed() {
    let mut decoder = decoder();
    let record = EventRecord { rule: 1, ..head(RecordKind::Change, Did::Rename, RecordOutcome::WouldDeny) };
    let event = only(&mut decoder, &bytes(record, "/old", "/new", ""));
    assert_eq!((path(&event), target(&event)), ("/old".to_owned(), "/new".to_owned()));
    assert_eq!((event.outcome, event.errno), (Outcome::WouldDeny, None));
    let record = EventRecord { flags: FLAG_TARGET_FIRST, ..record };
    let event = only(&mut decoder, &bytes(record, "/new", "/old", ""));
    assert_eq!((path(&event), target(&event)), ("/old".to_owned(), "/new".to_owned()));
}

#[test]
fn a_destination_has_family_address_port_and_the_policys_name() {
    let v4 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4];
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut decoder = decoder();
    for (kind, address, family, protocol, expected) in [
        (RecordKind::Connect, v4, libc::AF_INET, 6, ("inet", "1.2.3.4", "tcp")),
        (RecordKind::Connect, v4, libc::AF_INET6, 6, ("inet6", "1.2.3.4", "tcp")),
        (RecordKind::Send, v6, libc::AF_INET6, 17, ("inet6", "2001:db8::1", "udp")),
        (RecordKind::Send, v6, 77, 132, ("77", "2001:db8::1", "132")),
    ] {
        let record = EventRecord {
            address,
            port: 443,
            family: u16::try_from(family).unwrap(),
            protocol,
            rule: NETWORK.0,
            ..head(kind, Did::None, RecordOutcome::Allowed)
        };
        let event = only(&mut decoder, &bytes(record, "", "", ""));
        assert_eq!(rule(&event), Some("t/network.allow/0"));
        let object = event.object;
        let told = (object.family.unwrap(), object.address.unwrap(), object.protocol.unwrap());
        assert_eq!((told.0.as_str(), told.1.as_str(), told.2.as_str()), expected);
        assert_eq!((object.port, object.name.as_deref()), (Some(443), Some("api.example.com")));
    }
    let record = EventRecord { errno: 1, ..head(RecordKind::Connect, Did::None, RecordOutcome::Denied) };
    let event = only(&mut decoder, &bytes(record, "", "", ""));
    assert_eq!((rule(&event), event.errno), (Some("default/network.allow"), Some(1)));
    assert_eq!(event.rule.unwrap().layer, Layer::Builtin);
}

#[test]
fn malformed_records_are_errors() {
    let good = bytes(head(RecordKind::Open, Did::Read, RecordOutcome::Allowed), "/x", "", "");
    assert!(decoder().record(&good).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        decoder().record(&bad).unwrap_err()
    };
    let kind_at = std::mem::offset_of!(EventRecord, kind);
    let path_len_at = std::mem::offset_of!(EventRecord, path_len);
    assert_eq!(with(kind_at, 99), DecodeError::Kind(99));
    assert_eq!(with(kind_at + 1, 99), DecodeError::Action(99));
    assert_eq!(with(kind_at + 2, 99), DecodeError::Outcome(99));
    assert_eq!(with(path_len_at, 3), DecodeError::Texts { declared: 3, present: 2 });
    assert_eq!(with(path_len_at, 1), DecodeError::Texts { declared: 1, present: 2 });
    assert_eq!(
        with(kind_at + 1, Did::Rename as u8),
        DecodeError::ActionOfKind { kind: RecordKind::Open, action: Did::Rename }
    );
    assert_eq!(decoder().record(&good[..111]), Err(DecodeError::Short { bytes: 111, needed: 112 }));
    let exit = EventRecord { value: 1 << 40, ..head(RecordKind::Exit, Did::None, RecordOutcome::Allowed) };
    let error = DecodeError::Value { kind: RecordKind::Exit, value: 1 << 40 };
    assert_eq!(decoder().record(&bytes(exit, "", "", "")), Err(error));
}

#[test]
fn a_record_as_long_as_there_can_be_lacks_its_end_and_says_so() {
    let record = head(RecordKind::Exec, Did::None, RecordOutcome::Allowed);
    let long = "/a".repeat(2176);
    let mut whole = bytes(record, &long, &long, &"x\0".repeat(2048));
    whole.truncate(size_of::<EventRecord>() + TEXT_BYTES_MAX);
    let process = only(&mut decoder(), &whole).process.unwrap();
    assert!(process.argv_truncated);
    assert_eq!(process.argv.unwrap().len(), (TEXT_BYTES_MAX - 2 * long.len()) / 2);
}

/// Any record: known bytes more often than not, so that what is behind them is reached.
fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let texts = (any::<bool>(), "[a-z/.]{0,24}", "[a-z/.]{0,24}", "[a-z/.\0]{0,24}");
    let bytes = (0..10u8, 0..15u8, 0..5u8);
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), 0..8u64, 0..12u16);
    (bytes, numbers, texts).prop_map(|((kind, action, outcome), numbers, (exact, path, second, argv))| {
        let (flags, time, value, start, rule) = numbers;
        let record = EventRecord {
            flags: if exact { flags & 31 } else { flags },
            errno: u32::from(rule),
            time_boot_ns: time,
            start_boot_ns: start,
            value: if exact { value & 0xff } else { value },
            tgid: 500 + u32::from(rule & 3),
            rule,
            kind,
            action,
            outcome,
            ..head(RecordKind::Open, Did::Read, RecordOutcome::Allowed)
        };
        self::bytes(record, &path, &second, &argv)
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(records in proptest::collection::vec(
        prop_oneof![any_record(), proptest::collection::vec(any::<u8>(), 0..300)], 1..12)) {
        let mut decoder = decoder();
        for record in &records {
            if let Ok(Some(event)) = decoder.record(record) {
                serde_json::to_string(&event.object).unwrap();
                prop_assert!(event.outcome != Outcome::Failed || event.rule.is_none() || event.errno.is_none()
                    || record[std::mem::offset_of!(EventRecord, rule)] != 0);
            }
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error(record in any_record(), cut in 1usize..200) {
        let whole = decoder().record(&record).is_ok();
        let short = &record[..record.len().saturating_sub(cut)];
        prop_assert!(!whole || decoder().record(short).is_err());
    }
}

#[test]
fn a_refused_call_is_told_by_its_name_and_the_kernels_own_refusal_is_not() {
    let mut record = EventRecord {
        value: 321,
        errno: libc::EPERM as u32,
        ..head(RecordKind::Privilege, Did::None, RecordOutcome::Failed)
    };
    record.address[..4].copy_from_slice(&5_u32.to_ne_bytes());
    let event = decoder().record(&bytes(record, "", "", "")).unwrap().unwrap();
    assert_eq!(
        (event.kind, event.action.name(), event.outcome),
        (Kind::PrivilegeUse, "bpf", Outcome::Denied)
    );
    assert_eq!(event.rule.unwrap().id.0, "builtin/privileges");
    assert_eq!((event.object.detail.as_deref(), event.errno), (Some("command 5"), Some(libc::EPERM)));
    let other = EventRecord { value: 41, ..record };
    assert_eq!(decoder().record(&bytes(other, "", "", "")).unwrap(), None);
}

#[test]
fn a_refusal_by_a_hook_names_the_hook_and_what_it_was_about() {
    let mut record = EventRecord {
        value: u64::from(Hook::TaskKill as u8),
        errno: libc::EPERM as u32,
        flags: FLAG_HOOK,
        ..head(RecordKind::Privilege, Did::None, RecordOutcome::Denied)
    };
    record.address[..4].copy_from_slice(&77_u32.to_ne_bytes());
    record.address[4..8].copy_from_slice(&9_u32.to_ne_bytes());
    let event = decoder().record(&bytes(record, "", "", "")).unwrap().unwrap();
    assert_eq!(
        (event.action.name(), event.object.detail.as_deref()),
        ("task_kill", Some("signal 9 to process 77"))
    );
    // A number that no hook has is a refusal all the same.
    let unknown = EventRecord { value: 250, ..record };
    let event = decoder().record(&bytes(unknown, "", "", "")).unwrap().unwrap();
    assert_eq!((event.action.name(), event.outcome), ("syscall", Outcome::Denied));
}
