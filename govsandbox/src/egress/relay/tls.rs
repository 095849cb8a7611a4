//! ClientHello, read by rustls. What is done here is only to tell whether it has arrived whole, so that nothing is kept
//! for those that have not.

use rustls::server::Acceptor;

use super::hello::{Hello, folded};
use crate::egress::channel::Speech;

/// Content type of a record that has handshake messages (RFC 8446, 5.1).
pub(super) const HANDSHAKE: u8 = 22;
/// Type of a ClientHello (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// First octet of the version in every record of SSL 3.0 and TLS.
const MAJOR_VERSION: u8 = 3;
const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;
/// Longest record (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Longest ClientHello: what rustls takes, and OpenSSL's is the same but for some bytes.
const HELLO_BYTES_MAX: usize = 0xffff;

/// Reads a connection that begins with [`HANDSHAKE`]; `None`: more is to come.
pub(super) fn read(bytes: &[u8]) -> Option<Hello> {
    match extent(bytes) {
        Extent::Partial => None,
        Extent::Other => Some(Hello::Other),
        Extent::Malformed => Some(Hello::Malformed),
        Extent::Whole(length) => Some(parse(bytes.get(..length).unwrap_or(bytes))),
    }
}

/// How far a ClientHello goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// To the end of the record with this many bytes before it.
    Whole(usize),
    Partial,
    Other,
    Malformed,
}

fn extent(bytes: &[u8]) -> Extent {
    let (mut at, mut message) = (0, Message::default());
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match (at, rest) {
            (0, [_, version, ..]) if *version != MAJOR_VERSION => return Extent::Other,
            (_, [kind, ..]) if *kind != HANDSHAKE => return Extent::Malformed,
            (_, [_, version, ..]) if *version != MAJOR_VERSION => return Extent::Malformed,
            _ => {}
        }
        let Some(&[_, _, _, high, low]) = rest.get(..RECORD_HEADER_BYTES) else { return Extent::Partial };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Extent::Malformed;
        }
        let body = rest.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let arrived = body.get(..length).unwrap_or(body);
        message.take(arrived);
        match message.length() {
            Some(Err(NotHello)) => return Extent::Malformed,
            Some(Ok(needed)) if message.bytes >= needed => {
                return Extent::Whole(at + RECORD_HEADER_BYTES + length);
            }
            Some(Ok(_)) | None if arrived.len() < length => return Extent::Partial,
            Some(Ok(_)) | None => at += RECORD_HEADER_BYTES + length,
        }
    }
}

/// A handshake message across records.
#[derive(Default)]
struct Message {
    header: [u8; MESSAGE_HEADER_BYTES],
    bytes: usize,
}

/// Another message, or one that is too long.
struct NotHello;

impl Message {
    fn take(&mut self, part: &[u8]) {
        for (slot, byte) in self.header.iter_mut().skip(self.bytes).zip(part) {
            *slot = *byte;
        }
        self.bytes += part.len();
    }

    /// Of the whole message with its header.
    fn length(&self) -> Option<Result<usize, NotHello>> {
        let [kind, high, middle, low] = self.header;
        if self.bytes > 0 && kind != CLIENT_HELLO {
            return Some(Err(NotHello));
        }
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        match self.bytes {
            0..MESSAGE_HEADER_BYTES => None,
            _ if length > HELLO_BYTES_MAX => Some(Err(NotHello)),
            _ => Some(Ok(length + MESSAGE_HEADER_BYTES)),
        }
    }
}

fn parse(mut bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Hello::Malformed;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return match accepted.client_hello().server_name() {
                    Some(name) => folded(name).map_or(Hello::Malformed, |it| Hello::Named(Speech::Tls, it)),
                    None => Hello::Nameless(Speech::Tls),
                };
            }
            Ok(None) => {}
            Err(_) => return Hello::Malformed,
        }
    }
    Hello::Malformed
}
