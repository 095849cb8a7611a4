//! What leads out of a sandbox without naming a file: other processes, namespaces and mounts, `bpf`, sockets, terminals.
//!
//! The seccomp filter refuses most of it already. These programs stand where it can't: io_uring makes sockets, a signal to
//! "my process group" names nobody, and `process.namespaces = "allow"` opens mounts.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext, bindings::task_struct, helpers::generated::bpf_probe_read_kernel_str, macros::lsm,
    programs::LsmContext,
};
use govsandbox_ebpf::{
    abi::{
        event::{EventRecord, FLAG_FOREIGN_CALL, FLAG_HOOK, RecordKind, RecordOutcome},
        privilege::{Hook, RefusalKey},
    },
    decide::privilege::{may_command_terminal, may_create_socket, may_mount, may_set_option},
};

use super::{EPERM, answer};
use crate::kernel::{
    emit, maps,
    offsets::{self, typed},
    subject::{self, Subject},
};

/// Bit of x32's call numbers (arch/x86/include/uapi/asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;
/// What the seccomp filter answers where that is a refusal: EPERM, EAFNOSUPPORT.
const REFUSALS: [i64; 2] = [-1, -97];

/// Declares hooks whose object is another task, which must be in the same sandbox. The number tells the operation.
macro_rules! other_task {
    ($($program:ident: $hook:ident, |$ctx:ident| $task:expr, $number:expr;)*) => {$(
        #[lsm]
        pub fn $program($ctx: LsmContext) -> i32 {
            let Some(subject) = subject::current() else { return 0 };
            // SAFETY: the arguments are those of the hook of this name (include/linux/lsm_hook_defs.h).
            unsafe {
                let task: *mut task_struct = $task;
                let number: u32 = $number;
                judge_task(&$ctx, &subject, Hook::$hook, task, number)
            }
        }
    )*};
}

other_task!(
    ptrace_access_check: PtraceAccessCheck, |ctx| ctx.arg(0), ctx.arg(1);
    ptrace_traceme: PtraceTraceme, |ctx| ctx.arg(0), 0;
    task_kill: TaskKill, |ctx| ctx.arg(0), ctx.arg(2);
    task_setnice: TaskSetnice, |ctx| ctx.arg(0), ctx.arg(1);
    task_setioprio: TaskSetioprio, |ctx| ctx.arg(0), ctx.arg(1);
    task_setscheduler: TaskSetscheduler, |ctx| ctx.arg(0), 0;
);

#[inline(always)]
unsafe fn judge_task<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    hook: Hook,
    task: *mut task_struct,
    number: u32,
) -> i32 {
    // SAFETY: an argument of a hook is trusted; task storage lives as long as its task.
    unsafe {
        let mark = maps::MARKS.get(task);
        if !mark.is_null() && (*mark).sandbox_id == subject.sandbox_id {
            return 0;
        }
        let tgid: u32 = typed(task.cast_const().cast(), &offsets::TASK_TGID);
        refuse(ctx, subject, hook, [tgid, number, 0, 0])
    }
}

/// Declares hooks that refuse whatever the arguments.
macro_rules! never {
    ($($program:ident: $at:literal, $hook:ident;)*) => {$(
        #[lsm(hook = $at)]
        pub fn $program(ctx: LsmContext) -> i32 {
            let Some(subject) = subject::current() else { return 0 };
            refuse(&ctx, &subject, Hook::$hook, [0; 4])
        }
    )*};
}

never!(
    lsm_bpf: "bpf", Bpf;
    lsm_perf_event_open: "perf_event_open", PerfEventOpen;
    // Programs fall back to mount(2), whose arguments a hook sees.
    move_mount: "move_mount", MoveMount;
);

/// Declares hooks that `process.namespaces` opens.
macro_rules! namespaces {
    ($($program:ident: $hook:ident;)*) => {$(
        #[lsm]
        pub fn $program(ctx: LsmContext) -> i32 {
            let Some(subject) = subject::current() else { return 0 };
            if subject.config.namespaces != 0 && subject.config.orphaned == 0 {
                return 0;
            }
            refuse(&ctx, &subject, Hook::$hook, [0; 4])
        }
    )*};
}

namespaces!(
    sb_umount: SbUmount;
    sb_remount: SbRemount;
    sb_pivotroot: SbPivotroot;
    userns_create: UsernsCreate;
);

/// `sb_mount(const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data)`.
#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    let (name, flags): (u64, u64) = (ctx.arg(2), ctx.arg(3));
    let mut kind = [0_u8; 8];
    // SAFETY: the helper checks the address and writes no more than the array has.
    unsafe { bpf_probe_read_kernel_str(kind.as_mut_ptr().cast(), 8, name as *const c_void) };
    if subject.config.namespaces != 0 && subject.config.orphaned == 0 && may_mount(flags, kind) {
        return 0;
    }
    refuse(&ctx, &subject, Hook::SbMount, [0; 4])
}

/// `socket_create(int family, int type, int protocol, int kern)`.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    let (family, kind, protocol, kernel): (i32, i32, i32, i32) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    if kernel != 0
        || (may_create_socket(family, kind, protocol, subject.config.icmp != 0)
            && subject.config.orphaned == 0)
    {
        return 0;
    }
    refuse(&ctx, &subject, Hook::SocketCreate, [family as u32, kind as u32, protocol as u32, 0])
}

/// `socket_setsockopt(struct socket *sock, int level, int optname)`.
#[lsm(hook = "socket_setsockopt")]
pub fn socket_setsockopt(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    let (level, option): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if may_set_option(level, option) {
        return 0;
    }
    refuse(&ctx, &subject, Hook::SocketSetsockopt, [level as u32, option as u32, 0, 0])
}

/// `file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`.
#[lsm(hook = "file_ioctl")]
pub fn terminal_ioctl(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    let command: u32 = ctx.arg(1);
    if may_command_terminal(command) {
        return 0;
    }
    refuse(&ctx, &subject, Hook::FileIoctl, [command, 0, 0, 0])
}

/// Refuses, whatever the policy's mode, and tells.
#[inline(always)]
pub(super) fn refuse<C: EbpfContext>(ctx: &C, subject: &Subject, hook: Hook, arguments: [u32; 4]) -> i32 {
    tell(ctx, subject, hook as u32, arguments, EPERM as u32, FLAG_HOOK);
    answer(EPERM)
}

/// Is it what the filter answers?
#[inline(always)]
pub fn is_refusal(result: i64) -> bool {
    result == REFUSALS[0] || result == REFUSALS[1]
}

/// Is the current system call one of another architecture, or of x32?
#[inline(always)]
pub fn is_foreign(subject: &Subject, number: u32) -> bool {
    // SAFETY: the subject's task is trusted.
    let status: u32 = unsafe { typed(subject.as_bytes(), &offsets::TASK_THREAD_STATUS) };
    number & X32_BIT != 0 || status & offsets::COMPAT_BIT.load() != 0
}

/// Tells of a system call that ended as if the filter had refused it; the host knows whether it did.
#[inline(always)]
pub fn refused_by_filter<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    number: u32,
    arguments: [u32; 4],
    result: i64,
    flags: u32,
) {
    tell(ctx, subject, number, arguments, (-result) as u32, flags & FLAG_FOREIGN_CALL);
}

/// One record for each process, call and arguments.
#[inline(always)]
fn tell<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    number: u32,
    arguments: [u32; 4],
    errno: u32,
    flags: u32,
) {
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the record is this program's own; any bytes are an array of bytes.
    unsafe {
        subject.begin(record, RecordKind::Privilege);
        let arguments = core::mem::transmute::<[u32; 4], [u8; 16]>(arguments);
        let (start_boot_ns, tgid) = ((*record).start_boot_ns, (*record).tgid);
        let key = RefusalKey { start_boot_ns, tgid, number, flags, errno, arguments };
        if maps::REFUSALS.get_ptr(&key).is_some() {
            return;
        }
        let _ = maps::REFUSALS.insert(&key, &1, 0);
        (*record).value = u64::from(number);
        (*record).address = arguments;
        (*record).errno = errno;
        (*record).flags = flags;
        (*record).outcome =
            if flags & FLAG_HOOK != 0 { RecordOutcome::Denied } else { RecordOutcome::Failed } as u8;
        emit::bare(ctx, subject, record);
    }
}
