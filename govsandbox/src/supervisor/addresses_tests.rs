//! Which addresses names open, and how.

use govsandbox_ebpf::decide::egress::{Way, route_egress};

use super::*;
use crate::{
    egress::channel::{OTHERS_MAX, Speech},
    id::RuleIndex,
    policy::compile::{EgressRule, PortRange},
};

#[path = "addresses/held_tests.rs"]
mod held;
#[path = "addresses/verify_tests.rs"]
mod verify;

const TTL_S: u32 = 300;

fn rule(target: &str, port: u16, allow: bool, number: u16) -> EgressRule {
    let target = match (target, target.strip_prefix("*."), target.split_once('/')) {
        ("*", ..) => EgressTarget::Any,
        (_, Some(base), _) => EgressTarget::Below(base.to_owned()),
        (.., Some((address, bits))) => {
            EgressTarget::Network { address: address.parse().unwrap(), prefix_bits: bits.parse().unwrap() }
        }
        _ => EgressTarget::Name(target.to_owned()),
    };
    let ports = match (port, allow) {
        (_, false) => PortRange { first: 0, last: u16::MAX },
        (port, true) => PortRange { first: port, last: port },
    };
    let protocol = if allow { Protocol::Tcp } else { Protocol::Any };
    let effect = if allow { EgressEffect::Allow } else { EgressEffect::Deny };
    EgressRule { target, ports: vec![ports], protocol, effect, rule: RuleIndex(number) }
}

/// Every host at every port.
fn asking() -> EgressRule {
    let ports = vec![PortRange { first: 0, last: u16::MAX }];
    EgressRule { ports, effect: EgressEffect::Ask, ..rule("*", 1, true, ASKS) }
}

/// What the kernel has, and what it comes to.
struct Bed {
    addresses: Addresses,
    kernel: BTreeMap<Network, PortTable>,
    now: Instant,
}

impl Bed {
    fn new(rules: &[(&str, u16, bool)], verify: Verify) -> Self {
        Self::with_network(rules, verify, NetworkNamespace::Host)
    }

    fn with_network(rules: &[(&str, u16, bool)], verify: Verify, network: NetworkNamespace) -> Self {
        let rules =
            rules.iter().zip(1..).map(|((target, port, allow), number)| rule(target, *port, *allow, number));
        Self::of(vec![EgressLists { rules: rules.collect() }], verify, network)
    }

    /// These rules, and all other hosts are asked about at every port.
    fn asking(rules: &[(&str, u16, bool)]) -> Self {
        let rules = rules.iter().zip(1..);
        let mut rules: Vec<EgressRule> =
            rules.map(|((target, port, allow), number)| rule(target, *port, *allow, number)).collect();
        rules.push(asking());
        Self::of(vec![EgressLists { rules }], Verify::WhereShared, NetworkNamespace::Host)
    }

    fn of(lists: Vec<EgressLists>, verify: Verify, network: NetworkNamespace) -> Self {
        let addresses = Addresses::new(&lists, verify, network, true);
        let kernel = addresses.tables().unwrap();
        Self { addresses, kernel, now: Instant::now() }
    }

    fn write(&mut self, changes: Vec<Change>) {
        for (network, table) in changes {
            match table {
                Some(table) => drop(self.kernel.insert(network, table)),
                None => drop(self.kernel.remove(&network)),
            }
        }
    }

    fn enter(&mut self, name: &str, address: &str) -> bool {
        let found = [(address.parse().unwrap(), TTL_S)];
        let (entered, changes) = self.addresses.enter(name, &found, self.now);
        self.write(changes);
        !entered.allowed.is_empty()
    }

    fn consent(&mut self, asked: Asked, until: Option<Instant>) {
        let changes = self.addresses.consent_to(asked, until);
        self.write(changes);
    }

    fn set_hosts(&mut self, text: &str) {
        let changes = self.addresses.set_hosts(text);
        self.write(changes);
    }

    fn expire(&mut self, after_s: u64) {
        let changes = self.addresses.expire(self.now + Duration::from_secs(after_s));
        self.write(changes);
    }

    fn deny(&mut self, name: &str, address: &str) {
        let found = [address.parse().unwrap()];
        let changes = self.addresses.set_denied([(name, &found[..])].into_iter());
        self.write(changes);
    }

    /// `+`: straight, `~`: through the relay, `-`: refused.
    fn way(&self, address: &str, port: u16) -> char {
        let host = Network::host(address.parse().unwrap());
        let longest = self.kernel.iter().filter(|(network, _)| network.covers(host));
        let longest = longest.max_by_key(|(network, _)| network.bits);
        match route_egress(longest.map(|(_, table)| table), port, libc::IPPROTO_TCP as u8) {
            (decision, _) if !decision.allow => '-',
            (_, Way::Straight) => '+',
            (_, Way::Relay) => '~',
        }
    }

    fn verify(&self, address: &str, name: &str) -> bool {
        self.addresses.verify(address.parse().unwrap(), 443, Some(name), Speech::Tls).allow
    }
}

const A: &str = "192.0.2.1";
/// Number of the rule that asks.
const ASKS: u16 = 9;

impl Bed {
    fn standing(&self, address: &str, port: u16) -> Standing {
        self.addresses.standing_of_address(address.parse().unwrap(), port, ASKS)
    }
}

#[test]
fn a_name_that_is_asked_about_is_answered_and_reached_once_it_is_allowed() {
    let mut bed = Bed::asking(&[("bad.example", 0, false), ("api.example", 443, true)]);
    assert_eq!(bed.addresses.standing_of_name("api.example"), Standing::Allowed(2));
    assert_eq!(bed.addresses.standing_of_name("bad.example"), Standing::Refused(1));
    assert_eq!(bed.addresses.standing_of_name("new.example"), Standing::Open(ASKS));
    assert!(!bed.enter("new.example", A), "not before somebody says so");
    assert!(!bed.verify(A, "new.example"));
    bed.consent(Asked::Name("new.example".to_owned()), None);
    assert_eq!(bed.addresses.standing_of_name("new.example"), Standing::Allowed(ASKS));
    assert!(bed.enter("new.example", A) && !bed.enter("new.example", "10.0.0.1"));
    assert_eq!((bed.way(A, 443), bed.standing(A, 443)), ('~', Standing::Allowed(ASKS)));
    assert!(bed.verify(A, "new.example"));
    // Nobody was asked about whom else the address may serve.
    assert!(!bed.verify(A, "other.example") && !bed.verify(A, "api.example"));
    assert_eq!(bed.addresses.standing_of_name("www.new.example"), Standing::Open(ASKS));
}

#[test]
fn what_is_allowed_for_a_while_is_asked_about_again() {
    let mut bed = Bed::asking(&[("api.example", 443, true)]);
    let until = bed.now + Duration::from_secs(60);
    bed.consent(Asked::Name("new.example".to_owned()), Some(until));
    bed.consent(Asked::Address(A.parse().unwrap(), 22), Some(until));
    assert!(bed.enter("new.example", A) && bed.enter("api.example", A));
    assert_eq!(
        (bed.standing(A, 8443), bed.standing(A, 22)),
        (Standing::Allowed(ASKS), Standing::Allowed(ASKS))
    );
    let changes = bed.addresses.expire(until);
    bed.write(changes);
    assert_eq!(bed.addresses.standing_of_name("new.example"), Standing::Open(ASKS));
    assert_eq!((bed.standing(A, 8443), bed.standing(A, 22)), (Standing::Open(ASKS), Standing::Open(ASKS)));
    assert!(!bed.verify(A, "new.example"));
    assert!(bed.verify(A, "api.example"), "what a rule allows stays");
}

#[test]
fn a_connection_by_address_alone_is_asked_about_and_one_to_a_denied_name_is_not() {
    let mut bed =
        Bed::asking(&[("bad.example", 0, false), ("198.51.100.0/24", 0, false), ("10.0.0.0/8", 22, true)]);
    let nameless = |bed: &Bed, port| bed.addresses.verify(A.parse().unwrap(), port, None, Speech::Tls).allow;
    assert_eq!((bed.way(A, 443), bed.standing(A, 443)), ('~', Standing::Open(ASKS)));
    assert_eq!((bed.way("198.51.100.1", 443), bed.way("10.1.1.1", 22)), ('-', '+'));
    assert_eq!(bed.standing("198.51.100.1", 443), Standing::Refused(0), "whoever led it there");
    assert_eq!(
        (bed.way("127.0.0.1", 5432), bed.way("::1", 5432)),
        ('-', '-'),
        "own listeners are no matter of rules"
    );
    assert!(!nameless(&bed, 443));
    bed.consent(Asked::Address(A.parse().unwrap(), 443), None);
    assert_eq!(bed.standing(A, 443), Standing::Allowed(ASKS));
    assert!(nameless(&bed, 443) && bed.verify(A, "any.example"));
    assert_eq!(bed.standing(A, 80), Standing::Open(ASKS), "one port is not another");
    bed.deny("bad.example", A);
    assert_eq!(bed.standing(A, 443), Standing::Refused(0));
    assert!(!nameless(&bed, 443) && !bed.verify(A, "any.example"));
}

#[test]
fn by_a_proxy_names_go_through_the_relay_and_networks_straight() {
    let rules = [
        ("api.example", 443, true),
        ("192.0.2.0/24", 22, true),
        ("10.0.0.0/8", 443, true),
        ("intern.example", 443, true),
    ];
    let mut bed = Bed::new(&rules, Verify::Address);
    bed.addresses = bed.addresses.with_proxy();
    assert!(bed.enter("api.example", A) && bed.enter("intern.example", "10.0.0.9"));
    assert_eq!((bed.way(A, 443), bed.way("192.0.2.9", 22), bed.way("10.0.0.9", 443)), ('~', '+', '+'));
    let meant = |bed: &Bed, address: &str, name, speech| {
        let verdict = bed.addresses.verify(address.parse().unwrap(), 443, name, speech);
        (verdict.allow, verdict.meant)
    };
    let api = Some("api.example".to_owned());
    assert_eq!(meant(&bed, A, None, Speech::Unseen), (true, api.clone()));
    assert_eq!(meant(&bed, A, Some("api.example"), Speech::Tls), (true, api));
    assert_eq!(meant(&bed, A, Some("evil.example"), Speech::Tls), (false, None));
    assert_eq!(
        meant(&bed, "10.0.0.9", None, Speech::Unseen),
        (true, None),
        "near this machine the proxy is no help"
    );

    let found = bed.addresses.stand_in("api.example");
    assert_eq!(found, bed.addresses.stand_in("api.example"), "the same each time");
    let [(address, _)] = found[..] else { panic!("{found:?}") };
    assert_ne!(found, bed.addresses.stand_in("intern.example"));
    assert!(bed.addresses.stand_in("evil.example").is_empty(), "no rule allows it");
    assert!(bed.enter("api.example", &address.to_string()));
    assert_eq!((bed.way(&address.to_string(), 443), bed.way(&address.to_string(), 22)), ('~', '-'));
    let mut plain = Bed::new(&rules, Verify::Address);
    assert!(plain.addresses.stand_in("api.example").is_empty(), "without a proxy nothing stands for a name");
}

#[test]
fn what_another_layer_refuses_nobody_is_asked_about() {
    let outer =
        EgressLists { rules: vec![rule("*.example", 443, true, 1), rule("192.0.2.0/24", 22, true, 2)] };
    let inner = EgressLists { rules: vec![asking()] };
    let bed = Bed::of(vec![outer, inner], Verify::WhereShared, NetworkNamespace::Host);
    assert_eq!(bed.addresses.standing_of_name("new.example"), Standing::Open(ASKS));
    assert_eq!(bed.addresses.standing_of_name("new.test"), Standing::Refused(0));
    assert_eq!((bed.standing(A, 22), bed.standing(A, 80)), (Standing::Open(ASKS), Standing::Refused(0)));
    assert_eq!((bed.way(A, 22), bed.way(A, 80)), ('~', '-'));
    // Where nobody can be asked the rule is as if it were not there.
    let nobody = Addresses::new(
        &[EgressLists { rules: vec![asking()] }],
        Verify::WhereShared,
        NetworkNamespace::Host,
        false,
    );
    assert_eq!(nobody.standing_of_name("new.example"), Standing::Refused(0));
    assert!(nobody.tables().unwrap().is_empty());
}

#[test]
fn an_address_is_reached_while_a_name_has_it() {
    let mut bed = Bed::new(&[("api.example", 443, true)], Verify::WhereShared);
    assert_eq!(bed.way(A, 443), '-');
    assert!(bed.enter("api.example", A));
    assert_eq!((bed.way(A, 443), bed.way(A, 80), bed.way("192.0.2.2", 443)), ('~', '-', '-'));
    let changes = bed.addresses.expire(bed.now + Duration::from_secs(u64::from(TTL_S) - 1));
    assert!(changes.is_empty());
    let changes = bed.addresses.expire(bed.now + Duration::from_secs(u64::from(TTL_S)));
    bed.write(changes);
    assert_eq!((bed.way(A, 443), bed.kernel.len()), ('-', 0));
}

#[test]
fn names_that_are_not_allowed_enter_nothing() {
    let mut bed = Bed::new(&[("bad.example", 0, false), ("*.example", 443, true)], Verify::WhereShared);
    for name in ["example", "other.test", "bad.example", "API.example", ""] {
        assert!(!bed.enter(name, A), "{name}");
    }
    assert_eq!(bed.way(A, 443), '-');
}

#[test]
fn wildcards_and_shared_addresses_are_verified_unless_the_policy_wants_it_otherwise() {
    let rules = [("*.wide.example", 22, true), ("one.example", 22, true), ("two.example", 22, true)];
    for (verify, ways) in [(Verify::WhereShared, "~+~"), (Verify::Sni, "~~~"), (Verify::Address, "+++")] {
        let mut bed = Bed::new(&rules, verify);
        bed.enter("x.wide.example", A);
        bed.enter("one.example", "192.0.2.2");
        bed.enter("one.example", "192.0.2.3");
        bed.enter("two.example", "192.0.2.3");
        let found: String = [A, "192.0.2.2", "192.0.2.3"].iter().map(|it| bed.way(it, 22)).collect();
        assert_eq!(found, ways, "{verify:?}");
    }
}

#[test]
fn a_name_may_be_reached_at_its_other_addresses_where_rules_allow_them_too() {
    let rules = [
        ("api.example", 443, true),
        ("api.example", 22, true),
        ("one.example", 22, true),
        ("10.0.0.0/24", 443, true),
        ("198.51.100.0/24", 0, false),
        ("2.example", 443, true),
    ];
    let mut bed = Bed::new(&rules, Verify::Sni);
    for address in [A, "192.0.2.2", "2001:db8::1", "10.0.0.1", "198.51.100.1"] {
        bed.enter("api.example", address);
    }
    bed.enter("2.example", "192.0.2.3");
    let others = |bed: &Bed, address: &str, port, name: Option<&str>, speech| -> Vec<String> {
        let verdict = bed.addresses.verify(address.parse().unwrap(), port, name, speech);
        assert!(verdict.allow || verdict.others.is_empty());
        verdict.others.iter().map(ToString::to_string).collect()
    };
    let api = Some("api.example");
    assert_eq!(others(&bed, A, 443, api, Speech::Tls), ["10.0.0.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(others(&bed, "2001:db8::1", 443, api, Speech::Tls), ["10.0.0.1", A, "192.0.2.2"]);
    // The range is for 443 alone.
    assert_eq!(others(&bed, A, 22, api, Speech::Tls), ["192.0.2.2", "2001:db8::1"]);
    assert_eq!(others(&bed, A, 22, None, Speech::Other), ["192.0.2.2", "2001:db8::1"]);
    assert!(others(&bed, A, 80, api, Speech::Http1).is_empty(), "no rule allows the port");
    assert!(others(&bed, A, 443, Some("2.example"), Speech::Tls).is_empty(), "another's address");
    assert!(others(&bed, A, 443, Some("evil.example"), Speech::Tls).is_empty());
    bed.enter("one.example", A);
    assert!(others(&bed, A, 22, None, Speech::Other).is_empty(), "nobody knows which of the two is meant");
    assert_eq!(others(&bed, A, 22, api, Speech::Tls), ["192.0.2.2", "2001:db8::1"]);
    let changes = bed.addresses.expire(bed.now + Duration::from_secs(u64::from(TTL_S)));
    bed.write(changes);
    assert!(bed.enter("api.example", A));
    assert!(others(&bed, A, 443, api, Speech::Tls).is_empty(), "what has expired is no place to go");
    for number in 2..100 {
        bed.enter("api.example", &format!("192.0.2.{number}"));
    }
    assert_eq!(others(&bed, A, 443, api, Speech::Tls).len(), OTHERS_MAX);

    let mut bed = Bed::asking(&[]);
    bed.consent(Asked::Name("new.example".to_owned()), None);
    bed.consent(Asked::Address("198.51.100.1".parse().unwrap(), 443), None);
    assert!(bed.enter("new.example", A) && bed.enter("new.example", "192.0.2.2"));
    assert_eq!(others(&bed, A, 443, Some("new.example"), Speech::Tls), ["192.0.2.2"]);
    assert!(
        others(&bed, "198.51.100.1", 443, Some("new.example"), Speech::Tls).is_empty(),
        "not its address"
    );
}

#[test]
fn a_denied_name_is_not_reached_by_its_address() {
    for verify in [Verify::WhereShared, Verify::Sni, Verify::Address] {
        let rules = [("bad.example", 0, false), ("192.0.2.0/24", 443, true)];
        let mut bed = Bed::new(&rules, verify);
        assert_eq!(bed.addresses.denied_names(), ["bad.example"]);
        bed.deny("bad.example", A);
        assert_eq!((bed.way(A, 443), bed.way("192.0.2.2", 443)), ('-', '+'), "{verify:?}");
        bed.deny("bad.example", "192.0.2.2");
        assert_eq!((bed.way(A, 443), bed.way("192.0.2.2", 443)), ('+', '-'), "{verify:?}");
    }
}

#[test]
fn an_allowed_name_does_not_open_the_address_of_a_denied_one() {
    let rules = [("bad.example", 0, false), ("192.0.2.0/24", 443, true), ("good.example", 443, true)];
    let mut bed = Bed::new(&rules, Verify::WhereShared);
    bed.deny("bad.example", A);
    assert_eq!(bed.way(A, 443), '-');
    bed.enter("good.example", A);
    assert_eq!(bed.way(A, 443), '~', "the range leads through the relay as well");
    assert!(bed.verify(A, "good.example"));
    for name in ["bad.example", "other.test"] {
        assert!(!bed.verify(A, name), "{name}");
    }
    let mut bed = Bed::new(&[("bad.example", 0, false), ("*", 443, true)], Verify::WhereShared);
    bed.deny("bad.example", A);
    assert_eq!(bed.way(A, 443), '~');
    assert!(!bed.verify(A, "fine.test") && !bed.verify(A, "bad.example"));
    bed.enter("fine.test", A);
    assert!(bed.verify(A, "fine.test"));
    let datagram = |bed: &Bed| {
        let table = bed.kernel.get(&Network::host(A.parse().unwrap())).unwrap();
        decide_egress(Some(table), 443, libc::IPPROTO_UDP as u8)
    };
    assert_eq!(datagram(&bed), govsandbox_ebpf::decide::Decision::deny(1));
}

#[test]
fn where_everything_but_some_names_is_allowed_it_is_seen_who_is_meant() {
    let mut bed = Bed::new(&[("*.evil.example", 0, false), ("*", 443, true)], Verify::WhereShared);
    assert_eq!(bed.way(A, 443), '~');
    assert!(bed.verify(A, "fine.test") && !bed.verify(A, "x.evil.example"));
    bed.enter("fine.test", A);
    assert!(bed.verify(A, "other.test") && !bed.verify(A, "x.evil.example"));
    let plain = Bed::new(&[("*", 443, true)], Verify::WhereShared);
    assert_eq!(plain.way(A, 443), '+');
}

#[test]
fn a_name_leads_to_no_private_address_unless_a_range_has_it() {
    let mut bed = Bed::new(&[("*.example", 443, true)], Verify::WhereShared);
    for near in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:10.0.0.1"] {
        assert!(!bed.enter("rebind.example", near), "{near}");
        assert_eq!(bed.way(near, 443), '-', "{near}");
    }
    let mut bed = Bed::new(&[("db.example", 5432, true), ("10.0.0.0/8", 5432, true)], Verify::WhereShared);
    assert!(bed.enter("db.example", "10.0.0.1"));
    assert_eq!((bed.way("10.0.0.1", 5432), bed.way("10.0.0.1", 443)), ('+', '-'));
    let mut bed = Bed::new(&[("*.example", 443, true), ("10.0.0.0/8", 5432, true)], Verify::WhereShared);
    assert!(bed.enter("rebind.example", "10.0.0.1"));
    assert_eq!((bed.way("10.0.0.1", 5432), bed.way("10.0.0.1", 443)), ('+', '-'), "the range's port alone");
}

#[test]
fn in_a_network_of_its_own_everything_goes_through_the_relay_and_names_are_compared_as_elsewhere() {
    let rules = [
        ("192.0.2.0/24", 22, true),
        ("*.test", 443, true),
        ("0.0.0.0/0", 80, true),
        ("127.0.0.0/8", 80, true),
        ("gone.test", 0, false),
    ];
    let mut bed = Bed::with_network(&rules, Verify::WhereShared, NetworkNamespace::Own);
    assert!(bed.enter("a.test", "198.51.100.1"));
    for (address, port, way, straight) in [
        ("192.0.2.7", 22, '~', true),
        ("192.0.2.7", 443, '-', false),
        ("203.0.113.1", 80, '~', true),
        ("198.51.100.1", 443, '~', false),
        // The machine's own servers are not there.
        ("127.0.0.1", 80, '-', false),
        ("::1", 80, '-', false),
        ("0.0.0.0", 80, '-', false),
    ] {
        assert_eq!(bed.way(address, port), way, "{address} {port}");
        assert_eq!(bed.addresses.is_straight(address.parse().unwrap(), port), straight, "{address} {port}");
    }
    for loopback in ["127.0.0.1", "0.0.0.0", "::1"] {
        assert!(!bed.enter("rebound.test", loopback), "{loopback}");
        bed.deny("gone.test", loopback);
        bed.deny("gone.test", "203.0.113.9");
        assert_eq!(bed.way(loopback, 80), '-', "{loopback}");
        let address = loopback.parse().unwrap();
        assert!(!bed.addresses.is_straight(address, 80), "{loopback}");
        assert!(!bed.addresses.verify(address, 80, Some("a.test"), Speech::Http1).allow, "{loopback}");
    }
}
