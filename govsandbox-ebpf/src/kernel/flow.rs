//! Datagrams have no connection: what stands in its place is that one went that way not long ago.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_ktime_get_boot_ns};
use govsandbox_ebpf::decide::egress::Words;

use super::{
    maps,
    socket::{Ends, LOOPBACK, SocketTag, with_receiver},
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
    /// Whether over loopback: what came over the network from an address of this machine's is not sent to whom has it here.
    pub by: u16,
}

/// [`FlowKey::by`] of what does not come over loopback.
pub const NETWORK: u16 = 0;

/// Does it go over loopback? 1 or 0, without a branch: the verifier would follow all that comes behind for each.
#[inline(always)]
pub const fn by(device: u32) -> u16 {
    ((device ^ LOOPBACK).wrapping_sub(1) >> 31) as u16
}

/// A far end, as a key has it.
pub type Far = (Words, u16, u16);

/// Of a socket that has no tag nothing is kept.
#[inline(always)]
unsafe fn key_of(tag: *const SocketTag, sandbox_id: u32, (address, port, by): Far) -> Option<FlowKey> {
    if tag.is_null() {
        return None;
    }
    // SAFETY: the callers vouch for the tag.
    let cookie = unsafe { (*tag).cookie };
    Some(FlowKey { cookie, address, sandbox_id, port, by })
}

/// It is used now: by what a rule allows, or by who may ask.
///
/// # Safety
/// `tag` points to one, or is null.
#[inline(always)]
pub unsafe fn note(tag: *const SocketTag, sandbox_id: u32, far: Far) {
    // SAFETY: the caller vouches for the tag; the time is a word of its own.
    unsafe {
        let Some(key) = key_of(tag, sandbox_id, far) else { return };
        let now = bpf_ktime_get_boot_ns();
        match maps::FLOWS.get_ptr_mut(&key) {
            Some(time) => time.write_volatile(now),
            None => drop(maps::FLOWS.insert(&key, &now, 0)),
        }
    }
}

/// Was it used not long ago? Then it is now.
///
/// # Safety
/// As [`note`].
#[inline(always)]
pub unsafe fn goes_on(tag: *const SocketTag, sandbox_id: u32, far: Far) -> bool {
    // SAFETY: the caller vouches for the tag. An entry that was found stays a word while the program runs; another processor
    // may write it meanwhile.
    unsafe {
        let Some(key) = key_of(tag, sandbox_id, far) else { return false };
        let now = bpf_ktime_get_boot_ns();
        let Some(time) = maps::FLOWS.get_ptr_mut(&key) else { return false };
        if now.saturating_sub(time.read_volatile()) >= LIFE_NS {
            return false;
        }
        time.write_volatile(now);
        true
    }
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
                note(tag, (*tag).sandbox_id, (ends.from, ends.from_port, by(LOOPBACK)));
            }
        });
    }
}
