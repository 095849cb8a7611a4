//! Unix sockets: which name one has, and what the table says of it. Everything that a loop changes lies in the scratch.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_loop, bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_skc_to_unix_sock,
};
use govsandbox_ebpf::{
    abi::{
        exec::ExecHits,
        unix::{NAME_BYTES_MAX, UnixTable},
    },
    decide::{
        Decision,
        exec::{START, hits, next},
        path::{Operation, decide_path},
        unix::decide_unix,
    },
};

use super::{
    ground::{self, About},
    maps::{self, Scratch},
    object,
    offsets::{self, probed, typed},
    subject::Subject,
    walk::{Location, Written, text_at},
};

/// Bytes of `sun_family`.
const FAMILY_BYTES: u32 = 2;
/// Above the longest path.
const LENGTH_MASK: u32 = 0x1fff;

/// Whom a socket is bound as; its name stands at the beginning of the scratch's text.
#[derive(Clone, Copy)]
pub struct Name {
    pub length: u32,
    /// Address of its inode; 0: its name is none of a file system.
    pub inode: u64,
    /// The path is whole.
    pub whole: bool,
    /// Address of what it is bound as: the same for as long as it lives.
    pub bound: u64,
}

/// Decides on a socket that the sandbox did not make.
///
/// # Safety
/// `scratch` is the current task's; `socket` is one to the verifier.
#[inline(always)]
pub unsafe fn decide(subject: &Subject, scratch: *mut Scratch, socket: *mut u8) -> (Decision, Name) {
    const NAMELESS: (Decision, Name) =
        (Decision::DENY_DEFAULT, Name { length: 0, inode: 0, whole: true, bound: 0 });
    // SAFETY: the caller vouches for both; offsets are of the types that are read.
    unsafe {
        let unix: *const u8 = bpf_skc_to_unix_sock(socket.cast()).cast_const().cast();
        if unix.is_null() {
            return NAMELESS;
        }
        let path = unix.add(offsets::UNIX_SOCK_PATH.load() as usize);
        let dentry: *const u8 = typed(path, &offsets::PATH_DENTRY);
        let bound: u64 = probed(unix as u64, &offsets::UNIX_SOCK_ADDR);
        if dentry.is_null() {
            let length = write_name(scratch, bound);
            let decision = by_table(subject, scratch, 0, length);
            return (decision, Name { length, inode: 0, whole: true, bound });
        }
        let location = Location::of_path(path as u64);
        let tags = object::by_tags(subject.sandbox_id, scratch, dentry);
        let Written { length, whole } =
            ground::write_path(subject, scratch, 0, location, dentry, About::Object);
        let by_path = object::by_path(subject.config.slot, scratch, 0, length);
        let inode: *const u8 = typed(dentry, &offsets::DENTRY_D_INODE);
        let name = Name { length, inode: inode as u64, whole, bound };
        if tags.whole == 0 || !whole {
            return (Decision::DENY_DEFAULT, name);
        }
        let denied = decide_path(tags.hits.or(by_path), Operation::Read);
        if !denied.allow {
            return (denied, name);
        }
        let decision = by_table(subject, scratch, 0, length);
        if decision.allow && !was_called_so(subject, scratch, length, bound) {
            return (Decision::DENY_DEFAULT, name);
        }
        (decision, name)
    }
}

/// Is a socket that lies at the path in the text bound by a name that is listed too, or by the last names of that path? Who
/// may rename it may not give it another's.
#[inline(always)]
unsafe fn was_called_so(subject: &Subject, scratch: *mut Scratch, length: u32, bound: u64) -> bool {
    let from = bound + u64::from(offsets::UNIX_ADDRESS_NAME.load()) + u64::from(FAMILY_BYTES);
    // SAFETY: as in `write_name`; the room behind a masked offset holds a name. The callback's type is what the helper calls.
    unsafe {
        let text = text_at(scratch, length);
        let read = bpf_probe_read_kernel_str(text.cast(), NAME_BYTES_MAX as u32 + 1, from as *const c_void);
        if read <= 1 {
            return false;
        }
        let name_length = (read as u32 - 1) & 0x7f;
        if *text == b'/' {
            return by_table(subject, scratch, length, name_length).allow;
        }
        if name_length >= length {
            return false;
        }
        let at = length - name_length;
        if *text_at(scratch, at - 1) != b'/' {
            return false;
        }
        let scan = &raw mut (*scratch).unix;
        (*scan).from = at;
        (*scan).other = length;
        (*scan).differs = 0;
        let mut context = scratch;
        bpf_loop(name_length, compare_step as *mut c_void, (&raw mut context).cast(), 0);
        (&raw const (*scan).differs).read_volatile() == 0
    }
}

unsafe extern "C" fn compare_step(index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: the helper hands back the context of `was_called_so`; offsets are masked.
    unsafe {
        let scratch = *context;
        let scan = &raw mut (*scratch).unix;
        let (from, other) = ((*scan).from, (*scan).other);
        let (one, other) = (*text_at(scratch, from + index as u32), *text_at(scratch, other + index as u32));
        (*scan).differs |= u32::from(one ^ other);
    }
    0
}

/// Writes an abstract name with its NUL; its length, 0: there is none.
#[inline(always)]
unsafe fn write_name(scratch: *mut Scratch, address: u64) -> u32 {
    if address == 0 {
        return 0;
    }
    let length = probed::<u32>(address, &offsets::UNIX_ADDRESS_LEN).wrapping_sub(FAMILY_BYTES);
    if length == 0 || length > NAME_BYTES_MAX as u32 {
        return 0;
    }
    let from = address + u64::from(offsets::UNIX_ADDRESS_NAME.load()) + u64::from(FAMILY_BYTES);
    let mut bounded = u64::from(length);
    // SAFETY: the mask changes nothing, and shows the verifier the bound; the caller vouches for `scratch`, the helper checks
    // the address.
    let read = unsafe {
        core::arch::asm!("{0} &= 127", inout(reg) bounded);
        bpf_probe_read_kernel(text_at(scratch, 0).cast(), bounded as u32, from as *const c_void)
    };
    if read == 0 { length } else { 0 }
}

/// Context of the loop; nothing in it changes.
struct Scan {
    table: *const UnixTable,
    scratch: *mut Scratch,
}

/// What `network.unix` says of the name at `at` in the text.
#[inline(always)]
unsafe fn by_table(subject: &Subject, scratch: *mut Scratch, at: u32, length: u32) -> Decision {
    if subject.config.unix_rules == 0 || length == 0 {
        return Decision::DENY_DEFAULT;
    }
    let slot = subject.config.slot;
    // SAFETY: an entry of an array stays where it is while the program runs; it is an `UnixTable` as words. The callback's
    // type is what the helper calls; the context outlives the loop.
    unsafe {
        let Some(words) = maps::UNIX_TABLES.get_value(&slot, &0) else { return Decision::DENY_DEFAULT };
        let table: *const UnixTable = core::ptr::from_ref(words).cast();
        let mut context = Scan { table, scratch };
        (*scratch).unix.state = START;
        (*scratch).unix.from = at;
        bpf_loop(length & LENGTH_MASK, step as *mut c_void, (&raw mut context).cast(), 0);
        let state = (&raw const (*scratch).unix.state).read_volatile();
        let found: ExecHits = hits(&(*table).sockets, state);
        decide_unix((*table).required, found)
    }
}

/// Where the loop stands.
#[repr(C)]
pub struct UnixScan {
    state: u32,
    from: u32,
    other: u32,
    differs: u32,
}

unsafe extern "C" fn step(index: u64, context: *mut Scan) -> i64 {
    // SAFETY: the helper hands back the context of `by_table`, whose pointers are valid while it runs; the offset is masked.
    unsafe {
        let scratch = (*context).scratch;
        let byte = *text_at(scratch, (*scratch).unix.from + index as u32);
        let state = (*scratch).unix.state;
        (*scratch).unix.state = next(&(*(*context).table).sockets, state, byte);
    }
    0
}
