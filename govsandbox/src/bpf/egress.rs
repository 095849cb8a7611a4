//! Egress rules as the longest-prefix tables of the kernel.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use govsandbox_ebpf::{
    abi::egress::{ALLOW, ALLOW_RELAY, DENY, PORT_RULES_MAX, PortRule, PortTable},
    decide::egress::v4_mapped,
};

use crate::policy::compile::{EgressEffect, EgressLists, EgressRule, EgressTarget, Protocol};

/// Where Azure's machines find their host: WireServer, a metadata service at an address that looks public.
const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Too many rules about one address.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{count} port rules hold for one network ({}), {PORT_RULES_MAX} are possible", display(*network))]
#[diagnostic(help("join ports into ranges, or name fewer networks that contain one another"))]
pub struct TooManyPorts {
    /// The network.
    network: Network,
    /// How many.
    count: usize,
}

/// A network of IPv6 addresses, host bits zero; IPv4 is v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Network order.
    pub address: [u8; 16],
    /// 0–128.
    pub bits: u8,
}

/// What every layer of the policy says of networks, with the place for what it says of names at one address.
///
/// All lists must allow; a deny of any list wins. Each network repeats what the networks around it say, so that the
/// longest prefix decides.
#[derive(Clone, Debug)]
pub struct NetworkRules(Vec<Vec<(Network, PortRule)>>);

impl NetworkRules {
    /// Of the lists of a policy; rules about names are left out. `any_allow`: how `*` allows, [`ALLOW`] or
    /// [`ALLOW_RELAY`].
    #[must_use]
    pub fn new(lists: &[EgressLists], any_allow: u8) -> Self {
        Self::of(lists, any_allow, |effect| effect != EgressEffect::Ask)
    }

    /// The same, and what is asked about goes through the relay, where it waits. Of `*` this machine is left out: own
    /// listeners need no rule.
    #[must_use]
    pub fn with_asked(lists: &[EgressLists], any_allow: u8) -> Self {
        Self::of(lists, any_allow, |_| true)
    }

    fn of(lists: &[EgressLists], any_allow: u8, takes: impl Fn(EgressEffect) -> bool) -> Self {
        let expand = |list: &EgressLists| {
            let rules = list.rules.iter().filter(|rule| takes(rule.effect));
            rules.flat_map(|rule| expand(rule, any_allow)).collect()
        };
        Self(lists.iter().map(expand).collect())
    }

    /// What is allowed and denied where, one table for each network that is named.
    ///
    /// # Errors
    /// When more rules hold for one network than a table has room for.
    pub fn tables(&self) -> Result<BTreeMap<Network, PortTable>, TooManyPorts> {
        let networks = self.0.iter().flatten().map(|(network, _)| *network);
        networks.map(|network| Ok((network, table(network, &self.0)?))).collect()
    }

    /// The table of one address with what the lists, in their order, say of the names that have it. `seen`: what networks
    /// allow goes through the relay too, for one of these names is denied.
    ///
    /// # Errors
    /// As [`Self::tables`].
    pub fn host(
        &self,
        address: IpAddr,
        named: &[Vec<PortRule>],
        seen: bool,
    ) -> Result<(Network, PortTable), TooManyPorts> {
        let host = Network::host(address);
        let verified = move |(network, rule): (Network, PortRule)| {
            let allow = if seen && rule.allow == ALLOW { relayed(rule.protocol) } else { rule.allow };
            (network, PortRule { allow, ..rule })
        };
        let of_names = |list: usize| named.get(list).into_iter().flatten().map(move |rule| (host, *rule));
        let lists = self.0.iter().enumerate().map(|(place, list)| {
            let around = list.iter().filter(|(network, _)| network.covers(host)).copied();
            around.map(verified).chain(of_names(place)).collect()
        });
        let lists: Vec<Vec<(Network, PortRule)>> = lists.collect();
        Ok((host, table(host, &lists)?))
    }

    /// May a name lead there? What a name says of addresses near this machine is its owner's word alone, unless every
    /// list allows a network around them.
    #[must_use]
    pub fn may_be_named(&self, address: IpAddr) -> bool {
        let host = Network::host(address);
        let allows = |list: &Vec<(Network, PortRule)>| {
            list.iter().any(|(network, rule)| rule.allow != DENY && network.covers(host))
        };
        host.is_public() || self.0.iter().all(allows)
    }

    /// Is a network named that is this address alone?
    #[must_use]
    pub fn names_host(&self, address: IpAddr) -> bool {
        let host = Network::host(address);
        self.0.iter().flatten().any(|(network, _)| *network == host)
    }
}

/// Every network and port range of one rule.
fn expand(rule: &EgressRule, any_allow: u8) -> Vec<(Network, PortRule)> {
    let (networks, allow) = match &rule.target {
        EgressTarget::Network { address, prefix_bits } => (vec![Network::new(*address, *prefix_bits)], ALLOW),
        EgressTarget::Any if rule.effect == EgressEffect::Ask => (elsewhere(), ALLOW_RELAY),
        EgressTarget::Any => (vec![Network::ALL], any_allow),
        EgressTarget::Name(_) | EgressTarget::Below(_) => return Vec::new(),
    };
    let protocol = match rule.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Any => 0,
    };
    let ports = rule.ports.iter().map(|ports| (ports.first, ports.last));
    let allow = match rule.effect {
        EgressEffect::Deny => DENY,
        EgressEffect::Allow => allow,
        EgressEffect::Ask => ALLOW_RELAY,
    };
    let rules = port_rules(ports, protocol, rule.rule.0, allow);
    let rules: Vec<PortRule> = rules.collect();
    networks.into_iter().flat_map(|network| rules.iter().map(move |rule| (network, *rule))).collect()
}

/// All but this machine: IPv4 without 0.0.0.0/8 and 127.0.0.0/8, and global unicast and local addresses of IPv6.
fn elsewhere() -> Vec<Network> {
    // The prefixes that lie beside the way down to these two.
    let v4 = [
        (1, 8),
        (2, 7),
        (4, 6),
        (8, 5),
        (16, 4),
        (32, 3),
        (64, 3),
        (96, 4),
        (112, 5),
        (120, 6),
        (124, 7),
        (126, 8),
    ];
    let v4 =
        v4.into_iter().chain([(128, 1)]).map(|(first, bits)| Network::new([first, 0, 0, 0].into(), bits));
    let v6 = [(0x2000, 3), (0xfc00, 7), (0xfe80, 10)];
    let v6 = v6.into_iter().map(|(first, bits)| Network::new([first, 0, 0, 0, 0, 0, 0, 0].into(), bits));
    v4.chain(v6).collect()
}

/// What a rule says of ranges of ports, first and last of each, as the kernel's tables have it. `protocol` is an
/// `IPPROTO_*`, 0 all of them.
pub fn port_rules(
    ports: impl Iterator<Item = (u16, u16)>,
    protocol: u8,
    rule: u16,
    allow: u8,
) -> impl Iterator<Item = PortRule> {
    let allow = if allow == ALLOW_RELAY { relayed(protocol) } else { allow };
    ports.map(move |(first, last)| PortRule { first, last, rule, protocol, allow })
}

/// How a protocol is allowed where names are to be compared: only connections go through the relay.
fn relayed(protocol: u8) -> u8 {
    if i32::from(protocol) == libc::IPPROTO_TCP { ALLOW_RELAY } else { ALLOW }
}

fn table(network: Network, lists: &[Vec<(Network, PortRule)>]) -> Result<PortTable, TooManyPorts> {
    let covering = |list: &[(Network, PortRule)], allows: bool| -> Vec<PortRule> {
        list.iter()
            .filter(|(around, rule)| around.covers(network) && (rule.allow != DENY) == allows)
            .map(|(_, rule)| *rule)
            .collect()
    };
    let mut rules: Vec<PortRule> = lists.iter().flat_map(|list| covering(list, false)).collect();
    let mut allowed: Option<Vec<PortRule>> = None;
    for list in lists {
        let here = covering(list, true);
        allowed = Some(match allowed {
            None => here,
            Some(outer) => outer.iter().flat_map(|a| here.iter().filter_map(|b| intersect(*a, *b))).collect(),
        });
    }
    rules.extend(allowed.unwrap_or_default());
    // Denials first, then what goes straight there. Of equal ranges the better rule, the one with the smaller number, is
    // kept.
    rules.sort_by_key(|rule| (rule.allow, rule.rule));
    let mut kept: Vec<PortRule> = Vec::new();
    for rule in rules {
        if !kept.iter().any(|other| contains(*other, rule)) {
            kept.push(rule);
        }
    }
    let mut entries = [PortRule::default(); PORT_RULES_MAX];
    let count = kept.len();
    entries.get_mut(..count).ok_or(TooManyPorts { network, count })?.copy_from_slice(&kept);
    Ok(PortTable { count: count as u32, entries })
}

/// What both allow, in the name of the first.
fn intersect(a: PortRule, b: PortRule) -> Option<PortRule> {
    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
    let protocol = match (a.protocol, b.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (one, other) if one == other => one,
        _ => return None,
    };
    // Verified if either says so.
    let allow = a.allow.max(b.allow);
    (first <= last).then_some(PortRule { first, last, protocol, allow, ..a })
}

fn contains(outer: PortRule, inner: PortRule) -> bool {
    (outer.allow == DENY) == (inner.allow == DENY)
        && outer.first <= inner.first
        && inner.last <= outer.last
        && (outer.protocol == 0 || outer.protocol == inner.protocol)
}

impl Network {
    /// Every address.
    const ALL: Self = Self { address: [0; 16], bits: 0 };

    /// Of an address and its prefix, 0–32 or 0–128.
    #[must_use]
    pub fn new(address: IpAddr, prefix_bits: u8) -> Self {
        match address {
            IpAddr::V4(v4) => Self { address: v4_mapped(v4.octets()), bits: 96 + prefix_bits },
            IpAddr::V6(v6) => Self { address: v6.octets(), bits: prefix_bits },
        }
    }

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self::new(address, if address.is_ipv4() { 32 } else { 128 })
    }

    /// Neither loopback nor a private or link-local neighbour, metadata services among them, nor an address that such a
    /// one hides in (NAT64: RFC 6052, RFC 8215; 6to4: RFC 3056; Teredo: RFC 4380; v4-compatible), nor one of many or reserved.
    #[must_use]
    pub fn is_public(self) -> bool {
        let address = std::net::Ipv6Addr::from(self.address);
        match address.to_ipv4_mapped() {
            Some(v4) => {
                let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64; // RFC 6598
                let many = v4.is_multicast() || v4.octets()[0] >= 240; // RFC 1112: reserved, and broadcast
                let near = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.octets()[0] == 0;
                // RFC 6890: of protocols; Oracle's instances find theirs at 192.0.0.192.
                let special = v4.octets()[..3] == [192, 0, 0] || v4 == AZURE_HOST;
                !(near || shared || many || special)
            }
            None => {
                let near = address.is_loopback() || address.is_unspecified() || address.is_multicast();
                let hides = matches!(
                    address.segments(),
                    [0, 0, 0, 0, ..]
                        | [0x64, 0xff9b, ..]
                        | [0x2001, 0, ..]
                        | [0x2002, ..]
                        | [0xfec0..=0xfeff, ..]
                );
                !(near || hides || address.is_unique_local() || address.is_unicast_link_local())
            }
        }
    }

    /// Does it hold all of the other?
    #[must_use]
    pub fn covers(self, inner: Self) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
        self.bits <= inner.bits
            && u128::from_be_bytes(self.address) & mask == u128::from_be_bytes(inner.address) & mask
    }
}

fn display(network: Network) -> String {
    let address = std::net::Ipv6Addr::from(network.address);
    match address.to_ipv4_mapped() {
        Some(v4) if network.bits >= 96 => format!("{v4}/{}", network.bits - 96),
        _ => format!("[{address}]/{}", network.bits),
    }
}

#[cfg(test)]
mod tests {
    use govsandbox_ebpf::decide::{Decision, egress::decide_egress};
    use proptest::prelude::*;

    use super::*;
    use crate::{id::RuleIndex, policy::compile::PortRange};

    fn rule(target: &str, first: u16, last: u16, allow: bool, index: u16) -> EgressRule {
        let (address, bits) = target.split_once('/').unwrap();
        EgressRule {
            target: EgressTarget::Network {
                address: address.parse().unwrap(),
                prefix_bits: bits.parse().unwrap(),
            },
            ports: vec![PortRange { first, last }],
            protocol: if allow { Protocol::Tcp } else { Protocol::Any },
            effect: if allow { EgressEffect::Allow } else { EgressEffect::Deny },
            rule: RuleIndex(index),
        }
    }

    /// The longest prefix, as the kernel's trie finds it.
    fn decide(tables: &BTreeMap<Network, PortTable>, address: &str, port: u16) -> Decision {
        let host = Network::host(address.parse().unwrap());
        let longest =
            tables.iter().filter(|(network, _)| network.covers(host)).max_by_key(|(network, _)| network.bits);
        decide_egress(longest.map(|(_, table)| table), port, 6)
    }

    fn tables(lists: &[EgressLists]) -> BTreeMap<Network, PortTable> {
        NetworkRules::new(lists, ALLOW).tables().unwrap()
    }

    /// One list, a name's rule beside it, and what is decided at an address that the name has.
    fn named(rules: Vec<EgressRule>, name: &EgressRule, allow: u8, address: &str, port: u16) -> Decision {
        let rules = NetworkRules::new(&[EgressLists { rules }], ALLOW);
        let ports = name.ports.iter().map(|ports| (ports.first, ports.last));
        let named = port_rules(ports, libc::IPPROTO_TCP as u8, name.rule.0, allow).collect();
        let (_, table) = rules.host(address.parse().unwrap(), &[named], false).unwrap();
        decide_egress(Some(&table), port, 6)
    }

    #[test]
    fn a_narrow_network_keeps_what_the_wide_one_allows() {
        let rules = vec![rule("10.0.0.0/8", 443, 443, true, 1), rule("10.1.0.0/16", 80, 80, true, 2)];
        let tables = tables(&[EgressLists { rules }]);
        assert_eq!(decide(&tables, "10.1.2.3", 443), Decision { allow: true, rule: 1 });
        assert_eq!(decide(&tables, "10.1.2.3", 80), Decision { allow: true, rule: 2 });
        assert_eq!(decide(&tables, "10.2.2.3", 80), Decision::DENY_DEFAULT);
        assert_eq!(decide(&tables, "11.1.2.3", 443), Decision::DENY_DEFAULT);
    }

    #[test]
    fn a_deny_of_one_address_wins_over_everything_allowed() {
        let rules = vec![rule("::/0", 0, 65535, true, 2), rule("169.254.169.254/32", 0, 65535, false, 1)];
        let tables = tables(&[EgressLists { rules }]);
        assert_eq!(decide(&tables, "169.254.169.254", 80), Decision::deny(1));
        assert_eq!(decide(&tables, "8.8.8.8", 80), Decision { allow: true, rule: 2 });
        assert_eq!(decide(&tables, "2001:db8::1", 80), Decision { allow: true, rule: 2 });
    }

    #[test]
    fn a_name_is_held_by_an_address_that_it_has() {
        let name = rule("::/0", 443, 443, true, 2);
        assert_eq!(named(Vec::new(), &name, ALLOW, "192.0.2.7", 443), Decision { allow: true, rule: 2 });
        assert_eq!(named(Vec::new(), &name, ALLOW, "192.0.2.7", 80), Decision::DENY_DEFAULT);
        let denied = vec![rule("192.0.2.0/24", 0, 65535, false, 1)];
        assert_eq!(named(denied, &name, ALLOW, "192.0.2.7", 443), Decision::deny(1));
    }

    #[test]
    fn what_a_network_allows_goes_straight_there_whatever_its_names_need() {
        let name = rule("::/0", 443, 443, true, 1);
        let network = rule("192.0.2.0/24", 0, 65535, true, 2);
        let found = named(vec![network], &name, ALLOW_RELAY, "192.0.2.7", 443);
        assert_eq!(found, Decision { allow: true, rule: 2 });
    }

    #[test]
    fn what_is_asked_about_is_everything_but_this_machine_and_no_rule_of_networks() {
        let mut asked = rule("::/0", 1, 65535, true, 3);
        asked.target = EgressTarget::Any;
        asked.effect = EgressEffect::Ask;
        let rules =
            vec![rule("192.0.2.0/24", 443, 443, true, 2), rule("198.51.100.0/24", 0, 65535, false, 1), asked];
        let lists = [EgressLists { rules }];
        let (plain, with) = (tables(&lists), NetworkRules::with_asked(&lists, ALLOW).tables().unwrap());
        for address in
            ["0.0.0.0", "0.255.0.1", "127.0.0.1", "127.255.255.255", "::1", "::", "::ffff:127.0.0.1"]
        {
            assert_eq!(decide(&with, address, 80), Decision::DENY_DEFAULT, "{address}");
        }
        for address in [
            "1.0.0.1",
            "126.1.2.3",
            "128.0.0.1",
            "255.1.1.1",
            "10.0.0.1",
            "95.1.1.1",
            "111.2.3.4",
            "2a00::1",
            "fd00::1",
        ] {
            assert_eq!(decide(&with, address, 80), Decision { allow: true, rule: 3 }, "{address}");
            assert_eq!(decide(&plain, address, 80), Decision::DENY_DEFAULT, "{address}");
        }
        for first in 1..=255_u8 {
            let allow = decide(&with, &format!("{first}.9.9.9"), 80).allow;
            assert_eq!(allow, first != 127, "{first}");
        }
        assert_eq!(decide(&with, "198.51.100.1", 80), Decision::deny(1));
        assert_eq!(decide(&with, "192.0.2.1", 443), Decision { allow: true, rule: 2 });
        assert!(!NetworkRules::new(&lists, ALLOW).may_be_named("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_name_does_not_lead_to_neighbours_that_no_network_names() {
        let alone =
            NetworkRules::new(&[EgressLists { rules: vec![rule("192.0.2.0/24", 22, 22, true, 1)] }], ALLOW);
        let with_range =
            NetworkRules::new(&[EgressLists { rules: vec![rule("10.0.0.0/8", 22, 22, true, 2)] }], ALLOW);
        let near = [
            "127.0.0.1",
            "169.254.169.254",
            "10.1.2.3",
            "fd00:ec2::254",
            "::1",
            "0.0.0.0",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.0.8",
            "100.100.100.200",
            "240.0.0.1",
            "255.255.255.254",
            "255.255.255.255",
            "::ffff:168.63.129.16",
            "::a9fe:a9fe",
            "2001:0:a9fe:a9fe::1",
            "64:ff9b::a9fe:a9fe",
        ];
        for address in near {
            assert!(!alone.may_be_named(address.parse().unwrap()), "{address}");
        }
        for address in ["198.51.100.1", "168.63.129.15", "192.0.1.1", "239.1.1.1", "2001:db8::1"] {
            let is_many = address.starts_with("239");
            assert_eq!(alone.may_be_named(address.parse().unwrap()), !is_many, "{address}");
        }
        let named = rule("168.63.129.16/32", 80, 80, true, 1);
        let azure = NetworkRules::new(&[EgressLists { rules: vec![named] }], ALLOW);
        assert!(azure.may_be_named("168.63.129.16".parse().unwrap()));
        assert!(with_range.may_be_named("10.1.2.3".parse().unwrap()));
        assert!(!with_range.may_be_named("192.168.1.1".parse().unwrap()));
    }

    proptest! {
        /// A second list never allows what the first one does not, and the other way round.
        #[test]
        fn lists_intersect(
            a in proptest::collection::vec((0_u8..4, 1_u16..6, 0_u16..4, any::<bool>()), 0..6),
            b in proptest::collection::vec((0_u8..4, 1_u16..6, 0_u16..4, any::<bool>()), 0..6),
            host in 0_u8..4, port in 0_u16..10,
        ) {
            let list = |parts: &[(u8, u16, u16, bool)]| EgressLists { rules: parts.iter().enumerate().map(|(index, (net, first, more, allow))| {
                rule(&format!("10.0.0.{net}/{}", if *net == 0 { 24 } else { 32 }), *first, first + more, *allow, index as u16 + 1)
            }).collect() };
            let (a, b) = (list(&a), list(&b));
            let allows = |lists: &[EgressLists]| decide(&tables(lists), &format!("10.0.0.{host}"), port).allow;
            prop_assert_eq!(allows(&[a.clone(), b.clone()]), allows(&[a]) && allows(&[b]));
        }
    }
}
