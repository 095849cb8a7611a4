//! What the exec rules say of a program: by the tags of its inode and of the folders above it, by its path, and by how it
//! is called. Everything that a loop changes lies in the task's scratch.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::inode,
    helpers::generated::{bpf_loop, bpf_probe_read_user},
};
use govsandbox_ebpf::{
    abi::{
        exec::{ARGS_JUDGED_BYTES_MAX, ExecHits, ExecTable},
        rule::TagKey,
    },
    decide::exec::{Calling, START, Wanted, hits, next},
};

use super::{
    maps::{self, PATH_DEPTH_MAX, Scratch},
    offsets::{self, probed, typed},
    walk::text_at,
};

/// Bytes of argv that are read at a time; a power of two so that a place in them can be masked.
const CHUNK_BYTES: u32 = 256;
/// Above the longest path.
const PATH_LENGTH_MASK: u32 = 0x1fff;
/// `SB_KERNMOUNT` (include/linux/fs.h): a file system that no path leads to.
const SB_KERNMOUNT: u64 = 1 << 22;

/// Where the loops stand, and what was found for the program that is being executed.
#[repr(C)]
pub struct ProgramScan {
    /// Of the file that was judged last.
    pub file: ExecHits,
    /// Of the script before it; nothing if there was none.
    pub script: ExecHits,
    found: ExecHits,
    pub calling: Calling,
    state: u32,
    /// 1: argv could not be read.
    pub unread: u32,
    chunk: [u8; 2 * CHUNK_BYTES as usize],
}

/// The rules of a sandbox; `None`: there are none, though there should be.
#[inline(always)]
pub fn table(slot: u32) -> Option<&'static ExecTable> {
    // SAFETY: an entry of an array stays where it is while the program runs; it is an `ExecTable` as words.
    unsafe { maps::EXEC_TABLES.get_value(&slot, &0).map(|words| &*core::ptr::from_ref(words).cast()) }
}

/// Is this inode's file system one that no path leads to, as that of memfd_create(2)?
#[inline(always)]
pub fn is_unseen(inode: u64) -> bool {
    let superblock: u64 = probed(inode, &offsets::INODE_I_SB);
    probed::<u64>(superblock, &offsets::SB_S_FLAGS) & SB_KERNMOUNT != 0
}

/// Context of [`by_tags`]; only `at` changes.
struct Ascent {
    at: *const u8,
    scratch: *mut Scratch,
    sandbox_id: u32,
    _pad: u32,
}

/// The rules of the inodes from `dentry` up to the root of its file system.
///
/// # Safety
/// `scratch` is the current task's; `dentry` is a pointer that the verifier knows as such.
#[inline(always)]
pub unsafe fn by_tags(sandbox_id: u32, scratch: *mut Scratch, dentry: *const u8) -> ExecHits {
    let mut ascent = Ascent { at: dentry, scratch, sandbox_id, _pad: 0 };
    // SAFETY: the callback's type is what the helper calls; the context outlives the loop.
    unsafe {
        (*scratch).program.found = ExecHits::NONE;
        bpf_loop(PATH_DEPTH_MAX as u32, ascent_step as *mut c_void, (&raw mut ascent).cast(), 0);
        (&raw const (*scratch).program.found).read_volatile()
    }
}

unsafe extern "C" fn ascent_step(_index: u64, ascent: *mut Ascent) -> i64 {
    // SAFETY: the helper hands back the context of `by_tags`; loads are of kernel types, and the hook's reference on the
    // object keeps what is above it.
    unsafe {
        let at = (*ascent).at;
        let inode: *mut inode = typed(at, &offsets::DENTRY_D_INODE);
        if !inode.is_null() {
            let tag = maps::TAGS.get_ptr_mut(inode);
            if !tag.is_null() {
                let key = TagKey { sandbox_id: (*ascent).sandbox_id, tag: *tag };
                if let Some(rule) = maps::EXEC_TAG_RULES.get_ptr(&key) {
                    let found = &raw mut (*(*ascent).scratch).program.found;
                    *found = (*found).or(*rule);
                }
            }
        }
        let parent: *const u8 = typed(at, &offsets::DENTRY_D_PARENT);
        if parent == at {
            return 1;
        }
        (*ascent).at = parent;
    }
    0
}

/// Context of the loops over bytes; nothing in it changes.
struct Bytes {
    table: *const ExecTable,
    scratch: *mut Scratch,
    /// Where argv begins in the caller's memory.
    address: u64,
    /// Where the loop begins, in the text or in argv.
    from: u32,
    /// Bytes of argv.
    length: u32,
    wanted: u32,
    _pad: u32,
}

/// What names the program whose path stands in the scratch's text.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn by_path(table: &ExecTable, scratch: *mut Scratch, at: u32, length: u32) -> ExecHits {
    let mut context = Bytes { table, scratch, address: 0, from: at, length: 0, wanted: 0, _pad: 0 };
    // SAFETY: the callback's type is what the helper calls; the context outlives the loop.
    unsafe {
        (*scratch).program.state = START;
        bpf_loop(length & PATH_LENGTH_MASK, path_step as *mut c_void, (&raw mut context).cast(), 0);
        let state = (&raw const (*scratch).program.state).read_volatile();
        (*scratch).program.found = hits(&table.names, state);
        (&raw const (*scratch).program.found).read_volatile()
    }
}

unsafe extern "C" fn path_step(index: u64, context: *mut Bytes) -> i64 {
    // SAFETY: the helper hands back the context of `by_path`, whose pointers are valid while it runs; the offset is masked.
    unsafe {
        let scratch = (*context).scratch;
        let byte = *text_at(scratch, (*context).from + index as u32);
        let state = (*scratch).program.state;
        (*scratch).program.state = next(&(*(*context).table).names, state, byte);
    }
    0
}

/// A call's argv in the memory of the current task.
#[derive(Clone, Copy)]
pub struct Argv {
    pub address: u64,
    pub length: u32,
}

/// Finds out how the program is called; the answer lies in the scratch ([`ProgramScan::calling`]).
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn find_calling(table: &ExecTable, scratch: *mut Scratch, argv: Argv, wanted: Wanted) {
    let wanted = u32::from(wanted.multi_call) | u32::from(wanted.script) << 1;
    let Argv { address, length } = argv;
    let mut context = Bytes { table, scratch, address, from: 0, length, wanted, _pad: 0 };
    // SAFETY: the callback's type is what the helper calls; the context outlives the loop.
    unsafe {
        (*scratch).program.calling = Calling::default();
        (*scratch).program.unread = 0;
        bpf_loop(ARGS_JUDGED_BYTES_MAX as u32, calling_step as *mut c_void, (&raw mut context).cast(), 0);
    }
}

unsafe extern "C" fn calling_step(index: u64, context: *mut Bytes) -> i64 {
    // SAFETY: the helper hands back the context of `find_calling`, whose pointers are valid while it runs.
    unsafe {
        let Some(byte) = byte_of_argv(index as u32, context) else { return 1 };
        let wanted = Wanted { multi_call: (*context).wanted & 1 != 0, script: (*context).wanted & 2 != 0 };
        let calling = &raw mut (*(*context).scratch).program.calling;
        *calling = (*calling).step(&(*(*context).table).names, wanted, index as u32, byte);
        i64::from((*calling).done != 0)
    }
}

/// Rules whose arguments are the words of argv from `from` on.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn args_from(table: &ExecTable, scratch: *mut Scratch, argv: Argv, from: u32) -> u64 {
    let Argv { address, length } = argv;
    let mut context = Bytes { table, scratch, address, from, length, wanted: 0, _pad: 0 };
    // SAFETY: the callback's type is what the helper calls; the context outlives the loop.
    unsafe {
        (*scratch).program.state = if from < length { table.args.fresh } else { START };
        bpf_loop(ARGS_JUDGED_BYTES_MAX as u32, args_step as *mut c_void, (&raw mut context).cast(), 0);
        let state = (&raw const (*scratch).program.state).read_volatile();
        hits(&table.args, state).args
    }
}

unsafe extern "C" fn args_step(index: u64, context: *mut Bytes) -> i64 {
    // SAFETY: the helper hands back the context of `args_from`, whose pointers are valid while it runs.
    unsafe {
        // The last NUL only ends the last word.
        if (*context).from + index as u32 + 1 >= (*context).length {
            return 1;
        }
        let Some(byte) = byte_of_argv(index as u32, context) else { return 1 };
        let scratch = (*context).scratch;
        let state = (*scratch).program.state;
        (*scratch).program.state = next(&(*(*context).table).args, state, byte);
    }
    0
}

/// The next byte of argv; `None` at its end, and where it can't be read.
///
/// # Safety
/// `context` is that of a loop over argv.
#[inline(always)]
unsafe fn byte_of_argv(index: u32, context: *mut Bytes) -> Option<u8> {
    // SAFETY: the caller vouches for `context`; the helper checks the caller's address, and writes no more than the chunk
    // has room for.
    unsafe {
        let program = &raw mut (*(*context).scratch).program;
        let (at, length) = ((*context).from + index, (*context).length);
        if at >= length {
            return None;
        }
        if index == 0 || at & (CHUNK_BYTES - 1) == 0 {
            let begin = at & !(CHUNK_BYTES - 1);
            let left = length - begin;
            let size = if left > CHUNK_BYTES { CHUNK_BYTES } else { left } & (2 * CHUNK_BYTES - 1);
            let from = ((*context).address + u64::from(begin)) as *const c_void;
            if bpf_probe_read_user((&raw mut (*program).chunk).cast(), size, from) != 0 {
                (*program).unread = 1;
                return None;
            }
        }
        Some(*(&raw const (*program).chunk).cast::<u8>().add(at as usize & (CHUNK_BYTES as usize - 1)))
    }
}
