//! `process.namespaces = "allow"`: what the sandbox mounts itself gives files other paths. There a file is looked for from
//! its own file system: up to the folder where one of the machine's mounts begins, which bears a tag, and on from that
//! mount's place as it was at the start. Bind mounts, roots and namespaces made inside change nothing of that path.
//!
//! The same walk gathers what the allow-lists say, which Landlock does not hold here: it lets nobody mount.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::inode,
    helpers::generated::{bpf_loop, bpf_probe_read_kernel},
};
use govsandbox_ebpf::{
    abi::{
        ground::{Lists, PREFIX_BYTES, PROC_TAG},
        rule::TagKey,
    },
    decide::{
        Decision,
        path::{Operation, decide_lists},
    },
};

use super::{
    maps::{self, PATH_DEPTH_MAX, Scratch},
    offsets::{self, probed, typed},
    subject::Subject,
    walk::{self, Location, Written, text_at},
};

/// `PROC_SUPER_MAGIC` (include/uapi/linux/magic.h).
const PROC_MAGIC: u64 = 0x9fa0;
/// `SB_NOUSER` (include/linux/fs.h): pipes, sockets, memory files.
const SB_NOUSER: u64 = 1 << 31;

/// `MNT_NS_INTERNAL` (fs/mount.h): a mount of the kernel's own, as a stacked file system has of what lies below it.
const MNT_NS_INTERNAL: u64 = -22_i64 as u64;

/// What the walk found.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Found {
    /// Address of the dentry where a mount of the machine begins; 0: none was met.
    root: u64,
    /// Tag of its inode.
    tag: u32,
    lists: Lists,
    /// 1: a file system without names, or one that was mounted in a user namespace, or what a stacked one does below.
    is_own: u32,
    prefix_length: u32,
}

impl Found {
    const NOTHING: Self = Self { root: 0, tag: 0, lists: Lists::NONE, is_own: 0, prefix_length: 0 };
}

/// What is asked about an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Itself.
    Object,
    /// Its name in a folder: what the lists say of the folder counts.
    Name,
    /// An attribute, by a hook that is not told by which mount it is reached: the mount itself holds the lists.
    Attribute,
    /// A stacked file system's own business: the object above was judged.
    Below,
}

/// Writes an object's path as [`walk::write_path`] does, where namespaces are allowed that of the machine.
///
/// # Safety
/// `scratch` is the current task's; `dentry` is a pointer that the verifier knows as such.
#[inline(always)]
pub unsafe fn write_path(
    subject: &Subject,
    scratch: *mut Scratch,
    at: u32,
    location: Location,
    dentry: *const u8,
    about: About,
) -> Written {
    // SAFETY: the caller vouches for its pointers.
    unsafe {
        if subject.config.namespaces != 0 {
            find(subject, scratch, dentry, about);
            if about == About::Below || is_internal(location.mount) {
                (*scratch).ground = Found { is_own: 1, ..Found::NOTHING };
            }
        }
        let (from, top, prefix) = begin(subject, scratch, at, location, &raw mut (*scratch).ground);
        walk::write_between(scratch, at, from, top, prefix)
    }
}

/// Finds where a program lies, for [`write_program_path`].
///
/// # Safety
/// As [`write_path`].
#[inline(always)]
pub unsafe fn find_program(subject: &Subject, scratch: *mut Scratch, dentry: *const u8) {
    // SAFETY: the caller vouches for its pointers.
    unsafe {
        find(subject, scratch, dentry, About::Object);
        (*scratch).program_ground = (&raw const (*scratch).ground).read_volatile();
    }
}

/// Writes the path of the program that [`find_program`] looked at last: the tags of inodes are for LSM programs alone.
///
/// # Safety
/// `scratch` is the current task's.
#[inline(always)]
pub unsafe fn write_program_path(subject: &Subject, scratch: *mut Scratch, location: Location) -> Written {
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        let (from, top, prefix) = begin(subject, scratch, 0, location, &raw mut (*scratch).program_ground);
        walk::write_between(scratch, 0, from, top, prefix)
    }
}

/// From where to where names are written, and the prefix that stands before them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    from: [u64; 2],
    top: [u64; 2],
    prefix: [u32; 2],
}

/// From the process's root, or where namespaces are allowed from the mount of the machine that was found.
///
/// Both ways pass through the scratch: to the verifier what comes from a map is one, and what follows is followed once.
#[inline(always)]
unsafe fn begin(
    subject: &Subject,
    scratch: *mut Scratch,
    at: u32,
    location: Location,
    ground: *mut Found,
) -> (Location, Location, (u32, u32)) {
    // SAFETY: the callers vouch for their pointers; the text has room for a prefix behind a masked offset.
    unsafe {
        let top = Location::of_path(subject.fs() + u64::from(offsets::FS_ROOT.load()));
        let way = &raw mut (*scratch).way;
        *way = Way { from: [location.dentry, location.mount], top: [top.dentry, top.mount], prefix: [0, 0] };
        if subject.config.namespaces != 0 {
            let root = (&raw const (*ground).root).read_volatile();
            let key = TagKey { sandbox_id: subject.sandbox_id, tag: (*ground).tag };
            if root != 0
                && let Some(known) = maps::GROUNDS.get_ptr(&key)
            {
                let prefix = (&raw const (*known).prefix).cast::<c_void>();
                bpf_probe_read_kernel(text_at(scratch, at).cast(), PREFIX_BYTES as u32, prefix);
                let length = u32::from((*known).prefix_length) & (PREFIX_BYTES as u32 - 1);
                (*ground).prefix_length = length;
                *way = Way { from: [location.dentry, 0], top: [root, 0], prefix: [length, 1] };
            }
        }
        let Way { from, top, prefix: [length, is_there] } = way.read_volatile();
        let [from, top] = [from, top].map(|[dentry, mount]| Location { dentry, mount });
        (from, top, (length & (PREFIX_BYTES as u32 - 1), is_there))
    }
}

/// Decides by the allow-lists on the object whose path was just written at the text's beginning.
///
/// # Safety
/// `scratch` is the current task's.
#[inline(always)]
pub unsafe fn decide(subject: &Subject, scratch: *mut Scratch, operation: Operation) -> Decision {
    if subject.config.namespaces == 0 {
        return Decision::ALLOW;
    }
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        let ground = (&raw const (*scratch).ground).read_volatile();
        if ground.is_own != 0 {
            return Decision::ALLOW;
        }
        if ground.root == 0 {
            return Decision::DENY_DEFAULT; // a file system that came after the start: nothing is known of it
        }
        let mut granted = ground.lists;
        let first = *text_at(scratch, ground.prefix_length + 1);
        if ground.tag == PROC_TAG && first.is_ascii_digit() {
            granted.write = u16::MAX; // of processes; `uid_map` and the like
        }
        decide_lists(granted, subject.config.lists, operation)
    }
}

/// Does no namespace have this mount?
#[inline(always)]
fn is_internal(mount: u64) -> bool {
    let holder = mount.wrapping_sub(u64::from(offsets::MOUNT_MNT.load()));
    mount != 0 && probed::<u64>(holder, &offsets::MOUNT_MNT_NS) == MNT_NS_INTERNAL
}

/// Context of the loop; only `at` changes.
struct Ascent {
    at: *const u8,
    scratch: *mut Scratch,
    sandbox_id: u32,
    /// 1: what the lists say of the lowest does not count.
    above_only: u32,
}

#[inline(always)]
unsafe fn find(subject: &Subject, scratch: *mut Scratch, dentry: *const u8, about: About) {
    let above_only = u32::from(about == About::Name);
    let mut ascent = Ascent { at: dentry, scratch, sandbox_id: subject.sandbox_id, above_only };
    // SAFETY: the callback's type is what the helper calls; the context outlives the loop.
    unsafe {
        let ground = &raw mut (*scratch).ground;
        *ground = Found::NOTHING;
        bpf_loop(PATH_DEPTH_MAX as u32, ascent_step as *mut c_void, (&raw mut ascent).cast(), 0);
        let superblock: u64 = probed(dentry as u64, &offsets::DENTRY_D_SB);
        if probed::<u64>(superblock, &offsets::SB_S_MAGIC) == PROC_MAGIC {
            gather(&ascent, PROC_TAG, probed(superblock, &offsets::SB_S_ROOT), true);
            return;
        }
        let owner: u64 = probed(superblock, &offsets::SB_S_USER_NS);
        let level: u32 = probed(owner, &offsets::USER_NS_LEVEL);
        let flags: u64 = probed(superblock, &offsets::SB_S_FLAGS);
        (*ground).is_own = u32::from(flags & SB_NOUSER != 0 || level != 0);
    }
}

/// One dentry up. Returns 1 to stop.
unsafe extern "C" fn ascent_step(index: u64, ascent: *mut Ascent) -> i64 {
    // SAFETY: the helper hands back the context of `find`; loads are of kernel types, and the hook's reference on the
    // object keeps what is above it.
    unsafe {
        let at = (*ascent).at;
        let inode: *mut inode = typed(at, &offsets::DENTRY_D_INODE);
        if !inode.is_null() {
            let tag = maps::TAGS.get_ptr_mut(inode);
            if !tag.is_null() {
                gather(ascent, *tag, at as u64, index != 0 || (*ascent).above_only == 0);
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

/// Joins what is known of one inode to what was found below.
#[inline(always)]
unsafe fn gather(ascent: *const Ascent, tag: u32, at: u64, with_lists: bool) {
    // SAFETY: the caller vouches for `ascent`; an entry is replaced whole.
    unsafe {
        let key = TagKey { sandbox_id: (*ascent).sandbox_id, tag };
        let Some(known) = maps::GROUNDS.get_ptr(&key) else { return };
        let ground = &raw mut (*(*ascent).scratch).ground;
        if with_lists {
            (*ground).lists = (*ground).lists.or((*known).lists);
        }
        if (*known).is_root != 0 && (*ground).root == 0 {
            (*ground).root = at;
            (*ground).tag = tag;
        }
    }
}
