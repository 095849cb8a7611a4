//! Connections and datagrams to inet addresses.

use super::Decision;
use crate::abi::rule::{PORT_RULES_MAX, PortTable};

/// Decides by the table of the longest network that holds the address; `None`: no network does.
///
/// Deny wins over allow; without a rule it is denied. `protocol` is an `IPPROTO_*` number.
#[inline(always)]
#[must_use]
pub fn decide_egress(table: Option<&PortTable>, port: u16, protocol: u8) -> Decision {
    let Some(table) = table else { return Decision::DENY_DEFAULT };
    let mut decision = Decision::DENY_DEFAULT;
    let mut index = 0;
    while index < PORT_RULES_MAX {
        if index as u32 >= table.count {
            break;
        }
        let rule = table.entries[index];
        if rule.first <= port && port <= rule.last && (rule.protocol == 0 || rule.protocol == protocol) {
            if rule.allow == 0 {
                return Decision::deny(rule.rule);
            }
            if !decision.allow {
                decision = Decision { allow: true, rule: rule.rule };
            }
        }
        index += 1;
    }
    decision
}

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
    use crate::abi::rule::PortRule;

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
}
