//! Whose socket it is, and where it leads.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
    programs::SockAddrContext,
};
use govsandbox_ebpf::{
    abi::event::{EventRecord, RecordKind},
    decide::egress::{V4_PREFIX, Words, is_v4},
};

use super::{maps, subject::Subject};

/// `TCP_LISTEN`, include/net/tcp_states.h.
pub const LISTENING: u32 = 10;
/// The interface of loopback, in every network namespace (`LOOPBACK_IFINDEX`, include/linux/netdevice.h).
pub const LOOPBACK: u32 = 1;

/// In [`SocketTag::flags`]: it was made outside, and a member connected it or sent by it.
pub const ADOPTED: u32 = 1;
/// It is connected to the sandbox's service.
pub const LED: u32 = 2;
/// It is connected to a socket of its own sandbox, and to no other.
pub const OWN: u32 = 4;
/// It came in through a socket that was listened on.
pub const ACCEPTED: u32 = 8;
/// The end of its connection was told.
pub const CLOSED: u32 = 16;
/// It asks the service, which tells what.
pub const ASKS: u32 = 32;

/// It was handed in, and leads where no rule does: nothing is sent by it.
pub const DEAD: u32 = 64;

/// Of a socket of a sandbox: whose it is, and what it was last connected to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketTag {
    /// When it was connected, ns since boot; 0: never.
    pub time_boot_ns: u64,
    /// The socket's number, which no other has had.
    pub cookie: u64,
    pub start_boot_ns: u64,
    /// Where to, as the caller named it; IPv4 as v4-mapped.
    pub address: Words,
    pub sandbox_id: u32,
    pub tgid: u32,
    pub tid: u32,
    pub ppid: u32,
    pub uid: u32,
    pub flags: u32,
    pub port: u16,
    pub rule: u16,
    pub family: u16,
    pub protocol: u16,
    /// The last far end that was told of, where each is told once in a row.
    pub told: Words,
    pub told_port: u16,
    pub _pad: [u8; 6],
}

impl SocketTag {
    /// Keeps what a record tells of a connection.
    ///
    /// # Safety
    /// Both point to what they say.
    #[inline(always)]
    pub unsafe fn connect(tag: *mut Self, record: *const EventRecord, address: Words, flags: u32) {
        // SAFETY: the caller vouches for both.
        unsafe {
            Self::used(tag, record);
            (*tag).time_boot_ns = (*record).time_boot_ns;
            (*tag).address = address;
            (*tag).port = (*record).port;
            (*tag).rule = (*record).rule;
            (*tag).family = (*record).family;
            (*tag).protocol = (*record).protocol;
            (*tag).flags = (*tag).flags & ADOPTED | flags;
        }
    }

    /// Keeps who a record is about: whoever makes, connects or listens on the socket.
    ///
    /// # Safety
    /// As [`Self::connect`].
    #[inline(always)]
    pub unsafe fn used(tag: *mut Self, record: *const EventRecord) {
        // SAFETY: the caller vouches for both.
        unsafe {
            (*tag).start_boot_ns = (*record).start_boot_ns;
            (*tag).tgid = (*record).tgid;
            (*tag).tid = (*record).tid;
            (*tag).ppid = (*record).ppid;
            (*tag).uid = (*record).uid;
        }
    }

    /// Is the address and port another one than that which was last told of this socket? Then it is that from now on.
    ///
    /// # Safety
    /// `tag` points to one.
    #[inline(always)]
    pub unsafe fn is_news(tag: *mut Self, address: Words, port: u16) -> bool {
        // SAFETY: the caller vouches for the tag.
        unsafe {
            let known = same((*tag).told, address) && (*tag).told_port == port;
            (*tag).told = address;
            (*tag).told_port = port;
            !known
        }
    }

    /// Zeroes a record and writes whose socket it is about, and where that leads.
    ///
    /// # Safety
    /// Both point to what they say.
    #[inline(always)]
    pub unsafe fn begin(tag: *const Self, record: *mut EventRecord, kind: RecordKind) {
        // SAFETY: the caller vouches for both.
        unsafe {
            (*record).time_boot_ns = bpf_ktime_get_boot_ns();
            (*record).start_boot_ns = (*tag).start_boot_ns;
            (*record).dev = 0;
            (*record).ino = 0;
            (*record).value = 0;
            (*record).sandbox_id = (*tag).sandbox_id;
            (*record).tgid = (*tag).tgid;
            (*record).tid = (*tag).tid;
            (*record).ppid = (*tag).ppid;
            (*record).uid = (*tag).uid;
            (*record).errno = 0;
            (*record).flags = 0;
            (*record).path_len = 0;
            (*record).second_len = 0;
            (*record).argv_len = 0;
            (*record).address = octets((*tag).address);
            (*record).port = (*tag).port;
            (*record).family = (*tag).family;
            (*record).protocol = (*tag).protocol;
            (*record).rule = (*tag).rule;
            (*record).kind = kind as u8;
            (*record).action = 0;
            (*record).outcome = 0;
            (*record)._pad = [0; 5];
        }
    }
}

/// The tag of a socket that the current task uses; one that was made outside gets one. Null: there was no memory.
///
/// # Safety
/// The context is that of a program at connect or sendmsg.
#[inline(always)]
pub unsafe fn used_by(ctx: &SockAddrContext, subject: &Subject) -> *mut SocketTag {
    // SAFETY: the socket is the context's; storage lives as long as its socket.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        let tag = maps::SOCKETS.get_or_create(socket);
        if !tag.is_null() && (*tag).sandbox_id != subject.sandbox_id {
            (*tag).sandbox_id = subject.sandbox_id;
            (*tag).cookie = bpf_get_socket_cookie(ctx.as_ptr());
            (*tag).flags = ADOPTED;
        }
        tag
    }
}

/// Both ends of a connection, as the far end sees them.
#[derive(Clone, Copy)]
pub struct Ends {
    pub from: Words,
    pub to: Words,
    pub from_port: u16,
    pub to_port: u16,
}

/// Who gets what goes that way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// Nobody, or a connection that stands.
    None,
    /// A socket that the same sandbox made.
    Own,
    /// Another one.
    Foreign,
}

/// Who would get a connection (`tcp`) or a datagram, in the network of the context's socket. `exactly`: only a socket that is
/// bound to that very address counts as own; one that is bound to all may get nothing that goes there.
///
/// # Safety
/// The context's program may look up sockets.
#[inline(always)]
pub unsafe fn receiver<C: EbpfContext>(
    ctx: &C,
    ends: &Ends,
    tcp: bool,
    exactly: bool,
    sandbox_id: u32,
) -> Receiver {
    let v4 = is_v4(ends.to);
    // SAFETY: the caller vouches for the program.
    unsafe {
        let answer = with_receiver(ctx, ends, tcp, |found| {
            let stands = tcp && (*found).state != LISTENING;
            let bound = same(bound_to(found, v4), ends.to);
            let tag = maps::SOCKETS.get(found);
            let own = (bound || !exactly)
                && !tag.is_null()
                && (*tag).sandbox_id == sandbox_id
                && (*tag).flags & ADOPTED == 0;
            match (stands, own) {
                (true, _) => Receiver::None,
                (false, true) => Receiver::Own,
                (false, false) => Receiver::Foreign,
            }
        });
        answer.unwrap_or(Receiver::None)
    }
}

/// Looks at the socket that would get it; `None`: there is none.
///
/// # Safety
/// As [`receiver`].
#[inline(always)]
pub unsafe fn with_receiver<C: EbpfContext, T>(
    ctx: &C,
    ends: &Ends,
    tcp: bool,
    look: impl FnOnce(*mut bpf_sock) -> T,
) -> Option<T> {
    // SAFETY: the tuple is this program's own and of the size that is named; what is found is given back.
    unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        let v4 = is_v4(ends.to);
        let size = if v4 {
            let ipv4 = &raw mut tuple.__bindgen_anon_1.ipv4;
            (*ipv4).saddr = ends.from[3];
            (*ipv4).daddr = ends.to[3];
            (*ipv4).sport = ends.from_port.to_be();
            (*ipv4).dport = ends.to_port.to_be();
            size_of_val(&*ipv4)
        } else {
            let ipv6 = &raw mut tuple.__bindgen_anon_1.ipv6;
            (*ipv6).saddr = ends.from;
            (*ipv6).daddr = ends.to;
            (*ipv6).sport = ends.from_port.to_be();
            (*ipv6).dport = ends.to_port.to_be();
            size_of_val(&*ipv6)
        } as u32;
        let here = BPF_F_CURRENT_NETNS as u64;
        let found = if tcp {
            bpf_skc_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size, here, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut tuple, size, here, 0)
        };
        if found.is_null() {
            return None;
        }
        let seen = look(found);
        bpf_sk_release(found.cast());
        Some(seen)
    }
}

/// The address that a socket is bound to.
///
/// # Safety
/// `socket` is one to the verifier.
#[inline(always)]
pub unsafe fn bound_to(socket: *const bpf_sock, v4: bool) -> Words {
    // SAFETY: the caller vouches for it. The verifier wants each word read by itself, and no pointer chosen before.
    unsafe {
        let first = (&raw const (*socket).src_ip4).read_volatile();
        let words = [
            (&raw const (*socket).src_ip6[0]).read_volatile(),
            (&raw const (*socket).src_ip6[1]).read_volatile(),
            (&raw const (*socket).src_ip6[2]).read_volatile(),
            (&raw const (*socket).src_ip6[3]).read_volatile(),
        ];
        if v4 { mapped(first) } else { words }
    }
}

/// Are both the same address?
#[inline(always)]
pub fn same(one: Words, other: Words) -> bool {
    one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3]
}

/// An IPv4 address as a v4-mapped one.
#[inline(always)]
pub fn mapped(v4: u32) -> Words {
    [0, 0, V4_PREFIX, v4]
}

/// The bytes of an address.
#[inline(always)]
pub fn octets(address: Words) -> [u8; 16] {
    // SAFETY: any bytes are an address.
    unsafe { core::mem::transmute::<Words, [u8; 16]>(address) }
}
