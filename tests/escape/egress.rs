//! Ways out over the network.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    attempt::{Attempt, BY_SECCOMP, Class, Inside, Told},
    bed::net::Listener,
    stage::Stage,
    sys::call,
};

/// Where nothing is allowed to go.
pub(crate) const AWAY: &str = "10.78.0.1";
const TOLD: Told =
    Told::Event { kind: "net.connect", rule: "default/network.allow", about: "\"port\":{port}," };
const TOLD_SEND: Told =
    Told::Event { kind: "net.send", rule: "default/network.allow", about: "\"port\":{port}," };

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("egress-{name}"), Class::Egress, what, source)
}

/// A listener of TCP outside that counts who comes.
pub(crate) fn tcp(address: &'static str) -> impl Fn(&mut Stage) + 'static {
    move |stage| listens(stage, Listener::tcp(address))
}

pub(crate) fn udp(address: &'static str) -> impl Fn(&mut Stage) + 'static {
    move |stage| listens(stage, Listener::udp(address))
}

fn listens(stage: &mut Stage, listener: Listener) {
    stage.say("to", listener.address);
    stage.say("port", listener.address.port());
    let listener = std::rc::Rc::new(listener);
    let seen = listener.clone();
    stage.watch(move || seen.arrived(0) > 0);
    stage.keep(listener);
}

fn to(at: &Inside) -> io::Result<SocketAddr> {
    at.said("to")?.parse().map_err(io::Error::other)
}

/// An address as system calls take it.
pub(crate) fn sockaddr(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn connect(to: SocketAddr) -> io::Result<String> {
    use std::io::Write;
    TcpStream::connect_timeout(&to, Duration::from_secs(3))?.write_all(b"out")?;
    Ok(String::new())
}

pub(crate) fn attempts() -> Vec<Attempt> {
    vec![
        new("tcp", "an address that no rule names", "connect(2)")
            .staged(tcp(AWAY))
            .acts(|at| connect(to(at)?))
            .told(TOLD),
        new("tcp6", "an IPv6 address that no rule names", "connect(2)")
            .staged(tcp("fd77::1"))
            .acts(|at| connect(to(at)?))
            .told(TOLD),
        new("mapped", "an IPv4 address as v4-mapped IPv6", "ipv6(7)")
            .staged(tcp(AWAY))
            .acts(|at| {
                let to = to(at)?;
                let SocketAddr::V4(v4) = to else { unreachable!() };
                connect(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
            })
            .told(TOLD),
        new("udp", "a datagram", "sendto(2)")
            .staged(udp(AWAY))
            .acts(|at| UdpSocket::bind("0.0.0.0:0")?.send_to(b"out", to(at)?).map(|_| String::new()))
            .told(TOLD_SEND),
        new("raw", "a raw socket", "raw(7)")
            .control_by_root()
            .acts(|_| {
                let socket = call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
                drop(crate::sys::owned(socket));
                Ok(String::new())
            })
            .told(BY_SECCOMP),
    ]
}
