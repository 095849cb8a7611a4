//! Membership: what is inherited at fork, and what ends with a process.

use aya_ebpf::{
    EbpfContext,
    bindings::task_struct,
    helpers::generated::bpf_send_signal,
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext},
};
use govsandbox_ebpf::abi::{
    event::{EventRecord, RecordKind},
    rule::TaskMark,
};

use super::{ENOMEM, SIGKILL, answer};
use crate::kernel::{
    emit, maps,
    offsets::{self, typed},
    subject,
};

/// `task_alloc(struct task_struct *task, unsigned long clone_flags)`: a child without the mark must not be.
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    let child: *mut task_struct = ctx.arg(0);
    let Some(parent) = subject::current() else { return 0 };
    // SAFETY: an argument of a hook is trusted.
    if unsafe { inherit(parent.sandbox_id, child) }.is_null() { answer(ENOMEM) } else { 0 }
}

/// `task_newtask(struct task_struct *task, u64 clone_flags)`: sees threads and io_uring workers too. Where no LSM program
/// can run this is where the mark is inherited. Each of mark and membership is given for itself, so that want of memory for
/// one takes nothing from the other: a child without membership ends at its first `sys_exit`, before its first
/// instruction; of one without a mark the parent's thread group ends, and itself when it forks or executes.
#[btf_tracepoint(function = "task_newtask")]
pub fn task_newtask(ctx: BtfTracePointContext) -> i32 {
    let child: *mut task_struct = ctx.arg(0);
    let Some(parent) = subject::current().or_else(subject::current_member) else { return 0 };
    // SAFETY: arguments of a BTF tracepoint are trusted; the record is this program's own.
    unsafe {
        let task = child.cast_const().cast::<u8>();
        let (pid, tgid): (u32, u32) = (typed(task, &offsets::TASK_PID), typed(task, &offsets::TASK_TGID));
        let process = pid == tgid;
        let listed = !process || maps::MEMBERS.insert(&tgid, &parent.sandbox_id, 0).is_ok();
        let mark = inherit(parent.sandbox_id, child);
        if mark.is_null() || parent.mark.is_null() {
            bpf_send_signal(SIGKILL);
            return 0;
        }
        (*mark).unlisted = u32::from(!listed);
        if !process {
            return 0;
        }
        let mut record = core::mem::MaybeUninit::<EventRecord>::uninit();
        parent.begin(record.as_mut_ptr(), RecordKind::Fork);
        (*record.as_mut_ptr()).value = u64::from(tgid);
        emit::bare(&ctx, &parent, record.as_mut_ptr());
    }
    0
}

/// Marks `child` as a member. Null: there was no memory.
#[inline(always)]
unsafe fn inherit(sandbox_id: u32, child: *mut task_struct) -> *mut TaskMark {
    // SAFETY: the caller vouches for `child`.
    unsafe {
        let mark = maps::MARKS.get_or_create(child);
        if !mark.is_null() {
            (*mark).sandbox_id = sandbox_id;
        }
        mark
    }
}

/// `sched_process_exit(struct task_struct *p)`: the end of a process, and of a supervisor.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: *mut task_struct = ctx.arg(0);
    // SAFETY: an argument of a BTF tracepoint is trusted.
    let mark = unsafe { maps::MARKS.get(task) };
    if mark.is_null() {
        // SAFETY: the task is trusted.
        unsafe { forget_last(task) };
        return 0;
    }
    // SAFETY: the mark is the task's own; offsets are of the type that is read.
    unsafe {
        let bytes = task.cast_const().cast::<u8>();
        let supervised = (*mark).supervises;
        if supervised != 0 {
            if let Some(config) = maps::SANDBOXES.get_ptr_mut(&supervised) {
                (*config).orphaned = 1;
            }
            return 0;
        }
        if forget_last(task) && (*mark).performs == 0 {
            exited(&ctx, typed(bytes, &offsets::TASK_EXIT_CODE));
        }
    }
    0
}

/// `true`: the last thread of its process ends, and with it the membership, whether there is a mark or not.
#[inline(always)]
unsafe fn forget_last(task: *mut task_struct) -> bool {
    // SAFETY: the caller vouches for `task`; offsets are of the types that are read.
    unsafe {
        let bytes = task.cast_const().cast::<u8>();
        let signal: *const u8 = typed(bytes, &offsets::TASK_SIGNAL);
        let is_last = typed::<u32>(signal, &offsets::SIGNAL_LIVE) == 0;
        if is_last {
            let tgid: u32 = typed(bytes, &offsets::TASK_TGID);
            let _ = maps::MEMBERS.remove(&tgid);
        }
        is_last
    }
}

#[inline(always)]
unsafe fn exited<C: EbpfContext>(ctx: &C, wait_status: u32) {
    let Some(subject) = subject::current() else { return };
    let mut record = core::mem::MaybeUninit::<EventRecord>::uninit();
    // SAFETY: the record is this program's own.
    unsafe {
        subject.begin(record.as_mut_ptr(), RecordKind::Exit);
        (*record.as_mut_ptr()).value = u64::from(wait_status);
        emit::bare(ctx, &subject, record.as_mut_ptr());
    }
}
