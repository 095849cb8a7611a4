//! Slows down who is refused faster than the host reads: denials are not what is dropped.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_loop, bpf_ringbuf_query};

/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE` of include/uapi/linux/bpf.h.
const AVAIL_DATA: u64 = 0;
const RING_SIZE: u64 = 1;

/// Pauses after a refusal while the buffer is more than half full, more than three quarters full, and before the only
/// second try when it is full, in ns. A refused process pays; others pay nothing. No hook may sleep, so it spins.
const PAUSE_HALF_NS: u64 = 100_000;
const PAUSE_MOST_NS: u64 = 1_000_000;
const PAUSE_FULL_NS: u64 = 4_000_000;
/// Looks at the clock of one pause at most: some 30 ns each.
const LOOKS_MAX: u32 = 1 << 18;

/// Pauses as the buffer's filling asks for.
///
/// # Safety
/// `ring` is a ring buffer.
#[inline(always)]
pub unsafe fn after_refusal(ring: *mut c_void) {
    // SAFETY: the caller vouches for `ring`.
    let (used, size) = unsafe { (bpf_ringbuf_query(ring, AVAIL_DATA), bpf_ringbuf_query(ring, RING_SIZE)) };
    if used > size / 2 {
        pause(if used > size / 4 * 3 { PAUSE_MOST_NS } else { PAUSE_HALF_NS });
    }
}

/// Gives a host that is running the time to make room.
#[inline(always)]
pub fn until_there_is_room() {
    pause(PAUSE_FULL_NS);
}

#[inline(always)]
fn pause(duration_ns: u64) {
    // SAFETY: the callback's type is what the helper calls; it only reads the number, which outlives the loop.
    unsafe {
        let mut deadline_ns = bpf_ktime_get_ns() + duration_ns;
        bpf_loop(LOOKS_MAX, look as *mut c_void, (&raw mut deadline_ns).cast(), 0);
    }
}

/// Ends the loop at the deadline.
unsafe extern "C" fn look(_index: u64, deadline_ns: *const u64) -> i64 {
    // SAFETY: the context is the number that `pause` hands over.
    unsafe { i64::from(bpf_ktime_get_ns() >= *deadline_ns) }
}
