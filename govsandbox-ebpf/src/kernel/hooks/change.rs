//! Changes of names, content length and attributes, where LSM programs run.

use aya_ebpf::{EbpfContext, macros::lsm, programs::LsmContext};
use govsandbox_ebpf::{
    abi::{
        event::{FLAG_TARGET_FIRST, RecordAction, RecordKind},
        rule::{RULE_OWN, RULE_PROC},
    },
    decide::{
        Decision,
        path::{Operation, decide_path},
    },
};

use super::{ENOMEM, EPERM, answer, conclude, moved, settle};
use crate::kernel::{
    emit,
    ground::{self, About},
    maps::Scratch,
    object,
    offsets::{self, probed, typed},
    subject::{self, Subject},
    walk::{Location, Written},
};

/// `RENAME_EXCHANGE` (include/uapi/linux/fs.h).
const RENAME_EXCHANGE: u32 = 2;

/// `PROC_SUPER_MAGIC` (include/uapi/linux/magic.h).
const PROC_MAGIC: u64 = 0x9fa0;

/// One object of a change.
#[derive(Clone, Copy)]
pub(super) struct Name {
    /// Typed pointer to its dentry; the inode may not be there yet.
    pub(super) dentry: *const u8,
    location: Location,
    /// Its own name goes: what pins the name counts.
    leaves: bool,
    /// A symlink comes to stand there.
    symlink: bool,
    about: About,
}

impl Name {
    /// An entry of the folder whose `struct path` this is.
    #[inline(always)]
    fn entry(folder: *const u8, dentry: *const u8, leaves: bool) -> Self {
        let location = Location::of_entry(folder as u64, dentry as u64);
        Self { dentry, location, leaves, symlink: false, about: About::Name }
    }

    /// The same, where a symlink comes to stand there.
    #[inline(always)]
    fn with_symlink(self, symlink: bool) -> Self {
        Self { symlink, ..self }
    }

    /// The object of a `struct path`.
    #[inline(always)]
    pub(super) unsafe fn path(path: *const u8) -> Self {
        // SAFETY: the caller's pointer is a hook's argument of that type.
        let dentry = unsafe { typed(path, &offsets::PATH_DENTRY) };
        let location = Location::of_path(path as u64);
        Self { dentry, location, leaves: false, symlink: false, about: About::Object }
    }

    /// An object of which only the dentry is known.
    #[inline(always)]
    pub(super) fn dentry(dentry: *const u8) -> Self {
        let location = Location { dentry: dentry as u64, mount: 0 };
        Self { dentry, location, leaves: false, symlink: false, about: About::Attribute }
    }
}

/// Declares hooks on one object; the program is named after its hook.
macro_rules! one_object {
    ($($hook:ident: $action:ident, |$ctx:ident| $name:expr;)*) => {$(
        #[lsm]
        pub fn $hook($ctx: LsmContext) -> i32 {
            let Some(subject) = subject::current() else { return 0 };
            // SAFETY: the arguments are those of the hook of this name (include/linux/lsm_hook_defs.h).
            unsafe {
                let name: Name = $name;
                judge(&$ctx, &subject, RecordAction::$action, name, None)
            }
        }
    )*};
}

pub(super) use one_object;

one_object!(
    path_mkdir: Create, |ctx| Name::entry(ctx.arg(0), ctx.arg(1), false);
    path_mknod: Create, |ctx| Name::entry(ctx.arg(0), ctx.arg(1), false);
    path_symlink: Create, |ctx| Name::entry(ctx.arg(0), ctx.arg(1), false).with_symlink(true);
    path_unlink: Unlink, |ctx| Name::entry(ctx.arg(0), ctx.arg(1), true);
    path_rmdir: Unlink, |ctx| Name::entry(ctx.arg(0), ctx.arg(1), true);
    path_truncate: Truncate, |ctx| Name::path(ctx.arg(0));
    path_chmod: Chmod, |ctx| Name::path(ctx.arg(0));
    path_chown: Chown, |ctx| Name::path(ctx.arg(0));
    inode_setxattr: Xattr, |ctx| Name::dentry(ctx.arg(1));
    inode_removexattr: Xattr, |ctx| Name::dentry(ctx.arg(1));
);

/// Declares hooks on two objects, a program for each: one for both would be more than the verifier follows. The first
/// name of a pair is weighed, the other only told.
macro_rules! two_objects {
    ($($program:ident: $action:ident, $flags:expr, |$ctx:ident| $weighed:expr, $told:expr;)*) => {$(
        #[lsm]
        pub fn $program($ctx: LsmContext) -> i32 {
            let Some(subject) = subject::current() else { return 0 };
            // SAFETY: the arguments are those of the hook (include/linux/lsm_hook_defs.h).
            unsafe {
                let (weighed, told): (Name, Name) = ($weighed, $told);
                judge(&$ctx, &subject, RecordAction::$action, weighed, Some((told, $flags)))
            }
        }
    )*};
}

// path_rename(old_dir, old_dentry, new_dir, new_dentry, flags); path_link(old_dentry, new_dir, new_dentry): a new name
// for what a rule holds by another would undo the rule.
two_objects!(
    path_rename: Rename, 0,
        |ctx| Name::entry(ctx.arg(0), ctx.arg(1), true).with_symlink(comes_back(ctx.arg(3), ctx.arg(4))),
        Name::entry(ctx.arg(2), ctx.arg(3), true);
    path_rename_to: Rename, FLAG_TARGET_FIRST,
        |ctx| Name::entry(ctx.arg(2), ctx.arg(3), true).with_symlink(moved::is_symlink(ctx.arg(1))),
        Name::entry(ctx.arg(0), ctx.arg(1), true);
    path_link: Link, 0, |ctx| Name::entry(ctx.arg(1), ctx.arg(0), false), Name::entry(ctx.arg(1), ctx.arg(2), false);
    path_link_to: Link, FLAG_TARGET_FIRST,
        |ctx| Name::entry(ctx.arg(1), ctx.arg(2), false).with_symlink(moved::is_symlink(ctx.arg(0))),
        Name::entry(ctx.arg(1), ctx.arg(0), false);
);

/// Is it a symlink that an exchange brings to the old name?
#[inline(always)]
fn comes_back(new: u64, flags: u32) -> bool {
    flags & RENAME_EXCHANGE != 0 && moved::is_symlink(new)
}

/// Decides by one object and reports a refusal.
#[inline(always)]
pub(super) unsafe fn judge<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    action: RecordAction,
    name: Name,
    told: Option<(Name, u32)>,
) -> i32 {
    if subject.config.path_hooks == 0 {
        return 0;
    }
    if subject.config.orphaned != 0 {
        return answer(EPERM);
    }
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Change as u32, 0);
        return answer(ENOMEM);
    }
    // SAFETY: the scratch is this task's; the names are the hook's.
    unsafe {
        let written = ground::write_path(subject, scratch, 0, name.location, name.dentry, name.about);
        let (decision, always) = weigh(subject, scratch, name, written);
        let decision = match action {
            RecordAction::Chmod | RecordAction::Chown if decision.allow && is_of_proc(name.dentry) => {
                Decision::deny(RULE_PROC)
            }
            _ => decision,
        };
        let decision = if name.symlink && decision.allow {
            object::may_be_symlink(subject.config.slot, scratch)
        } else {
            decision
        };
        let decision = match told {
            Some((other, flags)) if action as u8 == RecordAction::Rename as u8 && decision.allow => {
                let dentries = if flags & FLAG_TARGET_FIRST == 0 {
                    (name.dentry, other.dentry)
                } else {
                    (other.dentry, name.dentry)
                };
                moved::decide(subject, scratch, dentries, flags & FLAG_TARGET_FIRST)
            }
            _ => decision,
        };
        let (decision, always) = settle(scratch, decision, always);
        if decision.allow {
            return 0;
        }
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Change);
        (*record).action = action as u8;
        (*record).path_len = written.length;
        object::identify(record, typed::<*const u8>(name.dentry, &offsets::DENTRY_D_INODE) as u64);
        if let Some((other, flags)) = told {
            let to = written.length;
            let second = ground::write_path(subject, scratch, to, other.location, other.dentry, other.about);
            (*record).second_len = second.length;
            (*record).flags = flags;
        }
        let refuse = conclude(subject, decision, always, record);
        emit::with_text(ctx, subject, scratch);
        if refuse { answer(EPERM) } else { 0 }
    }
}

/// Is it an entry of `/proc`? Its attributes are not those of a mount, but of what it stands for.
#[inline(always)]
unsafe fn is_of_proc(dentry: *const u8) -> bool {
    // SAFETY: the caller's pointer is a hook's argument of that type.
    let inode = unsafe { typed::<*const u8>(dentry, &offsets::DENTRY_D_INODE) } as u64;
    let superblock: u64 = probed(inode, &offsets::INODE_I_SB);
    probed::<u64>(superblock, &offsets::SB_S_MAGIC) == PROC_MAGIC
}

/// Decides on one object whose path stands at the text's beginning; `true`: holds in audit mode too.
#[inline(always)]
unsafe fn weigh(subject: &Subject, scratch: *mut Scratch, name: Name, written: Written) -> (Decision, bool) {
    // SAFETY: as in `judge`.
    let (tags, by_path) = unsafe {
        (
            object::by_tags(subject.sandbox_id, scratch, name.dentry),
            object::by_path(subject.config.slot, scratch, 0, written.length),
        )
    };
    let decision = if tags.whole == 0 || !written.whole {
        Decision::DENY_DEFAULT
    } else if name.leaves && tags.pinned != 0 {
        Decision::deny(tags.pinned)
    } else {
        let by_rules = decide_path(tags.hits.or(by_path), Operation::Change);
        if by_rules.allow && name.about != About::Attribute {
            // SAFETY: as in `judge`.
            unsafe { ground::decide(subject, scratch, Operation::Change) }
        } else {
            by_rules
        }
    };
    // The way to an own file is one of its own too.
    (decision, decision.rule == RULE_OWN)
}
