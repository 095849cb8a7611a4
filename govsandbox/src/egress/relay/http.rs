//! The head of a request of HTTP/1, read by httparse: the host that it names.

use httparse::{EMPTY_HEADER, Request, Status};

use super::{
    hello::{Hello, folded},
    http2,
};
use crate::egress::channel::Speech;

/// Longest head, as servers have it: nginx takes 32 KiB, Node 16.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers at most; Apache takes 100.
const HEADERS_MAX: usize = 128;
/// The preface of HTTP/2 begins with this method (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// Longest method: those of WebDAV and UPnP have fewer.
const METHOD_BYTES_MAX: usize = 32;

/// Reads a connection that may begin with a request; `None`: more is to come.
pub(super) fn read(bytes: &[u8]) -> Option<Hello> {
    // Servers and httparse pass over empty lines (RFC 9112, 2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let head = bytes.get(start..).unwrap_or_default();
    let method = head.iter().position(|byte| !is_token(*byte));
    match method {
        None if head.len() <= METHOD_BYTES_MAX => return None,
        // Lenient servers take other white space than the one blank.
        Some(length)
            if (1..=METHOD_BYTES_MAX).contains(&length)
                && head.get(length).is_some_and(|byte| is_space(*byte)) => {}
        None | Some(_) => return Some(Hello::Other),
    }
    if PREFACE.starts_with(head.get(..PREFACE.len()).unwrap_or(head)) {
        return if head.len() < PREFACE.len() { None } else { http2::read(head) };
    }
    let Some(line) = first_line(head) else {
        return if bytes.len() >= HEAD_BYTES_MAX { Some(Hello::Malformed) } else { None };
    };
    if !has_version(line) {
        return Some(Hello::Other);
    }
    let ends = head.windows(3).any(|part| part == b"\n\r\n") || head.windows(2).any(|part| part == b"\n\n");
    match ends {
        true => Some(parse(bytes)),
        false if bytes.len() >= HEAD_BYTES_MAX => Some(Hello::Malformed),
        false => None,
    }
}

/// Is its first line that of a request of HTTP/1?
pub(super) fn is_request(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let head = bytes.get(start..).unwrap_or_default();
    !head.starts_with(PREFACE) && first_line(head).is_some_and(has_version)
}

/// Without its end; `None`: it has none yet.
fn first_line(head: &[u8]) -> Option<&[u8]> {
    let line = head.get(..head.iter().position(|byte| *byte == b'\n')?)?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn has_version(line: &[u8]) -> bool {
    let is_version = |part: &[u8]| matches!(part, [space, rest @ ..] if is_space(*space) && rest.eq_ignore_ascii_case(b"HTTP/"));
    line.windows(b" HTTP/".len()).any(is_version)
}

/// `tchar` of RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
}

fn parse(bytes: &[u8]) -> Hello {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) | Err(_) => return Hello::Malformed,
    }
    let (Some(target), Some(method)) = (request.path, request.method) else { return Hello::Malformed };
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = match (hosts.next().map(|header| str::from_utf8(header.value)), hosts.next()) {
        (None, _) => None,
        (Some(Ok(host)), None) => Some(host.trim_matches([' ', '\t'])),
        // Two: which of them counts is the server's taste.
        (Some(_), _) => return Hello::Malformed,
    };
    // A target with a host in it counts more than the header (RFC 9112, 3.2.2), and to a tunnel it is all that counts.
    let in_target = match method {
        "CONNECT" => Some(target),
        _ => match target.split_once("://") {
            Some((scheme, rest))
                if scheme.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it)) =>
            {
                rest.split(['/', '?', '#']).next()
            }
            _ => None,
        },
    };
    let name = |authority: &str| without_port(authority).and_then(folded);
    match (host, in_target) {
        (None | Some(""), None) => Hello::Nameless(Speech::Http1),
        (Some(host), None) => name(host).map_or(Hello::Malformed, |it| Hello::Named(Speech::Http1, it)),
        (None | Some(""), Some(target)) => {
            name(target).map_or(Hello::Malformed, |it| Hello::Named(Speech::Http1, it))
        }
        (Some(host), Some(target)) => match (name(host), name(target)) {
            (Some(host), Some(target)) if host == target => Hello::Named(Speech::Http1, host),
            _ => Hello::Malformed,
        },
    }
}

/// `host` or `host:port`.
pub(super) fn without_port(authority: &str) -> Option<&str> {
    match authority.split_once(':') {
        None => Some(authority),
        Some((host, port)) => port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host),
    }
}
