//! The exit of syscalls that name a path: opens where no hook sees them, and refusals by mounts, Landlock and modes.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_probe_read_kernel, bpf_probe_read_user_str, bpf_send_signal},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use govsandbox_ebpf::abi::{
    event::{
        FLAG_FOREIGN_CALL, FLAG_PATH_AS_GIVEN, FLAG_PATH_CUT, FLAG_TARGET_AS_GIVEN, RecordAction, RecordKind,
        RecordOutcome,
    },
    rule::{NO_ARG, SyscallSpec},
};

use super::{
    SIGKILL,
    map::{self, Mapping},
    open, privilege, program, unix_send,
};
use crate::kernel::{
    emit,
    maps::{self, Scratch, Which},
    offsets::{self, probed, typed},
    pressure,
    subject::{self, Subject},
    walk::{self, Location},
};

const AT_FDCWD: i32 = -100;
const O_ACCMODE: u64 = 3;
const PATH_BYTES: u32 = 4096;
/// ENOSYS.
const NO_SUCH_CALL: i64 = -38;
/// What mounts, Landlock and file modes answer: EPERM, EACCES, EBUSY, EXDEV, EROFS.
const REFUSALS: [i64; 5] = [-1, -13, -16, -18, -30];

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    if subject::is_outside() {
        return 0;
    }
    let Some(subject) = subject::current() else { return 0 };
    // SAFETY: the arguments are those of the tracepoint; `regs` is a `struct pt_regs`.
    unsafe {
        if (*subject.mark).unlisted != 0 {
            bpf_send_signal(SIGKILL);
            return 0;
        }
        pressure::settle(subject.mark);
        // Of this call, whether it is one of the table or not.
        let by_hook = (*subject.mark).refused != 0;
        (*subject.mark).refused = 0;
        let regs: *const u8 = ctx.arg(0);
        let result: i64 = ctx.arg(1);
        let number: u64 = typed(regs, &offsets::PT_REGS_NR);
        if result == NO_SUCH_CALL && privilege::is_foreign(&subject, number as u32) {
            privilege::refused_by_filter(&ctx, &subject, number as u32, [0; 4], result, FLAG_FOREIGN_CALL);
            return 0;
        }
        let Some(spec) = maps::SYSCALLS.get(number as u32) else { return 0 };
        if spec.kind == 0 {
            return 0;
        }
        if spec.kind == RecordKind::Privilege as u8 {
            if privilege::is_refusal(result) {
                let arguments = [0, 1, 2, 3].map(|place| argument(regs, place) as u32);
                privilege::refused_by_filter(&ctx, &subject, number as u32, arguments, result, 0);
            }
            return 0;
        }
        if spec.kind == RecordKind::Exec as u8 && spec.path_arg == NO_ARG {
            mapped(&ctx, &subject, regs, result);
            return 0;
        }
        if spec.kind == RecordKind::Send as u8 {
            if result == unix_send::REFUSED && subject.config.path_hooks == 0 {
                let mut address = argument(regs, spec.path_arg);
                if spec.flags_indirect != 0 {
                    address = bpf_probe_read_user(address as *const u64).unwrap_or(0);
                }
                unix_send::refused(&ctx, &subject, address);
            }
            return 0;
        }
        if by_hook {
            return 0;
        }
        if result >= 0 {
            if spec.kind == RecordKind::Open as u8 && subject.config.path_hooks == 0 {
                opened(&ctx, &subject, result as u32);
            }
        } else if is_refusal(result) {
            refused(&ctx, &subject, spec, regs, result);
        }
    }
    0
}

/// mmap(2), which has no path.
#[inline(always)]
unsafe fn mapped<C: EbpfContext>(ctx: &C, subject: &Subject, regs: *const u8, result: i64) {
    if subject.config.path_hooks != 0 || subject.config.exec_rules == 0 {
        return;
    }
    // SAFETY: `regs` is the tracepoint's.
    let (protection, flags, descriptor) =
        unsafe { (argument(regs, 2), argument(regs, 3), argument(regs, 4)) };
    let mut mapping = Mapping { protection, flags, file: 0, result };
    if mapping.is_of_code() {
        mapping.file = file_of(subject, descriptor as u32);
        map::judge(ctx, subject, mapping);
    }
}

#[inline(always)]
fn is_refusal(result: i64) -> bool {
    let mut index = 0;
    while index < REFUSALS.len() {
        if REFUSALS[index] == result {
            return true;
        }
        index += 1;
    }
    false
}

/// Reports the file behind a new descriptor.
#[inline(always)]
unsafe fn opened<C: EbpfContext>(ctx: &C, subject: &Subject, descriptor: u32) {
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Open as u32, 0);
        return;
    }
    let file = file_of(subject, descriptor);
    if file == 0 {
        return; // another thread has closed it already
    }
    // SAFETY: the scratch is this task's.
    unsafe {
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Open);
        let inode: u64 = probed(file, &offsets::FILE_F_INODE);
        open::describe(record, inode, probed(file, &offsets::FILE_F_FLAGS));
        let path = file + u64::from(offsets::FILE_F_PATH.load());
        let name = probed::<u64>(path, &offsets::PATH_DENTRY) + u64::from(offsets::DENTRY_D_NAME.load());
        let which = Which {
            generation: probed(inode, &offsets::INODE_I_GENERATION),
            name: probed(name, &offsets::QSTR_HASH),
        };
        if !open::wanted(subject, record, which) {
            return;
        }
        let written = walk::write_path(scratch, subject.fs(), 0, Location::of_path(path));
        (*record).path_len = written.length;
        if !written.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        emit::with_text(ctx, subject, scratch);
    }
}

/// Address of the file behind one of the current task's descriptors; 0: there is none.
#[inline(always)]
fn file_of(subject: &Subject, descriptor: u32) -> u64 {
    // SAFETY: the subject's task is trusted.
    let files: *const u8 = unsafe { typed(subject.as_bytes(), &offsets::TASK_FILES) };
    let table: u64 = probed(files as u64, &offsets::FILES_FDT);
    if descriptor >= probed::<u32>(table, &offsets::FDTABLE_MAX_FDS) {
        return 0;
    }
    let slots: u64 = probed(table, &offsets::FDTABLE_FD);
    let mut file = 0u64;
    // SAFETY: the helper checks the address; `file` is this function's own.
    unsafe {
        bpf_probe_read_kernel((&raw mut file).cast(), 8, (slots + u64::from(descriptor) * 8) as *const _);
    }
    file
}

/// Reports what was asked for: the path as the caller gave it, and what it is relative to. The host finds the object
/// and asks the decision core whether a rule is behind the refusal.
#[inline(always)]
unsafe fn refused<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    spec: &SyscallSpec,
    regs: *const u8,
    result: i64,
) {
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, u32::from(spec.kind), 0);
        return;
    }
    // SAFETY: the scratch is this task's; `regs` is the tracepoint's.
    unsafe {
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Open);
        (*record).kind = spec.kind;
        (*record).errno = (-result) as u32;
        (*record).outcome = RecordOutcome::Failed as u8;
        (*record).flags = FLAG_PATH_AS_GIVEN;
        (*record).action = spec.action;
        if spec.flags_arg != NO_ARG {
            let mut flags = argument(regs, spec.flags_arg);
            if spec.flags_indirect != 0 {
                flags = bpf_probe_read_user(flags as *const u64).unwrap_or(0);
            }
            (*record).value = flags;
            let write = flags & O_ACCMODE != 0;
            (*record).action = if write { RecordAction::Write } else { RecordAction::Read } as u8;
        }
        let length = write_given(scratch, 0, argument(regs, spec.path_arg));
        (*record).path_len = length;
        let base = if spec.dirfd_arg == NO_ARG { AT_FDCWD } else { argument(regs, spec.dirfd_arg) as i32 };
        let written = walk::write_path(scratch, subject.fs(), length, base_location(subject, base));
        (*record).second_len = written.length;
        if spec.target_arg != NO_ARG {
            (*record).flags |= FLAG_TARGET_AS_GIVEN;
            (*record).argv_len =
                write_given(scratch, length + written.length, argument(regs, spec.target_arg));
        }
        if spec.kind == RecordKind::Exec as u8 && subject.config.trace_args != 0 {
            program::write_asked_argv(subject, scratch, length + written.length);
        }
        emit::with_text(ctx, subject, scratch);
    }
}

/// Copies a path from the caller's memory; its length without the NUL.
#[inline(always)]
unsafe fn write_given(scratch: *mut Scratch, at: u32, address: u64) -> u32 {
    // SAFETY: the helper checks the caller's address; the room behind a masked offset holds `PATH_BYTES`.
    let read = unsafe {
        bpf_probe_read_user_str(walk::text_at(scratch, at).cast(), PATH_BYTES, address as *const _)
    };
    if read > 0 { (read as u32 - 1) & 0xfff } else { 0 }
}

#[inline(always)]
fn base_location(subject: &Subject, descriptor: i32) -> Location {
    if descriptor == AT_FDCWD {
        return Location::of_path(subject.fs() + u64::from(offsets::FS_PWD.load()));
    }
    Location::of_path(file_of(subject, descriptor as u32) + u64::from(offsets::FILE_F_PATH.load()))
}

/// One argument of the syscall.
#[inline(always)]
unsafe fn argument(regs: *const u8, place: u8) -> u64 {
    // SAFETY: `regs` is a `struct pt_regs`, and the offsets are of its registers.
    unsafe {
        match place {
            0 => typed(regs, &offsets::PT_REGS_ARG0),
            1 => typed(regs, &offsets::PT_REGS_ARG1),
            2 => typed(regs, &offsets::PT_REGS_ARG2),
            3 => typed(regs, &offsets::PT_REGS_ARG3),
            _ => typed(regs, &offsets::PT_REGS_ARG4),
        }
    }
}
