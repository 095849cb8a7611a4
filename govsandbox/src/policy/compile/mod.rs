//! What a policy comes to: paths and addresses with the rule behind each. No OS calls.

mod build;
mod display;
mod egress;
mod exec;
mod plan;
mod tell;
mod unix;

use std::{net::IpAddr, ops::Deref, path::PathBuf, sync::Arc};

pub use build::{CompileError, Outcome, compile};
pub use exec::{ExecEffect, ExecPlan, ExecProgram, ExecRule};
pub use unix::{UnixPlan, UnixRule, UnixSockets};

pub use super::rule::{path::ExpandedPath, proxy::ProxyUrl};

use govsandbox_ebpf::abi::rule::{Automaton, Hits, TraceOpens};

use super::git_config::Keys;
use crate::id::{RuleId, RuleIndex};

/// Devices that every sandbox may read and write unless denied: what Landlock grants and what is told of a refusal.
pub const OPEN_DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// Where a policy came from; the order is that of precedence, outermost first.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Compiled into the binary.
    Builtin,
    /// `/etc/govsandbox`.
    System,
    /// `~/.config/govsandbox`.
    User,
    /// The project's own file.
    Project,
    /// `-p` on the command line.
    Session,
}

/// `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Record what would have been denied.
    Audit,
    /// Refuse.
    Enforce,
}

/// `require`: the weakest backend accepted, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Require {
    /// Any backend.
    Any,
    /// One that root set up.
    Root,
    /// One whose verdicts are made in the kernel.
    Kernel,
}

/// `process.root`: what a plain root caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootPolicy {
    /// Uid 0 without a capability.
    Drop,
    /// No start.
    Refuse,
}

/// `process.userfaultfd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Userfaultfd {
    /// As the kernel has it.
    Allow,
    /// EPERM.
    Deny,
}

/// `network.verify`: how a connection to an allowed name is checked, the looser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verify {
    /// An address that the name has resolved to is enough.
    Address,
    /// Absent: as `sni` where a wildcard allows it, or where several names share an address; else as `address`, but that
    /// another name is refused where one is said on a port for TLS or HTTP.
    WhereShared,
    /// The name in the TLS or HTTP request is compared.
    Sni,
}

/// `network.namespace`, the looser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkNamespace {
    /// The machine's.
    Host,
    /// One with nothing but loopback: what is allowed goes through the relay.
    Own,
}

/// `network.icmp`: ping sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Icmp {
    /// Echo requests go to the addresses of allowed hosts.
    Allow,
    /// EPERM.
    Deny,
}

/// `network.dns_refusal`: how a name that is not allowed is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRefusal {
    /// There is no such name (RFC 1035, 4.1.1: RCODE 3).
    Nxdomain,
    /// The server refuses (RCODE 5).
    Refused,
}

/// Which forward proxy connections to names go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// `network.proxy`: this one.
    At(ProxyUrl),
    /// `network.proxy_from_env`: the one that govsandbox's own environment names, if it does.
    FromEnvironment,
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

/// `process.namespaces`, and with it mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespaces {
    /// The command may bring a sandbox of its own.
    Allow,
    /// EPERM.
    Deny,
}

/// One rule of the table, [`RuleIndex`] is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its name in events.
    pub id: RuleId,
    /// Where it was written.
    pub layer: Layer,
}

/// What a literal path rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEffect {
    /// `filesystem.deny`.
    Deny,
    /// `filesystem.protect`.
    Protect,
}

impl PathEffect {
    /// What an object meets that this rule alone matches.
    #[must_use]
    pub const fn hits(self, rule: RuleIndex) -> Hits {
        match self {
            Self::Deny => Hits { deny: rule.0, protect: 0 },
            Self::Protect => Hits { deny: 0, protect: rule.0 },
        }
    }
}

/// A path that is named in full. The file it resolves to is found when the sandbox is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteralRule {
    /// Absolute, variables replaced, `.` and doubled slashes gone, symlinks not yet followed.
    pub path: PathBuf,
    /// What is done with it.
    pub effect: PathEffect,
    /// The rule.
    pub rule: RuleIndex,
}

/// A glob rule; all of them together are the automaton.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobRule {
    /// Absolute pattern in the grammar of the policy, variables replaced: `/home/u/app/**/*.pem`, `/**/.env`.
    pub pattern: Vec<u8>,
    /// What is done with it.
    pub effect: PathEffect,
    /// The rule.
    pub rule: RuleIndex,
}

/// One entry of `filesystem.read` or `filesystem.write`: a literal path and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedPath {
    /// Absolute, as in [`LiteralRule::path`].
    pub path: PathBuf,
    /// The rule.
    pub rule: RuleIndex,
}

/// Allow-lists of one layer of the policy; an access needs all layers to allow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowLists {
    /// Readable (what is writable is readable too).
    pub read: Vec<AllowedPath>,
    /// Writable.
    pub write: Vec<AllowedPath>,
    /// There is no list of writable paths: as far as this policy goes everything may be changed. That makes nothing
    /// readable.
    pub any_write: Option<RuleIndex>,
}

/// The automaton of all glob rules. It is shared, never copied: a copy would touch megabytes that nothing ever reads.
#[derive(Clone, Debug)]
pub struct PathTable(Arc<TableMemory>);

#[derive(Debug)]
struct TableMemory(Box<Automaton>);

impl From<Box<Automaton>> for PathTable {
    fn from(automaton: Box<Automaton>) -> Self {
        Self(Arc::new(TableMemory(automaton)))
    }
}

impl Deref for PathTable {
    type Target = Automaton;

    fn deref(&self) -> &Automaton {
        &self.0.0
    }
}

/// Everything about files.
#[derive(Clone, Debug, Default)]
pub struct PathPlan {
    /// One for each layer that has lists; they intersect.
    pub allow: Vec<AllowLists>,
    /// Deny and protect rules without a wildcard.
    pub literals: Vec<LiteralRule>,
    /// Deny and protect rules with one.
    pub globs: Vec<GlobRule>,
    /// Protect rules that let keys of a git config change. Each other protect rule has a smaller number, so that a hit of
    /// one of these says that none of the others holds the file.
    pub keys: Vec<(RuleIndex, Keys)>,
}

impl PathPlan {
    /// What may change in a git config that this rule protects; `None`: nothing.
    #[must_use]
    pub fn keys_of(&self, rule: RuleIndex) -> Option<&Keys> {
        self.keys.iter().find(|(with_keys, _)| *with_keys == rule).map(|(_, keys)| keys)
    }
}

/// Protocol of an egress rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `IPPROTO_TCP`.
    Tcp,
    /// `IPPROTO_UDP`.
    Udp,
    /// Every protocol (deny rules).
    Any,
}

/// Ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First, host order.
    pub first: u16,
    /// Last.
    pub last: u16,
}

/// Whom an egress rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressTarget {
    /// Addresses; IPv4 as IPv4 (the filler maps it). `*` is `::/0`, which holds every v4-mapped address too.
    Network {
        /// Network address, host bits zero.
        address: IpAddr,
        /// Bits of the prefix: 0–32 for IPv4, 0–128 for IPv6.
        prefix_bits: u8,
    },
    /// An exact name, lower case, without a trailing dot.
    Name(String),
    /// What lies one label or more below this name, itself not.
    Below(String),
    /// `*`: every name and every address.
    Any,
}

/// What an egress rule does; what is denied is denied whatever else says, and what is allowed is not asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EgressEffect {
    /// `network.deny`.
    Deny,
    /// `network.allow`.
    Allow,
    /// `[[rule]]` with `effect = "ask"`.
    Ask,
}

/// One rule about egress; `localhost` arrives as its three networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// Whom.
    pub target: EgressTarget,
    /// Which ports; never empty.
    pub ports: Vec<PortRange>,
    /// Which protocol.
    pub protocol: Protocol,
    /// What it says of them.
    pub effect: EgressEffect,
    /// The rule.
    pub rule: RuleIndex,
}

/// Egress of one layer of the policy; a destination needs all layers to allow it, any layer's deny wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressLists {
    /// In the order of precedence.
    pub rules: Vec<EgressRule>,
}

/// Everything that the layers enforce and the log tells.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Name of the policy that was chosen.
    pub name: String,
    /// `sha256:` and the hex digest of the effective policy's canonical JSON.
    pub digest: String,
    /// `mode`.
    pub mode: Mode,
    /// `require`.
    pub require: Require,
    /// `process.root`.
    pub root: RootPolicy,
    /// `process.userfaultfd`.
    pub userfaultfd: Userfaultfd,
    /// `process.namespaces`.
    pub namespaces: Namespaces,
    /// The rules, by precedence; index 0 is [`RuleIndex`] 1.
    pub rules: Vec<RuleInfo>,
    /// Files.
    pub paths: PathPlan,
    /// Programs.
    pub exec: ExecPlan,
    /// Egress; one for each layer that has a `network` section, at least one.
    pub egress: Vec<EgressLists>,
    /// `network.verify`.
    pub verify: Verify,
    /// `network.namespace`.
    pub network_namespace: NetworkNamespace,
    /// `network.icmp`.
    pub icmp: Icmp,
    /// `network.dns_refusal`.
    pub dns_refusal: DnsRefusal,
    /// `network.ask_timeout`.
    pub ask_timeout: Seconds,
    /// `network.proxy`, `network.proxy_from_env`; `None`: servers are reached directly.
    pub proxy: Option<Proxy>,
    /// Own addresses where what comes from other machines may arrive; one for each layer that says so. Loopback aside.
    pub listen: Vec<EgressLists>,
    /// Unix sockets of others that may be reached.
    pub unix: UnixPlan,
    /// `trace.opens`.
    pub trace_opens: TraceOpens,
    /// `trace.args`.
    pub trace_args: bool,
    /// `audit.log`, absolute, variables replaced.
    pub audit_log: PathBuf,
    /// `audit.required`.
    pub audit_required: bool,
    /// `limits.pids_max`.
    pub pids_max: Option<Limit>,
    /// `limits.memory_max_bytes`.
    pub memory_max_bytes: Option<Limit>,
}

/// A bound, and who set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At most.
    pub max: u64,
    /// `POLICY/limits.…`.
    pub rule: RuleInfo,
}

impl Compiled {
    /// The rule of that place; `None` for 0 and for what the table has not.
    #[must_use]
    pub fn rule(&self, index: u16) -> Option<&RuleInfo> {
        self.rules.get(usize::from(index).checked_sub(1)?)
    }
}
