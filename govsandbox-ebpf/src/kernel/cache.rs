//! What was found out about a folder, kept with its inode, so that an open below it looks at its last name only.
//!
//! An entry says what the rules of one sandbox come to at one folder, reached through one mount, for a process with one
//! root: the rules of the tags above, the rules that match the path so far, and the automaton's state behind it.
//!
//! **It is never older than the last rename.** The kernel counts for itself: `rename_lock` goes up before and after every
//! change of its tree of names, `mount_lock` before and after every change of mounts, by whomever. Both counts are read
//! before the walk that makes an entry, and stand in it; at other counts it is none. They have 32 bits, so that an entry
//! is none either after [`AGE_MAX`], in which nobody gets round. What has no such count is a root that was freed and left
//! its address to another: a process gets one by `chroot` only, and [`path_chroot`] counts these.
//!
//! **Not kept** is what no count answers for: folders of file systems that find out at look-up what became of a name
//! (`d_revalidate`: NFS, FUSE, /proc) and forget names meanwhile, and what hangs on no root of a process.

use core::arch::asm;

use aya_ebpf::{bindings::inode, helpers::generated::bpf_jiffies64, macros::lsm, programs::LsmContext};
use govsandbox_ebpf::abi::rule::Hits;

use super::{
    maps,
    offsets::{self, typed},
    subject::Subject,
    walk::Location,
};

/// Entries of one folder: sandboxes whose slots differ in their last bit don't push each other out.
const WAYS: usize = 2;
/// How long an entry is one, in ticks: a minute or two, by the kernel's `CONFIG_HZ`.
const AGE_MAX: u64 = 1 << 14;

/// Counts calls of `chroot`. Not 0, so that it has no place among the constants.
#[unsafe(no_mangle)]
static mut ROOTS: u64 = 1;

/// What is kept with a folder's inode.
#[repr(C)]
pub struct Folder {
    ways: [Entry; WAYS],
}

/// What holds at one folder.
#[repr(C)]
struct Entry {
    /// Goes up before and after each change of the others; odd: one is under way.
    turn: u64,
    now: Now,
    /// [`govsandbox_ebpf::abi::rule::SandboxConfig::epoch`]; 0: nothing is kept here.
    epoch: u64,
    /// Addresses: the folder's dentry, the mount it was reached through, the root of the process.
    dentry: u64,
    mount: u64,
    top: Location,
    known: Known,
}

/// A moment by what the kernel counts.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Now {
    /// `rename_lock`; odd: a name is just being changed.
    names: u32,
    /// `mount_lock`; odd: a mount is just being changed.
    mounts: u32,
    roots: u64,
    jiffies: u64,
}

/// What is known of a folder.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Known {
    /// The rules of it and of everything above it.
    pub hits: Hits,
    /// The automaton's state behind the folder's path and a slash.
    pub state: u32,
}

/// Whose folder: what an entry has to fit.
pub struct Place {
    /// Typed pointer to the folder's dentry.
    dentry: *const u8,
    mount: u64,
    top: Location,
}

impl Now {
    /// The moment before what comes next.
    #[inline(always)]
    pub fn read() -> Self {
        // SAFETY: no arguments; a word of the object's own data.
        let (jiffies, roots) = unsafe { (bpf_jiffies64(), (&raw const ROOTS).read_volatile()) };
        Self {
            names: offsets::probed_at(offsets::RENAME_LOCK.load()),
            mounts: offsets::probed_at(offsets::MOUNT_LOCK.load()),
            roots,
            jiffies,
        }
    }

    /// Nothing is just being changed.
    #[inline(always)]
    fn is_quiet(&self) -> bool {
        (self.names | self.mounts) & 1 == 0
    }
}

impl Place {
    /// The folder of a file. `None`: the file is its mount's root, or nothing is above it.
    ///
    /// # Safety
    /// `path` is a typed pointer to a `struct path`.
    #[inline(always)]
    pub unsafe fn above(subject: &Subject, path: *const u8) -> Option<Self> {
        // SAFETY: the caller vouches for `path`; the task is trusted, and offsets are of the types that are read.
        unsafe {
            let dentry: *const u8 = typed(path, &offsets::PATH_DENTRY);
            let mount: *const u8 = typed(path, &offsets::PATH_MNT);
            let parent: *const u8 = typed(dentry, &offsets::DENTRY_D_PARENT);
            let root: *const u8 = typed(mount, &offsets::VFSMOUNT_MNT_ROOT);
            if dentry == root || dentry == parent {
                return None;
            }
            let fs: *const u8 = typed(subject.as_bytes(), &offsets::TASK_FS);
            let top = fs.add(offsets::FS_ROOT.load() as usize);
            let top =
                Location { dentry: typed(top, &offsets::PATH_DENTRY), mount: typed(top, &offsets::PATH_MNT) };
            Some(Self { dentry: parent, mount: mount as u64, top })
        }
    }

    #[inline(always)]
    fn inode(&self) -> *mut inode {
        // SAFETY: `dentry` is a typed pointer to a dentry.
        unsafe { typed(self.dentry, &offsets::DENTRY_D_INODE) }
    }
}

/// What was kept of a folder, if it holds `now`.
#[inline(always)]
pub fn known(subject: &Subject, place: &Place, now: &Now) -> Option<Known> {
    let inode = place.inode();
    if inode.is_null() {
        return None;
    }
    // SAFETY: the inode is one that the dentry holds; what is read may change meanwhile, which `turn` shows.
    unsafe {
        let folder = maps::FOLDERS.get_ptr_mut(inode);
        if folder.is_null() {
            return None;
        }
        let entry = way(folder, subject);
        let turn = read_turn(entry);
        // One comparison after the other: the verifier lets pointers be compared, and nothing else be done with them.
        if (&raw const (*entry).dentry).read_volatile() != place.dentry as u64
            || (&raw const (*entry).mount).read_volatile() != place.mount
            || (&raw const (*entry).top.dentry).read_volatile() != place.top.dentry
            || (&raw const (*entry).top.mount).read_volatile() != place.top.mount
        {
            return None;
        }
        let then = (&raw const (*entry).now).read_volatile();
        let known = (&raw const (*entry).known).read_volatile();
        let epoch = (&raw const (*entry).epoch).read_volatile();
        let other = u64::from((then.names ^ now.names) | (then.mounts ^ now.mounts))
            | (then.roots ^ now.roots)
            | (epoch ^ subject.config.epoch)
            | (turn & 1)
            | (read_turn(entry) ^ turn);
        if other == 0 && now.jiffies.wrapping_sub(then.jiffies) < AGE_MAX { Some(known) } else { None }
    }
}

/// Keeps what a walk found out that began at `now`.
#[inline(always)]
pub fn keep(subject: &Subject, place: &Place, now: Now, known: Known) {
    let inode = place.inode();
    if inode.is_null() || !now.is_quiet() {
        return;
    }
    // SAFETY: the inode is one that the dentry holds; `turn` lets one writer in.
    unsafe {
        let folder = maps::FOLDERS.get_or_insert_ptr_mut(inode, None);
        if folder.is_null() {
            return;
        }
        let entry = way(folder, subject);
        let turn = (&raw const (*entry).turn).read_volatile();
        if turn & 1 != 0 || exchange(&raw mut (*entry).turn, turn, turn + 1) != turn {
            return;
        }
        (&raw mut (*entry).now).write_volatile(now);
        (&raw mut (*entry).epoch).write_volatile(subject.config.epoch);
        (&raw mut (*entry).dentry).write_volatile(place.dentry as u64);
        (&raw mut (*entry).mount).write_volatile(place.mount);
        (&raw mut (*entry).top).write_volatile(place.top);
        (&raw mut (*entry).known).write_volatile(known);
        add(&raw mut (*entry).turn, 1);
    }
}

#[inline(always)]
unsafe fn way(folder: *mut Folder, subject: &Subject) -> *mut Entry {
    // SAFETY: the caller vouches for `folder`; the index is masked.
    unsafe { (&raw mut (*folder).ways).cast::<Entry>().add(subject.config.slot as usize & (WAYS - 1)) }
}

/// Loads stay in their order on processors that keep it (x86); elsewhere by a barrier, which costs a write.
#[inline(always)]
unsafe fn read_turn(entry: *mut Entry) -> u64 {
    // SAFETY: the caller vouches for `entry`.
    unsafe {
        if offsets::LOADS_IN_ORDER.load() == 1 {
            (&raw const (*entry).turn).read_volatile()
        } else {
            add(&raw mut (*entry).turn, 0)
        }
    }
}

/// Adds with a barrier on both sides; the value before.
#[inline(always)]
unsafe fn add(word: *mut u64, mut number: u64) -> u64 {
    // SAFETY: the caller vouches for `word`.
    unsafe { asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) number, in(reg) word) };
    number
}

/// Writes `new` where `old` stands; the value before.
#[inline(always)]
unsafe fn exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let mut before = old;
    // SAFETY: the caller vouches for `word`.
    unsafe { asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) word, in(reg) new, inout("r0") before) };
    before
}

/// `path_chroot(const struct path *path)`.
#[lsm(hook = "path_chroot")]
pub fn path_chroot(_: LsmContext) -> i32 {
    // SAFETY: a word of the object's own data.
    unsafe { add(&raw mut ROOTS, 1) };
    0
}
