//! Leads queries, and connections that are allowed by name, to the sandbox's service on loopback, and turns back what
//! programs are told of it.

use aya_ebpf::{
    EbpfContext, bindings::bpf_sock, helpers::generated::bpf_get_socket_cookie, programs::SockAddrContext,
};
use govsandbox_ebpf::{
    abi::{
        egress::{ALIASES4, ALIASES6, AliasKey, DNS_PORT, EgressService, Original, Server},
        event::EventRecord,
    },
    decide::egress::{Words, alias, alias_number, is_loopback, is_v4},
};

use super::{
    maps,
    socket::{LOOPBACK, bound_to, mapped, octets, same},
};

pub const AF_INET: u16 = 2;
pub const IPPROTO_TCP: u16 = 6;
pub const IPPROTO_UDP: u16 = 17;
pub const LOCALHOST4: u32 = 0x7f00_0001_u32.to_be();
pub const LOCALHOST6: Words = [0, 0, 0, 1_u32.to_be()];
/// `BPF_NOEXIST`, include/uapi/linux/bpf.h.
const NEW: u64 = 1;
/// Places that are tried for a server of IPv4.
const TRIES: u32 = 8;

/// Leads a query to the service. `false`: it can't be led.
///
/// # Safety
/// `record` has the destination, and `family` is what the program is for; the context is that of one at connect or sendmsg.
#[inline(always)]
pub unsafe fn query(
    ctx: &SockAddrContext,
    service: &EgressService,
    record: *mut EventRecord,
    (family, address): (u16, Words),
) -> bool {
    // SAFETY: the caller vouches for both.
    unsafe {
        let v4 = is_v4(address);
        let (to, port) = if (*record).protocol == IPPROTO_TCP {
            match v4 {
                true => (mapped(LOCALHOST4), service.dns4_tcp_port),
                false => (LOCALHOST6, service.dns6_tcp_port),
            }
        } else {
            let Some(number) = number_of((*record).sandbox_id, address, v4) else { return false };
            match v4 {
                true => (mapped(u32::from_ne_bytes(alias(number))), service.dns4_udp_port),
                false => (LOCALHOST6, service.dns6_udp_ports[(number & (ALIASES6 - 1)) as usize]),
            }
        };
        lead(ctx, record, (family, v4), to, port)
    }
}

/// Leads a connection to the relay. `false`: it can't be led.
///
/// # Safety
/// As [`query`].
#[inline(always)]
pub unsafe fn relay(
    ctx: &SockAddrContext,
    service: &EgressService,
    record: *mut EventRecord,
    (family, address): (u16, Words),
) -> bool {
    // SAFETY: the caller vouches for both.
    unsafe {
        let v4 = is_v4(address);
        let (to, port) = match v4 {
            true => (mapped(LOCALHOST4), service.relay4_port),
            false => (LOCALHOST6, service.relay6_port),
        };
        lead(ctx, record, (family, v4), to, port)
    }
}

/// Remembers whom the socket wanted, and changes where it goes.
#[inline(always)]
unsafe fn lead(
    ctx: &SockAddrContext,
    record: *mut EventRecord,
    (family, v4): (u16, bool),
    to: Words,
    port: u16,
) -> bool {
    // SAFETY: the callers vouch for both; the socket is the context's.
    unsafe {
        if port == 0 || !is_near((*ctx.sock_addr).__bindgen_anon_1.sk, v4) {
            return false;
        }
        let original = Original {
            time_boot_ns: (*record).time_boot_ns,
            start_boot_ns: (*record).start_boot_ns,
            address: (*record).address,
            sandbox_id: (*record).sandbox_id,
            tgid: (*record).tgid,
            tid: (*record).tid,
            ppid: (*record).ppid,
            uid: (*record).uid,
            port: (*record).port,
            rule: (*record).rule,
            family: (*record).family,
            protocol: (*record).protocol,
            _pad: 0,
        };
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        if maps::ORIGINALS.insert(&cookie, &original, 0).is_err() {
            return false;
        }
        write(ctx, family, to, port);
        true
    }
}

/// Does what the socket sends to loopback come from this machine, and stay on it? One that is bound to another device is
/// not led to loopback, and an address of IPv6 that a socket is bound to may be anybody's (`IPV6_FREEBIND`).
#[inline(always)]
unsafe fn is_near(socket: *const bpf_sock, v4: bool) -> bool {
    // SAFETY: the caller vouches for the socket.
    unsafe {
        let device = (*socket).bound_dev_if;
        if device != 0 && device != LOOPBACK {
            return false;
        }
        v4 || is_loopback(bound_to(socket, false))
    }
}

/// The number of a server; it gets one if it has none. `None`: there are too many.
#[inline(always)]
fn number_of(sandbox_id: u32, address: Words, v4: bool) -> Option<u32> {
    // Fibonacci hashing (Knuth, TAOCP 6.4): servers of one network lie apart.
    let first = if v4 { address[3].wrapping_mul(0x9e37_79b1) >> 22 } else { 0 };
    let mut step = 0;
    while step < TRIES {
        let number = if v4 { (first + step) & (ALIASES4 - 1) } else { ALIASES4 + step };
        let key = AliasKey { sandbox_id, number };
        if let Some(known) = server(&key) {
            if same(known, address) {
                return Some(number);
            }
        } else if maps::SERVERS.insert(&key, &Server { address: octets(address) }, NEW).is_ok() {
            return Some(number);
        } else if server(&key).is_some_and(|known| same(known, address)) {
            return Some(number); // another thread was first
        }
        step += 1;
    }
    None
}
const _: () = assert!(TRIES <= ALIASES6);

#[inline(always)]
fn server(key: &AliasKey) -> Option<Words> {
    // SAFETY: copied at once, and an entry is never changed; any bytes are words.
    unsafe { maps::SERVERS.get(key).map(|server| core::mem::transmute::<[u8; 16], Words>(server.address)) }
}

/// The server that an address and port on loopback stand for.
#[inline(always)]
pub fn asked(sandbox_id: u32, service: &EgressService, address: Words, port: u16) -> Option<Words> {
    let number = service_number(service, address, port)?;
    server(&AliasKey { sandbox_id, number })
}

/// The number of the server that an address and port of the service's UDP sockets stand for.
#[inline(always)]
pub fn service_number(service: &EgressService, address: Words, port: u16) -> Option<u32> {
    if port == 0 {
        return None;
    }
    if is_v4(address) {
        let number = alias_number(address[3].to_ne_bytes())?;
        return (port == service.dns4_udp_port).then_some(number);
    }
    if !same(address, LOCALHOST6) {
        return None;
    }
    let mut place = 0;
    while place < ALIASES6 {
        if service.dns6_udp_ports[place as usize] == port {
            return Some(ALIASES4 + place);
        }
        place += 1;
    }
    None
}

/// Turns back what a program is told of a query's answer.
///
/// # Safety
/// The context is that of a program at recvmsg or getpeername.
#[inline(always)]
pub unsafe fn turn_back(ctx: &SockAddrContext, family: u16, address: Words) {
    // SAFETY: the caller vouches for it.
    unsafe { write(ctx, family, address, DNS_PORT) };
}

/// Writes an address into the context, in the form that its family has.
///
/// # Safety
/// As [`turn_back`], or as [`query`].
#[inline(always)]
pub unsafe fn write(ctx: &SockAddrContext, family: u16, address: Words, port: u16) {
    // SAFETY: the caller vouches for it. Each field is written by itself, as the verifier wants it.
    unsafe {
        let target = ctx.sock_addr;
        if family == AF_INET {
            (&raw mut (*target).user_ip4).write_volatile(address[3]);
        } else {
            (&raw mut (*target).user_ip6[0]).write_volatile(address[0]);
            (&raw mut (*target).user_ip6[1]).write_volatile(address[1]);
            (&raw mut (*target).user_ip6[2]).write_volatile(address[2]);
            (&raw mut (*target).user_ip6[3]).write_volatile(address[3]);
        }
        (&raw mut (*target).user_port).write_volatile(u32::from(port.to_be()));
    }
}

/// Forgets whom a socket wanted: it goes elsewhere now.
#[inline(always)]
pub fn forget(ctx: &SockAddrContext) {
    // SAFETY: the helper reads the context's socket.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let _ = maps::ORIGINALS.remove(&cookie);
}

/// The service of a sandbox.
#[inline(always)]
pub fn service_of<'a>(sandbox_id: u32) -> Option<&'a EgressService> {
    // SAFETY: an entry that was found stays while the program runs, and is replaced whole.
    unsafe { maps::SERVICES.get(&sandbox_id) }
}
