//! A new program image.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_user, bpf_send_signal},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use govsandbox_ebpf::abi::event::{ARGV_BYTES_MAX, FLAG_ARGV_CUT, FLAG_PATH_CUT, RecordKind};

use super::SIGKILL;
use crate::kernel::{
    emit, maps, object,
    offsets::{self, typed},
    subject,
    walk::{self, Location},
};

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`: after the point of no return,
/// before the first instruction; argv is what the kernel copied.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    // The command itself was marked by the host, which may not know its id as the kernel has it.
    // SAFETY: the subject's task is trusted.
    let tgid: u32 = unsafe { typed(subject.as_bytes(), &offsets::TASK_TGID) };
    if maps::MEMBERS.insert(&tgid, &subject.sandbox_id, 0).is_err() {
        // SAFETY: no pointers.
        unsafe { bpf_send_signal(SIGKILL) };
        return 0;
    }
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Exec as u32, 0);
        return 0;
    }
    // SAFETY: the third argument is a binprm; offsets are of the types that are read; the scratch is this task's.
    unsafe {
        let bprm: *const u8 = ctx.arg(2);
        let file: *const u8 = typed(bprm, &offsets::BPRM_FILE);
        let inode: *const u8 = typed(file, &offsets::FILE_F_INODE);
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Exec);
        object::identify(record, inode as u64);
        let path = walk::write_path(
            scratch,
            subject.fs(),
            0,
            Location::of_path(file as u64 + u64::from(offsets::FILE_F_PATH.load())),
        );
        (*record).path_len = path.length;
        if !path.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let cwd = walk::write_path(
            scratch,
            subject.fs(),
            path.length,
            Location::of_path(subject.fs() + u64::from(offsets::FS_PWD.load())),
        );
        (*record).second_len = cwd.length;
        if subject.config.trace_args != 0 {
            write_argv(&subject, scratch, path.length + cwd.length);
        }
        emit::with_text(&ctx, &subject, scratch);
    }
    0
}

/// Copies argv, NUL-separated, behind the two paths.
#[inline(always)]
unsafe fn write_argv(subject: &subject::Subject, scratch: *mut maps::Scratch, at: u32) {
    // SAFETY: offsets are of the types that are read; the room behind the masked offset holds `ARGV_BYTES_MAX` bytes.
    unsafe {
        let record = &raw mut (*scratch).record;
        let mm: *const u8 = typed(subject.as_bytes(), &offsets::TASK_MM);
        let (start, end): (u64, u64) = (typed(mm, &offsets::MM_ARG_START), typed(mm, &offsets::MM_ARG_END));
        let mut size = end.wrapping_sub(start);
        if size > ARGV_BYTES_MAX as u64 {
            size = ARGV_BYTES_MAX as u64;
            (*record).flags |= FLAG_ARGV_CUT;
        }
        if bpf_probe_read_user(walk::text_at(scratch, at).cast(), size as u32, start as *const _) == 0 {
            (*record).argv_len = size as u32;
        } else {
            (*record).flags |= FLAG_ARGV_CUT;
        }
    }
}
