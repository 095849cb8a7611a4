//! The first request of HTTP/2 without TLS ("prior knowledge", RFC 9113, 3.3), read by h2 as a server would: from bytes
//! that have come, with replies that go nowhere.

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    hello::{Hello, folded},
    http::{HEAD_BYTES_MAX, without_port},
};
use crate::egress::channel::Speech;

/// What the client says first, before frames (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// Header of a frame, whose first three bytes are the length of the rest (RFC 9113, 4.1).
const FRAME_HEADER_BYTES: usize = 9;

/// Reads a connection that begins with the preface; `None`: more is to come.
pub(super) fn read(bytes: &[u8]) -> Option<Hello> {
    let arrived = Rc::new(Cell::new(0));
    let stream = Arrived { bytes, at: 0, arrived: Rc::clone(&arrived) };
    let mut context = Context::from_waker(Waker::noop());
    let mut builder = Builder::new();
    builder.max_header_list_size(HEAD_BYTES_MAX as u32);
    let mut handshake = pin!(builder.handshake::<_, &'static [u8]>(stream));
    let mut connection = None;
    // Frame by frame: what is read of the first request is not to hang on what comes behind it.
    while let Some(end) = frame_end(bytes, arrived.get()) {
        arrived.set(end);
        if connection.is_none() {
            connection = match handshake.as_mut().poll(&mut context) {
                Poll::Pending => continue,
                Poll::Ready(Ok(connection)) => Some(connection),
                Poll::Ready(Err(_)) => return Some(Hello::Malformed),
            };
        }
        let Some(connection) = &mut connection else { continue };
        match connection.poll_accept(&mut context) {
            Poll::Pending => {}
            Poll::Ready(Some(Ok((request, _)))) => {
                let hosts = request.headers().get_all("host").iter().map(|value| value.to_str().ok());
                return Some(host(request.uri().authority().map(|it| it.as_str()), hosts));
            }
            Poll::Ready(Some(Err(_)) | None) => return Some(Hello::Malformed),
        }
    }
    (bytes.len() >= HEAD_BYTES_MAX).then_some(Hello::Malformed)
}

/// Where the frame ends that begins at `at`; at 0 the preface is. `None`: it has not arrived whole.
fn frame_end(bytes: &[u8], at: usize) -> Option<usize> {
    let end = match at {
        0 => PREFACE_BYTES,
        _ => {
            let [high, middle, low] = *bytes.get(at..)?.first_chunk()?;
            at + FRAME_HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize
        }
    };
    (end <= bytes.len()).then_some(end)
}

fn host<'a>(authority: Option<&str>, hosts: impl Iterator<Item = Option<&'a str>>) -> Hello {
    let name = |text: &str| without_port(text).and_then(folded);
    let mut said = authority.map(name).into_iter().chain(hosts.map(|host| host.and_then(name)));
    match said.next() {
        None => Hello::Nameless(Speech::Http2),
        // Two that differ: which of them counts is the server's taste.
        Some(Some(first)) if said.all(|it| it.as_ref() == Some(&first)) => Hello::Named(Speech::Http2, first),
        Some(_) => Hello::Malformed,
    }
}

/// What has arrived, and nothing after it for now.
struct Arrived<'a> {
    bytes: &'a [u8],
    at: usize,
    arrived: Rc<Cell<usize>>,
}

impl AsyncRead for Arrived<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.bytes.get(self.at..self.arrived.get()).unwrap_or_default();
        let part = rest.get(..rest.len().min(into.remaining())).unwrap_or_default();
        if part.is_empty() {
            return Poll::Pending;
        }
        into.put_slice(part);
        let length = part.len();
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Arrived<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
