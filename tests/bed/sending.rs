//! Odd ways to send: options of headers, shared ports, many datagrams by one call.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
};

use rustix::net::{AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketType};

use super::sys::set_option;

/// Puts something before the header of the protocol that nobody heeds: four times "no operation" of IPv4 (RFC 791, 3.1), or
/// destination options of IPv6 that are padding (RFC 8200, 4.2), which takes privilege.
pub(crate) fn set_header_options(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    match to {
        SocketAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[1; 4]),
        SocketAddr::V6(_) => {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0])
        }
    }
}

/// How long connect(2) waits (`SO_SNDTIMEO`: socket(7)).
pub(crate) fn set_patience(socket: &impl AsFd, patience: std::time::Duration) -> io::Result<()> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    Ok(set_socket_timeout(socket, Timeout::Send, Some(patience))?)
}

/// A datagram socket on a port that others may have too, of whichever user (`SO_REUSEADDR`: socket(7)).
pub(crate) fn shared(at: SocketAddr) -> io::Result<UdpSocket> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::DGRAM, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    Ok(socket.into())
}

/// One datagram to each, by one call (sendmmsg(2)): how many it took.
pub(crate) fn send_to_all(socket: &UdpSocket, to: &[SocketAddr]) -> io::Result<usize> {
    let addresses: Vec<SocketAddrAny> = to.iter().map(|to| (*to).into()).collect();
    let text = [IoSlice::new(b"udp")];
    let mut ancillary: Vec<_> = to.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = addresses
        .iter()
        .zip(&mut ancillary)
        .map(|(address, ancillary)| MMsgHdr::new_with_addr(address, &text, ancillary))
        .collect();
    Ok(rustix::net::sendmmsg(socket, &mut messages, SendFlags::empty())?)
}

/// Two datagrams by one send (`UDP_SEGMENT`: udp(7)).
pub(crate) fn in_segments(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &3_i32.to_ne_bytes())?;
    let sent = socket.send_to(b"udpudp", to);
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &0_i32.to_ne_bytes())?;
    sent.map(drop)
}

/// A datagram to the first, whose last part names the second (`MSG_MORE`: send(2)).
pub(crate) fn in_parts(socket: &UdpSocket, first: SocketAddr, second: SocketAddr) -> io::Result<()> {
    rustix::net::sendto(socket, b"udp", SendFlags::MORE, &first)?;
    rustix::net::sendto(socket, b"udp", SendFlags::empty(), &second)?;
    Ok(())
}
