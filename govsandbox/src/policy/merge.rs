//! How several files hold together, each value with where it came from.
//!
//! `extends` and repeated `-p` build one policy: lists are joined and the later scalar wins ([`Unit::join`]). That
//! policy, each of the machine's files and the project's file then hold together: an access needs every allow-list,
//! deny and protect are joined, the strictest scalar wins ([`layer`]).

use std::{path::PathBuf, sync::Arc};

use govsandbox_ebpf::abi::rule::TraceOpens;

use super::{
    check::Policy,
    compile::{
        DnsRefusal, Icmp, Layer, Mode, Namespaces, NetworkNamespace, Proxy, Require, RootPolicy, Seconds,
        Userfaultfd, Verify,
    },
    parse::Span,
    problem::Source,
    rule::{egress::EgressPattern, exec::ExecPattern, path::PathPattern, unix::UnixPattern},
};
use crate::id::RuleId;

/// `network.ask_timeout` where nobody says.
const ASK_TIMEOUT: Seconds = Seconds(30);

/// Where a value was written.
#[derive(Debug)]
pub struct Origin {
    /// Name of the policy.
    pub name: String,
    /// Its layer.
    pub layer: Layer,
    /// The file; `None` for what is compiled in.
    pub file: Option<PathBuf>,
    /// Its text.
    pub source: Source,
}

/// A single value and who gave it.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it was written; `None`: nobody did, it is the grammar's default.
    pub origin: Option<Arc<Origin>>,
}

/// One entry of a list.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// `POLICY/SECTION.KEY/INDEX`.
    pub id: RuleId,
    /// `SECTION.KEY`.
    pub key: &'static str,
    /// What it says.
    pub rule: T,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// And at which bytes.
    pub span: Span,
}

/// Rules. `None` is an absent list, which differs from an empty one.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// `filesystem.read`.
    pub read: Option<Vec<Entry<PathPattern>>>,
    /// `filesystem.write`.
    pub write: Option<Vec<Entry<PathPattern>>>,
    /// `filesystem.deny`.
    pub deny: Vec<Entry<PathPattern>>,
    /// `filesystem.protect`.
    pub protect: Vec<Entry<PathPattern>>,
    /// `exec.allow`.
    pub exec_allow: Option<Vec<Entry<ExecPattern>>>,
    /// `exec.deny`.
    pub exec_deny: Vec<Entry<ExecPattern>>,
    /// `network.allow`.
    pub network_allow: Option<Vec<Entry<EgressPattern>>>,
    /// `network.deny`.
    pub network_deny: Vec<Entry<EgressPattern>>,
    /// `[[rule]]` about hosts that are asked about.
    pub network_ask: Vec<Entry<EgressPattern>>,
    /// `network.listen`.
    pub network_listen: Option<Vec<Entry<EgressPattern>>>,
    /// `network.unix`.
    pub network_unix: Option<Vec<Entry<UnixPattern>>>,
}

/// Values that are not lists. `None` is absent.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "named like their keys")]
pub struct Scalars {
    pub mode: Option<Given<Mode>>,
    pub require: Option<Given<Require>>,
    pub root: Option<Given<RootPolicy>>,
    pub userfaultfd: Option<Given<Userfaultfd>>,
    pub namespaces: Option<Given<Namespaces>>,
    pub verify: Option<Given<Verify>>,
    pub network_namespace: Option<Given<NetworkNamespace>>,
    pub icmp: Option<Given<Icmp>>,
    pub dns_refusal: Option<Given<DnsRefusal>>,
    pub ask_timeout: Option<Given<Seconds>>,
    pub proxy: Option<Given<Proxy>>,
    pub trace_opens: Option<Given<TraceOpens>>,
    pub trace_args: Option<Given<bool>>,
    pub audit_log: Option<Given<PathPattern>>,
    pub audit_required: Option<Given<bool>>,
    pub pids_max: Option<Given<u64>>,
    pub memory_max_bytes: Option<Given<u64>>,
}

/// The values of a run: those given, and the grammar's defaults for the rest.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named like their keys")]
pub struct Settings {
    pub mode: Given<Mode>,
    pub require: Given<Require>,
    pub root: Given<RootPolicy>,
    pub userfaultfd: Given<Userfaultfd>,
    pub namespaces: Given<Namespaces>,
    pub verify: Given<Verify>,
    pub network_namespace: Given<NetworkNamespace>,
    pub icmp: Given<Icmp>,
    pub dns_refusal: Given<DnsRefusal>,
    pub ask_timeout: Given<Seconds>,
    pub proxy: Option<Given<Proxy>>,
    pub trace_opens: Given<TraceOpens>,
    pub trace_args: Given<bool>,
    pub audit_log: Option<Given<PathPattern>>,
    pub audit_required: Given<bool>,
    pub pids_max: Option<Given<u64>>,
    pub memory_max_bytes: Option<Given<u64>>,
}

/// Files that together are one policy.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Names of the policies that were asked for, with `+` between; what they extend is not named.
    pub name: String,
    /// Its rules.
    pub lists: Lists,
    /// Its single values.
    pub scalars: Scalars,
}

/// All policies of a run.
#[derive(Clone, Debug)]
pub struct Layered {
    /// Name and rules of each: the policy that was chosen, then what holds besides it, the machine's files and the
    /// project's. Never empty.
    pub policies: Vec<(String, Lists)>,
    /// The strictest of each.
    pub settings: Settings,
}

impl Unit {
    /// Joins files to one policy, in their order: what a file extends comes before it.
    #[must_use]
    pub fn join(name: String, policies: Vec<Policy>) -> Self {
        policies.into_iter().fold(Self { name, ..Self::default() }, |unit, policy| Self {
            name: unit.name,
            lists: unit.lists.join(policy.lists),
            scalars: unit.scalars.later(policy.scalars),
        })
    }
}

impl Lists {
    /// All path patterns.
    pub fn paths(&self) -> impl Iterator<Item = &Entry<PathPattern>> {
        let allowed = self.read.iter().chain(&self.write).flatten();
        allowed.chain(&self.deny).chain(&self.protect)
    }

    fn join(self, later: Self) -> Self {
        Self {
            read: joined_if_any(self.read, later.read),
            write: joined_if_any(self.write, later.write),
            deny: joined(self.deny, later.deny),
            protect: joined(self.protect, later.protect),
            exec_allow: joined_if_any(self.exec_allow, later.exec_allow),
            exec_deny: joined(self.exec_deny, later.exec_deny),
            network_allow: joined_if_any(self.network_allow, later.network_allow),
            network_deny: joined(self.network_deny, later.network_deny),
            network_ask: joined(self.network_ask, later.network_ask),
            network_listen: joined_if_any(self.network_listen, later.network_listen),
            network_unix: joined_if_any(self.network_unix, later.network_unix),
        }
    }
}

impl Scalars {
    /// Of each the later one, within one policy.
    fn later(self, later: Self) -> Self {
        Self {
            mode: later.mode.or(self.mode),
            require: later.require.or(self.require),
            root: later.root.or(self.root),
            userfaultfd: later.userfaultfd.or(self.userfaultfd),
            namespaces: later.namespaces.or(self.namespaces),
            verify: later.verify.or(self.verify),
            network_namespace: later.network_namespace.or(self.network_namespace),
            icmp: later.icmp.or(self.icmp),
            dns_refusal: later.dns_refusal.or(self.dns_refusal),
            ask_timeout: later.ask_timeout.or(self.ask_timeout),
            proxy: later.proxy.or(self.proxy),
            trace_opens: later.trace_opens.or(self.trace_opens),
            trace_args: later.trace_args.or(self.trace_args),
            audit_log: later.audit_log.or(self.audit_log),
            audit_required: later.audit_required.or(self.audit_required),
            pids_max: later.pids_max.or(self.pids_max),
            memory_max_bytes: later.memory_max_bytes.or(self.memory_max_bytes),
        }
    }

    /// The policy's own values; what it leaves out is the default, which no other policy can loosen.
    fn or_default(self) -> Settings {
        Settings {
            mode: self.mode.unwrap_or_else(|| Given::default(Mode::Enforce)),
            require: self.require.unwrap_or_else(|| Given::default(Require::Root)),
            root: self.root.unwrap_or_else(|| Given::default(RootPolicy::Drop)),
            userfaultfd: self.userfaultfd.unwrap_or_else(|| Given::default(Userfaultfd::Deny)),
            namespaces: self.namespaces.unwrap_or_else(|| Given::default(Namespaces::Deny)),
            verify: self.verify.unwrap_or_else(|| Given::default(Verify::WhereShared)),
            network_namespace: self
                .network_namespace
                .unwrap_or_else(|| Given::default(NetworkNamespace::Host)),
            icmp: self.icmp.unwrap_or_else(|| Given::default(Icmp::Deny)),
            dns_refusal: self.dns_refusal.unwrap_or_else(|| Given::default(DnsRefusal::Nxdomain)),
            ask_timeout: self.ask_timeout.unwrap_or_else(|| Given::default(ASK_TIMEOUT)),
            proxy: self.proxy,
            trace_opens: self.trace_opens.unwrap_or_else(|| Given::default(TraceOpens::First)),
            trace_args: self.trace_args.unwrap_or_else(|| Given::default(true)),
            audit_log: self.audit_log,
            audit_required: self.audit_required.unwrap_or_else(|| Given::default(false)),
            pids_max: self.pids_max,
            memory_max_bytes: self.memory_max_bytes,
        }
    }
}

impl Settings {
    /// Of each the strictest: what refuses more, records more or bounds lower. The log and the proxy have no order; the machine's own
    /// files decide over whatever was chosen.
    fn narrowed_by(self, other: Scalars) -> Self {
        fn decides<T>(ours: Option<&Given<T>>, other: Option<&Given<T>>) -> bool {
            other.is_some_and(Given::is_of_system) && !ours.is_some_and(Given::is_of_system)
        }
        let log_of_system = decides(self.audit_log.as_ref(), other.audit_log.as_ref());
        let proxy_of_system = decides(self.proxy.as_ref(), other.proxy.as_ref());
        Self {
            mode: self.mode.higher(other.mode, |mode| *mode),
            require: self.require.higher(other.require, |require| *require),
            root: self.root.higher(other.root, |root| *root),
            userfaultfd: self.userfaultfd.higher(other.userfaultfd, |userfaultfd| *userfaultfd),
            namespaces: self.namespaces.higher(other.namespaces, |namespaces| *namespaces),
            verify: self.verify.higher(other.verify, |verify| *verify),
            network_namespace: self.network_namespace.higher(other.network_namespace, |namespace| *namespace),
            icmp: self.icmp.higher(other.icmp, |icmp| *icmp),
            // Neither is stricter: whoever says it first.
            dns_refusal: match self.dns_refusal.origin {
                Some(_) => self.dns_refusal,
                None => other.dns_refusal.unwrap_or(self.dns_refusal),
            },
            ask_timeout: self.ask_timeout.higher(other.ask_timeout, |timeout| std::cmp::Reverse(*timeout)),
            proxy: if proxy_of_system { other.proxy } else { self.proxy },
            trace_opens: self.trace_opens.higher(other.trace_opens, |opens| recorded(*opens)),
            trace_args: self.trace_args.higher(other.trace_args, |args| *args),
            audit_log: if log_of_system { other.audit_log } else { self.audit_log },
            audit_required: self.audit_required.higher(other.audit_required, |required| *required),
            pids_max: lower(self.pids_max, other.pids_max),
            memory_max_bytes: lower(self.memory_max_bytes, other.memory_max_bytes),
        }
    }
}

impl<T> Given<T> {
    fn default(value: T) -> Self {
        Self { value, origin: None }
    }

    fn is_of_system(&self) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin.layer == Layer::System)
    }

    /// The one with the higher rank; of equals this one, so that who said it first is named.
    fn higher<K: Ord>(self, other: Option<Self>, rank: impl Fn(&T) -> K) -> Self {
        match other {
            Some(other) if rank(&other.value) > rank(&self.value) => other,
            _ => self,
        }
    }
}

/// Lays the machine's and the project's policies beside the chosen one.
#[must_use]
pub fn layer(chosen: Unit, others: Vec<Unit>) -> Layered {
    let mut settings = chosen.scalars.or_default();
    let mut policies = vec![(chosen.name, chosen.lists)];
    for other in others {
        settings = settings.narrowed_by(other.scalars);
        policies.push((other.name, other.lists));
    }
    Layered { policies, settings }
}

fn joined<T>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
    first.extend(second);
    first
}

fn joined_if_any<T>(first: Option<Vec<T>>, second: Option<Vec<T>>) -> Option<Vec<T>> {
    match (first, second) {
        (Some(first), Some(second)) => Some(joined(first, second)),
        (one, other) => one.or(other),
    }
}

/// The lower bound; an absent one bounds nothing.
fn lower(first: Option<Given<u64>>, second: Option<Given<u64>>) -> Option<Given<u64>> {
    match (first, second) {
        (Some(first), second) => Some(first.higher(second, |max| std::cmp::Reverse(*max))),
        (None, second) => second,
    }
}

/// How much is recorded, for comparison.
fn recorded(opens: TraceOpens) -> u8 {
    match opens {
        TraceOpens::Denied => 0,
        TraceOpens::Writes => 1,
        TraceOpens::First => 2,
        TraceOpens::All => 3,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scalars() -> impl Strategy<Value = Scalars> {
        fn given<T: Clone + std::fmt::Debug + 'static>(
            values: Vec<T>,
        ) -> impl Strategy<Value = Option<Given<T>>> {
            prop::option::of(prop::sample::select(values)).prop_map(|value| value.map(Given::default))
        }
        let opens = vec![TraceOpens::All, TraceOpens::First, TraceOpens::Writes, TraceOpens::Denied];
        let words = (
            given(vec![Mode::Audit, Mode::Enforce]),
            given(vec![Require::Any, Require::Root, Require::Kernel]),
            given(vec![RootPolicy::Drop, RootPolicy::Refuse]),
            given(vec![Userfaultfd::Allow, Userfaultfd::Deny]),
            given(vec![Namespaces::Allow, Namespaces::Deny]),
            given(opens),
        );
        let numbers =
            (given(vec![true, false]), given(vec![true, false]), given(vec![1, 2, 3]), given(vec![1, 2, 3]));
        let network = (
            given(vec![Verify::Address, Verify::WhereShared, Verify::Sni]),
            given(vec![NetworkNamespace::Host, NetworkNamespace::Own]),
            given(vec![DnsRefusal::Nxdomain, DnsRefusal::Refused]),
            given(vec![Icmp::Allow, Icmp::Deny]),
        );
        (words, network, numbers).prop_map(
            |(words, (verify, network_namespace, dns_refusal, icmp), numbers)| {
                let (mode, require, root, userfaultfd, namespaces, trace_opens) = words;
                let (trace_args, audit_required, pids_max, memory_max_bytes) = numbers;
                let audit_log = None;
                Scalars {
                    mode,
                    require,
                    root,
                    userfaultfd,
                    namespaces,
                    verify,
                    network_namespace,
                    icmp,
                    dns_refusal,
                    ask_timeout: None,
                    proxy: None,
                    trace_opens,
                    trace_args,
                    audit_log,
                    audit_required,
                    pids_max,
                    memory_max_bytes,
                }
            },
        )
    }

    /// Bigger is stricter in each place; an absent bound is the loosest.
    fn strictness(settings: &Settings) -> [u64; 13] {
        let bound = |max: &Option<Given<u64>>| u64::MAX - max.as_ref().map_or(u64::MAX, |max| max.value);
        [
            settings.mode.value as u64,
            settings.require.value as u64,
            settings.root.value as u64,
            settings.userfaultfd.value as u64,
            settings.namespaces.value as u64,
            settings.verify.value as u64,
            settings.network_namespace.value as u64,
            settings.icmp.value as u64,
            recorded(settings.trace_opens.value).into(),
            settings.trace_args.value.into(),
            settings.audit_required.value.into(),
            bound(&settings.pids_max),
            bound(&settings.memory_max_bytes),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn another_policy_never_loosens(chosen in scalars(), other in scalars()) {
            let alone = chosen.or_default();
            let (before, after) = (strictness(&alone), strictness(&alone.narrowed_by(other)));
            for (before, after) in before.into_iter().zip(after) {
                prop_assert!(after >= before);
            }
        }

        #[test]
        fn the_order_of_other_policies_does_not_matter(chosen in scalars(), a in scalars(), b in scalars()) {
            let chosen = chosen.or_default();
            let ab = chosen.clone().narrowed_by(a.clone()).narrowed_by(b.clone());
            let ba = chosen.narrowed_by(b).narrowed_by(a);
            prop_assert_eq!(strictness(&ab), strictness(&ba));
        }

        #[test]
        fn within_one_policy_the_later_value_wins(first in scalars(), second in scalars()) {
            let expected = second.mode.clone().or(first.mode.clone()).map(|mode| mode.value);
            prop_assert_eq!(first.later(second).mode.map(|mode| mode.value), expected);
        }
    }
}
