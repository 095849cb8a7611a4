//! Egress rules as the longest-prefix tables of the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use govsandbox_ebpf::{
    abi::egress::{ALLOW_RELAY, PORT_RULES_MAX, PortRule, PortTable},
    decide::egress::v4_mapped,
};

use crate::policy::compile::{EgressLists, EgressRule, EgressTarget, Protocol};

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

/// Addresses of names, as resolved last.
pub type Resolved = HashMap<String, Vec<IpAddr>>;

/// What is allowed and denied where, one table for each network that is named.
///
/// All lists must allow; a deny of any list wins. Each network repeats what the networks around it say.
///
/// # Errors
/// When more rules hold for one network than a table has room for.
pub fn tables(
    lists: &[EgressLists],
    resolved: &Resolved,
) -> Result<BTreeMap<Network, PortTable>, TooManyPorts> {
    let rules: Vec<Vec<(Network, PortRule)>> = lists
        .iter()
        .map(|list| list.rules.iter().flat_map(|rule| expand(rule, list, resolved)).collect())
        .collect();
    let networks = rules.iter().flatten().map(|(network, _)| *network);
    networks.map(|network| Ok((network, table(network, &rules)?))).collect()
}

/// Every network and port range of one rule.
fn expand<'a>(
    rule: &'a EgressRule,
    list: &EgressLists,
    resolved: &'a Resolved,
) -> impl Iterator<Item = (Network, PortRule)> + 'a {
    let networks = match &rule.target {
        EgressTarget::Network { address, prefix_bits } => vec![Network::new(*address, *prefix_bits)],
        EgressTarget::Name(name) => {
            let hosts = resolved.get(name).into_iter().flatten().map(|address| Network::host(*address));
            hosts.filter(|host| !rule.allow || host.is_public() || is_named(list, *host)).collect()
        }
    };
    let protocol = match rule.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Any => 0,
    };
    networks.into_iter().flat_map(move |network| {
        rule.ports.iter().map(move |ports| {
            let allow = u8::from(rule.allow);
            (network, PortRule { first: ports.first, last: ports.last, rule: rule.rule.0, protocol, allow })
        })
    })
}

/// Does an allowed network contain it? What a name says of addresses near this machine is its owner's word alone.
fn is_named(list: &EgressLists, host: Network) -> bool {
    list.rules.iter().filter(|rule| rule.allow).any(|rule| match rule.target {
        EgressTarget::Network { address, prefix_bits } => Network::new(address, prefix_bits).covers(host),
        EgressTarget::Name(_) => false,
    })
}

fn table(network: Network, lists: &[Vec<(Network, PortRule)>]) -> Result<PortTable, TooManyPorts> {
    let covering = |list: &[(Network, PortRule)], allow: bool| -> Vec<PortRule> {
        list.iter()
            .filter(|(around, rule)| around.covers(network) && (rule.allow != 0) == allow)
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
    // Of equal ranges the better rule, the one with the smaller number, is kept.
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

/// What both allow, in the name of the first; through the relay, where either wants that.
fn intersect(a: PortRule, b: PortRule) -> Option<PortRule> {
    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
    let protocol = match (a.protocol, b.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (one, other) if one == other => one,
        _ => return None,
    };
    let allow = if b.allow == ALLOW_RELAY { b.allow } else { a.allow };
    (first <= last).then_some(PortRule { first, last, protocol, allow, ..a })
}

fn contains(outer: PortRule, inner: PortRule) -> bool {
    outer.allow == inner.allow
        && outer.first <= inner.first
        && inner.last <= outer.last
        && (outer.protocol == 0 || outer.protocol == inner.protocol)
}

impl Network {
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

    /// Neither this machine nor one of its private or link-local neighbours, metadata services among them.
    fn is_public(self) -> bool {
        let address = std::net::Ipv6Addr::from(self.address);
        match address.to_ipv4_mapped() {
            Some(v4) => {
                let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64; // RFC 6598
                !(v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.octets()[0] == 0 || shared)
            }
            None => {
                let near = address.is_loopback() || address.is_unspecified();
                !(near || address.is_unique_local() || address.is_unicast_link_local())
            }
        }
    }

    fn covers(self, inner: Self) -> bool {
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
            allow,
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

    #[test]
    fn a_narrow_network_keeps_what_the_wide_one_allows() {
        let rules = vec![rule("10.0.0.0/8", 443, 443, true, 1), rule("10.1.0.0/16", 80, 80, true, 2)];
        let tables = tables(&[EgressLists { rules }], &Resolved::new()).unwrap();
        assert_eq!(decide(&tables, "10.1.2.3", 443), Decision { allow: true, rule: 1 });
        assert_eq!(decide(&tables, "10.1.2.3", 80), Decision { allow: true, rule: 2 });
        assert_eq!(decide(&tables, "10.2.2.3", 80), Decision::DENY_DEFAULT);
        assert_eq!(decide(&tables, "11.1.2.3", 443), Decision::DENY_DEFAULT);
    }

    #[test]
    fn a_deny_of_one_address_wins_over_everything_allowed() {
        let rules = vec![rule("::/0", 0, 65535, true, 2), rule("169.254.169.254/32", 0, 65535, false, 1)];
        let tables = tables(&[EgressLists { rules }], &Resolved::new()).unwrap();
        assert_eq!(decide(&tables, "169.254.169.254", 80), Decision::deny(1));
        assert_eq!(decide(&tables, "8.8.8.8", 80), Decision { allow: true, rule: 2 });
        assert_eq!(decide(&tables, "2001:db8::1", 80), Decision { allow: true, rule: 2 });
    }

    #[test]
    fn names_are_held_by_the_addresses_they_have() {
        let named = EgressRule {
            target: EgressTarget::Name("api.example".to_owned()),
            ..rule("::/0", 443, 443, true, 1)
        };
        let lists = [EgressLists { rules: vec![named] }];
        let resolved = Resolved::from([("api.example".to_owned(), vec!["192.0.2.7".parse().unwrap()])]);
        assert!(decide(&tables(&lists, &resolved).unwrap(), "192.0.2.7", 443).allow);
        assert!(tables(&lists, &Resolved::new()).unwrap().is_empty());
    }

    #[test]
    fn a_name_does_not_lead_to_neighbours_that_no_network_names() {
        let named = |index| EgressRule {
            target: EgressTarget::Name("api.example".to_owned()),
            ..rule("::/0", 443, 443, true, index)
        };
        let near = ["127.0.0.1", "169.254.169.254", "10.1.2.3", "fd00:ec2::254", "::1", "0.0.0.0"];
        let addresses = near.iter().chain(&["192.0.2.7"]).map(|it| it.parse().unwrap()).collect();
        let resolved = Resolved::from([("api.example".to_owned(), addresses)]);
        let alone = tables(&[EgressLists { rules: vec![named(1)] }], &resolved).unwrap();
        assert!(decide(&alone, "192.0.2.7", 443).allow);
        for address in near {
            assert!(!decide(&alone, address, 443).allow, "{address}");
        }
        let with_range = [EgressLists { rules: vec![named(1), rule("10.0.0.0/8", 22, 22, true, 2)] }];
        assert!(decide(&tables(&with_range, &resolved).unwrap(), "10.1.2.3", 443).allow);
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
            let allows = |lists: &[EgressLists]| decide(&tables(lists, &Resolved::new()).unwrap(), &format!("10.0.0.{host}"), port).allow;
            prop_assert_eq!(allows(&[a.clone(), b.clone()]), allows(&[a]) && allows(&[b]));
        }
    }
}
