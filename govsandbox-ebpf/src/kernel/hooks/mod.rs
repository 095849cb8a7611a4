//! One file for each operation. A hook gathers facts, asks the decision core, and reports.

mod answer;
mod arrival;
mod attribute;
mod change;
mod connect;
mod connection;
mod exec;
mod map;
pub(super) mod moved;
mod open;
mod packet;
mod passed;
mod privilege;
mod program;
mod socket;
mod syscall;
mod task;
mod unix;
mod unix_send;

use govsandbox_ebpf::{
    abi::event::{EventRecord, RecordOutcome},
    decide::Decision,
};

use super::{maps::Scratch, subject::Subject};

/// The errno of every refusal by a hook, as fanotify and the cgroup programs answer too.
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
/// Ends what can't be kept track of.
const SIGKILL: u32 = 9;

/// What an LSM program returns to refuse. The number passes through an instruction of its own, so that no arithmetic on a
/// condition replaces it: the verifier wants to see an errno.
#[inline(always)]
fn answer(errno: i32) -> i32 {
    let mut number = i64::from(-errno);
    // SAFETY: changes nothing.
    unsafe { core::arch::asm!("{0} += 0", inout(reg) number) };
    number as i32
}

/// Passes a decision through the scratch. To the verifier each way to a decision is a state of its own and everything
/// behind it is followed again for each; what comes from a map is one.
///
/// # Safety
/// `scratch` points to a task's scratch.
#[inline(always)]
unsafe fn settle(scratch: *mut Scratch, decision: Decision, always: bool) -> (Decision, bool) {
    // SAFETY: the caller vouches for `scratch`.
    unsafe {
        let decided = &raw mut (*scratch).decided;
        *decided = [u32::from(decision.allow), u32::from(decision.rule), u32::from(always)];
        let [allow, rule, always] = decided.read_volatile();
        (Decision { allow: allow != 0, rule: rule as u16 }, always != 0)
    }
}

/// What a decision comes to in this sandbox: writes it into the record and says whether to refuse. `always`: in audit mode
/// too.
///
/// # Safety
/// `record` points to one.
#[inline(always)]
unsafe fn conclude(subject: &Subject, decision: Decision, always: bool, record: *mut EventRecord) -> bool {
    let refuse = !decision.allow && (always || subject.config.audit_mode == 0);
    let outcome = match (decision.allow, refuse) {
        (true, _) => RecordOutcome::Allowed,
        (false, true) => RecordOutcome::Denied,
        (false, false) => RecordOutcome::WouldDeny,
    };
    // SAFETY: the caller vouches for `record`; the mark is the current task's.
    unsafe {
        (*record).rule = decision.rule;
        (*record).outcome = outcome as u8;
        (*record).errno = if refuse { EPERM as u32 } else { 0 };
        if refuse && !subject.mark.is_null() {
            (*subject.mark).refused = 1;
        }
    }
    refuse
}
