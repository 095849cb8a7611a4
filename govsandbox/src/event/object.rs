//! A record's object in the words of the log.

use std::net::Ipv6Addr;

use govsandbox_ebpf::abi::event::{EventRecord, FLAG_PATH_CUT, FLAG_TARGET_FIRST, RecordKind};

use super::{model::Object, open_flags, record::Record, text::Text};

/// Device, inode and, of an open, the flags.
pub(super) fn file(record: &Record<'_>) -> Object {
    let head = &record.head;
    let is_known = head.dev != 0 || head.ino != 0;
    Object {
        dev: is_known.then(|| device(head.dev)),
        ino: is_known.then_some(head.ino),
        flags: (record.kind == RecordKind::Open).then(|| open_flags::names(head.value)),
        path_truncated: record.has(FLAG_PATH_CUT),
        signal: (record.kind == RecordKind::Exec && head.value != 0)
            .then(|| i32::try_from(head.value).unwrap_or(i32::MAX)),
        ..Object::default()
    }
}

/// The same with the paths that the kernel walked: `path` is the old name and `target` the new one.
pub(super) fn walked(record: &Record<'_>) -> Object {
    let second = match record.kind {
        // The working directory.
        RecordKind::Exec => &[],
        RecordKind::Exit
        | RecordKind::Open
        | RecordKind::Change
        | RecordKind::Connect
        | RecordKind::Send
        | RecordKind::Listen
        | RecordKind::Close
        | RecordKind::Fork
        | RecordKind::Privilege => record.second,
    };
    let (path, target) = match record.has(FLAG_TARGET_FIRST) {
        true => (second, record.path),
        false => (record.path, second),
    };
    Object { path: text(path), target: text(target), ..file(record) }
}

/// How a process ended, from its wait status (`wait(2)`).
pub(super) fn end(wait_status: u32) -> Object {
    let byte = |shift: u32| i32::try_from(wait_status >> shift & 0xff).ok();
    match wait_status & 0x7f {
        0 => Object { exit_code: byte(8), ..Object::default() },
        signal => Object { signal: i32::try_from(signal).ok(), ..Object::default() },
    }
}

/// Where to. `name`: what the policy calls it.
pub(super) fn destination(head: &EventRecord, name: Option<&str>) -> Object {
    let address = Ipv6Addr::from(head.address);
    Object {
        family: Some(match i32::from(head.family) {
            libc::AF_INET => "inet".to_owned(),
            libc::AF_INET6 => "inet6".to_owned(),
            other => other.to_string(),
        }),
        protocol: Some(match i32::from(head.protocol) {
            libc::IPPROTO_TCP => "tcp".to_owned(),
            libc::IPPROTO_UDP => "udp".to_owned(),
            libc::IPPROTO_ICMP => "icmp".to_owned(),
            libc::IPPROTO_ICMPV6 => "icmpv6".to_owned(),
            other => other.to_string(),
        }),
        address: Some(match address.to_ipv4_mapped() {
            Some(address) => address.to_string(),
            None => address.to_string(),
        }),
        port: Some(head.port),
        name: name.map(str::to_owned),
        ..Object::default()
    }
}

/// Is it about a unix socket?
pub(super) fn is_unix(record: &Record<'_>) -> bool {
    i32::from(record.head.family) == libc::AF_UNIX
}

/// A unix socket of others: by the path that it is bound to, or `@` and its abstract name.
pub(super) fn socket(record: &Record<'_>) -> Object {
    let path = match record.path {
        [0, name @ ..] => Some(Text::from([b"@", name].concat().as_slice())),
        path => text(path),
    };
    Object {
        path,
        family: Some("unix".to_owned()),
        protocol: Some(match i32::from(record.head.protocol) {
            libc::SOCK_STREAM => "stream".to_owned(),
            libc::SOCK_DGRAM => "dgram".to_owned(),
            libc::SOCK_SEQPACKET => "seqpacket".to_owned(),
            other => other.to_string(),
        }),
        ..file(record)
    }
}

/// The same, with what went through.
pub(super) fn ended(head: &EventRecord, name: Option<&str>) -> Object {
    Object {
        bytes_sent: Some(head.dev),
        bytes_received: Some(head.ino),
        duration_ns: Some(head.value),
        ..destination(head, name)
    }
}

/// A path that is there.
pub(super) fn text(bytes: &[u8]) -> Option<Text> {
    (!bytes.is_empty()).then(|| Text::from(bytes))
}

/// `MAJOR:MINOR` of the kernel's own encoding (`MKDEV`, include/linux/kdev_t.h).
fn device(dev: u64) -> String {
    format!("{}:{}", dev >> 20, dev & 0xf_ffff)
}
