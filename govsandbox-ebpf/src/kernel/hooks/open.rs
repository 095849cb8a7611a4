//! Opens: `file_open` decides where LSM programs run.

use aya_ebpf::{EbpfContext, macros::lsm, programs::LsmContext};
use govsandbox_ebpf::{
    abi::{
        event::{EventRecord, FLAG_PATH_CUT, RecordAction, RecordKind, RecordOutcome},
        rule::{Hits, TraceOpens},
    },
    decide::{
        Decision,
        path::{Operation, decide_own, decide_path},
    },
};

use super::{ENOMEM, EPERM, answer, conclude};
use crate::kernel::{
    emit,
    maps::{self, SeenKey},
    object,
    offsets::{self, probed, typed},
    subject::{self, Subject},
    walk::{self, Location},
};

const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
/// `__FMODE_EXEC` (include/linux/fs.h): the open is on behalf of exec.
const FMODE_EXEC: u32 = 0x20;
/// `FMODE_NOACCOUNT` (include/linux/fs.h): a stacked file system (overlayfs) opens the file below for one that was judged.
const FMODE_NOACCOUNT: u32 = 0x2000_0000;
const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;

/// `file_open(struct file *file)`.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.path_hooks == 0 {
        return 0;
    }
    if subject.config.orphaned != 0 {
        return answer(EPERM);
    }
    // SAFETY: the hook's argument is an open file that the kernel holds while the hook runs.
    unsafe { judge(&ctx, &subject, ctx.arg(0)) }
}

/// `file_receive(struct file *file)`: a descriptor that came over a socket is an open like any other.
#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.path_hooks == 0 {
        return 0;
    }
    if subject.config.orphaned != 0 {
        return answer(EPERM);
    }
    // SAFETY: as in `file_open`.
    unsafe { judge(&ctx, &subject, ctx.arg(0)) }
}

#[inline(always)]
unsafe fn judge<C: EbpfContext>(ctx: &C, subject: &Subject, file: *const u8) -> i32 {
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Open as u32, 0);
        return answer(ENOMEM);
    }
    // SAFETY: `file` is the hook's; offsets are of the types that are read; the scratch is this task's.
    unsafe {
        let path = file.add(offsets::FILE_F_PATH.load() as usize);
        let dentry: *const u8 = typed(path, &offsets::PATH_DENTRY);
        let inode: *const u8 = typed(file, &offsets::FILE_F_INODE);
        let below = typed::<u32>(file, &offsets::FILE_F_MODE) & FMODE_NOACCOUNT != 0;
        if below && typed::<*const u8>(dentry, &offsets::DENTRY_D_INODE) != inode {
            return 0; // up to Linux 6.4 it bears the path of the file that was judged
        }
        let tags = object::by_tags(subject.sandbox_id, scratch, dentry);
        let written = walk::write_path(scratch, subject.fs(), 0, Location::of_path(path as u64));
        // The file below has a path on a mount of the file system's own, which no pattern means; its inode counts.
        let by_path =
            if below { Hits::NONE } else { object::by_path(subject.config.slot, scratch, 0, written.length) };
        let hits = tags.hits.or(by_path);

        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Open);
        describe(record, inode as u64, typed(file, &offsets::FILE_F_FLAGS));
        (*record).path_len = written.length;
        if !written.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let operation =
            if (*record).action == RecordAction::Write as u8 { Operation::Change } else { Operation::Read };
        let own = decide_own(tags.own, operation);
        let decision = if !own.allow {
            own
        } else if tags.whole != 0 && written.whole {
            decide_path(hits, operation)
        } else {
            Decision::DENY_DEFAULT
        };
        let refuse = conclude(subject, decision, !own.allow, record);
        if (!below || !decision.allow) && wanted(subject, record) {
            emit::with_text(ctx, subject, scratch);
        }
        if refuse { answer(EPERM) } else { 0 }
    }
}

/// Writes what is opened and how into the record.
///
/// # Safety
/// `record` points to one.
#[inline(always)]
pub unsafe fn describe(record: *mut EventRecord, inode: u64, flags: u32) {
    let mode: u16 = probed(inode, &offsets::INODE_I_MODE);
    let action = if flags & FMODE_EXEC != 0 {
        RecordAction::Execute
    } else if mode & S_IFMT == S_IFDIR {
        RecordAction::List
    } else if flags & O_ACCMODE != 0 || flags & O_TRUNC != 0 {
        RecordAction::Write
    } else {
        RecordAction::Read
    };
    // SAFETY: the caller vouches for `record`.
    unsafe {
        object::identify(record, inode);
        (*record).action = action as u8;
        (*record).value = u64::from(flags & !FMODE_EXEC);
    }
}

/// Is this open recorded? What was refused always is.
///
/// # Safety
/// `record` points to one that is complete but for its texts.
#[inline(always)]
pub unsafe fn wanted(subject: &Subject, record: *const EventRecord) -> bool {
    // SAFETY: the caller vouches for `record`.
    let (outcome, action, dev, ino, tgid) =
        unsafe { ((*record).outcome, (*record).action, (*record).dev, (*record).ino, (*record).tgid) };
    if outcome != RecordOutcome::Allowed as u8 {
        return true;
    }
    let opens = subject.config.trace_opens;
    if opens == TraceOpens::All as u8 {
        return true;
    }
    if opens == TraceOpens::Writes as u8 {
        return action == RecordAction::Write as u8;
    }
    if opens == TraceOpens::Denied as u8 {
        return false;
    }
    let key = SeenKey { dev, ino, tgid, action: u32::from(action) };
    if maps::SEEN.get_ptr(&key).is_some() {
        return false;
    }
    let _ = maps::SEEN.insert(&key, &1, 0);
    true
}
