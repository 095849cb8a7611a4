//! What the egress service has seen, in the words of the log.

use std::net::IpAddr;

use govsandbox_ebpf::abi::{
    egress::Original,
    event::{EventRecord, RecordOutcome},
};
use zerocopy::FromZeros as _;

use super::{addresses::Asked, broker::Told, questions::Decided};
use crate::{
    approval::Decision,
    egress::channel::{self, Limit, Outcome as Ended, Permission, ProxyFault, Query, Reset, ResetReason},
    event::{
        decode::Decoder,
        model::{Action, Event, Kind, Object, Outcome},
    },
};

/// Who may talk to an address by its name, and no name was said or another one.
const NOT_NAMED: &str = "builtin/server-name";

/// Of addresses that names have at a time.
const NO_ROOM: &str = "there is no room for its addresses until others have expired";

/// The event; `None`: nothing for the log.
pub(super) fn event(decoder: &mut Decoder, told: &Told, enforcing: bool) -> Option<Event> {
    match told {
        Told::Event(channel::Event::Query(query), original) => {
            Some(of_query(decoder, query, original.as_ref()))
        }
        Told::Event(channel::Event::Reset(reset), original) => {
            Some(of_reset(decoder, reset, original.as_ref(), enforcing))
        }
        Told::Event(channel::Event::Elsewhere { origin, address, errno }, original) => {
            Some(of_detour(decoder, *origin, *address, *errno, original.as_ref()))
        }
        Told::Event(channel::Event::Limited { what, count }, _) => {
            let (kind, what) = match what {
                Limit::Queries => (Kind::DnsQuery, "lookups"),
                Limit::DnsConnections => (Kind::DnsQuery, "connections for lookups"),
                Limit::Connections => (Kind::NetConnect, "connections"),
                Limit::Events => (Kind::DnsQuery, "events of the egress service"),
            };
            let now = jiff::Timestamp::now();
            let detail = format!("{count} {what} were turned away: there were too many at once");
            Some(Event::gap(now, kind.name(), *count, (now, now), &detail))
        }
        Told::Event(channel::Event::Stranger(_), _) => None,
        Told::Decided(decided, original) => Some(of_decision(decoder, decided, original.as_ref())),
        Told::Ended(why) => {
            let now = jiff::Timestamp::now();
            let detail =
                format!("the egress service ended and is started again, its connections are gone: {why}");
            Some(Event::gap(now, Kind::NetConnect.name(), 0, (now, now), &detail))
        }
    }
}

fn of_query(decoder: &mut Decoder, query: &Query, original: Option<&Original>) -> Event {
    let (outcome, rule, detail) = match query.outcome {
        Ended::Answered | Ended::Empty => (Outcome::Allowed, Ok(query.rule), None),
        Ended::Refused => {
            let detail = query.permission.and_then(permission_text);
            (Outcome::Denied, named(query.rule, "default/network.allow"), detail)
        }
        Ended::RefusedAlias => {
            let detail = "an alias of the name is denied";
            (Outcome::Denied, named(query.rule, "default/network.allow"), Some(detail))
        }
        Ended::RefusedAddresses => {
            let detail = "it resolves to private addresses that no range in `network.allow` has";
            (Outcome::Denied, Err("builtin/private-address"), Some(detail))
        }
        Ended::RefusedRoom => (Outcome::Denied, Err("builtin/address-room"), Some(NO_ROOM)),
        Ended::RefusedKind => (Outcome::Denied, Err("builtin/dns-type"), Some("no such lookup is passed on")),
        Ended::Malformed => (Outcome::Denied, Err("builtin/dns-packet"), Some("no packet of DNS")),
        Ended::Failed => (Outcome::Failed, Ok(0), Some("no server answered")),
    };
    let outcome = if query.would_deny { Outcome::WouldDeny } else { outcome };
    let texts = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let withheld =
        (!query.withheld.is_empty()).then(|| format!("withheld: {}", texts(&query.withheld).join(" ")));
    let detail = [detail.map(str::to_owned), withheld].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let object = Object {
        protocol: Some(protocol(query.transport == crate::egress::names::Transport::Tcp)),
        address: Some(query.origin.address.to_string()),
        port: Some(query.origin.port),
        name: Some(query.name.clone()),
        record_type: Some(query.kind.clone()),
        answers: (!query.addresses.is_empty()).then(|| texts(&query.addresses)),
        smuggling: query.smuggling,
        detail: (!detail.is_empty()).then_some(detail),
        ..Object::default()
    };
    told(decoder, (Kind::DnsQuery, Action::Query), outcome, rule, object, (query.origin, original))
}

fn of_decision(decoder: &mut Decoder, decided: &Decided, original: Option<&Original>) -> Event {
    let (action, outcome, detail) = match decided.decision {
        None => (Action::Expire, Outcome::Denied, "nobody answered in time"),
        Some(Decision { allow: true, once: false }) => (Action::Approve, Outcome::Allowed, "for the session"),
        Some(Decision { allow: true, once: true }) => (Action::Approve, Outcome::Allowed, "for a minute"),
        Some(Decision { allow: false, once: false }) => (Action::Refuse, Outcome::Denied, "for the session"),
        Some(Decision { allow: false, once: true }) => (Action::Refuse, Outcome::Denied, "for a minute"),
    };
    let (name, address, port) = match &decided.asked {
        Asked::Name(name) => (Some(name.clone()), None, None),
        Asked::Address(address, port) => {
            let names = (!decided.names.is_empty()).then(|| decided.names.join(", "));
            (names, Some(address.to_string()), Some(*port))
        }
    };
    let object = Object {
        protocol: Some(protocol(true)),
        name,
        address,
        port,
        decided_by: decided.by_uid,
        waited_ns: Some(u64::try_from(decided.waited.as_nanos()).unwrap_or(u64::MAX)),
        detail: Some(detail.to_owned()),
        ..Object::default()
    };
    let rule = named(decided.rule, "default/network.allow");
    told(decoder, (Kind::Approval, action), outcome, rule, object, (decided.origin, original))
}

fn of_reset(decoder: &mut Decoder, reset: &Reset, original: Option<&Original>, enforcing: bool) -> Event {
    let expected = reset.expected.join(", ");
    let seen = reset.seen.as_deref().unwrap_or("nobody");
    let refused = if enforcing { Outcome::Denied } else { Outcome::WouldDeny };
    let (outcome, rule, detail) = match reset.reason {
        ResetReason::Name => (
            refused,
            named(reset.rule, NOT_NAMED),
            format!("it names {seen}, the address is that of {expected}"),
        ),
        ResetReason::NoName => {
            (refused, Err(NOT_NAMED), format!("it names nobody, the address is that of {expected}"))
        }
        ResetReason::Malformed => {
            (refused, Err(NOT_NAMED), "it begins like TLS or HTTP and is neither".to_owned())
        }
        ResetReason::Protocol => {
            (refused, Err(NOT_NAMED), "neither TLS nor HTTP, on a port for these".to_owned())
        }
        ResetReason::Permission(permission) => {
            let detail = permission_text(permission).unwrap_or("no rule allows it");
            (refused, named(reset.rule, "default/network.allow"), detail.to_owned())
        }
        ResetReason::Proxy(fault) => {
            (Outcome::Failed, Ok(reset.rule), format!("the proxy {}", proxy_text(fault)))
        }
        ResetReason::Silent => (Outcome::Failed, Ok(0), "it did not say whom it talks to in time".to_owned()),
        ResetReason::Unreachable(errno) => {
            let why = std::io::Error::from_raw_os_error(errno);
            (Outcome::Failed, Ok(0), format!("the address can't be reached: {why}"))
        }
        ResetReason::Unanswered => {
            (refused, Err(NOT_NAMED), "the supervisor did not answer in time".to_owned())
        }
    };
    let object = Object {
        protocol: Some(protocol(true)),
        address: Some(reset.origin.address.to_string()),
        port: Some(reset.origin.port),
        name: (!reset.expected.is_empty()).then_some(expected),
        server_name: reset.seen.clone(),
        detail: Some(detail),
        ..Object::default()
    };
    let event =
        told(decoder, (Kind::NetConnect, Action::Connect), outcome, rule, object, (reset.origin, original));
    event.with_errno(Some(libc::ECONNRESET))
}

/// The address that the client chose is another one than that which it talks to.
fn of_detour(
    decoder: &mut Decoder,
    origin: channel::Origin,
    address: IpAddr,
    errno: Option<i32>,
    original: Option<&Original>,
) -> Event {
    let why = match errno {
        Some(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        None => "no answer in time".to_owned(),
    };
    let object = Object {
        protocol: Some(protocol(true)),
        address: Some(origin.address.to_string()),
        port: Some(origin.port),
        detail: Some(format!("{why}: the connection goes to {address}, another address of the name")),
        ..Object::default()
    };
    let about = (Kind::NetConnect, Action::Connect);
    let event = told(decoder, about, Outcome::Failed, Ok(origin.rule), object, (origin, original));
    event.with_errno(errno)
}

/// Why somebody who may be asked did not allow it; `None`: a rule says so.
fn permission_text(permission: Permission) -> Option<&'static str> {
    match permission {
        Permission::Allowed | Permission::Refused => None,
        Permission::RefusedByPerson => Some("somebody was asked and refused"),
        Permission::NoAnswer => Some("somebody was asked and did not answer in time"),
        Permission::Crowded => Some("too much waits for an answer already"),
        Permission::Joined => Some("it was asked for again meanwhile"),
    }
}

fn proxy_text(fault: ProxyFault) -> String {
    match fault {
        ProxyFault::Unknown => "has no address".to_owned(),
        ProxyFault::Unreachable(errno) => {
            format!("can't be reached: {}", std::io::Error::from_raw_os_error(errno))
        }
        ProxyFault::Status(407) => "wants user and password, or others (407)".to_owned(),
        ProxyFault::Status(status) => format!("answered {status}"),
        ProxyFault::Closed => "closed the connection".to_owned(),
        ProxyFault::Silent => "did not answer in time".to_owned(),
        ProxyFault::Malformed => "does not speak HTTP, or too much of it".to_owned(),
    }
}

/// The rule of that number, or where there is none this name.
fn named(rule: u16, otherwise: &'static str) -> Result<u16, &'static str> {
    if rule == 0 { Err(otherwise) } else { Ok(rule) }
}

fn protocol(is_tcp: bool) -> String {
    if is_tcp { "tcp" } else { "udp" }.to_owned()
}

fn told(
    decoder: &mut Decoder,
    (kind, action): (Kind, Action),
    outcome: Outcome,
    rule: Result<u16, &'static str>,
    object: Object,
    (origin, original): (channel::Origin, Option<&Original>),
) -> Event {
    let mut who = EventRecord::new_zeroed();
    who.tgid = origin.tgid;
    who.tid = origin.tid;
    who.start_boot_ns = origin.start_boot_ns;
    who.outcome = RecordOutcome::Allowed as u8;
    if let Some(original) = original {
        (who.ppid, who.uid, who.time_boot_ns) = (original.ppid, original.uid, original.time_boot_ns);
    }
    let time = jiff::Timestamp::now();
    let event = Event { time, kind, action, outcome, errno: None, rule: None, process: None, object };
    decoder.told(&who, rule, event)
}
