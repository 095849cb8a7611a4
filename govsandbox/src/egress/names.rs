//! The rules about names: which may be looked up, and which may be reached at a port.

use std::collections::HashMap;

use govsandbox_ebpf::decide::{
    Decision,
    name::{NamePattern, patterns_of},
};
use serde::{Deserialize, Serialize};

use crate::policy::compile::EgressEffect;

/// Whom a rule names, in the form that is compared: lower case, A-labels, no dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// This name.
    Exact(String),
    /// What lies below this name, itself not.
    Below(String),
    /// Every name.
    Any,
}

/// Ports, host order, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// What a connection or a datagram is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One rule about names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRule {
    /// Whom.
    pub pattern: Pattern,
    /// Which ports; with none it says nothing.
    pub ports: Vec<Ports>,
    /// `None`: over whatever (deny rules).
    pub transport: Option<Transport>,
    /// What it says of them.
    pub effect: EgressEffect,
    /// Its number, from 1.
    pub rule: u16,
}

/// What somebody who was asked has said of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Nothing: what is asked about is as if no rule named it.
    None,
    /// It may be reached where rules ask about it.
    Given,
}

/// The rules of a sandbox: each list must allow, and a deny of any list wins. Looking a name up costs as much as it has
/// labels, however many rules there are.
#[derive(Clone, Debug, Default)]
pub struct Names {
    lists: Vec<List>,
}

#[derive(Clone, Debug, Default)]
struct List {
    exact: HashMap<Box<[u8]>, Vec<NameRule>>,
    below: HashMap<Box<[u8]>, Vec<NameRule>>,
    any: Vec<NameRule>,
}

/// What is left of what lists allow.
#[derive(Clone, Copy)]
struct Range {
    ports: Ports,
    transport: Option<Transport>,
    rule: u16,
}

impl Names {
    /// Of the lists of a policy, the outer one first. Without any nothing is allowed.
    #[must_use]
    pub fn new(lists: Vec<Vec<NameRule>>) -> Self {
        Self { lists: lists.into_iter().map(List::new).collect() }
    }

    /// May this name be reached at this port, without asking?
    #[must_use]
    pub fn decide(&self, name: &str, port: u16, transport: Transport) -> Decision {
        self.decide_with(Consent::None, name, port, transport)
    }

    /// May this name be reached at this port, by what was said of it?
    #[must_use]
    pub fn decide_with(&self, consent: Consent, name: &str, port: u16, transport: Transport) -> Decision {
        let wanted = Range { ports: Ports { first: port, last: port }, transport: Some(transport), rule: 0 };
        self.allowed_within(name, wanted, consent)
    }

    /// The rule that asks about this name, where it may be reached at no port until somebody says so.
    #[must_use]
    pub fn asks(&self, name: &str) -> Option<u16> {
        if self.decide_lookup(name) != Decision::DENY_DEFAULT
            || !self.decide_lookup_with(Consent::Given, name).allow
        {
            return None;
        }
        let asking = self.rules_of(name).filter(|(_, rule)| rule.effect == EgressEffect::Ask);
        asking.map(|(_, rule)| rule.rule).min()
    }

    /// The rules that a name meets, each with the place of its list.
    pub fn rules_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a NameRule)> {
        let of_list =
            move |(place, list): (usize, &'a List)| list.rules_of(name).map(move |rule| (place, rule));
        self.lists.iter().enumerate().flat_map(of_list)
    }

    /// The names that are denied by their full name.
    pub fn denied_exactly(&self) -> impl Iterator<Item = &str> {
        let rules = self.lists.iter().flat_map(|list| list.exact.values().flatten());
        rules.filter(|rule| rule.effect == EgressEffect::Deny).filter_map(|rule| match &rule.pattern {
            Pattern::Exact(name) => Some(name.as_str()),
            Pattern::Below(_) | Pattern::Any => None,
        })
    }

    /// May this name be looked up without asking: is there a port at which it may be reached?
    #[must_use]
    pub fn decide_lookup(&self, name: &str) -> Decision {
        self.decide_lookup_with(Consent::None, name)
    }

    /// May this name be looked up, by what was said of it?
    #[must_use]
    pub fn decide_lookup_with(&self, consent: Consent, name: &str) -> Decision {
        let whole = |transport| Range {
            ports: Ports { first: 0, last: u16::MAX },
            transport: Some(transport),
            rule: 0,
        };
        let decisions =
            [Transport::Tcp, Transport::Udp].map(|it| self.allowed_within(name, whole(it), consent));
        // The smaller number stands first in the policy; among denials one that has a name.
        let allowed = decisions.into_iter().filter(|it| it.allow).min_by_key(|it| it.rule);
        let denied = decisions.into_iter().filter(|it| it.rule != 0).min_by_key(|it| it.rule);
        allowed.or(denied).unwrap_or(Decision::DENY_DEFAULT)
    }

    /// Is any part of what is wanted allowed?
    fn allowed_within(&self, name: &str, wanted: Range, consent: Consent) -> Decision {
        let mut allowed: Option<Vec<Range>> = None;
        let mut denied = Vec::new();
        for list in &self.lists {
            let mut here = Vec::new();
            for rule in list.rules_of(name) {
                let ranges = rule.ranges().filter_map(|range| range.within(wanted));
                match rule.effect {
                    EgressEffect::Deny => denied.extend(ranges),
                    EgressEffect::Ask if consent == Consent::None => {}
                    EgressEffect::Allow | EgressEffect::Ask => here.extend(ranges),
                }
            }
            allowed = Some(match allowed {
                None => here,
                Some(outer) => outer.iter().flat_map(|a| here.iter().filter_map(|b| b.within(*a))).collect(),
            });
        }
        let mut allowed = allowed.unwrap_or_default();
        allowed.sort_by_key(|range| range.rule);
        denied.sort_by_key(|range| range.ports.first);
        match allowed.iter().find(|range| !range.is_covered_by(&denied)) {
            Some(range) => Decision { allow: true, rule: range.rule },
            // Denied in part and allowed nowhere: what is missing is an allow.
            None if allowed.is_empty() && !wanted.is_covered_by(&denied) => Decision::DENY_DEFAULT,
            None => match denied.iter().map(|range| range.rule).min() {
                Some(rule) => Decision::deny(rule),
                None => Decision::DENY_DEFAULT,
            },
        }
    }
}

impl List {
    fn new(rules: Vec<NameRule>) -> Self {
        let mut list = Self::default();
        for rule in rules {
            let place = match &rule.pattern {
                Pattern::Exact(name) => list.exact.entry(name.as_bytes().into()).or_default(),
                Pattern::Below(name) => list.below.entry(name.as_bytes().into()).or_default(),
                Pattern::Any => &mut list.any,
            };
            place.push(rule);
        }
        list
    }

    fn rules_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a NameRule> {
        patterns_of(name.as_bytes()).flat_map(|pattern| {
            let found = match pattern {
                NamePattern::Exact(name) => self.exact.get(name),
                NamePattern::Below(name) => self.below.get(name),
                NamePattern::Any => Some(&self.any),
            };
            found.into_iter().flatten()
        })
    }
}

impl NameRule {
    fn ranges(&self) -> impl Iterator<Item = Range> {
        self.ports.iter().map(|ports| Range { ports: *ports, transport: self.transport, rule: self.rule })
    }
}

impl Range {
    /// The part of it that lies in `outer`, in the name of whichever of the two has one, `outer` first.
    fn within(self, outer: Self) -> Option<Self> {
        let ports = Ports {
            first: self.ports.first.max(outer.ports.first),
            last: self.ports.last.min(outer.ports.last),
        };
        let transport = match (self.transport, outer.transport) {
            (None, transport) | (transport, None) => transport,
            (Some(one), Some(other)) if one == other => Some(one),
            (Some(_), Some(_)) => return None,
        };
        let rule = if outer.rule == 0 { self.rule } else { outer.rule };
        (ports.first <= ports.last).then_some(Self { ports, transport, rule })
    }

    /// `others` are sorted by their first port, and of the same transport as this one.
    fn is_covered_by(self, others: &[Self]) -> bool {
        let mut from = u32::from(self.ports.first);
        for other in others {
            if u32::from(other.ports.first) <= from {
                from = from.max(u32::from(other.ports.last) + 1);
            }
        }
        from > u32::from(self.ports.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(pattern: &str, first: u16, last: u16, allow: bool, rule: u16) -> NameRule {
        let pattern = match pattern.strip_prefix("*.") {
            Some(base) => Pattern::Below(base.to_owned()),
            None if pattern == "*" => Pattern::Any,
            None => Pattern::Exact(pattern.to_owned()),
        };
        let transport = allow.then_some(Transport::Tcp);
        let effect = if allow { EgressEffect::Allow } else { EgressEffect::Deny };
        NameRule { pattern, ports: vec![Ports { first, last }], transport, effect, rule }
    }

    fn allowed(rule: u16) -> Decision {
        Decision { allow: true, rule }
    }

    #[test]
    fn a_name_is_allowed_at_its_ports_over_its_transport() {
        let names = Names::new(vec![vec![
            rule("api.example", 443, 443, true, 1),
            rule("*.example", 80, 80, true, 2),
        ]]);
        assert_eq!(names.decide("api.example", 443, Transport::Tcp), allowed(1));
        assert_eq!(names.decide("api.example", 443, Transport::Udp), Decision::DENY_DEFAULT);
        assert_eq!(names.decide("api.example", 80, Transport::Tcp), allowed(2));
        assert_eq!(names.decide("b.a.example", 80, Transport::Tcp), allowed(2));
        assert_eq!(names.decide("example", 80, Transport::Tcp), Decision::DENY_DEFAULT);
        assert_eq!(names.decide("b.example", 443, Transport::Tcp), Decision::DENY_DEFAULT);
        assert_eq!(names.decide_lookup("b.example"), allowed(2));
        assert_eq!(names.decide_lookup("api.example"), allowed(1));
        assert_eq!(names.decide_lookup("other.test"), Decision::DENY_DEFAULT);
        assert_eq!(names.decide_lookup("API.example"), Decision::DENY_DEFAULT, "names come folded");
    }

    #[test]
    fn deny_wins_and_says_so() {
        let names = Names::new(vec![vec![
            rule("*", 0, u16::MAX, true, 3),
            rule("*.evil.example", 0, u16::MAX, false, 1),
            rule("half.example", 0, 1023, false, 2),
        ]]);
        assert_eq!(names.decide_lookup("a.evil.example"), Decision::deny(1));
        assert_eq!(names.decide("a.evil.example", 443, Transport::Tcp), Decision::deny(1));
        assert_eq!(names.decide("half.example", 443, Transport::Tcp), Decision::deny(2));
        assert_eq!(names.decide("half.example", 8443, Transport::Tcp), allowed(3));
        assert_eq!(names.decide_lookup("half.example"), allowed(3));
    }

    #[test]
    fn lists_intersect_in_the_name_of_the_outer_one() {
        let outer = vec![rule("*.example", 1, 1000, true, 1)];
        let inner = vec![rule("a.example", 443, 2000, true, 2)];
        let names = Names::new(vec![outer, inner]);
        assert_eq!(names.decide("a.example", 443, Transport::Tcp), allowed(1));
        assert_eq!(names.decide("a.example", 80, Transport::Tcp), Decision::DENY_DEFAULT);
        assert_eq!(names.decide("a.example", 1500, Transport::Tcp), Decision::DENY_DEFAULT);
        assert_eq!(names.decide_lookup("a.example"), allowed(1));
        assert_eq!(names.decide_lookup("b.example"), Decision::DENY_DEFAULT);
        assert_eq!(Names::new(Vec::new()).decide_lookup("a.example"), Decision::DENY_DEFAULT);
    }

    fn any_rule() -> impl Strategy<Value = (String, u16, u16, EgressEffect, Option<bool>)> {
        let effects = vec![EgressEffect::Deny, EgressEffect::Allow, EgressEffect::Ask];
        let pattern = prop_oneof![Just("*".to_owned()), "(\\*\\.)?[ab](\\.[ab]){0,2}"];
        (pattern, 0_u16..8, 0_u16..4, proptest::sample::select(effects), any::<Option<bool>>())
    }

    /// Every rule is asked, in the words of `decide::name`.
    fn plain(lists: &[Vec<NameRule>], consent: Consent, name: &str, port: u16, transport: Transport) -> bool {
        let allows = |rule: &NameRule| match rule.effect {
            EgressEffect::Allow => true,
            EgressEffect::Ask => consent == Consent::Given,
            EgressEffect::Deny => false,
        };
        let holds = |rule: &NameRule| {
            let pattern = match &rule.pattern {
                Pattern::Exact(name) => NamePattern::Exact(name.as_bytes()),
                Pattern::Below(name) => NamePattern::Below(name.as_bytes()),
                Pattern::Any => NamePattern::Any,
            };
            govsandbox_ebpf::decide::name::matches(pattern, name.as_bytes())
                && rule.transport.is_none_or(|it| it == transport)
                && rule.ports.iter().any(|ports| ports.first <= port && port <= ports.last)
        };
        !lists.is_empty()
            && lists.iter().all(|list| list.iter().any(|rule| allows(rule) && holds(rule)))
            && !lists.iter().flatten().any(|rule| rule.effect == EgressEffect::Deny && holds(rule))
    }

    proptest! {
        #[test]
        fn tables_agree_with_asking_every_rule(
            lists in proptest::collection::vec(proptest::collection::vec(any_rule(), 0..6), 0..3),
            name in "[ab](\\.[ab]){0,3}",
            consent in proptest::sample::select(vec![Consent::None, Consent::Given]),
        ) {
            let mut number = 0;
            let lists: Vec<Vec<NameRule>> = lists.iter().map(|list| list.iter().map(|(pattern, first, more, effect, udp)| {
                number += 1;
                let transport = udp.map(|udp| if udp { Transport::Udp } else { Transport::Tcp });
                NameRule { transport, effect: *effect, ..rule(pattern, *first, first + more, true, number) }
            }).collect()).collect();
            let names = Names::new(lists.clone());
            let mut somewhere = false;
            for port in 0..16 {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let expected = plain(&lists, consent, &name, port, transport);
                    somewhere |= expected;
                    let decided = names.decide_with(consent, &name, port, transport);
                    prop_assert_eq!(decided.allow, expected, "{} {}", port, name);
                }
            }
            prop_assert_eq!(names.decide_lookup_with(consent, &name).allow, somewhere);
            let (without, with) = (names.decide_lookup(&name), names.decide_lookup_with(Consent::Given, &name));
            prop_assert_eq!(names.asks(&name).is_some(), without == Decision::DENY_DEFAULT && with.allow);
        }
    }

    #[test]
    fn ten_thousand_names_cost_what_ten_do() {
        let of = |count: u16| {
            let rules =
                (1..=count).map(|it| rule(&format!("host{it}.zone{}.example", it % 97), 443, 443, true, it));
            Names::new(vec![rules.collect()])
        };
        let names = of(10_000);
        // Not by the clock: what is looked at is what the name's own patterns lead to.
        let looked_at = names.lists[0].rules_of("host9999.zone8.example").count();
        assert_eq!(looked_at, 1);
        assert_eq!(names.decide("host9999.zone8.example", 443, Transport::Tcp), allowed(9999));
        assert_eq!(of(10).lists[0].rules_of("host9.zone9.example").count(), looked_at);
    }
}
