//! The forwarder: every lookup of the sandbox arrives here, whichever server it was for.

use std::{io, net::SocketAddr, os::fd::AsFd as _, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::question::Parsed;
use super::{
    accept::accept,
    channel::{Event, Limit, Who},
    names::Transport,
    service::Shared,
};
use crate::sys::datagram;

mod lookup;
mod question;
mod records;
mod reply;
mod smuggling;
mod upstream;

pub(super) use self::upstream::Upstream;

/// Longest query over UDP: what is longer comes over TCP.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Lookups in flight; one holds some KiB.
const QUERIES_MAX: usize = 1024;
/// TCP connections for lookups.
const CONNECTIONS_MAX: usize = 256;
/// How long a TCP connection may say nothing, and how long a whole query may take to arrive or a reply to leave.
const IDLE: Duration = Duration::from_secs(10);

/// What all sockets share.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

/// Lookups over UDP at any IPv4 address of `lo`.
pub(super) async fn serve_udp4(socket: UdpSocket, shared: Rc<Shared>, limits: Limits) -> io::Result<()> {
    let socket = Rc::new(socket);
    let port = socket.local_addr()?.port();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let receive = || datagram::receive(socket.as_fd(), &mut buffer);
        // An error is one of this datagram, or of a reply that could not be delivered before.
        let Ok(received) = socket.async_io(Interest::READABLE, receive).await else { continue };
        let Some(permit) = admit(&limits.queries, Limit::Queries, &shared) else { continue };
        let packet = buffer.get(..received.bytes).unwrap_or_default().to_vec();
        let who = Who {
            transport: Transport::Udp,
            local: SocketAddr::new(received.to.into(), port),
            peer: received.from.into(),
        };
        let (socket, shared) = (Rc::clone(&socket), Rc::clone(&shared));
        tokio::task::spawn_local(async move {
            if let Some(reply) = answer(&shared, &packet, who).await {
                let send = || datagram::send(socket.as_fd(), &reply, received.to, received.from);
                drop(socket.async_io(Interest::WRITABLE, send).await); // whoever asked may be gone
            }
            drop(permit);
        });
    }
}

/// Lookups over UDP at one port of `::1`.
pub(super) async fn serve_udp6(socket: UdpSocket, shared: Rc<Shared>, limits: Limits) -> io::Result<()> {
    let socket = Rc::new(socket);
    let local = socket.local_addr()?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((bytes, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(permit) = admit(&limits.queries, Limit::Queries, &shared) else { continue };
        let packet = buffer.get(..bytes).unwrap_or_default().to_vec();
        let (socket, shared) = (Rc::clone(&socket), Rc::clone(&shared));
        tokio::task::spawn_local(async move {
            if let Some(reply) =
                answer(&shared, &packet, Who { transport: Transport::Udp, local, peer }).await
            {
                drop(socket.send_to(&reply, peer).await); // whoever asked may be gone
            }
            drop(permit);
        });
    }
}

/// Lookups over TCP.
pub(super) async fn serve_tcp(listener: TcpListener, shared: Rc<Shared>, limits: Limits) -> io::Result<()> {
    loop {
        let (stream, peer) = accept(&listener).await?;
        let Some(permit) = admit(&limits.connections, Limit::DnsConnections, &shared) else { continue };
        let (shared, limits) = (Rc::clone(&shared), limits.clone());
        tokio::task::spawn_local(async move {
            drop(converse(stream, peer, &shared, &limits).await); // whatever went wrong, the connection ends
            drop(permit);
        });
    }
}

/// One query after the other, each with two bytes of length before it (RFC 1035, 4.2.2).
async fn converse(
    mut stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    limits: &Limits,
) -> io::Result<()> {
    let who = Who { transport: Transport::Tcp, local: stream.local_addr()?, peer };
    let mut packet = Vec::new();
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        packet.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let Some(_permit) = admit(&limits.queries, Limit::Queries, shared) else { return Ok(()) };
        let Some(reply) = answer(shared, &packet, who).await else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

fn admit(to: &Arc<Semaphore>, what: Limit, shared: &Shared) -> Option<OwnedSemaphorePermit> {
    let permit = Arc::clone(to).try_acquire_owned().ok();
    if permit.is_none() {
        shared.supervisor.count(what);
    }
    permit
}

/// The reply to one packet; `None`: it gets none.
async fn answer(shared: &Shared, packet: &[u8], who: Who) -> Option<Vec<u8>> {
    let parsed = question::parse(packet);
    if matches!(parsed, Parsed::Nothing) {
        return None;
    }
    let Some(origin) = shared.supervisor.who(who).await else {
        shared.supervisor.tell(Event::Stranger(who));
        return None;
    };
    let (reply, query) = lookup::lookup(shared, parsed, origin, who.transport).await?;
    shared.supervisor.tell(Event::Query(query));
    Some(reply)
}
