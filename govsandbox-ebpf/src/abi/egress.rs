//! Where a sandbox may connect to, and whereto the kernel leads what a name decides about.

/// Data of a longest-prefix look-up in the egress trie: sandbox, then address. Prefix length: 32 bits more than that of
/// the network (IPv4 networks are v4-mapped: 96 more again).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressKey {
    /// Big-endian, so that its bits come in order.
    pub sandbox_id_be: [u8; 4],
    /// IPv6, or IPv4 as v4-mapped; network order.
    pub address: [u8; 16],
}

/// Port rules of one network at most, those of the networks around it included.
pub const PORT_RULES_MAX: usize = 32;

/// What is allowed at the addresses of one network. The compiler repeats in each network what the networks around it
/// say, so that the longest prefix alone decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortTable {
    /// How many of `entries` count.
    pub count: u32,
    pub entries: [PortRule; PORT_RULES_MAX],
}

/// One port range with its effect.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// First port, host order.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
    /// Rule that says so.
    pub rule: u16,
    /// `IPPROTO_*`; 0 stands for every protocol.
    pub protocol: u8,
    /// [`DENY`], [`ALLOW`], [`ALLOW_RELAY`].
    pub allow: u8,
}
const _: () = assert!(size_of::<PortRule>() == 8 && size_of::<PortTable>() == 4 + 8 * PORT_RULES_MAX);

/// In [`PortRule::allow`]: refused.
pub const DENY: u8 = 0;
/// Likewise: straight to the address.
pub const ALLOW: u8 = 1;
/// Likewise: through the relay, which compares the names. TCP alone; where both match [`ALLOW`] decides.
pub const ALLOW_RELAY: u8 = 2;

/// Where queries go.
pub const DNS_PORT: u16 = 53;
/// How the addresses on loopback begin that stand for servers of IPv4; the server's number follows.
pub const ALIAS_PREFIX: [u8; 2] = [127, 83];
/// Servers of IPv4 that one sandbox may ask by UDP, a power of two.
pub const ALIASES4: u32 = 1024;
/// Servers of IPv6 that one sandbox may ask by UDP, a power of two: a port of ::1 stands for each.
pub const ALIASES6: u32 = 8;

/// The egress service of a sandbox: its ports on 127.0.0.1 and ::1, host order. 0: there is none, and what would be led
/// there is refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressService {
    pub relay4_port: u16,
    pub relay6_port: u16,
    /// On every address that begins with [`ALIAS_PREFIX`].
    pub dns4_udp_port: u16,
    pub dns4_tcp_port: u16,
    pub dns6_tcp_port: u16,
    pub dns6_udp_ports: [u16; ALIASES6 as usize],
}
const _: () = assert!(size_of::<EgressService>() == 26);

/// Whom a socket wanted that was led to the service, and whose it is. Key: the socket's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// When it was led, ns since boot.
    pub time_boot_ns: u64,
    /// Of the process, as in [`super::event::EventRecord`].
    pub start_boot_ns: u64,
    /// IPv4 as v4-mapped IPv6, network order.
    pub address: [u8; 16],
    pub sandbox_id: u32,
    pub tgid: u32,
    pub tid: u32,
    pub ppid: u32,
    pub uid: u32,
    /// Host order.
    pub port: u16,
    /// Rule that allowed the address; 0 for queries.
    pub rule: u16,
    /// `AF_INET` or `AF_INET6` as the caller used it.
    pub family: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u16,
    pub _pad: u32,
}
const _: () = assert!(size_of::<Original>() == 64);

/// Key of the servers that were asked by UDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasKey {
    pub sandbox_id: u32,
    /// Of IPv4: what follows [`ALIAS_PREFIX`]. Of IPv6: [`ALIASES4`] and the place of its port in
    /// [`EgressService::dns6_udp_ports`].
    pub number: u32,
}

/// A server that was asked by UDP, on [`DNS_PORT`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// IPv4 as v4-mapped IPv6, network order.
    pub address: [u8; 16],
}
