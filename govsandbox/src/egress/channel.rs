//! What the service and its supervisor say to one another: one JSON text in one packet of a `SOCK_SEQPACKET` socket, a
//! descriptor along with it where one is due.
//!
//! The service reads bytes that the sandbox wrote, so its supervisor takes it for hostile: packets are bounded, what is
//! asked is checked against the policy once more, and nothing that it says is more than a name, an address or a number.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::names::{NameRule, Transport};
use crate::sys::packet;

/// Longest packet. The longest message is an [`Answer`] with [`ADDRESSES_MAX`] addresses.
const PACKET_BYTES_MAX: usize = 64 * 1024;
/// Addresses of one answer at most; what a server says beyond is left out.
pub const ADDRESSES_MAX: usize = 256;
/// Names in one [`Verdict`] at most.
pub const NAMES_MAX: usize = 64;

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
    /// A name that no rule allows or denies is asked about ([`super::Broker::permit`]) before it is refused.
    pub ask: bool,
    /// How long the supervisor may take for an answer; after that it is a no. `ask` makes it long.
    pub patience_ms: u64,
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
}

/// May a name be looked up that no rule is about? Asked only where [`Settings::ask`] says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// Who asked.
    pub origin: Origin,
    /// What for: lower case, no dot at the end.
    pub name: String,
}

/// The answer to [`Permit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permitted {
    /// It may be.
    pub allow: bool,
    /// The rule that decided; 0: none.
    pub rule: u16,
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
    /// What it resolved to, CNAMEs followed, with the time to live in seconds; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<(IpAddr, u32)>,
}

/// Which of the addresses the sandbox may know: those that the kernel lets it connect to by now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Some of the answer's; others are left out of it. What is private and in no range that the policy allows is not here.
    pub allowed: Vec<IpAddr>,
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
}

/// Something to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A lookup came to its end.
    Query(Query),
    /// A connection was reset.
    Reset(Reset),
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
    /// What was answered with.
    pub addresses: Vec<IpAddr>,
    /// Answered addresses that were left out: private ones, or the supervisor did not take them.
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
    /// It said nothing, or not enough, for too long.
    Silent,
    /// The address could not be reached.
    Unreachable(i32),
    /// The supervisor did not answer.
    Unanswered,
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

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// The supervisor's end and the service's; `CLOEXEC`.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    pub(super) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// # Errors
    /// As [`send`].
    pub(super) fn send(&self, message: &impl Serialize, along: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send(self.0.as_fd(), message, along)
    }

    /// # Errors
    /// As [`receive`].
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        receive(self.0.as_fd())
    }
}

/// # Errors
/// `E2BIG`: the message is longer than a packet may be. As `sendmsg(2)`.
pub(super) fn send(
    to: BorrowedFd<'_>,
    message: &impl Serialize,
    along: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > PACKET_BYTES_MAX {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    packet::send(to, &text, along)
}

/// The next message and its descriptor; `None`: the other end is gone.
///
/// # Errors
/// `InvalidData`: not a message. As `recvmsg(2)`.
pub(super) fn receive<T: DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let Some((text, along)) = packet::receive(from, PACKET_BYTES_MAX)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&text)?, along)))
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    const ORIGIN: Origin = Origin {
        cookie: u64::MAX,
        start_boot_ns: u64::MAX,
        tgid: u32::MAX,
        tid: u32::MAX,
        address: IpAddr::V6(std::net::Ipv6Addr::new(
            0x2001, 0xdb8, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
        )),
        port: u16::MAX,
        rule: u16::MAX,
        compared: true,
    };

    #[test]
    fn the_longest_messages_fit_in_a_packet() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_descriptor(theirs);
        let name = "a".repeat(253);
        let answer = Answer {
            origin: ORIGIN,
            name: name.clone(),
            rule: u16::MAX,
            addresses: vec![(ORIGIN.address, u32::MAX); ADDRESSES_MAX],
        };
        let asked = Message::Question(u64::MAX, Question::Answer(answer));
        theirs.send(&asked, None).unwrap();
        assert_eq!(ours.receive::<Message>().unwrap().unwrap().0, asked);
        let query = Message::Event(Event::Query(Query {
            origin: ORIGIN,
            transport: Transport::Tcp,
            // Each octet escaped: `\255`, and the backslash once more in JSON.
            name: "\\255".repeat(254),
            kind: "TYPE65535".to_owned(),
            outcome: Outcome::RefusedAddresses,
            rule: u16::MAX,
            would_deny: true,
            smuggling: true,
            addresses: vec![ORIGIN.address; ADDRESSES_MAX],
            withheld: vec![ORIGIN.address; ADDRESSES_MAX],
        }));
        theirs.send(&query, None).unwrap();
        assert_eq!(ours.receive::<Message>().unwrap().unwrap().0, query);
        let verdict = Verdict { allow: true, rule: u16::MAX, names: vec![name; NAMES_MAX] };
        let reply = Order::Reply(u64::MAX, Reply::Verify(verdict));
        ours.send(&reply, Some(std::io::stderr().as_fd())).unwrap();
        let (received, along) = theirs.receive::<Order>().unwrap().unwrap();
        assert_eq!((received, along.is_some()), (reply, true));
        drop(ours);
        assert!(theirs.receive::<Order>().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error_and_what_is_too_long_is_not_sent() {
        let (ours, theirs) = Channel::pair().unwrap();
        for text in ["", "{", "{\"question\":[1,{\"who\":{}}]}", "\"ready", "null", "{\"event\":\"x\"}"] {
            if !text.is_empty() {
                packet::send(theirs.as_fd(), text.as_bytes(), None).unwrap();
                assert!(ours.receive::<Message>().is_err(), "{text}");
            }
        }
        let long = Message::Failed("x".repeat(PACKET_BYTES_MAX));
        assert_eq!(ours.send(&long, None).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    }
}
