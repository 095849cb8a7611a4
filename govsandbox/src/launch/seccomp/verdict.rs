//! What the filter answered: the same program, run here on what the kernel saw.
//!
//! A system call that ended in EPERM may have been refused by the filter or by the kernel itself. Asking the program
//! tells which, and leaves nothing to be kept in step.

use seccompiler::BpfProgram;

use super::{
    calls::{self, Reason},
    program::{
        AND, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS,
        OFFSET_NUMBER, RETURN,
    },
};

/// A call as the kernel saw it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Its number.
    pub number: u32,
    /// The low halves of its first arguments.
    pub arguments: [u32; 4],
    /// It was made as one of another architecture.
    pub foreign: bool,
    /// What the caller got.
    pub errno: i32,
}

/// A call that the filter refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub call: &'static str,
    /// Why.
    pub reason: Reason,
    /// What was wanted, in words.
    pub detail: String,
}

/// Numbers of all calls that a filter refuses with an errno of its own.
pub fn numbers() -> impl Iterator<Item = u32> {
    calls::all().filter_map(|((number, _), _)| u32::try_from(number).ok())
}

/// Did this program refuse the call? `None`: it did not.
#[must_use]
pub fn refusal(program: &BpfProgram, attempt: &Attempt) -> Option<Refusal> {
    if attempt.foreign {
        let detail = format!("system call {} of another architecture", attempt.number & 0xffff);
        return Some(Refusal { call: "syscall", reason: Reason::Architecture, detail });
    }
    let answer = run(program, super::ARCHITECTURE, attempt.number, attempt.arguments);
    let errno = attempt.errno.cast_unsigned() & libc::SECCOMP_RET_DATA;
    if answer != Some(libc::SECCOMP_RET_ERRNO | errno) {
        return None;
    }
    let is_meant = |number: i64| u32::try_from(number) == Ok(attempt.number);
    let ((number, call), reason) = calls::all().find(|((number, _), _)| is_meant(*number))?;
    let [first, second, third, _] = attempt.arguments;
    let reason = match (number, second) {
        (libc::SYS_ioctl, super::USERFAULTFD_IOC_NEW) => Reason::Userfaultfd,
        (libc::SYS_ioctl, command) if super::VOLUME_COMMANDS.contains(&command) => Reason::Machine,
        _ => reason,
    };
    let detail = match number {
        libc::SYS_socket | libc::SYS_socketpair => {
            format!("family {first}, type {}, protocol {third}", second & super::SOCKET_KIND)
        }
        libc::SYS_setsockopt => format!("level {second}, option {third}"),
        libc::SYS_ioctl => format!("command {second:#x}"),
        libc::SYS_clone | libc::SYS_unshare | libc::SYS_personality => format!("flags {first:#x}"),
        libc::SYS_setpriority | libc::SYS_ioprio_set => "a process group".to_owned(),
        libc::SYS_fcntl => format!("a lease, watch or signal, command {second}"),
        libc::SYS_kill => "the own process group".to_owned(),
        _ => format!("system call {number}"),
    };
    Some(Refusal { call, reason, detail })
}

/// What the kernel's interpreter answers; `None` for no program that it would take.
pub(super) fn run(program: &BpfProgram, architecture: u32, number: u32, arguments: [u32; 4]) -> Option<u32> {
    let word = |offset: u32| match offset {
        OFFSET_NUMBER => Some(number),
        OFFSET_ARCHITECTURE => Some(architecture),
        other => {
            let place = other.checked_sub(OFFSET_ARGUMENTS)?;
            // The filter looks at low halves alone.
            (place % 8 == 0).then_some(())?;
            arguments.get(place as usize / 8).copied()
        }
    };
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let one = program.get(at)?;
        at += 1;
        let jump = |taken: bool| usize::from(if taken { one.jt } else { one.jf });
        match one.code {
            LOAD => accumulator = word(one.k)?,
            AND => accumulator &= one.k,
            JUMP_EQUAL => at += jump(accumulator == one.k),
            JUMP_AT_LEAST => at += jump(accumulator >= one.k),
            JUMP_ANY_BIT => at += jump(accumulator & one.k != 0),
            RETURN => return Some(one.k),
            _ => return None,
        }
    }
}
