//! What the rules about a name say of the ports of its addresses, for the kernel's tables.

use govsandbox_ebpf::abi::egress::{ALLOW, ALLOW_RELAY, PORT_RULES_MAX, PortRule, PortTable};

use super::verify::NAMED_PORTS;
use crate::{
    bpf::egress,
    egress::names::{NameRule, Transport},
};

/// The same rules, but that whoever says a name on a port for TLS and HTTP is heard.
pub(super) fn looked_at(rules: Vec<PortRule>) -> Vec<PortRule> {
    let parts = |rule: PortRule| {
        let mut parts = vec![rule];
        for port in NAMED_PORTS.into_iter().filter(|port| (rule.first..=rule.last).contains(port)) {
            let Some(rest) = parts.pop() else { break };
            if rest.first < port {
                parts.push(PortRule { last: port - 1, ..rest });
            }
            parts.push(PortRule { first: port, last: port, allow: ALLOW_RELAY, ..rest });
            if port < rest.last {
                parts.push(PortRule { first: port + 1, ..rest });
            }
        }
        parts
    };
    let is_looked_at = |rule: &PortRule| rule.allow == ALLOW && i32::from(rule.protocol) == libc::IPPROTO_TCP;
    let (seen, others): (Vec<_>, Vec<_>) = rules.into_iter().partition(is_looked_at);
    seen.into_iter().flat_map(parts).chain(others).collect()
}

/// A table that allows nothing.
pub(super) fn nothing() -> PortTable {
    PortTable { count: 0, entries: [PortRule::default(); PORT_RULES_MAX] }
}

/// The same rules, for datagrams alone.
pub(super) fn of_datagrams(rules: Vec<PortRule>) -> Vec<PortRule> {
    let protocol = libc::IPPROTO_UDP as u8;
    rules.into_iter().map(|rule| PortRule { protocol, ..rule }).collect()
}

pub(super) fn port_rules(rule: &NameRule, allow: u8) -> Vec<PortRule> {
    let protocol = match rule.transport {
        Some(Transport::Tcp) => libc::IPPROTO_TCP as u8,
        Some(Transport::Udp) => libc::IPPROTO_UDP as u8,
        None => 0,
    };
    let ports = rule.ports.iter().map(|ports| (ports.first, ports.last));
    egress::port_rules(ports, protocol, rule.rule, allow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_ports_those_for_tls_and_http_are_looked_at() {
        let rule = |first, last, protocol| PortRule { first, last, rule: 7, protocol, allow: ALLOW };
        let parts = |rule| -> Vec<(u16, u16, bool)> {
            let parts = looked_at(vec![rule]).into_iter();
            parts.map(|it| (it.first, it.last, it.allow == ALLOW_RELAY)).collect()
        };
        let all =
            [(0, 79, false), (80, 80, true), (81, 442, false), (443, 443, true), (444, u16::MAX, false)];
        assert_eq!(parts(rule(0, u16::MAX, 6)), all);
        assert_eq!(parts(rule(80, 443, 6)), all[1..4]);
        assert_eq!(parts(rule(443, 443, 6)), all[3..4]);
        assert_eq!(parts(rule(22, 22, 6)), [(22, 22, false)]);
        assert_eq!(parts(rule(0, u16::MAX, 17)), [(0, u16::MAX, false)]);
    }
}
