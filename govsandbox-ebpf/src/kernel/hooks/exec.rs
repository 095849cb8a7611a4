//! A new program image.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_user, bpf_send_signal},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use govsandbox_ebpf::{
    abi::{
        event::{ARGV_BYTES_MAX, FLAG_ARGV_CUT, FLAG_PATH_CUT, RecordKind},
        exec::{ARGS_JUDGED_BYTES_MAX, ExecHits, TRAIT_MULTI_CALL},
    },
    decide::{
        Decision,
        exec::{Fired, Wanted, decide_call, decide_mapping, decide_unread, weigh, weigh_script},
    },
};

use super::{SIGKILL, conclude, settle};
use crate::kernel::{
    emit, ground,
    maps::{self, Scratch},
    object,
    offsets::{self, typed},
    program::{self, Argv},
    subject::{self, Subject},
    walk::{self, Location, Written},
};

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`: after the point of no return,
/// before the first instruction; argv is what the kernel copied.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    let Some(subject) = subject::current() else {
        if subject::current_member().is_some() {
            // Its fork found no memory for the mark.
            // SAFETY: no pointers.
            unsafe { bpf_send_signal(SIGKILL) };
        }
        return 0;
    };
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
        if subject.config.exec_rules != 0 && subject.config.audit_mode == 0 {
            // SAFETY: no pointers.
            unsafe { bpf_send_signal(SIGKILL) };
        }
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
        let location = Location::of_path(file as u64 + u64::from(offsets::FILE_F_PATH.load()));
        let path = ground::write_program_path(&subject, scratch, location);
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
        if subject.config.exec_rules != 0 {
            let is_script = typed::<u64>(bprm, &offsets::BPRM_FILENAME) != typed(bprm, &offsets::BPRM_INTERP);
            let call = Call { path, inode: inode as u64, is_script };
            let decision = judge(&subject, scratch, call);
            let (decision, _) = settle(scratch, decision, false);
            if conclude(&subject, decision, false, record) {
                (*record).errno = 0;
                (*record).value = u64::from(SIGKILL);
                bpf_send_signal(SIGKILL);
            }
        }
        emit::with_text(&ctx, &subject, scratch);
    }
    0
}

/// What was executed: its path stands at the beginning of the scratch's text.
struct Call {
    path: Written,
    inode: u64,
    is_script: bool,
}

/// Decides on a program that is loaded and has its arguments. Where no LSM program decided before, this is all that a path
/// or a name meets in the kernel.
#[inline(always)]
unsafe fn judge(subject: &Subject, scratch: *mut Scratch, call: Call) -> Decision {
    let Some(table) = program::table(subject.config.slot) else { return Decision::DENY_DEFAULT };
    // SAFETY: the scratch is this task's; offsets are of the types that are read.
    unsafe {
        let mut script = ExecHits::NONE;
        let mut hits = program::by_path(table, scratch, 0, call.path.length);
        if subject.config.path_hooks != 0 {
            hits = hits.or((&raw const (*scratch).program.file).read_volatile());
            script = (&raw const (*scratch).program.script).read_volatile();
        }
        if !call.path.whole {
            return Decision::DENY_DEFAULT;
        }
        if table.unseen != 0 && program::is_unseen(call.inode) {
            return Decision::deny(table.unseen);
        }
        let multi_call = hits.traits & TRAIT_MULTI_CALL != 0;
        let is_known = subject.config.path_hooks != 0;
        let has_script = call.is_script && if is_known { script.args != 0 } else { table.deny_args != 0 };
        if hits.args == 0 && !multi_call && !has_script {
            let decision = decide_call(table, hits, Fired::default());
            let is_final = !decision.allow || !call.is_script || !is_known;
            return if is_final { decision } else { decide_call(table, script, Fired::default()) };
        }
        let mm: *const u8 = typed(subject.as_bytes(), &offsets::TASK_MM);
        let (start, end): (u64, u64) = (typed(mm, &offsets::MM_ARG_START), typed(mm, &offsets::MM_ARG_END));
        let size = end.wrapping_sub(start);
        let length =
            if size > ARGS_JUDGED_BYTES_MAX as u64 { ARGS_JUDGED_BYTES_MAX as u32 } else { size as u32 };
        let argv = Argv { address: start, length };
        program::find_calling(table, scratch, argv, Wanted { multi_call, script: has_script });
        let calling = (&raw const (*scratch).program.calling).read_volatile();
        if has_script && !is_known {
            // What its path says was decided when it was opened.
            script = ExecHits { allow: u16::MAX, deny: 0, ..calling.script };
        }
        let arguments = |from: u32| program::args_from(table, scratch, argv, from);
        let is_cut = size > ARGS_JUDGED_BYTES_MAX as u64;
        let (hits, fired) = weigh(hits, &calling, arguments);
        if is_cut || (&raw const (*scratch).program.unread).read_volatile() != 0 {
            let decision = decide_unread(table, hits);
            return if decision.allow { decide_mapping(table, script) } else { decision };
        }
        let decision = decide_call(table, hits, fired);
        if !decision.allow || !has_script {
            return decision;
        }
        decide_call(table, script, weigh_script(script, &calling, arguments))
    }
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
