//! Is this task in a sandbox, and who is it?

use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_get_current_uid_gid,
        generated::{bpf_get_current_task_btf, bpf_ktime_get_boot_ns},
    },
};
use govsandbox_ebpf::abi::{
    event::{EventRecord, RecordKind},
    ground::Lists,
    rule::{SandboxConfig, TaskMark},
};

use super::{
    maps::{self, Scratch},
    offsets::{self, typed},
};

/// The current task, its mark and its sandbox.
pub struct Subject {
    pub task: *mut task_struct,
    /// Null where the program may not look into task storage.
    pub mark: *mut TaskMark,
    pub sandbox_id: u32,
    pub config: SandboxConfig,
}

/// What holds for a sandbox that nobody keeps any more: everything in it is refused.
const ORPHANED: SandboxConfig = SandboxConfig {
    supervisor_tgid: 0,
    parent_id: 0,
    trace_opens: 0,
    audit_mode: 0,
    trace_args: 0,
    orphaned: 1,
    path_hooks: 1,
    namespaces: 0,
    exec_rules: 0,
    unix_rules: 0,
    slot: u32::MAX,
    keep_folders: 0,
    epoch: 0,
    lists: Lists::NONE,
    icmp: 0,
    _pad_end: [0; 3],
};

/// The current task as a subject; `None`: it is in no sandbox.
#[inline(always)]
pub fn current() -> Option<Subject> {
    // SAFETY: no arguments; the current task always is, and the helper's answer is a trusted pointer.
    let (task, mark) = unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        (task, maps::MARKS.get(task))
    };
    if mark.is_null() {
        return None;
    }
    // SAFETY: not null, and task storage lives as long as its task.
    let sandbox_id = unsafe { (*mark).sandbox_id };
    if sandbox_id == 0 {
        return None;
    }
    Some(Subject { task, mark, sandbox_id, config: config_of(sandbox_id) })
}

/// The same for programs that may not look into task storage: membership by thread group.
#[inline(always)]
pub fn current_member() -> Option<Subject> {
    member().map(Subject::here)
}

/// The sandbox of the current task, for the same programs.
#[inline(always)]
pub fn member() -> Option<u32> {
    // SAFETY: no arguments; the value is copied at once.
    unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        let tgid: u32 = typed(task.cast_const().cast(), &offsets::TASK_TGID);
        maps::MEMBERS.get(&tgid).copied()
    }
}

/// Is the current task in the machine's first pid namespace? Everything in a sandbox has one of the sandbox' own, from
/// before it is marked to its end. So most others are told from it by two loads, where each system call and each open asks.
#[inline(always)]
pub fn is_outside() -> bool {
    // SAFETY: the helper's answer is a trusted pointer, the offsets are of the types that are read; a task that has given
    // its number back reads 0, and calls nothing any more.
    let mut level = unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        let pid: *const u8 = typed(task.cast_const().cast(), &offsets::TASK_THREAD_PID);
        u64::from(typed::<u32>(pid, &offsets::PID_LEVEL))
    };
    // The compiler is not to know that this is what a program returns then: the verifier wants to see the number.
    // SAFETY: changes nothing.
    unsafe { core::arch::asm!("{0} += 0", inout(reg) level) };
    level == 0
}

#[inline(always)]
fn config_of(sandbox_id: u32) -> SandboxConfig {
    // SAFETY: copied at once; the host replaces an entry whole.
    match unsafe { maps::SANDBOXES.get(&sandbox_id) } {
        Some(config) => *config,
        None => ORPHANED,
    }
}

impl Subject {
    /// The current task for a sandbox that it may not be in: its socket is.
    #[inline(always)]
    pub fn here(sandbox_id: u32) -> Self {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task_btf() };
        Self { task, mark: core::ptr::null_mut(), sandbox_id, config: config_of(sandbox_id) }
    }

    /// A sandbox whose task is not at hand: who it was must be known otherwise.
    #[inline(always)]
    pub fn absent(sandbox_id: u32) -> Self {
        let none = core::ptr::null_mut();
        Self { task: none, mark: core::ptr::null_mut(), sandbox_id, config: config_of(sandbox_id) }
    }

    /// The task's scratch; null when there was no memory for it.
    #[inline(always)]
    pub fn scratch(&self) -> *mut Scratch {
        // SAFETY: `task` is the helper's trusted pointer.
        unsafe { maps::SCRATCH.get_or_create(self.task) }
    }

    /// Address of its `struct fs_struct`: root and working directory.
    #[inline(always)]
    pub fn fs(&self) -> u64 {
        // SAFETY: the task is trusted.
        let fs: *const u8 = unsafe { typed(self.as_bytes(), &offsets::TASK_FS) };
        fs as u64
    }

    /// Start of its process since boot. With the process's number it is never another's.
    #[inline(always)]
    pub fn start_boot_ns(&self) -> u64 {
        // SAFETY: the task is trusted, and so is the leader of its group.
        unsafe {
            let leader: *const u8 = typed(self.as_bytes(), &offsets::TASK_GROUP_LEADER);
            typed(leader, &offsets::TASK_START_BOOTTIME)
        }
    }

    /// The task as kernel memory.
    #[inline(always)]
    pub fn as_bytes(&self) -> *const u8 {
        self.task.cast_const().cast()
    }

    /// Zeroes a record and writes who and when.
    ///
    /// # Safety
    /// `record` points to room for one.
    #[inline(always)]
    pub unsafe fn begin(&self, record: *mut EventRecord, kind: RecordKind) {
        // SAFETY: the caller vouches for `record`.
        unsafe { self.begin_as(record, kind, bpf_get_current_uid_gid() as u32) };
    }

    /// The same for programs that may not ask for the current user.
    ///
    /// # Safety
    /// As [`Self::begin`].
    #[inline(always)]
    pub unsafe fn begin_as(&self, record: *mut EventRecord, kind: RecordKind, uid: u32) {
        let task = self.as_bytes();
        // SAFETY: `task` is a trusted pointer, the offsets are of its type; the caller vouches for `record`.
        unsafe {
            let parent: *const u8 = typed(task, &offsets::TASK_REAL_PARENT);
            (*record).time_boot_ns = bpf_ktime_get_boot_ns();
            (*record).start_boot_ns = self.start_boot_ns();
            (*record).dev = 0;
            (*record).ino = 0;
            (*record).value = 0;
            (*record).sandbox_id = self.sandbox_id;
            (*record).tgid = typed(task, &offsets::TASK_TGID);
            (*record).tid = typed(task, &offsets::TASK_PID);
            (*record).ppid = typed(parent, &offsets::TASK_TGID);
            (*record).uid = uid;
            (*record).errno = 0;
            (*record).flags = 0;
            (*record).path_len = 0;
            (*record).second_len = 0;
            (*record).argv_len = 0;
            (*record).address = [0; 16];
            (*record).port = 0;
            (*record).family = 0;
            (*record).protocol = 0;
            (*record).rule = 0;
            (*record).kind = kind as u8;
            (*record).action = 0;
            (*record).outcome = 0;
            (*record)._pad = [0; 5];
        }
    }
}
