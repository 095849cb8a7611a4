//! Messages between the supervisor and the processes that it made: one `SOCK_SEQPACKET` packet each.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::error::{Failure, Stage};
use crate::sys::packet;

/// Longest packet: two numbers and a path.
const PACKET_BYTES_MAX: usize = 8192;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Init → supervisor, with a pidfd: the command's process exists. Supervisor → guardian, with a pidfd: the init.
    Process,
    /// Command → supervisor, with the performer's pidfd if there is one: everything is applied, it waits. Guardian → supervisor: it has the init. Performer → command:
    /// it serves.
    Ready,
    /// Supervisor → command: exec. Command → performer, with a listener: serve.
    Go,
    /// A step failed.
    Failed(Failure),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command ended with this status.
    Exited(i32),
    /// The command was ended by this signal.
    Signalled(i32),
    /// The offset of the file on this descriptor (0–2) after the run.
    Offset(i32, u64),
    /// Supervisor → guardian: it is over, the tree is gone.
    Done,
}

/// One end; `CLOEXEC`.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// A packet with what came along.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) descriptor: Option<OwnedFd>,
}

impl Channel {
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, None)
    }

    pub(super) fn send_with(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        packet::send(self.0.as_fd(), &encode(message), descriptor)
    }

    /// The next packet; `None` when the other end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<Received>> {
        let Some((bytes, descriptor)) = packet::receive(self.0.as_fd(), PACKET_BYTES_MAX)? else {
            return Ok(None);
        };
        let message =
            decode(&bytes).ok_or_else(|| io::Error::other("unknown message from inside the sandbox"))?;
        Ok(Some(Received { message, descriptor }))
    }
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

fn encode(message: &Message) -> Vec<u8> {
    let packet = |kind: u8, first: i32, rest: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend(first.to_ne_bytes());
        bytes.extend(rest.iter().take(PACKET_BYTES_MAX - 16));
        bytes
    };
    match message {
        Message::Process => packet(1, 0, &[]),
        Message::Ready => packet(2, 0, &[]),
        Message::Go => packet(3, 0, &[]),
        Message::Failed(failure) => {
            let mut rest = vec![failure.stage as u8];
            rest.extend(failure.object.as_bytes());
            packet(4, failure.errno, &rest)
        }
        Message::Stopped(signal) => packet(5, *signal, &[]),
        Message::Exited(status) => packet(6, *status, &[]),
        Message::Signalled(signal) => packet(7, *signal, &[]),
        Message::Offset(number, offset) => packet(8, *number, &offset.to_ne_bytes()),
        Message::Done => packet(9, 0, &[]),
    }
}

fn decode(bytes: &[u8]) -> Option<Message> {
    let (kind, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first_chunk::<4>()?;
    let first = i32::from_ne_bytes(*first);
    Some(match kind {
        1 => Message::Process,
        2 => Message::Ready,
        3 => Message::Go,
        4 => {
            let (stage, object) = rest.split_first()?;
            let object = String::from_utf8_lossy(object).into_owned();
            Message::Failed(Failure { stage: Stage::from_byte(*stage)?, errno: first, object })
        }
        5 => Message::Stopped(first),
        6 => Message::Exited(first),
        7 => Message::Signalled(first),
        8 => Message::Offset(first, u64::from_ne_bytes(rest.try_into().ok()?)),
        9 => Message::Done,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_out_as_it_went_in() {
        let failure = Failure { stage: Stage::Landlock, errno: 13, object: "/home/ü".to_owned() };
        for message in [
            Message::Process,
            Message::Ready,
            Message::Go,
            Message::Failed(failure),
            Message::Stopped(19),
            Message::Exited(3),
            Message::Signalled(9),
            Message::Offset(1, 1 << 40),
            Message::Done,
        ] {
            assert_eq!(decode(&encode(&message)), Some(message));
        }
    }

    #[test]
    fn garbage_is_no_message() {
        for bytes in [&[][..], &[1], &[99, 0, 0, 0, 0], &[4, 0, 0, 0, 0], &[4, 0, 0, 0, 0, 200]] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_descriptor_travels_with_a_message() {
        let (a, b) = Channel::pair().unwrap();
        a.send_with(&Message::Process, Some(std::io::stderr().as_fd())).unwrap();
        assert!(b.receive().unwrap().unwrap().descriptor.is_some());
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }
}
