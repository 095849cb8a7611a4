//! The sockets of a service. The supervisor binds and keeps them, so that one that is started again has the same.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::channel::Place;
use crate::sys::datagram;

/// So many IPv6 servers are told apart, by the port of `::1` at which their queries arrive.
pub const DNS6_SERVERS_MAX: usize = 8;
/// Connections that wait to be accepted; `net.core.somaxconn` may be less.
const BACKLOG: i32 = 4096;

/// Bound sockets, in the network namespace of whoever bound them.
#[derive(Debug)]
pub struct Sockets {
    relay4: TcpListener,
    /// `None`, and the others of IPv6: this machine has none.
    relay6: Option<TcpListener>,
    dns4_udp: UdpSocket,
    dns4_tcp: TcpListener,
    dns6_tcp: Option<TcpListener>,
    dns6_udp: Vec<UdpSocket>,
}

/// Where they are bound, in host order; 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// 127.0.0.1, TCP.
    pub relay4: u16,
    /// ::1, TCP.
    pub relay6: u16,
    /// Every IPv4 address of `lo`, UDP.
    pub dns4_udp: u16,
    /// 127.0.0.1, TCP.
    pub dns4_tcp: u16,
    /// ::1, TCP.
    pub dns6_tcp: u16,
    /// ::1, UDP.
    pub dns6_udp: [u16; DNS6_SERVERS_MAX],
}

impl Sockets {
    /// Binds them to free ports of loopback.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`; no port is free; loopback is down.
    pub fn bind() -> io::Result<Self> {
        let dns4_udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        datagram::only_of_loopback(dns4_udp.as_fd())?;
        datagram::tell_local_address(dns4_udp.as_fd())?;
        let mut dns6_udp = Vec::new();
        let has_v6 = match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
            Ok(first) => {
                dns6_udp.push(first);
                true
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                false
            }
            Err(error) => return Err(error),
        };
        while has_v6 && dns6_udp.len() < DNS6_SERVERS_MAX {
            dns6_udp.push(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?);
        }
        let tcp6 = || has_v6.then(|| listener((Ipv6Addr::LOCALHOST, 0).into())).transpose();
        Ok(Self {
            relay4: listener((Ipv4Addr::LOCALHOST, 0).into())?,
            relay6: tcp6()?,
            dns4_udp,
            dns4_tcp: listener((Ipv4Addr::LOCALHOST, 0).into())?,
            dns6_tcp: tcp6()?,
            dns6_udp,
        })
    }

    /// # Errors
    /// As getsockname(2).
    pub fn ports(&self) -> io::Result<Ports> {
        let tcp = |socket: &TcpListener| Ok::<_, io::Error>(socket.local_addr()?.port());
        let tcp6 = |socket: &Option<TcpListener>| socket.as_ref().map_or(Ok(0), tcp);
        let mut dns6_udp = [0; DNS6_SERVERS_MAX];
        for (port, socket) in dns6_udp.iter_mut().zip(&self.dns6_udp) {
            *port = socket.local_addr()?.port();
        }
        Ok(Ports {
            relay4: tcp(&self.relay4)?,
            relay6: tcp6(&self.relay6)?,
            dns4_udp: self.dns4_udp.local_addr()?.port(),
            dns4_tcp: tcp(&self.dns4_tcp)?,
            dns6_tcp: tcp6(&self.dns6_tcp)?,
            dns6_udp,
        })
    }

    /// All of them, with what each is for.
    pub(super) fn each(&self) -> impl Iterator<Item = (Place, BorrowedFd<'_>)> {
        let v4 = [
            (Place::Relay4, self.relay4.as_fd()),
            (Place::Dns4Udp, self.dns4_udp.as_fd()),
            (Place::Dns4Tcp, self.dns4_tcp.as_fd()),
        ];
        let relay6 = self.relay6.iter().map(|socket| (Place::Relay6, socket.as_fd()));
        let dns6_tcp = self.dns6_tcp.iter().map(|socket| (Place::Dns6Tcp, socket.as_fd()));
        let dns6_udp = self.dns6_udp.iter().map(|socket| (Place::Dns6Udp, socket.as_fd()));
        v4.into_iter().chain(relay6).chain(dns6_tcp).chain(dns6_udp)
    }
}

/// Not by `std`, whose backlog is 128: a burst of connections would wait for retransmissions.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}
