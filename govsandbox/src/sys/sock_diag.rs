//! Which socket of this network namespace has a pair of addresses: `NETLINK_SOCK_DIAG` (sock_diag(7)).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

/// An answer about one socket without extensions is some hundred bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// Every bit set: any socket, not the one of a cookie that is known (`INET_DIAG_NOCOOKIE`, inet_diag.h).
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Protocol of the socket that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A connection.
    Tcp,
    /// Datagrams; also a socket that is not connected.
    Udp,
}

/// Asks the kernel; one request at a time.
pub(crate) struct SockDiag {
    socket: Socket,
    sequence: u32,
}

impl SockDiag {
    /// # Errors
    /// When the kernel has no such netlink family.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Cookie of the socket at `local` that has `remote` as its peer, or would get a datagram from there; `None`: there
    /// is none. The cookie is what `SO_COOKIE` and `bpf_get_socket_cookie` say, and never another socket's.
    ///
    /// # Errors
    /// When the kernel can't be asked: its modules `tcp_diag` and `udp_diag` are missing, say.
    pub(crate) fn cookie(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> io::Result<Option<u64>> {
        let (local, remote) = same_family(local, remote);
        // For datagrams the two are swapped, "for historical reasons" (net/ipv4/udp_diag.c).
        let (source, destination) = match protocol {
            Protocol::Tcp => (local, remote),
            Protocol::Udp => (remote, local),
        };
        let request = InetRequest {
            family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: match protocol {
                Protocol::Tcp => IPPROTO_TCP,
                Protocol::Udp => IPPROTO_UDP,
            },
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: source.port(),
                destination_port: destination.port(),
                source_address: source.ip(),
                destination_address: destination.ip(),
                interface_id: 0,
                cookie: NO_COOKIE,
            },
        };
        match self.ask(request)? {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                Ok(Some(u64::from_ne_bytes(response.header.socket_id.cookie)))
            }
            NetlinkPayload::Error(error) => match error.to_io() {
                error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                error => Err(error),
            },
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    /// One request and its answer.
    fn ask(&mut self, request: InetRequest) -> io::Result<NetlinkPayload<SockDiagMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
            self.socket.recv(&mut answer, 0)?;
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(&answer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // What is left of a request that was given up is not the answer.
            if message.header.sequence_number == self.sequence {
                return Ok(message.payload);
            }
        }
    }
}

/// An IPv6 socket with an IPv4 peer is found by its IPv4 addresses.
fn same_family(local: SocketAddr, remote: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    match (plain(local), plain(remote)) {
        (local, remote) if local.is_ipv4() == remote.is_ipv4() => (local, remote),
        (local, remote) if local.ip().is_unspecified() => {
            let unspecified: IpAddr =
                if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { local.ip() };
            (SocketAddr::new(unspecified, local.port()), remote)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::AsFd,
    };

    use super::*;

    fn cookie(socket: impl AsFd) -> Option<u64> {
        Some(rustix::net::sockopt::socket_cookie(socket).unwrap())
    }

    #[test]
    fn a_connection_is_found_by_its_two_ends() {
        let mut diag = SockDiag::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            assert_eq!(diag.cookie(Protocol::Tcp, local, peer).unwrap(), cookie(&stream));
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(diag.cookie(Protocol::Tcp, peer, local).unwrap(), cookie(&accepted));
        }
    }

    #[test]
    fn a_datagram_socket_is_found_connected_or_not() {
        let mut diag = SockDiag::open().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let server = "127.83.0.1:5353".parse().unwrap();
        assert_eq!(diag.cookie(Protocol::Udp, local, server).unwrap(), cookie(&socket));
        socket.connect(server).unwrap();
        assert_eq!(diag.cookie(Protocol::Udp, local, server).unwrap(), cookie(&socket));
        let other = "127.83.0.2:5353".parse().unwrap();
        assert_eq!(diag.cookie(Protocol::Udp, local, other).unwrap(), None);
    }

    #[test]
    fn what_is_not_there_is_none() {
        let mut diag = SockDiag::open().unwrap();
        let [local, remote] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap());
        assert_eq!(diag.cookie(Protocol::Tcp, local, remote).unwrap(), None);
        assert_eq!(diag.cookie(Protocol::Udp, local, remote).unwrap(), None);
    }
}
