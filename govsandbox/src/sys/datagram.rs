//! Datagrams of IPv4 with the address they were sent to, and replies from that very address: `IP_PKTINFO` of ip(7).
#![expect(unsafe_code, reason = "control messages without a wrapper")]

use std::{
    io,
    mem::{MaybeUninit, offset_of},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, BorrowedFd},
};

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How long it is; what did not fit is cut off.
    pub bytes: usize,
    /// Who sent it.
    pub from: SocketAddrV4,
    /// To which address of this machine.
    pub to: Ipv4Addr,
}

/// Room for one `struct in_pktinfo`, aligned as control messages are.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);
// SAFETY: only computes.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32) } as usize;

/// Has the socket take only what arrives on `lo`.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW` (before Linux 5.7), or when it is bound to another device.
pub fn only_of_loopback(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0")
}

/// Has [`receive`] tell to which address a datagram was sent.
///
/// # Errors
/// `ENOPROTOOPT`: not an IPv4 socket.
pub fn tell_local_address(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1_i32.to_ne_bytes())
}

fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads that many bytes.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next datagram.
///
/// # Errors
/// `EAGAIN`: there is none, on a socket that does not block; `EINVAL`: the socket does not tell its local address.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut name = MaybeUninit::<libc::sockaddr_in>::zeroed();
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a message header of zeros is a valid one, with nothing in it.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the header leads to buffers of the lengths it says, which outlive the call.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: zeroed before, and any bytes are a valid address.
    let name = unsafe { name.assume_init() };
    let from =
        SocketAddrV4::new(Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes()), u16::from_be(name.sin_port));
    // SAFETY: the header is as the kernel left it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers that lie whole in the control buffer.
        let (level, kind, length) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len) };
        // SAFETY: only computes.
        let needed = unsafe { libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) } as usize;
        if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO) && length >= needed as _ {
            // SAFETY: the message has room for the structure, which may lie unaligned.
            let info: libc::in_pktinfo =
                unsafe { libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned() };
            return Ok(Received { bytes, from, to: Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()) });
        }
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Sends a datagram whose source is the address `from`, which must be this machine's.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, datagram: &[u8], from: Ipv4Addr, to: SocketAddrV4) -> io::Result<()> {
    let address = |address: Ipv4Addr| libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
    let mut name = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: address(*to.ip()),
        sin_zero: [0; 8],
    };
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
    // SAFETY: a message header of zeros is a valid one, with nothing in it.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: address(from),
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    const _: () =
        assert!(offset_of!(libc::in_pktinfo, ipi_spec_dst) == 4 && size_of::<libc::in_pktinfo>() == 12);
    // SAFETY: the control buffer has room for one message with this structure, so that the first header lies in it, and
    // is aligned for a header.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = libc::IPPROTO_IP;
        (*message).cmsg_type = libc::IP_PKTINFO;
        (*message).cmsg_len = libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) as _;
        libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().write_unaligned(info);
    }
    // SAFETY: the header leads to buffers of the lengths it says, which outlive the call and are only read.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd as _, time::Duration};

    use super::*;

    #[test]
    fn a_reply_leaves_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        tell_local_address(server.as_fd()).unwrap();
        let port = server.local_addr().unwrap().port();
        for asked in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 83, 0, 9), Ipv4Addr::new(127, 83, 255, 1)] {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.connect((asked, port)).unwrap(); // takes datagrams from there alone
            client.send(b"question").unwrap();
            let mut buffer = [0; 64];
            let received = receive(server.as_fd(), &mut buffer).unwrap();
            assert_eq!((&buffer[..received.bytes], received.to), (&b"question"[..], asked));
            send(server.as_fd(), b"reply", received.to, received.from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        }
    }

    #[test]
    fn what_did_not_fit_is_cut_off() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        tell_local_address(server.as_fd()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"question", server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().bytes, 4);
    }
}
