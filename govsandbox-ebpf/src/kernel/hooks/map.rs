//! Code that a loader maps, where no LSM program sees it: judged at the end of mmap(2), and the process is killed before it
//! gets to run it.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_send_signal};
use govsandbox_ebpf::{
    abi::event::{FLAG_PATH_CUT, RecordAction, RecordKind},
    decide::exec::decide_loading,
};

use super::{SIGKILL, conclude, program::own_program, settle};
use crate::kernel::{
    emit, object,
    offsets::{self, probed},
    program,
    subject::Subject,
    walk::{self, Location},
};

const PROT_EXEC: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
const EPERM: i64 = 1;

/// One call of mmap(2).
#[derive(Clone, Copy)]
pub struct Mapping {
    pub protection: u64,
    pub flags: u64,
    /// Address of the `struct file` behind the descriptor; 0: there is none any more.
    pub file: u64,
    pub result: i64,
}

impl Mapping {
    /// May this have brought code of a file in, or been refused to (a mount without execution)?
    #[inline(always)]
    pub fn is_of_code(&self) -> bool {
        self.protection & PROT_EXEC != 0
            && self.flags & MAP_ANONYMOUS == 0
            && (self.result >= 0 || self.result == -EPERM)
    }
}

/// Judges it.
#[inline(always)]
pub fn judge<C: EbpfContext>(ctx: &C, subject: &Subject, mapping: Mapping) {
    let inode: u64 = probed(mapping.file, &offsets::FILE_F_INODE);
    if inode == 0 || inode == own_program(subject) {
        return;
    }
    let scratch = subject.scratch();
    let (false, Some(table)) = (scratch.is_null(), program::table(subject.config.slot)) else {
        // SAFETY: no pointers.
        unsafe { bpf_send_signal(SIGKILL) };
        return;
    };
    // SAFETY: the scratch is this task's.
    unsafe {
        let path = Location::of_path(mapping.file + u64::from(offsets::FILE_F_PATH.load()));
        let written = walk::write_path(scratch, subject.fs(), 0, path);
        let named = program::by_path(table, scratch, 0, written.length);
        let (decision, _) = settle(scratch, decide_loading(table, named), false);
        if decision.allow {
            return;
        }
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Exec);
        object::identify(record, inode);
        (*record).path_len = written.length;
        (*record).action = RecordAction::Execute as u8;
        if !written.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let refused = conclude(subject, decision, false, record);
        if mapping.result >= 0 && refused {
            (*record).errno = 0;
            (*record).value = u64::from(SIGKILL);
            bpf_send_signal(SIGKILL);
        }
        emit::with_text(ctx, subject, scratch);
    }
}
