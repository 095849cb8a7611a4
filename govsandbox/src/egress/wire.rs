//! How messages travel: one JSON text in one packet.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Serialize, de::DeserializeOwned};

use crate::sys::packet;

/// Longest packet. The longest message is an [`Answer`](super::channel::Answer) with as many addresses as it may have.
const PACKET_BYTES_MAX: usize = 64 * 1024;

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
    use std::{net::IpAddr, os::fd::AsFd as _};

    use super::*;
    use crate::egress::{
        channel::{
            ADDRESSES_MAX, Answer, Event, Message, NAMES_MAX, OTHERS_MAX, Order, Origin, Outcome, Permission,
            Query, Question, Reply, Verdict,
        },
        names::Transport,
    };

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
        strict: true,
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
            permission: Some(Permission::RefusedByPerson),
            addresses: vec![ORIGIN.address; ADDRESSES_MAX],
            withheld: vec![ORIGIN.address; ADDRESSES_MAX],
        }));
        theirs.send(&query, None).unwrap();
        assert_eq!(ours.receive::<Message>().unwrap().unwrap().0, query);
        let verdict = Verdict {
            allow: true,
            rule: u16::MAX,
            names: vec![name.clone(); NAMES_MAX],
            meant: Some(name),
            others: vec![ORIGIN.address; OTHERS_MAX],
        };
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
