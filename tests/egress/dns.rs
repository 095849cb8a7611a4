//! Lookups: what is answered, what is refused, and what is told of both.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use govsandbox::egress::{
    channel::{Event, Outcome, Refusal, Settings},
    names::Transport,
};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, svcb::SvcParamKey},
    },
};

use crate::{
    bed::procs,
    servers::{FakeDns, knot, query, udp},
    stage::{NAME_SERVER, Stage, WEB_SERVER, settings},
};

fn addresses(reply: &Message) -> Vec<IpAddr> {
    reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn code(reply: &Message) -> ResponseCode {
    reply.metadata.response_code
}

#[test]
fn an_allowed_name_resolves_and_the_supervisor_knows_its_addresses_first() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let reply = stage.ask("WWW.test.", RecordType::A);
    assert_eq!((code(&reply), addresses(&reply)), (ResponseCode::NoError, vec![WEB_SERVER.parse().unwrap()]));
    assert_eq!(reply.answers[0].ttl, 77);
    assert_eq!(reply.queries[0].name().to_ascii(), "WWW.test.", "the spelling comes back");
    // When the reply is here the supervisor has been told long ago.
    stage.broker.with(|state| {
        assert_eq!(state.answers.len(), 1);
        let answer = &state.answers[0];
        assert_eq!((answer.name.as_str(), answer.rule), ("www.test", 2));
        assert_eq!(answer.addresses, [(WEB_SERVER.parse().unwrap(), 77)]);
        assert_eq!(answer.origin.address.to_string(), NAME_SERVER);
    });
    let event = stage.broker.query("www.test");
    assert_eq!((event.outcome, event.kind.as_str(), event.rule), (Outcome::Answered, "A", 2));
    assert_eq!((event.transport, event.would_deny, event.smuggling), (Transport::Udp, false, false));
    let over_tcp = stage.ask_over_tcp("www.test.", RecordType::AAAA);
    assert_eq!(addresses(&over_tcp).len(), 1);
    stage.broker.until("TCP", |state| {
        let is_tcp = |it: &Event| matches!(it, Event::Query(query) if query.transport == Transport::Tcp);
        state.events.iter().any(is_tcp).then_some(())
    });
}

#[test]
fn replies_come_from_the_address_that_was_asked() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let v4 = [[127, 0, 0, 1], [127, 83, 0, 1], [127, 83, 3, 255]]
        .map(|it| SocketAddr::from((it, stage.ports.dns4_udp)));
    let v6 = stage.ports.dns6_udp.map(|port| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
    for server in v4.into_iter().chain(v6) {
        let socket = udp(server); // connected: takes nothing from elsewhere
        socket.send(&query("www.test.", RecordType::A)).unwrap();
        let mut buffer = [0; 4096];
        let bytes = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{server}: {error}"));
        assert_eq!(addresses(&Message::from_vec(&buffer[..bytes]).unwrap()).len(), 1, "{server}");
    }
}

#[test]
fn names_outside_the_rules_are_refused_and_nobody_upstream_hears_of_them() {
    for (refusal, expected) in
        [(Refusal::Nxdomain, ResponseCode::NXDomain), (Refusal::Refused, ResponseCode::Refused)]
    {
        let stage = Stage::with(Settings { refusal, ..settings() });
        let upstream = FakeDns::new(|message| Some(message.clone().into_response().to_vec().unwrap()));
        for (name, rule) in [("secret.evil.example.", 0), ("denied.test.", 1), ("test.", 0), (".", 0)] {
            let reply = stage.ask(name, RecordType::A);
            assert_eq!((code(&reply), reply.answers.len()), (expected, 0), "{name}");
            let event = stage.broker.query(name.trim_end_matches('.'));
            assert_eq!((event.outcome, event.rule), (Outcome::Refused, rule), "{name}");
        }
        assert_eq!(code(&stage.ask("1.2.0.192.in-addr.arpa.", RecordType::PTR)), expected);
        assert!(upstream.asked.lock().unwrap().is_empty());
        // Positive control: what is allowed does get there.
        stage.ask("www.test.", RecordType::A);
        assert!(!upstream.asked.lock().unwrap().is_empty());
    }
}

#[test]
fn chains_are_followed_and_a_denied_alias_leads_nowhere() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let chain = stage.ask("chain.test.", RecordType::A);
    assert_eq!(chain.answers.len(), 3, "two aliases and an address: {chain}");
    assert_eq!(addresses(&chain), [WEB_SERVER.parse::<IpAddr>().unwrap()]);
    let cloaked = stage.ask("cloak.test.", RecordType::A);
    assert_eq!((code(&cloaked), cloaked.answers.len()), (ResponseCode::NXDomain, 0));
    let event = stage.broker.query("cloak.test");
    assert_eq!((event.outcome, event.rule), (Outcome::RefusedAlias, 1));
    let ring = stage.ask("ring.test.", RecordType::A);
    assert!(addresses(&ring).is_empty(), "{ring}");
}

#[test]
fn addresses_near_this_machine_are_left_out() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    for name in ["private.test.", "meta.test."] {
        let reply = stage.ask(name, RecordType::A);
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NXDomain, 0), "{name}");
        let event = stage.broker.query(name.trim_end_matches('.'));
        assert_eq!((event.outcome, event.withheld.len()), (Outcome::RefusedAddresses, 1), "{name}");
    }
    assert_eq!(addresses(&stage.ask("mixed.test.", RecordType::A)), [WEB_SERVER.parse::<IpAddr>().unwrap()]);
    assert_eq!(stage.broker.query("mixed.test").withheld, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    stage.broker.with(|state| state.ranges.push("10.1.2.3".parse().unwrap()));
    assert_eq!(addresses(&stage.ask("private.test.", RecordType::A)).len(), 1);
}

#[test]
fn an_address_that_this_machine_has_no_route_to_is_left_out() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let far = stage.ask("far.test.", RecordType::AAAA);
    assert_eq!((code(&far), far.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(stage.ask("www.test.", RecordType::AAAA).answers.len(), 1);
}

#[test]
fn what_hides_the_name_is_taken_out_of_https_records_and_other_types_pass() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let reply = stage.ask("hidden.test.", RecordType::HTTPS);
    let RData::HTTPS(https) = &reply.answers[0].data else { panic!("{reply}") };
    let keys: Vec<SvcParamKey> = https.0.svc_params.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, [SvcParamKey::Alpn]);
    assert_eq!(stage.ask("words.test.", RecordType::TXT).answers.len(), 1);
    assert_eq!(stage.ask("_sip._tcp.test.", RecordType::SRV).answers.len(), 1);
    assert_eq!(code(&stage.ask("nothing.test.", RecordType::A)), ResponseCode::NXDomain);
    assert_eq!(stage.broker.query("nothing.test").outcome, Outcome::Empty);
    let empty = stage.ask("words.test.", RecordType::A);
    assert_eq!((code(&empty), empty.answers.len()), (ResponseCode::NoError, 0));
    for kind in [RecordType::ANY, RecordType::AXFR] {
        assert_eq!(code(&stage.ask("www.test.", kind)), ResponseCode::Refused, "{kind}");
        assert_eq!(stage.broker.query("www.test").outcome, Outcome::RefusedKind);
    }
}

#[test]
fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let cut = stage.ask("many.test.", RecordType::A);
    assert!(cut.metadata.truncation && cut.answers.is_empty(), "{cut}");
    let whole = stage.ask_over_tcp("many.test.", RecordType::A);
    assert_eq!((whole.metadata.truncation, addresses(&whole).len()), (false, 256));
}

#[test]
fn a_resolver_that_never_answers_is_a_failure_in_bounded_time() {
    let stage = Stage::new();
    let upstream = FakeDns::new(|_| None);
    let begin = Instant::now();
    let reply = stage.ask("www.test.", RecordType::A);
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(14), "{:?}", begin.elapsed());
    assert_eq!(stage.broker.query("www.test").outcome, Outcome::Failed);
    assert!(!upstream.asked.lock().unwrap().is_empty());
}

#[test]
fn a_resolver_that_lies_gives_nothing_that_was_not_asked_for() {
    let stage = Stage::new();
    let _upstream = FakeDns::new(|message| {
        let mut reply = message.clone();
        reply.metadata.message_type = MessageType::Response;
        let record = |owner: &str, last| {
            Record::from_rdata(Name::from_ascii(owner).unwrap(), 60, RData::A(A::new(192, 0, 2, last)))
        };
        reply.add_answers([record("www.test.", 80), record("www.bank.example.", 66)]);
        reply.add_additional(record("ns.bank.example.", 66));
        Some(reply.to_vec().unwrap())
    });
    let reply = stage.ask("www.test.", RecordType::A);
    assert_eq!(addresses(&reply), [WEB_SERVER.parse::<IpAddr>().unwrap()]);
    assert!(reply.authorities.is_empty() && reply.additionals.is_empty());
}

#[test]
fn the_hosts_file_counts_and_so_does_a_change_of_it() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    assert_eq!(addresses(&stage.ask("filed.test.", RecordType::A)), [WEB_SERVER.parse::<IpAddr>().unwrap()]);
    let part = stage.folder.path().join("hosts.new");
    fs::write(&part, "192.0.2.81 filed.test\n").unwrap();
    fs::rename(&part, stage.folder.path().join("hosts")).unwrap();
    let expected: IpAddr = "192.0.2.81".parse().unwrap();
    let came = || addresses(&stage.ask("filed.test.", RecordType::A)) == [expected];
    assert!(procs::until(Duration::from_secs(20), came), "the change was not noticed");
}

#[test]
fn names_that_look_like_data_are_marked() {
    let stage = Stage::new();
    stage.ask("4a6f686e2c20736563726574206b6579.t.example.", RecordType::TXT);
    assert!(stage.broker.query("4a6f686e2c20736563726574206b6579.t.example").smuggling);
}

#[test]
fn audit_mode_resolves_and_tells_what_would_have_been_refused() {
    let stage = Stage::with(Settings { enforce: false, ..settings() });
    let _knot = knot(stage.folder.path());
    let reply = stage.ask("denied.test.", RecordType::A);
    assert_eq!(addresses(&reply).len(), 1);
    let event = stage.broker.query("denied.test");
    assert_eq!((event.outcome, event.would_deny, event.rule), (Outcome::Answered, true, 1));
}
