//! Which names have which addresses at the moment, and what the kernel's tables say of these addresses therefore.

mod ports;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use govsandbox_ebpf::{
    abi::egress::{ALLOW, ALLOW_RELAY, DENY, PortTable},
    decide::egress::{Way, decide_egress, route_egress},
};

use self::ports::{looked_at, nothing, of_datagrams, port_rules};
use super::{
    held::{Held, Put},
    hosts::{self, Filed},
    stand_ins::StandIns,
};
use crate::{
    bpf::egress::{Network, NetworkRules, TooManyPorts},
    egress::{
        channel::Entered,
        names::{Consent, NameRule, Names, Pattern, Ports, Transport},
    },
    policy::compile::{EgressEffect, EgressLists, EgressTarget, NetworkNamespace, Protocol, Verify},
};

/// An answer holds at least so long: programs keep addresses for longer than they should.
const HELD_AT_LEAST: Duration = Duration::from_secs(60);
/// And at most so long, unless it is given once more.
const HELD_AT_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// Names of an address that a new one is compared with.
const COMPARED_MAX: usize = 4;

/// How long an address that stands for a name is told for at a time, in seconds.
const STAND_IN_TTL_S: u32 = 60;

/// `localhost` of the grammar.
const LOOPBACK: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
];

/// What an address is to become in the kernel; `None`: nothing of its own.
pub(super) type Change = (Network, Option<PortTable>);

/// What somebody is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// May it be looked up, and reached where rules ask about it?
    Name(String),
    /// May a connection go to this address and port?
    Address(IpAddr, u16),
}

/// What is known of something that may have to be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// By this rule, or by what was said before.
    Allowed(u16),
    /// Nobody can allow it.
    Refused(u16),
    /// This rule asks.
    Open(u16),
}

/// The addresses of one sandbox.
#[derive(Debug)]
pub(super) struct Addresses {
    names: Names,
    networks: NetworkRules,
    /// The same, and what is asked about goes through the relay.
    with_asked: NetworkRules,
    /// What somebody has allowed, and until when.
    consents: HashMap<Asked, Option<Instant>>,
    lists: usize,
    verify: Verify,
    /// There is a rule that asks about names.
    asks: bool,
    /// There is a `*` that allows.
    any: bool,
    /// Where there is a proxy: the addresses that stand for names.
    stand_ins: Option<StandIns>,
    /// The sandbox sees no network but its own loopback: the relay is the only way.
    network: NetworkNamespace,
    live: Held,
    /// What hosts(5) says of names that may be looked up, or may be asked about.
    hosts: Filed,
    /// Addresses of names that are denied, with the rules that do so, by their numbers.
    denied: HashMap<IpAddr, BTreeMap<u16, NameRule>>,
}

impl Addresses {
    /// `asks`: somebody can be asked.
    pub(super) fn new(lists: &[EgressLists], verify: Verify, network: NetworkNamespace, asks: bool) -> Self {
        let mut name_rules = name_rules(lists);
        name_rules.iter_mut().for_each(|rules| rules.retain(|rule| asks || rule.effect != EgressEffect::Ask));
        let rules = || name_rules.iter().flatten();
        let any = rules().any(|rule| rule.effect == EgressEffect::Allow && rule.pattern == Pattern::Any);
        let asks_names = rules().any(|rule| rule.effect == EgressEffect::Ask);
        let denies = |rule: &NameRule| rule.effect == EgressEffect::Deny && rule.pattern != Pattern::Any;
        let denies_names = rules().any(denies);
        // Everything is allowed but some names: who is talked to must be seen, for their addresses can't all be known.
        let any_allow = if denies_names && verify != Verify::Address { ALLOW_RELAY } else { ALLOW };
        let networks = NetworkRules::new(lists, any_allow);
        Self {
            with_asked: if asks { NetworkRules::with_asked(lists, any_allow) } else { networks.clone() },
            networks,
            consents: HashMap::new(),
            lists: lists.len(),
            names: Names::new(name_rules),
            verify,
            asks: asks_names,
            any,
            stand_ins: None,
            network,
            live: Held::default(),
            hosts: Filed::new(),
            denied: HashMap::new(),
        }
    }

    /// Connections to names go through a proxy, and so through the relay; not to those near this machine, which a policy
    /// names by their networks.
    pub(super) fn with_proxy(self) -> Self {
        Self { stand_ins: Some(StandIns::default()), ..self }
    }

    /// An address that stands for a name that may be looked up and resolves to nothing here; the same each time.
    pub(super) fn stand_in(&mut self, name: &str) -> Vec<(IpAddr, u32)> {
        let Some(stand_ins) = &mut self.stand_ins else { return Vec::new() };
        let may_have = || self.names.decide_lookup_with(Consent::Given, name).allow;
        let address = stand_ins.of(name, may_have);
        address.map(|address| (address.into(), STAND_IN_TTL_S)).into_iter().collect()
    }

    /// The tables before any name has an address.
    pub(super) fn tables(&self) -> Result<BTreeMap<Network, PortTable>, TooManyPorts> {
        let mut tables = self.with_asked.tables()?;
        if self.network == NetworkNamespace::Own {
            tables.extend(LOOPBACK.map(|(address, bits)| (Network::new(address, bits), nothing())));
        }
        Ok(tables.into_iter().map(|(network, table)| (network, self.led(network, table))).collect())
    }

    /// Is an address allowed by itself, whatever is said there?
    pub(super) fn is_straight(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        if self.is_closed(Network::host(address)) {
            return false;
        }
        let Ok((_, table)) = self.straight(address) else { return false };
        let (decision, way) = route_egress(Some(&table), port, libc::IPPROTO_TCP as u8);
        decision.allow && way == Way::Straight
    }

    /// What the kernel does with connections that a table allows: there may be no other way than through the relay. Loopback
    /// is the sandbox's own then, where its servers are reached without a rule.
    fn led(&self, network: Network, mut table: PortTable) -> PortTable {
        let address = Ipv6Addr::from(network.address).to_canonical();
        let is_proxied =
            self.stand_ins.is_some() && network.bits == 128 && network.is_public() && self.live.has(address);
        if self.network == NetworkNamespace::Host && !is_proxied {
            return table;
        }
        if self.is_closed(network) {
            return nothing();
        }
        for rule in &mut table.entries {
            if rule.allow == ALLOW && i32::from(rule.protocol) == libc::IPPROTO_TCP {
                rule.allow = ALLOW_RELAY;
            }
        }
        table
    }

    /// Is it loopback, seen from a network of the sandbox's own? The machine's is not reached from there by any rule.
    fn is_closed(&self, network: Network) -> bool {
        let loopback = LOOPBACK.map(|(address, bits)| Network::new(address, bits));
        self.network == NetworkNamespace::Own && loopback.iter().any(|all| all.covers(network))
    }

    /// May this name be looked up?
    pub(super) fn standing_of_name(&self, name: &str) -> Standing {
        let decision = self.names.decide_lookup_with(self.consent(name), name);
        match self.names.asks(name) {
            // Named by the rule that asked.
            Some(rule) if decision.allow => Standing::Allowed(rule),
            Some(rule) => Standing::Open(rule),
            None if decision.allow => Standing::Allowed(decision.rule),
            None => Standing::Refused(decision.rule),
        }
    }

    /// May a connection go to this address, or on to where it is seen whom it names? `led_by`: the rule that led it to the
    /// relay.
    pub(super) fn standing_of_address(&self, address: IpAddr, port: u16, led_by: u16) -> Standing {
        let address = address.to_canonical();
        if self.is_closed(Network::host(address)) {
            return Standing::Refused(0);
        }
        let allows =
            |consent: Consent, name: &str| self.names.decide_with(consent, name, port, Transport::Tcp).allow;
        if self.names_of(address).any(|name| allows(self.consent(name), name)) {
            return Standing::Allowed(led_by);
        }
        if self.denied.contains_key(&address) {
            return Standing::Refused(0); // by its address alone it is never reached
        }
        if self.allowed_by_address(address, port) {
            return Standing::Allowed(led_by);
        }
        let is_asked = allowed_by(&self.with_asked, address, port)
            || self.names_of(address).any(|name| allows(Consent::Given, name));
        if is_asked { Standing::Open(led_by) } else { Standing::Refused(0) }
    }

    /// Somebody allows it, for good or until then.
    pub(super) fn consent_to(&mut self, asked: Asked, until: Option<Instant>) -> Vec<Change> {
        self.consents.insert(asked, until);
        self.file()
    }

    /// What hosts(5) says now. No lookup tells which of its names are used, so those that may be looked up have their
    /// addresses from the start.
    pub(super) fn set_hosts(&mut self, text: &str) -> Vec<Change> {
        let leads = |address| self.may_lead_to(address);
        let allows = |name: &str| self.names.decide_lookup_with(Consent::Given, name).allow;
        let (hosts, all) = hosts::read(text, leads, allows);
        if !all {
            tracing::warn!("the hosts file has more allowed names than {} with addresses", hosts::FILED_MAX);
        }
        self.hosts = hosts;
        self.file()
    }

    fn file(&mut self) -> Vec<Change> {
        let may_be = |name: &str| self.names.decide_lookup_with(self.consent(name), name).allow;
        let wanted = self.hosts.iter().filter(|(_, name)| may_be(name)).cloned().collect();
        let (changed, all) = self.live.file(&wanted);
        if !all {
            tracing::warn!("there is no room for all names of the hosts file with their addresses");
        }
        self.changes(changed).0
    }

    fn consent(&self, name: &str) -> Consent {
        match self.consents.contains_key(&Asked::Name(name.to_owned())) {
            true => Consent::Given,
            false => Consent::None,
        }
    }

    /// Near this machine a name leads to what networks allow, and nothing leads to loopback in a network of its own.
    fn may_lead_to(&self, address: IpAddr) -> bool {
        self.networks.may_be_named(address) && !self.is_closed(Network::host(address))
    }

    /// A name that may be looked up has these addresses for so many seconds. Said are the ones that may be connected to once
    /// the changes are written: what is private and in no range that the policy allows is left out.
    pub(super) fn enter(
        &mut self,
        name: &str,
        found: &[(IpAddr, u32)],
        now: Instant,
    ) -> (Entered, Vec<Change>) {
        let mut entered = Entered::default();
        let mut changed = BTreeSet::new();
        if !self.names.decide_lookup_with(self.consent(name), name).allow {
            return (entered, Vec::new());
        }
        for (address, ttl_s) in found {
            let address = address.to_canonical();
            if !self.may_lead_to(address) {
                continue;
            }
            let held = Duration::from_secs(u64::from(*ttl_s)).clamp(HELD_AT_LEAST, HELD_AT_MOST);
            match self.live.put(address, name, now + held) {
                Put::New if self.adds_nothing(address, name) => {}
                Put::New | Put::InPlaceOfOthers => drop(changed.insert(address)),
                Put::Known | Put::NoRoom => {}
            }
            entered.allowed.push(address);
        }
        let asked_for = entered.allowed.len();
        let (changes, closed) = self.changes(changed);
        // Room for its rules was made by forgetting others, or there is none.
        entered.allowed.retain(|it| self.live.has_name(*it, name) && !closed.contains(it));
        entered.full = entered.allowed.len() < asked_for;
        (entered, changes)
    }

    /// Do several names have the address, and one of them with the same ports, so that the kernel has been told already?
    fn adds_nothing(&self, address: IpAddr, name: &str) -> bool {
        let shape = |name| {
            self.names.rules_of(name).map(|(place, rule)| {
                let is_wide = matches!(rule.pattern, Pattern::Below(_) | Pattern::Any);
                (place, rule.effect, rule.transport, is_wide, &rule.ports)
            })
        };
        let others = || self.names_of(address).filter(|other| *other != name);
        others().nth(1).is_some() && others().take(COMPARED_MAX).any(|other| shape(other).eq(shape(name)))
    }

    /// Forgets what has been held for long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Change> {
        self.consents.retain(|_, until| until.is_none_or(|until| until > now));
        let (rules, consents) = (&self.names, &self.consents);
        // What was allowed for a while is no longer allowed by an address that was told meanwhile.
        let stands = |name: &str| {
            !self.asks || rules.asks(name).is_none() || consents.contains_key(&Asked::Name(name.to_owned()))
        };
        let changed = self.live.expire(now, stands);
        self.changes(changed).0
    }

    /// Names that are denied by their full name: they are never answered, yet their addresses may be known.
    pub(super) fn denied_names(&self) -> Vec<String> {
        self.names.denied_exactly().map(str::to_owned).collect()
    }

    /// What these names have for addresses now.
    pub(super) fn set_denied<'a>(
        &mut self,
        found: impl Iterator<Item = (&'a str, &'a [IpAddr])>,
    ) -> Vec<Change> {
        let mut denied: HashMap<IpAddr, BTreeMap<u16, NameRule>> = HashMap::new();
        for (name, addresses) in found {
            for (_, rule) in self.names.rules_of(name).filter(|(_, rule)| rule.effect == EgressEffect::Deny) {
                for address in addresses {
                    denied.entry(address.to_canonical()).or_default().insert(rule.rule, rule.clone());
                }
            }
        }
        let before = std::mem::replace(&mut self.denied, denied);
        let places: BTreeSet<IpAddr> = before.keys().chain(self.denied.keys()).copied().collect();
        let changed = places.into_iter().filter(|address| before.get(address) != self.denied.get(address));
        let changed: BTreeSet<IpAddr> = changed.collect();
        self.changes(changed).0
    }

    /// The names that have this address.
    pub(super) fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.live.names_of(address.to_canonical())
    }

    /// Do rules about networks allow it, or has somebody, whatever names it has?
    fn allowed_by_address(&self, address: IpAddr, port: u16) -> bool {
        self.consents.contains_key(&Asked::Address(address, port))
            || allowed_by(&self.networks, address, port)
    }

    /// What may be told to who is asked about an address: its names, and those that the host has for it, whether or not
    /// anybody has allowed them.
    pub(super) fn names_told_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        let address = address.to_canonical();
        let filed = self.hosts.iter().filter(move |(filed, _)| *filed == address);
        let filed = filed.map(|(_, name)| &**name).filter(move |name| !self.live.has_name(address, name));
        self.names_of(address).chain(filed)
    }

    /// The tables of addresses, and those whose rules are too many, whatever names are forgotten.
    fn changes(&mut self, addresses: BTreeSet<IpAddr>) -> (Vec<Change>, Vec<IpAddr>) {
        let (mut changes, mut closed) = (Vec::new(), Vec::new());
        for address in addresses {
            let mut found = self.straight(address);
            while found.is_err() && self.live.forget_oldest(address, 1) {
                found = self.straight(address);
            }
            let is_plain = !self.live.has(address) && !self.denied.contains_key(&address);
            if is_plain && !self.with_asked.names_host(address) {
                let host = Network::host(address);
                // What closes loopback is an entry of its own.
                changes.push((host, self.is_closed(host).then(nothing)));
                continue;
            }
            match found {
                Ok((network, table)) => changes.push((network, Some(self.led(network, table)))),
                Err(error) => {
                    // Nothing is allowed there, whatever the networks around say.
                    tracing::error!(%error, %address, "the rules of its names find no room");
                    changes.push((Network::host(address), Some(nothing())));
                    closed.push(address);
                }
            }
        }
        (changes, closed)
    }

    /// The table of an address with what is said of its names, for a sandbox that reaches addresses by itself.
    fn straight(&self, address: IpAddr) -> Result<(Network, PortTable), TooManyPorts> {
        let mut lists = vec![Vec::new(); self.lists];
        let denied = self.denied.get(&address);
        let names: Vec<&str> = self.names_of(address).collect();
        let is_shared = names.len() > 1 || denied.is_some();
        let by_address = self.verify == Verify::Address;
        // Near this machine a name adds nothing to what networks allow.
        let is_public = Network::host(address).is_public();
        for (place, rule) in names.iter().flat_map(|name| self.names.rules_of(name)) {
            let is_wide = matches!(rule.pattern, Pattern::Below(_) | Pattern::Any);
            let allow = match self.verify {
                Verify::Address => ALLOW,
                Verify::Sni => ALLOW_RELAY,
                Verify::WhereShared if is_wide || is_shared => ALLOW_RELAY,
                Verify::WhereShared => ALLOW,
            };
            let rules = match (rule.effect, by_address || !is_shared) {
                (EgressEffect::Allow, _) if is_public && self.verify == Verify::WhereShared => {
                    looked_at(port_rules(rule, allow))
                }
                (EgressEffect::Allow, _) if is_public => port_rules(rule, allow),
                (EgressEffect::Ask, _) if is_public => port_rules(rule, ALLOW_RELAY),
                (EgressEffect::Allow | EgressEffect::Ask, _) => Vec::new(),
                (EgressEffect::Deny, true) => port_rules(rule, DENY),
                // What is denied of one name is not denied of another with the same address: who is meant is seen then,
                // but of a datagram.
                (EgressEffect::Deny, false) => of_datagrams(port_rules(rule, DENY)),
            };
            if let Some(list) = lists.get_mut(place) {
                list.extend(rules);
            }
        }
        // A denied name's address is denied, unless the relay sees who is meant.
        let is_seen = !by_address && (self.any || !names.is_empty());
        if let (Some(denied), Some(first)) = (denied, lists.first_mut()) {
            let rules = denied.values().flat_map(|rule| port_rules(rule, DENY)).collect();
            first.extend(if is_seen { of_datagrams(rules) } else { rules });
        }
        self.with_asked.host(address, &lists, is_seen && denied.is_some())
    }
}

fn allowed_by(networks: &NetworkRules, address: IpAddr, port: u16) -> bool {
    match networks.host(address, &[], false) {
        Ok((_, table)) => decide_egress(Some(&table), port, libc::IPPROTO_TCP as u8).allow,
        Err(_) => false,
    }
}

/// What each list says of names.
pub(super) fn name_rules(lists: &[EgressLists]) -> Vec<Vec<NameRule>> {
    let of_list = |list: &EgressLists| {
        let rules = list.rules.iter().filter_map(|rule| {
            let pattern = match &rule.target {
                EgressTarget::Name(name) => Pattern::Exact(name.clone()),
                EgressTarget::Below(name) => Pattern::Below(name.clone()),
                EgressTarget::Any => Pattern::Any,
                EgressTarget::Network { .. } => return None,
            };
            let transport = match rule.protocol {
                Protocol::Tcp => Some(Transport::Tcp),
                Protocol::Udp => Some(Transport::Udp),
                Protocol::Any => None,
            };
            let ports =
                rule.ports.iter().map(|ports| Ports { first: ports.first, last: ports.last }).collect();
            Some(NameRule { pattern, ports, transport, effect: rule.effect, rule: rule.rule.0 })
        });
        rules.collect()
    };
    lists.iter().map(of_list).collect()
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
