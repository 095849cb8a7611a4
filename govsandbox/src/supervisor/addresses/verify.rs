//! Whether a connection may go on that is led to the relay, and where to.

use std::net::IpAddr;

use govsandbox_ebpf::decide::egress::decide_egress;

use super::{Addresses, Asked, allowed_by};
use crate::{
    bpf::egress::Network,
    egress::{
        channel::{OTHERS_MAX, Speech, Verdict},
        names::{NameRule, Pattern, Transport},
    },
    policy::compile::{EgressEffect, Verify},
};

/// Names in one verdict, for the event.
const NAMES_TOLD_MAX: usize = 16;
/// Other addresses that are looked at, at most.
const OTHERS_SEEN_MAX: usize = 64;
/// Ports for TLS and HTTP, in their order.
pub(super) const NAMED_PORTS: [u16; 2] = [80, 443];

impl Addresses {
    /// May a connection to this address go on, that names whom it talks to?
    pub(in crate::supervisor) fn verify(
        &self,
        address: IpAddr,
        port: u16,
        name: Option<&str>,
        speech: Speech,
    ) -> Verdict {
        let address = address.to_canonical();
        if self.is_closed(Network::host(address)) {
            return Verdict::default();
        }
        let here = || self.names_of(address);
        let told = || here().take(NAMES_TOLD_MAX).map(str::to_owned).collect();
        // With a name that is denied the address alone is no reason.
        let is_reason = !self.denied.contains_key(&address);
        // Whoever allowed an address because of its names has allowed no other name there.
        let consented = |is_here| {
            self.consents.contains_key(&Asked::Address(address, port))
                && (is_here || allowed_by(&self.with_asked, address, port))
        };
        let by_network = || is_reason && allowed_by(&self.networks, address, port);
        let by_address = |is_here| by_network() || is_reason && consented(is_here);
        let (allow, rule) = match name {
            Some(name) => {
                let decision = self.names.decide_with(self.consent(name), name, port, Transport::Tcp);
                let is_here = here().any(|other| other == name);
                let is_denied = !decision.allow && decision.rule != 0;
                let allow = !is_denied && (decision.allow && is_here || by_address(is_here));
                // A rule that allows the name has not refused that it is said to another's address.
                (allow, if allow || is_denied { decision.rule } else { 0 })
            }
            // Neither TLS nor HTTP: by address, so every name that has it must be allowed here.
            None if speech == Speech::Other && !self.is_strict(address, port) => {
                let decide =
                    |name: &str| self.names.decide_with(self.consent(name), name, port, Transport::Tcp);
                let all = here().next().is_some() && here().all(|name| decide(name).allow);
                (is_reason && all || by_address(true), 0)
            }
            None if speech == Speech::Unseen => (self.is_straight(address, port), 0),
            // Whoever allowed the address was not told of a name.
            None => {
                let is_lenient = NAMED_PORTS.contains(&port) && !self.is_strict(address, port);
                (is_reason && (is_lenient || consented(false)), 0)
            }
        };
        let allows =
            |name: &str| self.names.decide_with(self.consent(name), name, port, Transport::Tcp).allow;
        let said = name.filter(|name| here().any(|other| other == *name));
        let meant = said
            .or_else(|| here().find(|name| allows(name)))
            .filter(|_| allow && Network::host(address).is_public());
        let only = || here().next().filter(|_| here().nth(1).is_none());
        // Whoever names a machine by its address means that one, where the policy does too.
        let others = match said.or_else(only) {
            Some(name) if allow && allows(name) && !by_network() => self.others(name, address, port),
            _ => Vec::new(),
        };
        Verdict { allow, rule, names: told(), meant: meant.map(str::to_owned), others }
    }

    /// Must a connection there say whom it talks to? On ports for TLS and HTTP it must, unless one full name that the policy
    /// allows is all that the address has: then it may leave it out, or speak something else. What it says counts anyway.
    pub(in crate::supervisor) fn is_strict(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        let mut names = self.names_of(address);
        let is_allowed_in_full = |name: &str| {
            let here =
                |rule: &&NameRule| rule.ports.iter().any(|ports| (ports.first..=ports.last).contains(&port));
            let mut rules = self.names.rules_of(name).map(|(_, rule)| rule).filter(here);
            rules.all(|rule| rule.effect != EgressEffect::Ask && matches!(rule.pattern, Pattern::Exact(_)))
                && self.names.decide(name, port, Transport::Tcp).allow
        };
        NAMED_PORTS.contains(&port)
            && !(self.verify == Verify::WhereShared
                && names.next().is_some_and(is_allowed_in_full)
                && names.next().is_none()
                && !self.denied.contains_key(&address))
    }

    /// Where else a name that is allowed at this port is reached, those of the same family first.
    fn others(&self, name: &str, address: IpAddr, port: u16) -> Vec<IpAddr> {
        let reaches = |other: &IpAddr| {
            let decide = |table| decide_egress(Some(&table), port, libc::IPPROTO_TCP as u8);
            !self.is_closed(Network::host(*other))
                && self.straight(*other).is_ok_and(|(_, table)| decide(table).allow)
        };
        let mut others: Vec<IpAddr> =
            self.live.addresses_of(name).filter(|other| *other != address).collect();
        others.sort_by_key(|other| other.is_ipv4() != address.is_ipv4());
        others.into_iter().take(OTHERS_SEEN_MAX).filter(reaches).take(OTHERS_MAX).collect()
    }
}
