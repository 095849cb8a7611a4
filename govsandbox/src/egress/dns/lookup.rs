//! One lookup, from the question to the reply and the event.

use std::{
    net::{IpAddr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use govsandbox_ebpf::decide::{Decision, name::is_name};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata::A},
};
use tokio::time::timeout;

use super::{
    question::{Head, Parsed, Question, text},
    records::Chain,
    reply::encode,
    smuggling::looks_like_data,
    upstream::Nothing,
};
use crate::egress::{
    channel::{Answer, Origin, Outcome, Permission, Permit, Query, Refusal},
    names::Transport,
    service::Shared,
};

/// Where there is a proxy: names that only it knows may have no server here that says so.
const PROXIED_PATIENCE: Duration = Duration::from_secs(2);
/// Of an address that stands for a name.
const STAND_IN_TTL_S: u32 = 60;

/// The reply to what was parsed, and what to record. `None`: nothing to reply to, it was asked again meanwhile, or no
/// reply can be written.
pub(super) async fn lookup(
    shared: &Shared,
    parsed: Parsed,
    origin: Origin,
    transport: Transport,
) -> Option<(Vec<u8>, Query)> {
    let (head, done) = match parsed {
        Parsed::Nothing => return None,
        Parsed::Refused(head, code, outcome) => (head, Done { code, outcome, ..Done::default() }),
        Parsed::Question(head, question) => {
            let done = resolve(shared, &question, origin).await?;
            (head, done)
        }
    };
    let query = done.query(&head, origin, transport);
    Some((encode(&head, done.code, done.records, transport)?, query))
}

/// How it ended.
struct Done {
    code: ResponseCode,
    outcome: Outcome,
    records: Vec<Record>,
    rule: u16,
    would_deny: bool,
    withheld: Vec<IpAddr>,
    permission: Option<Permission>,
}

impl Default for Done {
    fn default() -> Self {
        Self {
            code: ResponseCode::NoError,
            outcome: Outcome::Empty,
            records: Vec::new(),
            rule: 0,
            would_deny: false,
            withheld: Vec::new(),
            permission: None,
        }
    }
}

/// `None`: whoever asked has asked again, and gets the answer there.
async fn resolve(shared: &Shared, question: &Question, origin: Origin) -> Option<Done> {
    let name = text(&question.name);
    let refuses = shared.settings.enforce;
    let refused = |outcome, rule| {
        let code = match shared.settings.refusal {
            Refusal::Nxdomain => ResponseCode::NXDomain,
            Refusal::Refused => ResponseCode::Refused,
        };
        Done { code, outcome, rule, ..Done::default() }
    };
    // This machine under its own name (RFC 6761, 6.3), whatever the rules: whether it may be connected to is the kernel's
    // to say, and nobody else learns of it.
    let is_local = question.name.is_localhost();
    let mut decision = if is_local { Decision::ALLOW } else { shared.names.decide_lookup(&name) };
    let mut permission = None;
    // An address turned into a name (RFC 1035, 3.5) tells a person nothing.
    let asks = shared.settings.ask_ms.is_some() && is_name(name.as_bytes()) && !name.ends_with(".arpa");
    if !decision.allow && asks && shared.names.asks(&name).is_some() {
        let permitted = shared.supervisor.permit(Permit { origin, name: Some(name.clone()) }).await;
        if permitted.permission == Permission::Joined {
            return None;
        }
        permission = Some(permitted.permission);
        decision = Decision { allow: permitted.permission == Permission::Allowed, rule: permitted.rule };
    }
    if !decision.allow && refuses {
        return Some(Done { permission, ..refused(Outcome::Refused, decision.rule) });
    }
    Some(look_up(shared, question, origin, (name, is_local, decision), refused).await)
}

/// Of a name that may be looked up.
async fn look_up(
    shared: &Shared,
    question: &Question,
    origin: Origin,
    (name, is_local, decision): (String, bool, Decision),
    refused: impl Fn(Outcome, u16) -> Done,
) -> Done {
    let refuses = shared.settings.enforce;
    let done = Done { rule: decision.rule, would_deny: !decision.allow, ..Done::default() };
    let upstream = shared.upstream.borrow().clone();
    let proxied = shared.settings.proxy.as_ref().filter(|proxy| !is_local && proxy.is_for(&name));
    let asked = async {
        match proxied {
            None => upstream.lookup(&question.name, question.kind).await,
            // It may well be known to the proxy alone.
            Some(_) => {
                match timeout(PROXIED_PATIENCE, upstream.lookup(&question.name, question.kind)).await {
                    Ok(found) => found,
                    Err(_) => Err(Nothing::Failed),
                }
            }
        }
    };
    let found = match asked.await {
        Ok(found) => found,
        Err(_) if proxied.is_some() && decision.allow && is_address(question.kind) => {
            return stand_in(shared, question, origin, name, done).await;
        }
        Err(Nothing::Said(code)) => return Done { code, ..done },
        Err(Nothing::Failed) => {
            return Done { code: ResponseCode::ServFail, outcome: Outcome::Failed, ..done };
        }
    };
    let mut chain = Chain::of(&question.name, question.kind, found);
    // An alias needs no rule of its own, but one that is denied leads nowhere.
    let denied = chain.aliases.iter().map(|alias| shared.names.decide_lookup(alias));
    if let Some(denied) = denied.clone().find(|it| !it.allow && it.rule != 0).filter(|_| refuses) {
        return refused(Outcome::RefusedAlias, denied.rule);
    }
    chain.keep_addresses(has_route);
    let addresses = chain.addresses();
    let mut withheld = Vec::new();
    if !addresses.is_empty() && !is_local {
        let asked = Answer { origin, name, rule: decision.rule, addresses: addresses.clone() };
        let entered = shared.supervisor.answer(asked).await;
        chain.keep_addresses(|address| entered.allowed.contains(&address));
        withheld.extend(addresses.iter().map(|(it, _)| *it).filter(|it| !entered.allowed.contains(it)));
        if withheld.len() == addresses.len() && entered.full {
            // It exists, and can be asked for again.
            let (code, outcome) = (ResponseCode::ServFail, Outcome::RefusedRoom);
            return Done { withheld, code, outcome, rule: decision.rule, ..Done::default() };
        }
        if withheld.len() == addresses.len() {
            return Done { withheld, ..refused(Outcome::RefusedAddresses, decision.rule) };
        }
    }
    let has_answer = chain.records.iter().any(|record| record.record_type() == question.kind);
    let outcome = if has_answer { Outcome::Answered } else { Outcome::Empty };
    Done { outcome, records: chain.records, withheld, ..done }
}

fn is_address(kind: RecordType) -> bool {
    matches!(kind, RecordType::A | RecordType::AAAA)
}

/// A name that only the proxy knows has an address that stands for it, of IPv4, and that the relay alone understands.
async fn stand_in(shared: &Shared, question: &Question, origin: Origin, name: String, done: Done) -> Done {
    if question.kind != RecordType::A {
        return done;
    }
    let asked = Answer { origin, name, rule: done.rule, addresses: Vec::new() };
    let entered = shared.supervisor.answer(asked).await;
    let records = entered.allowed.iter().filter_map(|address| match address {
        IpAddr::V4(v4) => {
            let data = RData::A(A(*v4));
            Some(Record::from_rdata(question.name.clone(), STAND_IN_TTL_S, data))
        }
        IpAddr::V6(_) => None,
    });
    let records: Vec<Record> = records.collect();
    match records.is_empty() {
        true => Done { code: ResponseCode::ServFail, outcome: Outcome::Failed, ..done },
        false => Done { outcome: Outcome::Answered, records, ..done },
    }
}

/// A connection that is led to the relay is always established: a client would take an IPv6 address that this machine
/// can't reach for one that answers, and not try the next.
fn has_route(address: IpAddr) -> bool {
    let IpAddr::V6(v6) = address else { return true };
    // Connecting a datagram socket sends nothing.
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok_and(|socket| socket.connect((v6, 443)).is_ok())
}

impl Done {
    fn query(&self, head: &Head, origin: Origin, transport: Transport) -> Query {
        let (name, kind) = match &head.query {
            Some(query) => (text(query.name()), kind_text(query.query_type())),
            None => (String::new(), String::new()),
        };
        Query {
            origin,
            transport,
            smuggling: looks_like_data(&name),
            name,
            kind,
            outcome: self.outcome,
            rule: self.rule,
            would_deny: self.would_deny,
            permission: self.permission,
            addresses: self.records.iter().filter_map(|record| record.data.ip_addr()).collect(),
            withheld: self.withheld.clone(),
        }
    }
}

/// The mnemonic; of types without one `TYPE` and the number (RFC 3597, 5).
fn kind_text(kind: RecordType) -> String {
    match kind {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}
