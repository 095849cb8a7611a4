//! The syscalls that name a path, and where their arguments stand (syscalls(2); the man page of each).

use govsandbox_ebpf::abi::{
    event::{RecordAction, RecordKind},
    rule::{NO_ARG, SyscallSpec},
};

const fn open(dirfd_arg: u8, path_arg: u8, flags_arg: u8, flags_indirect: u8) -> SyscallSpec {
    SyscallSpec {
        kind: RecordKind::Open as u8,
        action: RecordAction::Read as u8,
        dirfd_arg,
        path_arg,
        flags_arg,
        flags_indirect,
        target_arg: NO_ARG,
        _pad: 0,
    }
}

const fn change(action: RecordAction, dirfd_arg: u8, path_arg: u8, target_arg: u8) -> SyscallSpec {
    SyscallSpec {
        kind: RecordKind::Change as u8,
        action: action as u8,
        dirfd_arg,
        path_arg,
        flags_arg: NO_ARG,
        flags_indirect: 0,
        target_arg,
        _pad: 0,
    }
}

/// Programs: the path alone; mmap(2) has none.
const fn exec(action: RecordAction, dirfd_arg: u8, path_arg: u8) -> SyscallSpec {
    SyscallSpec {
        kind: RecordKind::Exec as u8,
        action: action as u8,
        dirfd_arg,
        path_arg,
        flags_arg: NO_ARG,
        flags_indirect: 0,
        target_arg: NO_ARG,
        _pad: 0,
    }
}

/// Datagrams: where the address is, or a message that begins with a pointer to it.
const fn send(path_arg: u8, flags_indirect: u8) -> SyscallSpec {
    SyscallSpec {
        kind: RecordKind::Send as u8,
        action: RecordAction::None as u8,
        dirfd_arg: NO_ARG,
        path_arg,
        flags_arg: NO_ARG,
        flags_indirect,
        target_arg: NO_ARG,
        _pad: 0,
    }
}

/// Syscalls of every architecture.
const AT_CALLS: &[(libc::c_long, SyscallSpec)] = &[
    (libc::SYS_openat, open(0, 1, 2, 0)),
    (libc::SYS_openat2, open(0, 1, 2, 1)),
    (libc::SYS_execve, exec(RecordAction::None, NO_ARG, 0)),
    (libc::SYS_execveat, exec(RecordAction::None, 0, 1)),
    (libc::SYS_mmap, exec(RecordAction::Execute, NO_ARG, NO_ARG)),
    (libc::SYS_mkdirat, change(RecordAction::Create, 0, 1, NO_ARG)),
    (libc::SYS_mknodat, change(RecordAction::Create, 0, 1, NO_ARG)),
    (libc::SYS_symlinkat, change(RecordAction::Create, 1, 2, NO_ARG)),
    (libc::SYS_unlinkat, change(RecordAction::Unlink, 0, 1, NO_ARG)),
    (libc::SYS_renameat2, change(RecordAction::Rename, 0, 1, 3)),
    (libc::SYS_renameat, change(RecordAction::Rename, 0, 1, 3)),
    (libc::SYS_linkat, change(RecordAction::Link, 0, 1, 3)),
    (libc::SYS_truncate, change(RecordAction::Truncate, NO_ARG, 0, NO_ARG)),
    (libc::SYS_fchmodat, change(RecordAction::Chmod, 0, 1, NO_ARG)),
    (libc::SYS_fchownat, change(RecordAction::Chown, 0, 1, NO_ARG)),
    (libc::SYS_setxattr, change(RecordAction::Xattr, NO_ARG, 0, NO_ARG)),
    (libc::SYS_lsetxattr, change(RecordAction::Xattr, NO_ARG, 0, NO_ARG)),
    (libc::SYS_removexattr, change(RecordAction::Xattr, NO_ARG, 0, NO_ARG)),
    (libc::SYS_sendto, send(4, 0)),
    (libc::SYS_sendmsg, send(1, 1)),
    (libc::SYS_sendmmsg, send(1, 1)),
    (libc::SYS_lremovexattr, change(RecordAction::Xattr, NO_ARG, 0, NO_ARG)),
];

/// Older calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(libc::c_long, SyscallSpec)] = &[
    (libc::SYS_open, open(NO_ARG, 0, 1, 0)),
    (libc::SYS_creat, change(RecordAction::Create, NO_ARG, 0, NO_ARG)),
    (libc::SYS_mkdir, change(RecordAction::Create, NO_ARG, 0, NO_ARG)),
    (libc::SYS_mknod, change(RecordAction::Create, NO_ARG, 0, NO_ARG)),
    (libc::SYS_symlink, change(RecordAction::Create, NO_ARG, 1, NO_ARG)),
    (libc::SYS_unlink, change(RecordAction::Unlink, NO_ARG, 0, NO_ARG)),
    (libc::SYS_rmdir, change(RecordAction::Unlink, NO_ARG, 0, NO_ARG)),
    (libc::SYS_rename, change(RecordAction::Rename, NO_ARG, 0, 1)),
    (libc::SYS_link, change(RecordAction::Link, NO_ARG, 0, 1)),
    (libc::SYS_chmod, change(RecordAction::Chmod, NO_ARG, 0, NO_ARG)),
    (libc::SYS_chown, change(RecordAction::Chown, NO_ARG, 0, NO_ARG)),
    (libc::SYS_lchown, change(RecordAction::Chown, NO_ARG, 0, NO_ARG)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(libc::c_long, SyscallSpec)] = &[];

/// A syscall that a filter may refuse; which does the host knows.
pub fn refusable(number: u32) -> (u32, SyscallSpec) {
    let spec = SyscallSpec {
        kind: RecordKind::Privilege as u8,
        action: RecordAction::None as u8,
        dirfd_arg: NO_ARG,
        path_arg: NO_ARG,
        flags_arg: NO_ARG,
        flags_indirect: 0,
        target_arg: NO_ARG,
        _pad: 0,
    };
    (number, spec)
}

/// Every syscall of this architecture that names a path and is traced, by number.
pub fn table() -> impl Iterator<Item = (u32, SyscallSpec)> {
    AT_CALLS.iter().chain(OLD_CALLS).filter_map(|(number, spec)| Some((u32::try_from(*number).ok()?, *spec)))
}
