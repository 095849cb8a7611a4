//! Connections and datagrams to inet addresses.

use super::Decision;
use crate::abi::egress::{ALIAS_PREFIX, ALIASES4, ALLOW_RELAY, DENY, PORT_RULES_MAX, PortTable};

/// `IPPROTO_TCP`, include/uapi/linux/in.h.
const TCP: u8 = 6;

/// How an allowed connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the address itself.
    Straight,
    /// To the relay, which looks at the name.
    Relay,
}

/// Decides by the table of the longest network that holds the address; `None`: no network does.
///
/// Deny wins over allow; without a rule it is denied. `protocol` is an `IPPROTO_*` number.
#[inline(always)]
#[must_use]
pub fn decide_egress(table: Option<&PortTable>, port: u16, protocol: u8) -> Decision {
    route_egress(table, port, protocol).0
}

/// The same, and how it goes: straight, where any rule says so.
#[inline(always)]
#[must_use]
pub fn route_egress(table: Option<&PortTable>, port: u16, protocol: u8) -> (Decision, Way) {
    let Some(table) = table else { return (Decision::DENY_DEFAULT, Way::Straight) };
    let mut decision = Decision::DENY_DEFAULT;
    let mut way = Way::Relay;
    let mut index = 0;
    while index < PORT_RULES_MAX {
        if index as u32 >= table.count {
            break;
        }
        let rule = table.entries[index];
        let relay = rule.allow == ALLOW_RELAY;
        if rule.first <= port
            && port <= rule.last
            && (rule.protocol == 0 || rule.protocol == protocol)
            && (!relay || protocol == TCP)
        {
            if rule.allow == DENY {
                return (Decision::deny(rule.rule), Way::Straight);
            }
            if !decision.allow || (matches!(way, Way::Relay) && !relay) {
                decision = Decision { allow: true, rule: rule.rule };
                way = if relay { Way::Relay } else { Way::Straight };
            }
        }
        index += 1;
    }
    (decision, way)
}

/// Decides of an echo request: it goes where anything may; without `by_relay`, where anything may go straight. A deny of some
/// ports is not about it, and one of all ports for datagrams is.
#[inline(always)]
#[must_use]
pub fn decide_echo(table: Option<&PortTable>, by_relay: bool) -> Decision {
    let Some(table) = table else { return Decision::DENY_DEFAULT };
    let mut decision = Decision::DENY_DEFAULT;
    let mut index = 0;
    while index < PORT_RULES_MAX {
        if index as u32 >= table.count {
            break;
        }
        let rule = table.entries[index];
        if rule.allow == DENY {
            if rule.first == 0 && rule.last == u16::MAX && rule.protocol != TCP {
                return Decision::deny(rule.rule);
            }
        } else if !decision.allow && (by_relay || rule.allow != ALLOW_RELAY) {
            decision = Decision { allow: true, rule: rule.rule };
        }
        index += 1;
    }
    decision
}

/// The address on loopback that stands for a server of IPv4, by its number.
#[inline(always)]
#[must_use]
pub const fn alias(number: u32) -> [u8; 4] {
    let number = number & (ALIASES4 - 1);
    [ALIAS_PREFIX[0], ALIAS_PREFIX[1], (number >> 8) as u8, number as u8]
}

/// The number of the server that an address on loopback stands for; `None`: it stands for none.
#[inline(always)]
#[must_use]
pub const fn alias_number(address: [u8; 4]) -> Option<u32> {
    let number = (address[2] as u32) << 8 | address[3] as u32;
    let is_alias = address[0] == ALIAS_PREFIX[0] && address[1] == ALIAS_PREFIX[1] && number < ALIASES4;
    if is_alias { Some(number) } else { None }
}

/// An address as four words that lie in memory as its bytes do.
pub type Words = [u32; 4];

/// Does a connection to it stay on this machine, whatever its addresses are? Loopback, and the unspecified address
/// (ip(7), ipv6(7)).
#[inline(always)]
#[must_use]
pub const fn is_loopback(address: Words) -> bool {
    let last = u32::from_be(address[3]);
    match is_v4(address) {
        true => last >> 24 == 127 || last == 0,
        false => address[0] == 0 && address[1] == 0 && address[2] == 0 && last <= 1,
    }
}

/// Is it an IPv4 address (v4-mapped)?
#[inline(always)]
#[must_use]
pub const fn is_v4(address: Words) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == V4_PREFIX
}

/// The word before an IPv4 address that is v4-mapped.
pub const V4_PREFIX: u32 = 0xffff_u32.to_be();

/// An IPv4 address as the v4-mapped IPv6 address that stands for it in every table (RFC 4291, 2.5.5.2).
#[inline(always)]
#[must_use]
pub const fn v4_mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::egress::{ALLOW, PortRule};

    fn table(rules: &[PortRule]) -> PortTable {
        let mut entries = [PortRule::default(); PORT_RULES_MAX];
        entries[..rules.len()].copy_from_slice(rules);
        PortTable { count: rules.len() as u32, entries }
    }

    const HTTPS: PortRule = PortRule { first: 443, last: 443, rule: 1, protocol: 6, allow: 1 };
    const NOTHING: PortRule = PortRule { first: 0, last: u16::MAX, rule: 2, protocol: 0, allow: 0 };

    #[test]
    fn an_address_without_a_table_is_denied_by_default() {
        assert_eq!(decide_egress(None, 443, 6), Decision::DENY_DEFAULT);
    }

    #[test]
    fn a_port_is_allowed_for_its_protocol_only() {
        let table = table(&[HTTPS]);
        assert_eq!(decide_egress(Some(&table), 443, 6), Decision { allow: true, rule: 1 });
        assert_eq!(decide_egress(Some(&table), 443, 17), Decision::DENY_DEFAULT);
        assert_eq!(decide_egress(Some(&table), 444, 6), Decision::DENY_DEFAULT);
    }

    #[test]
    fn deny_wins_whatever_the_order() {
        assert_eq!(decide_egress(Some(&table(&[HTTPS, NOTHING])), 443, 6), Decision::deny(2));
        assert_eq!(decide_egress(Some(&table(&[NOTHING, HTTPS])), 443, 6), Decision::deny(2));
    }

    #[test]
    fn by_name_is_for_tcp_and_only_where_nothing_leads_straight() {
        let by_name = PortRule { allow: ALLOW_RELAY, rule: 3, protocol: 0, ..HTTPS };
        assert_eq!(
            route_egress(Some(&table(&[by_name])), 443, 6),
            (Decision { allow: true, rule: 3 }, Way::Relay)
        );
        assert_eq!(route_egress(Some(&table(&[by_name])), 443, 17).0, Decision::DENY_DEFAULT);
        let straight = (Decision { allow: true, rule: 1 }, Way::Straight);
        for rules in [[by_name, HTTPS], [HTTPS, by_name]] {
            assert_eq!(route_egress(Some(&table(&rules)), 443, 6), straight);
        }
        assert_eq!(route_egress(Some(&table(&[by_name, NOTHING])), 443, 6).0, Decision::deny(2));
        assert_eq!(HTTPS.allow, ALLOW);
    }

    #[test]
    fn an_echo_request_goes_where_anything_may() {
        let by_name = PortRule { allow: ALLOW_RELAY, rule: 3, ..HTTPS };
        let some_ports = PortRule { first: 1, ..NOTHING };
        let connections = PortRule { protocol: 6, ..NOTHING };
        // Of a name that shares an allowed address.
        let datagrams = PortRule { protocol: 17, ..NOTHING };
        let echo = |rules: &[PortRule]| decide_echo(Some(&table(rules)), true);
        assert_eq!(decide_echo(None, true), Decision::DENY_DEFAULT);
        assert_eq!(echo(&[some_ports]), Decision::DENY_DEFAULT);
        for rules in [[HTTPS, some_ports], [connections, HTTPS]] {
            assert_eq!(echo(&rules), Decision { allow: true, rule: 1 });
        }
        assert_eq!(echo(&[by_name]), Decision { allow: true, rule: 3 });
        for rules in [[HTTPS, NOTHING], [NOTHING, by_name], [HTTPS, datagrams]] {
            assert_eq!(echo(&rules), Decision::deny(2));
        }
        // Somebody would have to be asked.
        assert_eq!(decide_echo(Some(&table(&[by_name])), false), Decision::DENY_DEFAULT);
        assert_eq!(decide_echo(Some(&table(&[by_name, HTTPS])), false), Decision { allow: true, rule: 1 });
    }

    #[test]
    fn an_alias_stands_for_one_number() {
        for number in [0, 1, 255, 256, 1023] {
            assert_eq!(alias_number(alias(number)), Some(number));
        }
        for other in [[127, 83, 4, 0], [127, 84, 0, 0], [127, 0, 0, 1], [126, 83, 0, 0]] {
            assert_eq!(alias_number(other), None, "{other:?}");
        }
    }

    #[test]
    fn loopback_is_of_both_families_and_the_unspecified_address() {
        let words = |address: &str| -> Words {
            let octets = match address.parse().unwrap() {
                core::net::IpAddr::V4(v4) => v4_mapped(v4.octets()),
                core::net::IpAddr::V6(v6) => v6.octets(),
            };
            core::array::from_fn(|at| u32::from_ne_bytes(octets[4 * at..4 * at + 4].try_into().unwrap()))
        };
        for near in ["::", "::1", "127.9.9.9", "0.0.0.0", "::ffff:127.0.0.1"] {
            assert!(is_loopback(words(near)), "{near}");
        }
        for far in ["::2", "fd00::1", "10.0.0.1", "0.0.0.1", "128.0.0.1", "::127.0.0.1"] {
            assert!(!is_loopback(words(far)), "{far}");
        }
        assert!(is_v4(words("1.2.3.4")) && !is_v4(words("::1")) && !is_v4(words("::1.2.3.4")));
    }
}
