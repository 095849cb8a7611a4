//! From a dentry and its mount to an absolute path, as bytes in a task's scratch.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel_str};

use super::{
    maps::{CHAIN_MAX, Scratch, TEXT_BYTES},
    offsets::{self, probed},
};

/// Bytes of a name with its NUL (`NAME_MAX` + 1).
const NAME_BYTES: u32 = 256;
/// A path that is longer than this before its last name is cut.
const PATH_BYTES_CUT: u32 = 4096;
/// Above the longest length: the cut and a name.
const LENGTH_MASK: u32 = 0x1fff;

/// An object's place: addresses of a dentry and of its vfsmount (0: unknown, the path ends at the file system's root).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    pub dentry: u64,
    pub mount: u64,
}

impl Location {
    /// Of a `struct path` at this address.
    #[inline(always)]
    pub fn of_path(path: u64) -> Self {
        Self { dentry: probed(path, &offsets::PATH_DENTRY), mount: probed(path, &offsets::PATH_MNT) }
    }

    /// Of an entry of the directory whose `struct path` is at this address.
    #[inline(always)]
    pub fn of_entry(directory: u64, dentry: u64) -> Self {
        Self { dentry, mount: probed(directory, &offsets::PATH_MNT) }
    }
}

/// A path that was written: its length in bytes, and whether it is whole.
#[derive(Clone, Copy)]
pub struct Written {
    pub length: u32,
    pub whole: bool,
}

/// Where the two loops of [`write_path`] stand.
#[repr(C)]
pub struct Climb {
    dentry: u64,
    mount: u64,
    /// Root of the mount.
    root: u64,
    /// Root of the process (`chroot(2)`).
    top_dentry: u64,
    top_mount: u64,
    /// Places of the chain that are taken.
    steps: u32,
    /// Where in the text the path begins, and its length so far.
    at: u32,
    length: u32,
    /// 1: the climb reached the top.
    climbed: u32,
    /// 1: every name is written.
    spelled: u32,
    /// 1: while nothing is moved, the path stays what it is.
    pub steady: u32,
    /// 1: the climb has left the object's own mount.
    crossed: u32,
    /// 1: the top has to be met.
    is_rooted: u32,
}

/// Writes the path at `at` in the scratch's text. Both loops are `bpf_loop`: as plain ones they have more states than the
/// verifier follows.
///
/// `fs` is the address of the process's `struct fs_struct`: paths begin at its root, as the process sees them.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn write_path(scratch: *mut Scratch, fs: u64, at: u32, location: Location) -> Written {
    let top = Location::of_path(fs + u64::from(offsets::FS_ROOT.load()));
    // SAFETY: the caller vouches for `scratch`.
    unsafe { write_between(scratch, at, location, top, (0, 0)) }
}

/// Writes the names from `top` down to `location` behind a prefix that stands in the text already: its length, and 1 if
/// `top` has to be met.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn write_between(
    scratch: *mut Scratch,
    at: u32,
    location: Location,
    top: Location,
    (prefix_length, is_rooted): (u32, u32),
) -> Written {
    // SAFETY: the callbacks' types are what the helper calls; the context outlives the loops.
    unsafe {
        let climb = &raw mut (*scratch).climb;
        (*climb).dentry = location.dentry;
        (*climb).mount = location.mount;
        (*climb).root = mount_root(location.mount);
        (*climb).top_dentry = top.dentry;
        (*climb).top_mount = top.mount;
        (*climb).at = at;
        (*climb).length = prefix_length;
        (*climb).is_rooted = is_rooted;
        (*climb).climbed = 0;
        (*climb).steady = 1;
        (*climb).crossed = 0;
        (*climb).spelled = 0;
        let mut context = scratch;
        let context = (&raw mut context).cast();
        bpf_loop(CHAIN_MAX as u32, climb_step as *mut c_void, context, 0);
        bpf_loop(CHAIN_MAX as u32 + 1, spell_step as *mut c_void, context, 0);
        if (*climb).length == 0 {
            *text_at(scratch, at) = b'/';
            (*climb).length = 1;
        }
        let whole = (*climb).climbed != 0 && (*climb).spelled != 0;
        Written { length: (*climb).length & LENGTH_MASK, whole }
    }
}

/// One dentry up, or over to the folder that a mount stands on (a 0 in the chain). Returns 1 to stop.
unsafe extern "C" fn climb_step(index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: the helper hands back the context of `write_path`; indices are masked.
    unsafe {
        let scratch = *context;
        let climb = &raw mut (*scratch).climb;
        let (dentry, mount) = ((*climb).dentry, (*climb).mount);
        (*climb).steps = index as u32;
        if dentry == (*climb).top_dentry && mount == (*climb).top_mount {
            (*climb).climbed = 1;
            if index == 0 {
                (*climb).steady = 0; // the root itself: what is above it is none of its path
            }
            return 1;
        }
        let slot = (&raw mut (*scratch).chain).cast::<u64>().add(index as usize & (CHAIN_MAX - 1));
        let parent: u64 = probed(dentry, &offsets::DENTRY_D_PARENT);
        // The object's own name is looked at anew each time; what is above a mount stays in memory as long as the mount does.
        if index != 0
            && (*climb).crossed == 0
            && probed::<u32>(dentry, &offsets::DENTRY_D_FLAGS) & offsets::DCACHE_UNSTEADY.load() != 0
        {
            (*climb).steady = 0;
        }
        if dentry != (*climb).root && dentry != parent && parent != 0 {
            *slot = dentry;
            (*climb).dentry = parent;
            return 0;
        }
        if dentry != (*climb).root {
            (*climb).steady = 0; // hangs on no root, or was moved out of the mount
        }
        let holder = mount.wrapping_sub(u64::from(offsets::MOUNT_MNT.load()));
        let above: u64 = if mount == 0 { 0 } else { probed(holder, &offsets::MOUNT_MNT_PARENT) };
        if above == holder || above == 0 {
            (*climb).climbed = u32::from(dentry != 0 && (*climb).is_rooted == 0);
            (*climb).steady = 0; // no root of a process: may be on no namespace's tree
            return 1;
        }
        *slot = 0;
        (*climb).crossed = 1;
        (*climb).dentry = probed(holder, &offsets::MOUNT_MNT_MOUNTPOINT);
        (*climb).mount = above + u64::from(offsets::MOUNT_MNT.load());
        (*climb).root = mount_root((*climb).mount);
    }
    0
}

/// A slash and the next name, from the root down. Returns 1 to stop.
unsafe extern "C" fn spell_step(index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: the helper hands back the context of `write_path`; the index is masked to the chain, the offset to the
    // text's room, behind which a name of `NAME_BYTES` still fits.
    unsafe {
        let scratch = *context;
        let climb = &raw mut (*scratch).climb;
        let (steps, length) = ((*climb).steps, (*climb).length & LENGTH_MASK);
        if index as u32 >= steps {
            (*climb).spelled = 1;
            return 1;
        }
        if length > PATH_BYTES_CUT {
            return 1;
        }
        let slot = (steps - 1 - index as u32) as usize & (CHAIN_MAX - 1);
        let dentry = *(&raw const (*scratch).chain).cast::<u64>().add(slot);
        if dentry == 0 {
            return 0;
        }
        let name: u64 = probed(dentry + u64::from(offsets::DENTRY_D_NAME.load()), &offsets::QSTR_NAME);
        let text = text_at(scratch, (*climb).at + length);
        *text = b'/';
        let read = bpf_probe_read_kernel_str(text.add(1).cast(), NAME_BYTES, name as *const _);
        (*climb).length = (length + if read > 0 { read as u32 } else { 1 }) & LENGTH_MASK;
    }
    0
}

/// The byte of the scratch's text at an offset, masked to its room.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
pub unsafe fn text_at(scratch: *mut Scratch, at: u32) -> *mut u8 {
    // SAFETY: the caller vouches for `scratch`; the mask keeps the offset within its room.
    unsafe { (&raw mut (*scratch).text).cast::<u8>().add(at as usize & (TEXT_BYTES - 1)) }
}

#[inline(always)]
fn mount_root(mount: u64) -> u64 {
    if mount == 0 { 0 } else { probed(mount, &offsets::VFSMOUNT_MNT_ROOT) }
}
