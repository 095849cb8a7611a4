//! Opens: `file_open` decides where LSM programs run.

use aya_ebpf::{EbpfContext, macros::lsm, programs::LsmContext};
use govsandbox_ebpf::{
    abi::{
        event::{EventRecord, FLAG_PATH_CUT, RecordAction, RecordKind, RecordOutcome},
        rule::{Hits, RULE_OWN, TraceOpens},
    },
    decide::{
        Decision,
        path::{Operation, decide_path},
    },
};

use super::{ENOMEM, EPERM, answer, conclude, settle};
use crate::kernel::{
    cache::{self, Known, Now, Place},
    emit,
    ground::{self, About},
    maps::{self, SeenKey, Which},
    object,
    offsets::{self, probed, typed},
    subject::{self, Subject},
    walk::Location,
};

const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
/// `__FMODE_EXEC` (include/linux/fs.h): the open is on behalf of exec.
const FMODE_EXEC: u32 = 0x20;
/// `FMODE_NOACCOUNT` (include/linux/fs.h): a stacked file system (overlayfs) opens the file below for one that was judged.
const FMODE_NOACCOUNT: u32 = 0x2000_0000;
const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFBLK: u16 = 0o060_000;

/// `file_open(struct file *file)`.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    if subject::is_outside() {
        return 0;
    }
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.path_hooks == 0 {
        return 0;
    }
    if subject.config.orphaned != 0 {
        return answer(EPERM);
    }
    // SAFETY: the hook's argument is an open file that the kernel holds while the hook runs.
    unsafe {
        let file: *const u8 = ctx.arg(0);
        let (place, now) = if subject.config.keep_folders != 0 {
            let place = Place::above(&subject, file.add(offsets::FILE_F_PATH.load() as usize));
            (place, Now::read())
        } else {
            (None, Now::default())
        };
        if place.as_ref().is_some_and(|place| is_free(&subject, file, place, &now)) {
            return 0;
        }
        judge(&ctx, &subject, file, place.map(|place| (place, now)))
    }
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
    unsafe { judge(&ctx, &subject, ctx.arg(0), None) }
}

/// `path_notify(const struct path *path, u64 mask, unsigned int obj_type)`: inotify(7) and fanotify(7) name what comes,
/// changes and goes in a folder, as listing it would.
#[lsm(hook = "path_notify")]
pub fn path_notify(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.path_hooks == 0 {
        return 0;
    }
    if subject.config.orphaned != 0 {
        return answer(EPERM);
    }
    // SAFETY: the hook's argument is a path that the kernel holds while the hook runs.
    unsafe { watch(&ctx, &subject, ctx.arg(0)) }
}

/// Decides as if what `path` names were opened for reading, and reports a refusal.
#[inline(always)]
unsafe fn watch<C: EbpfContext>(ctx: &C, subject: &Subject, path: *const u8) -> i32 {
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Open as u32, 0);
        return answer(ENOMEM);
    }
    // SAFETY: `path` is the hook's; the scratch is this task's.
    unsafe {
        let dentry: *const u8 = typed(path, &offsets::PATH_DENTRY);
        let tags = object::by_tags(subject.sandbox_id, scratch, dentry);
        let location = Location::of_path(path as u64);
        let written = ground::write_path(subject, scratch, 0, location, dentry, About::Object);
        let by_path = object::by_path(subject.config.slot, scratch, 0, written.length);
        let decision = if tags.whole != 0 && written.whole {
            let by_rules = decide_path(tags.hits.or(by_path), Operation::Read);
            if by_rules.allow { ground::decide(subject, scratch, Operation::Read) } else { by_rules }
        } else {
            Decision::DENY_DEFAULT
        };
        let (decision, _) = settle(scratch, decision, false);
        if decision.allow {
            return 0;
        }
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Open);
        describe(record, typed::<*const u8>(dentry, &offsets::DENTRY_D_INODE) as u64, 0);
        (*record).path_len = written.length;
        if !written.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let refuse = conclude(subject, decision, false, record);
        emit::with_text(ctx, subject, scratch);
        if refuse { answer(EPERM) } else { 0 }
    }
}

/// May the file be opened, and is that not to be recorded, by what is kept of its folder? `false` says neither.
#[inline(always)]
unsafe fn is_free(subject: &Subject, file: *const u8, place: &Place, now: &Now) -> bool {
    // SAFETY: as in `judge`.
    unsafe {
        let mode: u32 = typed(file, &offsets::FILE_F_MODE);
        if mode & FMODE_NOACCOUNT != 0 {
            return false;
        }
        let Some(known) = cache::known(subject, place, now) else { return false };
        let dentry: *const u8 = typed(file.add(offsets::FILE_F_PATH.load() as usize), &offsets::PATH_DENTRY);
        let Some(by_name) = object::by_name(subject.config.slot, known.state, dentry) else { return false };
        let inode: *const u8 = typed(file, &offsets::FILE_F_INODE);
        let hits = known.hits.or(by_name).or(object::by_tag(subject.sandbox_id, inode));
        let action = action(typed(inode, &offsets::INODE_I_MODE), typed(file, &offsets::FILE_F_FLAGS));
        let operation = operation(action);
        if !decide_path(hits, operation).allow {
            return false;
        }
        let opens = subject.config.trace_opens;
        if opens == TraceOpens::First as u8 {
            let superblock: *const u8 = typed(inode, &offsets::INODE_I_SB);
            let key = SeenKey {
                ino: typed(inode, &offsets::INODE_I_INO),
                start_boot_ns: subject.start_boot_ns(),
                dev: typed(superblock, &offsets::SB_S_DEV),
                which: which(inode, dentry),
                tgid: typed(subject.as_bytes(), &offsets::TASK_TGID),
                action: action as u32,
                _pad: 0,
            };
            return maps::SEEN.get_ptr(&key).is_some();
        }
        opens == TraceOpens::Denied as u8
            || (opens == TraceOpens::Writes as u8 && operation != Operation::Change)
    }
}

/// Tells files of one number apart.
#[inline(always)]
unsafe fn which(inode: *const u8, dentry: *const u8) -> Which {
    // SAFETY: the caller's pointers are of these types, and so are the offsets.
    unsafe {
        let name = dentry.add(offsets::DENTRY_D_NAME.load() as usize);
        Which {
            generation: typed(inode, &offsets::INODE_I_GENERATION),
            name: typed(name, &offsets::QSTR_HASH),
        }
    }
}

/// What an action asks of the rules.
#[inline(always)]
fn operation(action: RecordAction) -> Operation {
    if matches!(action, RecordAction::Write) { Operation::Change } else { Operation::Read }
}

#[inline(always)]
unsafe fn judge<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    file: *const u8,
    place: Option<(Place, Now)>,
) -> i32 {
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
        let about = if below { About::Below } else { About::Object };
        let location = Location::of_path(path as u64);
        let written = ground::write_path(subject, scratch, 0, location, dentry, about);
        // The file below has a path on a mount of the file system's own, which no pattern means; its inode counts.
        let by_path =
            if below { Hits::NONE } else { object::by_path(subject.config.slot, scratch, 0, written.length) };
        let hits = tags.hits.or(by_path);
        if let Some((place, now)) = place
            && tags.whole != 0
            && written.whole
            && (*scratch).climb.steady != 0
        {
            let scan = &raw const (*scratch).scan;
            let hits = tags.above.or((*scan).folder_hits);
            cache::keep(subject, &place, now, Known { hits, state: (*scan).folder_state });
        }

        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Open);
        describe(record, inode as u64, typed(file, &offsets::FILE_F_FLAGS));
        (*record).path_len = written.length;
        if !written.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let operation =
            if (*record).action == RecordAction::Write as u8 { Operation::Change } else { Operation::Read };
        let decision = if tags.whole != 0 && written.whole {
            let by_rules = decide_path(hits, operation);
            if by_rules.allow {
                ground::decide(subject, scratch, of_device(inode, operation))
            } else {
                by_rules
            }
        } else {
            Decision::DENY_DEFAULT
        };
        let (decision, own) = settle(scratch, decision, decision.rule == RULE_OWN);
        let refuse = conclude(subject, decision, own, record);
        if (!below || !decision.allow) && wanted(subject, record, which(inode, dentry)) {
            emit::with_text(ctx, subject, scratch);
        }
        if refuse { answer(EPERM) } else { 0 }
    }
}

/// What an open asks of the allow-lists: whoever has a device open may command it, so that is no reading.
#[inline(always)]
unsafe fn of_device(inode: *const u8, operation: Operation) -> Operation {
    // SAFETY: the inode is the hook's.
    match unsafe { typed::<u16>(inode, &offsets::INODE_I_MODE) } & S_IFMT {
        S_IFCHR | S_IFBLK => Operation::Change,
        _ => operation,
    }
}

/// Writes what is opened and how into the record.
///
/// # Safety
/// `record` points to one.
#[inline(always)]
pub unsafe fn describe(record: *mut EventRecord, inode: u64, flags: u32) {
    let action = action(probed(inode, &offsets::INODE_I_MODE), flags);
    // SAFETY: the caller vouches for `record`.
    unsafe {
        object::identify(record, inode);
        (*record).action = action as u8;
        (*record).value = u64::from(flags & !FMODE_EXEC);
    }
}

/// What is done to a file of this mode that is opened with these flags.
#[inline(always)]
fn action(mode: u16, flags: u32) -> RecordAction {
    if flags & FMODE_EXEC != 0 {
        RecordAction::Execute
    } else if mode & S_IFMT == S_IFDIR {
        RecordAction::List
    } else if flags & O_ACCMODE != 0 || flags & O_TRUNC != 0 {
        RecordAction::Write
    } else {
        RecordAction::Read
    }
}

/// Is this open recorded? What was refused always is.
///
/// # Safety
/// `record` points to one that is complete but for its texts.
#[inline(always)]
pub unsafe fn wanted(subject: &Subject, record: *const EventRecord, which: Which) -> bool {
    // SAFETY: the caller vouches for `record`.
    let (outcome, action, dev, ino) =
        unsafe { ((*record).outcome, (*record).action, (*record).dev, (*record).ino) };
    if outcome != RecordOutcome::Allowed as u8 {
        return true;
    }
    let opens = subject.config.trace_opens;
    if opens == TraceOpens::First as u8 {
        // SAFETY: as before.
        let (start_boot_ns, tgid) = unsafe { ((*record).start_boot_ns, (*record).tgid) };
        let (dev, action) = (dev as u32, u32::from(action));
        let key = SeenKey { ino, start_boot_ns, dev, which, tgid, action, _pad: 0 };
        let first = maps::SEEN.get_ptr(&key).is_none();
        if first {
            let _ = maps::SEEN.insert(&key, &1, 0);
        }
        return first;
    }
    opens == TraceOpens::All as u8
        || (opens == TraceOpens::Writes as u8 && action == RecordAction::Write as u8)
}
