//! What the service and its supervisor say to one another: one JSON text in one packet of a `SOCK_SEQPACKET` socket, a
//! descriptor along with it where one is due.
//!
//! The service reads bytes that the sandbox wrote, so its supervisor takes it for hostile: packets are bounded, what is
//! asked is checked against the policy once more, and nothing that it says is more than a name, an address or a number.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::names::{NameRule, Transport};

/// Addresses of one answer at most; what a server says beyond is left out.
pub const ADDRESSES_MAX: usize = 256;
/// Names in one [`Verdict`] at most.
pub const NAMES_MAX: usize = 64;
/// Other addresses in one [`Verdict`] at most.
pub const OTHERS_MAX: usize = 8;

/// How a service is to behave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The rules about names, one list for each layer, the outer one first.
    pub lists: Vec<Vec<NameRule>>,
    /// What a lookup of a name that is not allowed gets.
    pub refusal: Refusal,
    /// `false`: nothing is refused, and told as if it were (`mode = "audit"`).
    pub enforce: bool,
    /// Whom it runs as; nobody else does.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
    /// How long somebody may take who is asked about what no rule allows or denies ([`super::Broker::permit`]); `None`:
    /// nobody is asked.
    pub ask_ms: Option<u64>,
    /// Where connections to names go through; `None`: they go to the servers themselves.
    pub proxy: Option<Proxy>,
    /// How long the supervisor may take for an answer of its own; after that it is a no.
    pub patience_ms: u64,
}

/// A forward proxy that takes CONNECT (RFC 9110, 9.3.6).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// A name, which the host's resolvers know, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Value of `Proxy-Authorization`. It is nobody's to see.
    pub authorization: Option<String>,
    /// Names that are reached directly all the same: each with what lies below it; `*` is all.
    pub direct: Vec<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Proxy({}:{})", self.host, self.port)
    }
}

impl Proxy {
    /// Is it for this name?
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        let is_below = |direct: &str| {
            name.strip_suffix(direct).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        !self.direct.iter().any(|direct| direct == "*" || is_below(direct))
    }
}

/// `network.dns_refusal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// There is no such name: programs give up at once.
    #[default]
    Nxdomain,
    /// REFUSED: programs try the next server.
    Refused,
}

/// One of the sockets that a service is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Listens on 127.0.0.1, for connections that were led to the relay.
    Relay4,
    /// Listens on ::1.
    Relay6,
    /// Any IPv4 address of `lo`: each server that was asked has one.
    Dns4Udp,
    /// Listens on 127.0.0.1.
    Dns4Tcp,
    /// Listens on ::1.
    Dns6Tcp,
    /// ::1; one for each server that was asked.
    Dns6Udp,
}

/// Supervisor → service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// With a socket.
    Socket(Place),
    /// With a file that has [`Settings`] as JSON. Serving begins.
    Begin,
    /// With a file that has [`Resolvers`] as JSON: what the host's files say now.
    Resolvers,
    /// The reply to the question of this number.
    Reply(u64, Reply),
}

/// How the host resolves names: the files themselves, since the service can't read any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolvers {
    /// resolv.conf(5).
    pub(super) resolv_conf: String,
    /// hosts(5).
    pub(super) hosts: String,
}

/// Service → supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Message {
    /// It is confined and serves.
    Ready,
    /// It ends because this could not be done.
    Failed(String),
    /// To be replied to, by the number.
    Question(u64, Question),
    /// Not replied to.
    Event(Event),
}

/// See [`super::Broker`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Question {
    Who(Who),
    Permit(Permit),
    Answer(Answer),
    Verify(Verify),
}

/// The reply to the question of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Who`].
    Who(Option<Origin>),
    /// To [`Permit`].
    Permit(Permitted),
    /// To [`Answer`].
    Answer(Entered),
    /// To [`Verify`].
    Verify(Verdict),
}

/// Whose is the socket at the other end?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// TCP or UDP.
    pub transport: Transport,
    /// The service's end: of UDP the very address that was asked.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

/// A socket of the sandbox that was led to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The socket's cookie.
    pub cookie: u64,
    /// When the process that connected or sent began, ns since boot; 0: not known.
    pub start_boot_ns: u64,
    /// That process, as the initial pid namespace sees it.
    pub tgid: u32,
    /// Its thread.
    pub tid: u32,
    /// Whereto it wanted.
    pub address: IpAddr,
    /// At this port, host order.
    pub port: u16,
    /// The rule that led it here; 0: none.
    pub rule: u16,
    /// Whom a connection says it talks to is compared with whose address it is; `false`: the address alone is allowed.
    pub compared: bool,
    /// On a port for TLS and HTTP nothing else is spoken, and whom it talks to is said.
    pub strict: bool,
}

/// May it go on, where somebody may have to be asked? Only where [`Settings::ask_ms`] says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// Who wants it.
    pub origin: Origin,
    /// The lookup of this name: lower case, no dot at the end. `None`: the connection to where the origin wanted.
    pub name: Option<String>,
}

/// The answer to [`Permit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permitted {
    /// May it?
    pub permission: Permission,
    /// The rule that decided; 0: none.
    pub rule: u16,
}

/// Whether something may go on, and if not why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// It may.
    Allowed,
    /// By a rule, or by none.
    #[default]
    Refused,
    /// Somebody said no.
    RefusedByPerson,
    /// Nobody said anything in time.
    NoAnswer,
    /// Too much is asked already.
    Crowded,
    /// The same is asked again meanwhile, and that one gets the answer.
    Joined,
}

/// A name that is allowed has these addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who asked.
    pub origin: Origin,
    /// What was asked for: lower case, no dot at the end.
    pub name: String,
    /// The rule that allows the name; 0: none, in a mode that refuses nothing.
    pub rule: u16,
    /// What it resolved to, CNAMEs followed, with the time to live in seconds; at most [`ADDRESSES_MAX`]. None: it resolves to
    /// nothing here, and where there is a proxy for it an address is given that stands for it.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// Which of the addresses the sandbox may know: those that the kernel lets it connect to by now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Some of the answer's; others are left out of it. What is private and in no range that the policy allows is not here.
    pub allowed: Vec<IpAddr>,
    /// Some are left out because there is no room for more.
    pub full: bool,
}

/// May this connection go on?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Whose connection, and whereto.
    pub origin: Origin,
    /// Whom it says it wants to talk to: lower case, no dot at the end. `None`: it does not say.
    pub name: Option<String>,
    /// Where it says so.
    pub speech: Speech,
}

/// The answer to [`Verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `true` also where a mode refuses nothing.
    pub allow: bool,
    /// The rule that decided; 0: none.
    pub rule: u16,
    /// The names whose address it is, for the event; at most [`NAMES_MAX`].
    pub names: Vec<String>,
    /// The one that is meant, for a proxy; `None`: an address is meant.
    pub meant: Option<String>,
    /// Where else the connection may go: addresses that the name that was said has too and that are allowed at that port;
    /// of a connection that says none, where the address has one name alone. At most [`OTHERS_MAX`], of either family.
    pub others: Vec<IpAddr>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speech {
    /// A ClientHello.
    Tls,
    /// A request of HTTP/1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// Neither.
    Other,
    /// Not looked at: the address alone is allowed.
    Unseen,
}

/// Something to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A lookup came to its end.
    Query(Query),
    /// A connection was reset.
    Reset(Reset),
    /// Where a connection wanted to nobody answered, and it went to another address of the name.
    Elsewhere {
        /// Whose, and whereto.
        origin: Origin,
        /// That other address.
        address: IpAddr,
        /// Why the first could not be reached; `None`: it did not answer in time.
        errno: Option<i32>,
    },
    /// So many were turned away since the last event of this kind, because there were too many at once.
    Limited {
        /// What there was too much of.
        what: Limit,
        /// How many.
        count: u64,
    },
    /// A connection or a datagram that is not the sandbox's; nothing was answered.
    Stranger(Who),
}

/// One lookup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Who asked, and which server.
    pub origin: Origin,
    /// TCP or UDP.
    pub transport: Transport,
    /// What for, as text: lower case, no dot at the end, odd bytes escaped. Empty: the packet names nothing.
    pub name: String,
    /// The type's mnemonic (`AAAA`, `TYPE65280`).
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The rule that decided; 0: none.
    pub rule: u16,
    /// Would have been refused, if the mode refused anything.
    pub would_deny: bool,
    /// The name looks as if data were hidden in it.
    pub smuggling: bool,
    /// Why it was refused, where somebody may have been asked.
    pub permission: Option<Permission>,
    /// What was answered with.
    pub addresses: Vec<IpAddr>,
    /// Answered addresses that were left out: private ones, or there was no room for them.
    pub withheld: Vec<IpAddr>,
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With records.
    Answered,
    /// There is no such name or no record of that type.
    Empty,
    /// No rule allows the name, or one denies it.
    Refused,
    /// One in its chain of CNAMEs is denied.
    RefusedAlias,
    /// All that it resolves to is private, and the policy does not name that range.
    RefusedAddresses,
    /// There is no room for its addresses.
    RefusedRoom,
    /// A type or operation that nobody needs (`ANY`, `AXFR`, updates).
    RefusedKind,
    /// No packet of DNS.
    Malformed,
    /// No server answered, or none as it should.
    Failed,
}

/// One connection that was reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// Whose, and whereto.
    pub origin: Origin,
    /// Why.
    pub reason: ResetReason,
    /// Whom it named.
    pub seen: Option<String>,
    /// Whose address it is, at most [`NAMES_MAX`].
    pub expected: Vec<String>,
    /// The rule that decided; 0: none.
    pub rule: u16,
}

/// Why a connection was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// The name is none of those that the address has and the policy allows.
    Name,
    /// It names nobody.
    NoName,
    /// Begins like TLS or HTTP, and is neither.
    Malformed,
    /// Neither TLS nor HTTP, on a port that is for these.
    Protocol,
    /// Nobody allowed it.
    Permission(Permission),
    /// The proxy did not pass it on.
    Proxy(ProxyFault),
    /// It said nothing, or not enough, for too long.
    Silent,
    /// The address could not be reached.
    Unreachable(i32),
    /// The supervisor did not answer.
    Unanswered,
}

/// Why a proxy did not pass a connection on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyFault {
    /// Its name has no address.
    Unknown,
    /// It could not be reached.
    Unreachable(i32),
    /// It answered with this status.
    Status(u16),
    /// It closed the connection.
    Closed,
    /// It did not answer in time.
    Silent,
    /// What it says is no answer of HTTP, or too long.
    Malformed,
}

/// What there can be too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Lookups in flight.
    Queries,
    /// TCP connections for lookups.
    DnsConnections,
    /// Connections through the relay.
    Connections,
    /// Events that wait to be told; these are lost.
    Events,
}
