//! The filter of the performer itself: it reads what a hostile process wrote, and needs few calls for what it does.

use seccompiler::BpfProgram;

use super::program::{
    ALLOW, AND, JUMP_EQUAL, OFFSET_ARCHITECTURE, OFFSET_NUMBER, Program, RETURN, Sense, argument, call,
    instruction, refuse,
};

/// What it does on behalf of others, what it finds out before, and what its own runtime asks for.
const NEEDED: &[i64] = &[
    // The calls themselves.
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_fremovexattr,
    libc::SYS_umask,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_getsockopt,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    // Objects, folders and the caller.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_read,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_process_vm_readv,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_capset,
    // The supervisor and the listener.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_ppoll,
    // Memory, and ending.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// `poll(2)`, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const NEEDED_HERE: &[i64] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const NEEDED_HERE: &[i64] = &[];

/// `SECCOMP_IOC_MAGIC` of include/uapi/linux/seccomp.h, where a command has it.
const LISTENER_COMMANDS: u32 = 0x2100;
const COMMAND_KIND: u32 = 0xff00;

/// The program: EPERM to every other call, to memory that is executable, and to commands of anything but a listener.
#[must_use]
pub fn program() -> BpfProgram {
    let mut program = Program::default();
    program.load(OFFSET_ARCHITECTURE);
    program.block(JUMP_EQUAL, super::ARCHITECTURE, Sense::Unless, &[refuse(libc::EPERM)]);
    program.load(OFFSET_NUMBER);
    for number in NEEDED.iter().chain(NEEDED_HERE) {
        program.block(JUMP_EQUAL, call(*number), Sense::If, &[instruction(RETURN, ALLOW)]);
    }
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        program.arguments(number, |block| block.refuse_bits(2, libc::PROT_EXEC.cast_unsigned()));
    }
    program.arguments(libc::SYS_ioctl, |block| {
        block.load(argument(1));
        block.0.push(instruction(AND, COMMAND_KIND));
        block.block(JUMP_EQUAL, LISTENER_COMMANDS, Sense::Unless, &[refuse(libc::EPERM)]);
    });
    program.0.push(refuse(libc::EPERM));
    program.0
}

#[cfg(test)]
mod tests {
    use super::{super::verdict, *};

    fn answer(number: i64, arguments: [u32; 4]) -> u32 {
        verdict::run(&program(), super::super::ARCHITECTURE, call(number), arguments).unwrap()
    }

    #[test]
    fn it_executes_forks_and_signals_nothing_and_makes_no_socket() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        for number in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_pidfd_send_signal,
            libc::SYS_write,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_prctl,
            libc::SYS_seccomp,
            libc::SYS_open_by_handle_at,
        ] {
            assert_eq!(answer(number, [0; 4]), refused, "{number}");
        }
        assert_eq!(answer(libc::SYS_renameat2, [0; 4]), ALLOW);
        let code = (libc::PROT_READ | libc::PROT_EXEC) as u32;
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(answer(number, [0, 0, code, 0]), refused);
            assert_eq!(answer(number, [0, 0, libc::PROT_WRITE as u32, 0]), ALLOW);
        }
        // NOTIF_RECV; TIOCSTI.
        assert_eq!(answer(libc::SYS_ioctl, [0, 0xc050_2100, 0, 0]), ALLOW);
        assert_eq!(answer(libc::SYS_ioctl, [0, libc::TIOCSTI as u32, 0, 0]), refused);
        let foreign = verdict::run(&program(), 0x4000_0003, 3, [0; 4]).unwrap();
        assert_eq!(foreign, refused);
    }
}
