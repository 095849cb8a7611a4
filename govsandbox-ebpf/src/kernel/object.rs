//! What the rules say of a file: by the tags of its inode and of the folders above it, and by its path.

use core::ffi::c_void;

use aya_ebpf::{bindings::inode, helpers::generated::bpf_loop};
use govsandbox_ebpf::{
    abi::{
        event::EventRecord,
        rule::{Automaton, Hits, TagKey},
    },
    decide::{Decision, automaton},
};

use super::{
    maps::{self, CHAIN_MAX, PATH_DEPTH_MAX, Scratch},
    offsets::{self, probed, typed},
    walk::text_at,
};

/// Bytes of a path that one call of the loop's body reads.
const STEP_BYTES: u32 = 8;
/// What is known of an object's rules.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Matched {
    pub hits: Hits,
    /// A rule that holds the object's own name ([`TagRule::pinned`]).
    pub pinned: u16,
    pub _pad: u16,
    /// [`Matched::hits`] without what the object's own tag says.
    pub above: Hits,
    /// Not 0: everything above it was looked at.
    pub whole: u32,
}

/// Writes device and number of an inode into a record.
///
/// # Safety
/// `record` points to one.
#[inline(always)]
pub unsafe fn identify(record: *mut EventRecord, inode: u64) {
    let superblock: u64 = probed(inode, &offsets::INODE_I_SB);
    let dev: u32 = probed(superblock, &offsets::SB_S_DEV);
    // SAFETY: the caller vouches for `record`.
    unsafe {
        (*record).dev = u64::from(dev);
        (*record).ino = probed(inode, &offsets::INODE_I_INO);
    }
}

/// The rules of the inodes from `dentry` up to the root of its file system. Bind mounts play no part: the walk goes
/// past a mount's root.
///
/// # Safety
/// `scratch` is the current task's; `dentry` is a pointer to a dentry that the verifier knows as such.
#[inline(always)]
pub unsafe fn by_tags(sandbox_id: u32, scratch: *mut Scratch, dentry: *const u8) -> Matched {
    let mut ascent = Ascent { at: dentry, scratch, sandbox_id, _pad: 0 };
    // SAFETY: the callback's type is what the helper calls; the context outlives the loop.
    unsafe {
        (*scratch).matched = Matched { hits: Hits::NONE, pinned: 0, _pad: 0, above: Hits::NONE, whole: 0 };
        bpf_loop(PATH_DEPTH_MAX as u32, ascent_step as *mut c_void, (&raw mut ascent).cast(), 0);
        (&raw const (*scratch).matched).read_volatile()
    }
}

/// What an inode's own tag says.
///
/// # Safety
/// `inode` is a pointer to an inode that the verifier knows as such.
#[inline(always)]
pub unsafe fn by_tag(sandbox_id: u32, inode: *const u8) -> Hits {
    // SAFETY: the caller vouches for `inode`; an entry is replaced whole.
    unsafe {
        let tag = maps::TAGS.get_ptr_mut(inode.cast_mut().cast());
        if tag.is_null() {
            return Hits::NONE;
        }
        match maps::TAG_RULES.get_ptr(&TagKey { sandbox_id, tag: *tag }) {
            Some(rule) => (*rule).hits,
            None => Hits::NONE,
        }
    }
}

/// Context of the loop; only `at` changes, and its type is all that the verifier knows of it.
struct Ascent {
    at: *const u8,
    scratch: *mut Scratch,
    sandbox_id: u32,
    _pad: u32,
}

/// One dentry up. Returns 1 to stop.
unsafe extern "C" fn ascent_step(index: u64, ascent: *mut Ascent) -> i64 {
    // SAFETY: the helper hands back the context of `by_tags`; loads are of kernel types, and the hook's reference on the
    // object keeps what is above it.
    unsafe {
        let at = (*ascent).at;
        let inode: *mut inode = typed(at, &offsets::DENTRY_D_INODE);
        if !inode.is_null() {
            let tag = maps::TAGS.get_ptr_mut(inode);
            if !tag.is_null() {
                gather(ascent, *tag, index == 0);
            }
        }
        let parent: *const u8 = typed(at, &offsets::DENTRY_D_PARENT);
        if parent == at {
            (*(*ascent).scratch).matched.whole = 1;
            return 1;
        }
        (*ascent).at = parent;
    }
    0
}

/// Joins what a tag's rules say to what was found below.
#[inline(always)]
unsafe fn gather(ascent: *mut Ascent, tag: u32, lowest: bool) {
    // SAFETY: the caller vouches for `ascent`; an entry is replaced whole.
    unsafe {
        let key = TagKey { sandbox_id: (*ascent).sandbox_id, tag };
        let Some(rule) = maps::TAG_RULES.get_ptr(&key) else { return };
        let matched = &raw mut (*(*ascent).scratch).matched;
        (*matched).hits = (*matched).hits.or((*rule).hits);
        if lowest {
            (*matched).pinned = (*rule).pinned;
        } else {
            (*matched).above = (*matched).above.or((*rule).hits);
        }
    }
}

/// Where the scan of a path stands.
#[repr(C)]
pub struct PathScan {
    start: u32,
    state: u32,
    components: u32,
    hits: Hits,
    /// The state behind the path of the folder and a slash, and the rules that match until there.
    pub folder_state: u32,
    pub folder_hits: Hits,
}

impl PathScan {
    const START: Self = Self {
        start: 0,
        state: automaton::START,
        components: 0,
        hits: Hits::NONE,
        folder_state: 0,
        folder_hits: Hits::NONE,
    };
}

/// Context of the scan's loops; nothing in it changes.
struct ScanContext {
    automaton: *const Automaton,
    scratch: *mut Scratch,
}

/// The rules that match a path which stands in the scratch's text; what follows it there is overwritten.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn by_path(slot: u32, scratch: *mut Scratch, at: u32, length: u32) -> Hits {
    // SAFETY: the caller vouches for `scratch`.
    let scan = unsafe { &raw mut (*scratch).scan };
    // SAFETY: as above.
    unsafe { *scan = PathScan { start: at, ..PathScan::START } };
    let Some(words) = maps::AUTOMATA.get_value(slot, &0) else { return Hits::NONE };
    let mut context = ScanContext { automaton: core::ptr::from_ref(words).cast(), scratch };
    let context = (&raw mut context).cast();
    // SAFETY: the callbacks' types are what the helper calls; the context outlives the loops; the room behind a masked
    // offset holds what is written.
    unsafe {
        let end = text_at(scratch, at + length);
        *end = b'/';
        end.add(1).cast::<[u8; STEP_BYTES as usize]>().write_unaligned([0; STEP_BYTES as usize]);
        bpf_loop(length / STEP_BYTES + 1, scan_step as *mut c_void, context, 0);
        bpf_loop((*scan).components & (CHAIN_MAX as u32 - 1), merge_step as *mut c_void, context, 0);
        (&raw const (*scan).hits).read_volatile()
    }
}

/// The state behind the path that [`by_path`] scanned last, and a slash: what can match below it.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn state_below(slot: u32, scratch: *mut Scratch) -> u32 {
    // SAFETY: an entry of an array stays where it is while the program runs; the index is masked.
    unsafe {
        let Some(words) = maps::AUTOMATA.get_value(slot, &0) else { return 0 };
        let automaton = &*core::ptr::from_ref(words).cast::<Automaton>();
        let last = (*scratch).scan.components.wrapping_sub(1) as usize & (CHAIN_MAX - 1);
        automaton::next(automaton, (*scratch).kept[last], b'/')
    }
}

/// Whether a symlink may stand at the path that [`by_path`] scanned last.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn may_be_symlink(slot: u32, scratch: *mut Scratch) -> Decision {
    // SAFETY: as in `state_below`.
    unsafe {
        let place = state_below(slot, scratch);
        let Some(words) = maps::AUTOMATA.get_value(slot, &0) else { return Decision::ALLOW };
        let automaton = &*core::ptr::from_ref(words).cast::<Automaton>();
        automaton::decide_symlink(automaton, (*scratch).scan.folder_state, place)
    }
}

/// Body of the loop: the next [`STEP_BYTES`] bytes. At each slash the state is kept; what it means is looked up
/// afterwards, because every branch here is one in each of the bytes to the verifier. The path's end is a slash too, and
/// zeros behind it.
unsafe extern "C" fn scan_step(index: u64, context: *mut ScanContext) -> i64 {
    // SAFETY: the helper hands back the context of `by_path`, whose pointers are valid while it runs; offsets are masked.
    unsafe {
        let automaton = &*(*context).automaton;
        let scratch = (*context).scratch;
        let scan = &raw mut (*scratch).scan;
        let text = text_at(scratch, (*scan).start + (index as u32) * STEP_BYTES);
        let kept = (&raw mut (*scratch).kept).cast::<u32>();
        let (mut state, mut components) = ((*scan).state, (*scan).components);
        let mut taken = 0;
        while taken < STEP_BYTES as usize {
            let byte = *text.add(taken);
            *kept.add(components as usize & (CHAIN_MAX - 1)) = state;
            components += is_slash(byte);
            state = automaton::next(automaton, state, byte);
            taken += 1;
        }
        (*scan).state = state;
        (*scan).components = components & (CHAIN_MAX as u32 - 1);
    }
    0
}

/// 1 for a slash, else 0, without a branch.
#[inline(always)]
fn is_slash(byte: u8) -> u32 {
    let mut difference = u64::from(byte ^ b'/');
    // SAFETY: changes nothing; hides the comparison from the compiler, which would branch.
    unsafe { core::arch::asm!("{0} += 0", inout(reg) difference) };
    (difference.wrapping_sub(1) >> 63) as u32
}

/// Body of the loop: what the state at the end of one component means.
unsafe extern "C" fn merge_step(index: u64, context: *mut ScanContext) -> i64 {
    // SAFETY: as in `scan_step`.
    unsafe {
        let scratch = (*context).scratch;
        let state = (*scratch).kept[index as usize & (CHAIN_MAX - 1)];
        let found = automaton::hits(&*(*context).automaton, state);
        let scan = &raw mut (*scratch).scan;
        (*scan).hits = (*scan).hits.or(found);
        if index as u32 + 2 == (*scan).components {
            (*scan).folder_state = automaton::next(&*(*context).automaton, state, b'/');
            (*scan).folder_hits = (*scan).hits;
        }
    }
    0
}

/// Words of a name that lies within its dentry.
const NAME_WORDS: usize = 4;

/// The rules that match a file by its last name, in a folder behind which the automaton is in `state`. `None`: the name is
/// too long to lie within its dentry.
///
/// # Safety
/// `dentry` is a pointer to a dentry that the verifier knows as such.
#[inline(always)]
pub unsafe fn by_name(slot: u32, state: u32, dentry: *const u8) -> Option<Hits> {
    // SAFETY: offsets are of the types that are read; an entry of an array stays where it is while the program runs.
    unsafe {
        let name = dentry.add(offsets::DENTRY_D_NAME.load() as usize);
        let length: u32 = typed(name, &offsets::QSTR_LEN);
        let at: u64 = typed(name, &offsets::QSTR_NAME);
        let within = dentry.add(offsets::DENTRY_D_INAME.load() as usize);
        if at != within as u64 || length as usize >= NAME_WORDS * 8 {
            return None;
        }
        let Some(words) = maps::AUTOMATA.get_value(slot, &0) else { return Some(Hits::NONE) };
        let automaton = &*core::ptr::from_ref(words).cast::<Automaton>();
        Some(automaton::hits(automaton, state_after(automaton, state, within, length)))
    }
}

/// The state after the first `length` bytes at `name`, fewer than those of [`NAME_WORDS`].
#[inline(always)]
unsafe fn state_after(automaton: &Automaton, mut state: u32, name: *const u8, length: u32) -> u32 {
    let mut taken = 0;
    while taken < NAME_WORDS * 8 {
        // SAFETY: the caller vouches for `name`.
        let mut word = unsafe { *name.add(taken).cast::<u64>() };
        let mut left = 8;
        while left > 0 {
            if taken as u32 >= length {
                return state;
            }
            state = automaton::next(automaton, state, word as u8);
            word >>= 8;
            taken += 1;
            left -= 1;
        }
    }
    state
}
