//! What the first bytes of a connection say. They are the sandbox's: anything may be in them.

use super::{http, tls};
use crate::egress::channel::Speech;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// 80 and 443: HTTP and TLS, and nothing else.
    Web,
    /// Whatever is allowed there by its address, unless it is TLS or HTTP.
    Other,
}

/// The first words of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It says whom it wants: lower case, no dot at the end.
    Named(Speech, String),
    /// It could have said so.
    Nameless(Speech),
    /// Neither TLS nor HTTP.
    Other,
    /// Begins like one of them and does not go on like it, or says two things.
    Malformed,
}

impl Port {
    pub(crate) fn of(port: u16) -> Self {
        if matches!(port, 80 | 443) { Self::Web } else { Self::Other }
    }
}

/// Reads what has come so far; `None`: more is needed to tell. What comes later changes nothing that was told.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Hello> {
    match bytes {
        [] => None,
        [tls::HANDSHAKE, ..] => tls::read(bytes),
        _ => http::read(bytes),
    }
}

/// Is it the beginning of something whose rest is on its way, whoever waits for what? Of TLS, and of a request of HTTP/1 from
/// its first line on, a client says all at once, and there are servers that take the end of the bytes for that of the head.
pub(super) fn is_half(bytes: &[u8]) -> bool {
    bytes.first() == Some(&tls::HANDSHAKE) || http::is_request(bytes)
}

/// A host as it is compared, from what a client wrote: folded, without the dot at its end. `None`: no name.
pub(super) fn folded(host: &str) -> Option<String> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    govsandbox_ebpf::decide::name::is_name(name.as_bytes()).then_some(name)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
