//! Programs: `bprm_check_security` decides before one is loaded, `mmap_file` and `file_mprotect` when a loader of its own
//! brings its code in. What depends on arguments is decided at the end of exec ([`super::exec`]).

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_loop, bpf_probe_read_user, bpf_probe_read_user_str, bpf_task_pt_regs},
    macros::lsm,
    programs::LsmContext,
};
use govsandbox_ebpf::{
    abi::{
        event::{ARGV_BYTES_MAX, FLAG_ARGV_CUT, FLAG_PATH_CUT, RecordAction, RecordKind},
        exec::{ExecHits, ExecTable},
        rule::NO_ARG,
    },
    decide::{
        Decision,
        exec::{decide_loading, decide_program},
    },
};

use super::{ENOMEM, EPERM, answer, conclude, settle};
use crate::kernel::{
    emit,
    ground::{self, About},
    maps::{self, Scratch},
    object,
    offsets::{self, typed},
    program,
    subject::{self, Subject},
    walk::{self, Location},
};

const PROT_EXEC: u64 = 4;
/// Words of argv that a record of a refused exec takes at most.
const WORDS_MAX: u32 = 256;

/// `bprm_check_security(struct linux_binprm *bprm)`: for a script once for itself and once for each interpreter.
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.orphaned != 0 {
        return answer(EPERM);
    }
    if subject.config.path_hooks == 0 || subject.config.exec_rules == 0 {
        return 0;
    }
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Exec as u32, 0);
        return answer(ENOMEM);
    }
    // SAFETY: the hook's argument is a binprm, and its file is held while the hook runs; the scratch is this task's.
    unsafe {
        let bprm: *const u8 = ctx.arg(0);
        let file: *const u8 = typed(bprm, &offsets::BPRM_FILE);
        let named: u64 = typed(bprm, &offsets::BPRM_FILENAME);
        let interpreter: u64 = typed(bprm, &offsets::BPRM_INTERP);
        let found = find(&subject, scratch, file);
        let before = (&raw const (*scratch).program.file).read_volatile();
        (*scratch).program.script = if named == interpreter { ExecHits::NONE } else { before };
        (*scratch).program.file = found.hits;
        let inode: *const u8 = typed(file, &offsets::FILE_F_INODE);
        let decision = match found.table {
            Some(table) if found.whole => {
                if table.unseen != 0 && program::is_unseen(inode as u64) {
                    Decision::deny(table.unseen)
                } else {
                    decide_program(table, found.hits)
                }
            }
            _ => Decision::DENY_DEFAULT,
        };
        refuse(&ctx, &subject, scratch, inode, &found, decision, true)
    }
}

/// The same, before or after: where the program lies, for [`super::exec`], which may not look at tags.
#[lsm(hook = "bprm_check_security")]
pub fn bprm_place(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.namespaces == 0 {
        return 0;
    }
    let scratch = subject.scratch();
    if scratch.is_null() {
        return answer(ENOMEM);
    }
    // SAFETY: as in `bprm_check_security`.
    unsafe {
        let file: *const u8 = typed(ctx.arg(0), &offsets::BPRM_FILE);
        let path = file.add(offsets::FILE_F_PATH.load() as usize);
        ground::find_program(&subject, scratch, typed(path, &offsets::PATH_DENTRY));
    }
    0
}

/// `mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    // SAFETY: the arguments are those of the hook.
    unsafe {
        let (file, protection): (*const u8, u64) = (ctx.arg(0), ctx.arg(2));
        if file.is_null() || protection & PROT_EXEC == 0 {
            return 0;
        }
        map(&ctx, file)
    }
}

/// `file_mprotect(struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)`.
#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    // SAFETY: the arguments are those of the hook.
    unsafe {
        let (vma, protection): (*const u8, u64) = (ctx.arg(0), ctx.arg(2));
        if protection & PROT_EXEC == 0 {
            return 0;
        }
        let file: *const u8 = typed(vma, &offsets::VMA_VM_FILE);
        if file.is_null() {
            return 0;
        }
        map(&ctx, file)
    }
}

/// Judges code that comes into a process whose own program this is not.
#[inline(always)]
unsafe fn map<C: EbpfContext>(ctx: &C, file: *const u8) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    if subject.config.path_hooks == 0 || subject.config.exec_rules == 0 {
        return 0;
    }
    // SAFETY: the file is the hook's.
    let inode: *const u8 = unsafe { typed(file, &offsets::FILE_F_INODE) };
    if inode as u64 == own_program(&subject) {
        return 0;
    }
    let scratch = subject.scratch();
    if scratch.is_null() {
        emit::count_loss(subject.sandbox_id, RecordKind::Exec as u32, 0);
        return answer(ENOMEM);
    }
    // SAFETY: the file is the hook's, the scratch this task's.
    unsafe {
        let found = find(&subject, scratch, file);
        let decision = match found.table {
            // A path that can't be read whole is refused at its open.
            Some(table) => decide_loading(table, found.hits),
            None => Decision::DENY_DEFAULT,
        };
        refuse(ctx, &subject, scratch, inode, &found, decision, false)
    }
}

/// The inode of the program that the current task runs; 0: none.
#[inline(always)]
pub fn own_program(subject: &Subject) -> u64 {
    // SAFETY: the subject's task is trusted, and each load is of a kernel type.
    unsafe {
        let mm: *const u8 = typed(subject.as_bytes(), &offsets::TASK_MM);
        let own: *const u8 = typed(mm, &offsets::MM_EXE_FILE);
        typed::<u64>(own, &offsets::FILE_F_INODE)
    }
}

/// A program as far as its file tells.
struct Found {
    table: Option<&'static ExecTable>,
    hits: ExecHits,
    length: u32,
    whole: bool,
}

/// Writes the file's path and asks the tables.
#[inline(always)]
unsafe fn find(subject: &Subject, scratch: *mut Scratch, file: *const u8) -> Found {
    // SAFETY: the callers vouch for file and scratch.
    unsafe {
        let path = file.add(offsets::FILE_F_PATH.load() as usize);
        let tags = program::by_tags(subject.sandbox_id, scratch, typed(path, &offsets::PATH_DENTRY));
        let location = Location::of_path(path as u64);
        let dentry: *const u8 = typed(path, &offsets::PATH_DENTRY);
        let written = ground::write_path(subject, scratch, 0, location, dentry, About::Object);
        let table = program::table(subject.config.slot);
        let named = match table {
            Some(table) => program::by_path(table, scratch, 0, written.length),
            None => ExecHits::NONE,
        };
        Found { table, hits: tags.or(named), length: written.length, whole: written.whole }
    }
}

/// Reports a refusal. `asked`: of an exec, whose argv is told as the caller's memory has it.
#[inline(always)]
unsafe fn refuse<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    scratch: *mut Scratch,
    inode: *const u8,
    found: &Found,
    decision: Decision,
    asked: bool,
) -> i32 {
    // SAFETY: the callers vouch for their pointers.
    unsafe {
        let (decision, _) = settle(scratch, decision, false);
        // What would have been refused here is told once it was executed.
        if decision.allow || (asked && subject.config.audit_mode != 0) {
            return 0;
        }
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Exec);
        object::identify(record, inode as u64);
        (*record).path_len = found.length;
        (*record).action = if asked { RecordAction::None } else { RecordAction::Execute } as u8;
        if !found.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let pwd = Location::of_path(subject.fs() + u64::from(offsets::FS_PWD.load()));
        let cwd = walk::write_path(scratch, subject.fs(), found.length, pwd);
        (*record).second_len = cwd.length;
        if asked && subject.config.trace_args != 0 {
            write_asked_argv(subject, scratch, found.length + cwd.length);
        }
        let refused = conclude(subject, decision, false, record);
        emit::with_text(ctx, subject, scratch);
        if refused { answer(EPERM) } else { 0 }
    }
}

/// Context of the loop over the words of argv; what changes lies in the record.
struct Asked {
    scratch: *mut Scratch,
    argv: u64,
    at: u32,
    _pad: u32,
}

/// Copies the argv that execve(2) was asked for behind the two paths. The caller can change it meanwhile: it is for the
/// log alone.
///
/// # Safety
/// `scratch` is the current task's, its record begun.
#[inline(always)]
pub unsafe fn write_asked_argv(subject: &Subject, scratch: *mut Scratch, at: u32) {
    // SAFETY: the subject's task is trusted; the callback's type is what the helper calls, and the context outlives it.
    unsafe {
        let regs = bpf_task_pt_regs(subject.task) as *const u8;
        let number: u64 = typed(regs, &offsets::PT_REGS_NR);
        // execveat(2) has a folder before the path.
        let has_folder = maps::SYSCALLS.get(number as u32).is_some_and(|spec| spec.dirfd_arg != NO_ARG);
        let argv: u64 = if has_folder {
            typed(regs, &offsets::PT_REGS_ARG2)
        } else {
            typed(regs, &offsets::PT_REGS_ARG1)
        };
        let mut asked = Asked { scratch, argv, at, _pad: 0 };
        (*scratch).record.flags |= FLAG_ARGV_CUT;
        bpf_loop(WORDS_MAX, asked_step as *mut c_void, (&raw mut asked).cast(), 0);
    }
}

/// The next word, with its NUL. Returns 1 to stop.
unsafe extern "C" fn asked_step(index: u64, asked: *mut Asked) -> i64 {
    // SAFETY: the helper hands back the context of `write_asked_argv`; helpers check the caller's addresses, and the room
    // behind a masked offset holds `ARGV_BYTES_MAX`.
    unsafe {
        let record = &raw mut (*(*asked).scratch).record;
        let length = (*record).argv_len & (2 * ARGV_BYTES_MAX as u32 - 1);
        let mut word = 0_u64;
        let from = ((*asked).argv + index * 8) as *const c_void;
        if bpf_probe_read_user((&raw mut word).cast(), 8, from) != 0 || length >= ARGV_BYTES_MAX as u32 {
            return 1;
        }
        if word == 0 {
            (*record).flags &= !FLAG_ARGV_CUT;
            return 1;
        }
        let to = walk::text_at((*asked).scratch, (*asked).at + length);
        let read = bpf_probe_read_user_str(to.cast(), ARGV_BYTES_MAX as u32, word as *const c_void);
        if read <= 0 {
            return 1;
        }
        let whole = length + read as u32;
        (*record).argv_len = if whole > ARGV_BYTES_MAX as u32 { ARGV_BYTES_MAX as u32 } else { whole };
    }
    0
}
