//! Connections through a forward proxy: CONNECT (RFC 9110, 9.3.6), then it is a connection like others.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};

use hickory_proto::rr::RecordType;
use httparse::{EMPTY_HEADER, Response, Status};
use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

use crate::egress::{
    channel::{Proxy, ProxyFault},
    service::Shared,
};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// For all of it; proxies try for as long to reach a server.
const PATIENCE: Duration = Duration::from_secs(60);
/// For one of its addresses.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at an answer that comes in pieces.
const PAUSE: Duration = Duration::from_millis(10);

/// A connection to this name and port, by way of the proxy.
pub(super) async fn connect(
    shared: &Shared,
    proxy: &Proxy,
    name: &str,
    port: u16,
) -> Result<TcpStream, ProxyFault> {
    let connected = async {
        let mut stream = reach(shared, proxy).await?;
        stream.write_all(request(proxy, name, port).as_bytes()).await.map_err(|error| fault(&error))?;
        answer(&mut stream).await?;
        Ok(stream)
    };
    timeout(PATIENCE, connected).await.unwrap_or(Err(ProxyFault::Silent))
}

/// Names are of letters, digits, `-`, `_` and dots alone: rules have no others.
fn request(proxy: &Proxy, name: &str, port: u16) -> String {
    let authorization = match &proxy.authorization {
        Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        None => String::new(),
    };
    format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n{authorization}\r\n")
}

async fn reach(shared: &Shared, proxy: &Proxy) -> Result<TcpStream, ProxyFault> {
    let mut why = ProxyFault::Unknown;
    // Nobody waits for the addresses of IPv6 where those of IPv4 do.
    for kind in [RecordType::A, RecordType::AAAA] {
        for address in addresses(shared, &proxy.host, kind).await {
            let connected = TcpStream::connect(SocketAddr::new(address, proxy.port));
            let errno = match timeout(ADDRESS_PATIENCE, connected).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error.raw_os_error().unwrap_or(0),
                Err(_) => libc::ETIMEDOUT,
            };
            why = ProxyFault::Unreachable(errno);
        }
    }
    Err(why)
}

/// Of the first of the host's names that has any.
async fn addresses(shared: &Shared, host: &str, kind: RecordType) -> Vec<IpAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return if address.is_ipv4() == (kind == RecordType::A) { vec![address] } else { Vec::new() };
    }
    let upstream = shared.upstream.borrow().clone();
    for name in upstream.spellings(host) {
        let records = upstream.lookup(&name, kind).await.unwrap_or_default();
        let found: Vec<_> = records.iter().filter_map(|record| record.data.ip_addr()).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Takes the answer's head from the socket, and nothing of what comes behind it.
async fn answer(stream: &mut TcpStream) -> Result<(), ProxyFault> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut seen = 0;
    loop {
        // Before the look: what comes with the close is seen by it.
        let ready = stream.ready(Interest::READABLE).await.map_err(|error| fault(&error))?;
        let is_closed = ready.is_read_closed();
        let peek = || {
            let (_, bytes) =
                recv(stream.as_fd(), head.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            Ok(bytes)
        };
        let bytes = stream.async_io(Interest::READABLE, peek).await.map_err(|error| fault(&error))?;
        if bytes == 0 {
            return Err(ProxyFault::Closed);
        }
        match status(head.get(..bytes).unwrap_or_default())? {
            Some((length, status)) => {
                let mut taken = vec![0; length];
                stream.read_exact(&mut taken).await.map_err(|error| fault(&error))?;
                match status {
                    200..=299 => return Ok(()),
                    100..=199 if status != 101 => seen = 0, // another answer follows (RFC 9110, 15.2)
                    refused => return Err(ProxyFault::Status(refused)),
                }
            }
            None if bytes == HEAD_BYTES_MAX => return Err(ProxyFault::Malformed),
            // It stays readable while nothing more comes.
            None if bytes == seen && is_closed => return Err(ProxyFault::Closed),
            None => {
                seen = bytes;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The head's length and the status; `None`: more is to come.
fn status(bytes: &[u8]) -> Result<Option<(usize, u16)>, ProxyFault> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(Status::Complete(length)) => match response.code {
            Some(code) => Ok(Some((length, code))),
            None => Err(ProxyFault::Malformed),
        },
        Ok(Status::Partial) => Ok(None),
        Err(_) => Err(ProxyFault::Malformed),
    }
}

fn fault(error: &io::Error) -> ProxyFault {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::EPIPE) | None => ProxyFault::Closed,
        Some(errno) => ProxyFault::Unreachable(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_names_whom_and_who() {
        let proxy = Proxy {
            host: "proxy".to_owned(),
            port: 3128,
            authorization: Some("Basic eA==".to_owned()),
            direct: Vec::new(),
        };
        let expected = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic eA==\r\n\r\n";
        assert_eq!(request(&proxy, "a.example", 443), expected);
        assert!(!format!("{proxy:?}").contains("eA"));
    }

    #[test]
    fn an_answer_is_whole_or_waited_for_or_none() {
        let whole = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nSSH-2.0";
        assert_eq!(status(whole), Ok(Some((whole.len() - 7, 200))));
        for cut in 0..whole.len() - 7 {
            assert_eq!(status(&whole[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(status(b"HTTP/1.0 407 no\r\n\r\n"), Ok(Some((19, 407))));
        for text in
            [&b"SSH-2.0-OpenSSH\r\n"[..], b"\x16\x03\x01", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 2x0 \r\n\r\n"]
        {
            assert_eq!(status(text), Err(ProxyFault::Malformed), "{text:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(status(many.as_bytes()), Err(ProxyFault::Malformed));
    }

    #[test]
    fn names_without_a_proxy_are_those_below_too() {
        let direct = ["corp.example", "x"].map(str::to_owned).to_vec();
        let proxy = Proxy { host: String::new(), port: 1, authorization: None, direct };
        for (name, is_for) in [
            ("corp.example", false),
            ("a.corp.example", false),
            ("acorp.example", true),
            ("example", true),
            ("x", false),
        ] {
            assert_eq!(proxy.is_for(name), is_for, "{name}");
        }
        assert!(!Proxy { direct: vec!["*".to_owned()], ..proxy }.is_for("a"));
    }
}
