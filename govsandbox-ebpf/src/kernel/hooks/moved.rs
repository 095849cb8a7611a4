//! Folders that are renamed: what lies below them gets other names without a hook of its own. Symlinks likewise stand for
//! what lies behind them.

use govsandbox_ebpf::decide::{Decision, automaton::decide_moved};

use crate::kernel::{
    maps::Scratch,
    object,
    offsets::{self, probed},
    subject::Subject,
};

const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;

/// What the program of one side leaves in the scratch for that of the other: one looks at one path only.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Moved {
    old: u64,
    new: u64,
    /// State of the automaton behind that side's path and a slash.
    state: u32,
    /// 1: the program of the old name left this, 2: that of the new one, 0: nothing is there.
    by: u32,
}

/// Decides when both paths are known, that is for the second of the two programs. The path that counts here was just
/// scanned.
///
/// # Safety
/// `scratch` is the current task's; the dentries are the hook's.
#[inline(always)]
pub(super) unsafe fn decide(
    subject: &Subject,
    scratch: *mut Scratch,
    (old, new): (*const u8, *const u8),
    target: u32,
) -> Decision {
    // Exchanged names move both ways.
    if !is_folder(old as u64) && !is_folder(new as u64) {
        return Decision::ALLOW;
    }
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        let state = object::state_below(subject.config.slot, scratch);
        let (own, other) = if target == 0 { (1, 2) } else { (2, 1) };
        let left = &raw mut (*scratch).moved;
        let met = (*left).by == other && (*left).old == old as u64 && (*left).new == new as u64;
        let state_of_other = (*left).state;
        *left = Moved { old: old as u64, new: new as u64, state, by: if met { 0 } else { own } };
        if met { decide_moved(state_of_other, state) } else { Decision::ALLOW }
    }
}

/// Is there a folder under this name?
#[inline(always)]
fn is_folder(dentry: u64) -> bool {
    kind(dentry) == S_IFDIR
}

/// Is there a symlink under this name?
#[inline(always)]
pub(super) fn is_symlink(dentry: u64) -> bool {
    kind(dentry) == S_IFLNK
}

/// 0: nothing is there.
#[inline(always)]
fn kind(dentry: u64) -> u16 {
    let inode: u64 = probed(dentry, &offsets::DENTRY_D_INODE);
    let mode: u16 = probed(inode, &offsets::INODE_I_MODE);
    if inode == 0 { 0 } else { mode & S_IFMT }
}
