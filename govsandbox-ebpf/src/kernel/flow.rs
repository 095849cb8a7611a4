//! Datagrams have no connection: what stands in its place is that one went that way not long ago.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_ktime_get_boot_ns};
use govsandbox_ebpf::decide::egress::Words;

use super::{
    maps,
    socket::{Ends, SocketTag, with_receiver},
};

/// How long a far end may be silent, and be sent nothing (RFC 4787, REQ-5).
const LIFE_NS: u64 = 120_000_000_000;

/// One socket of a sandbox, and one far end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowKey {
    pub cookie: u64,
    pub address: Words,
    /// The socket may be handed to another sandbox.
    pub sandbox_id: u32,
    pub port: u16,
    pub _pad: u16,
}

/// Of a socket that has no tag nothing is kept.
#[inline(always)]
unsafe fn key_of(tag: *const SocketTag, address: Words, port: u16) -> Option<FlowKey> {
    if tag.is_null() {
        return None;
    }
    // SAFETY: the callers vouch for the tag.
    let (cookie, sandbox_id) = unsafe { ((*tag).cookie, (*tag).sandbox_id) };
    Some(FlowKey { cookie, address, sandbox_id, port, _pad: 0 })
}

/// It is used now: by what a rule allows, or by who may ask.
///
/// # Safety
/// `tag` points to one, or is null.
#[inline(always)]
pub unsafe fn note(tag: *const SocketTag, address: Words, port: u16) {
    // SAFETY: the caller vouches for the tag; the time is a word of its own.
    unsafe {
        let Some(key) = key_of(tag, address, port) else { return };
        let now = bpf_ktime_get_boot_ns();
        match maps::FLOWS.get_ptr_mut(&key) {
            Some(time) => time.write_volatile(now),
            None => drop(maps::FLOWS.insert(&key, &now, 0)),
        }
    }
}

/// Was it used not long ago?
///
/// # Safety
/// As [`note`].
#[inline(always)]
pub unsafe fn is_there(tag: *const SocketTag, address: Words, port: u16) -> bool {
    // SAFETY: as above.
    unsafe { key_of(tag, address, port).is_some_and(|key| find(&key, bpf_ktime_get_boot_ns()).is_some()) }
}

/// The same; what is sent now counts as use.
///
/// # Safety
/// As [`note`].
#[inline(always)]
pub unsafe fn goes_on(tag: *const SocketTag, address: Words, port: u16) -> bool {
    // SAFETY: as above.
    unsafe {
        let Some(key) = key_of(tag, address, port) else { return false };
        let now = bpf_ktime_get_boot_ns();
        let Some(time) = find(&key, now) else { return false };
        time.write_volatile(now);
        true
    }
}

#[inline(always)]
unsafe fn find(key: &FlowKey, now: u64) -> Option<*mut u64> {
    let time = maps::FLOWS.get_ptr_mut(key)?;
    // SAFETY: an entry that was found stays a word while the program runs. Another processor may have written it since.
    let age = now.saturating_sub(unsafe { time.read_volatile() });
    (age < LIFE_NS).then_some(time)
}

/// Notes who asks at the socket that a datagram is for, if that is another sandbox's than `sender_id`.
///
/// # Safety
/// The context's program may look up sockets.
#[inline(always)]
pub unsafe fn note_at_receiver<C: EbpfContext>(ctx: &C, ends: &Ends, sender_id: u32) {
    // SAFETY: the caller vouches for the program; a tag lives as long as its socket.
    unsafe {
        with_receiver(ctx, ends, false, |found| {
            let tag = maps::SOCKETS.get(found);
            // Who is connected hears from that one alone, and was judged when sending.
            if !tag.is_null() && (*tag).sandbox_id != sender_id && (*found).dst_port == 0 {
                note(tag, ends.from, ends.from_port);
            }
        });
    }
}
