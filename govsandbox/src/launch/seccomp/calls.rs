//! The system calls that are refused, by name and by reason.

/// A system call: its number on this architecture and its name.
pub(super) type Call = (i64, &'static str);

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It acts on the machine, whoever calls it.
    Machine,
    /// `process.namespaces`.
    Namespaces,
    /// `process.userfaultfd`.
    Userfaultfd,
    /// Sockets that no other layer judges.
    Sockets,
    /// It acts for the terminal's user.
    Terminal,
    /// It reaches processes outside.
    Processes,
    /// The call of a foreign architecture.
    Architecture,
}

/// `open_tree_attr(2)`, Linux 6.15; the same number everywhere.
const OPEN_TREE_ATTR: i64 = 467;

/// Refused with EPERM always.
pub(super) const MACHINE: &[Call] = &[
    (libc::SYS_bpf, "bpf"),
    (libc::SYS_perf_event_open, "perf_event_open"),
    (libc::SYS_kexec_load, "kexec_load"),
    (libc::SYS_kexec_file_load, "kexec_file_load"),
    (libc::SYS_init_module, "init_module"),
    (libc::SYS_finit_module, "finit_module"),
    (libc::SYS_delete_module, "delete_module"),
    (libc::SYS_add_key, "add_key"),
    (libc::SYS_request_key, "request_key"),
    (libc::SYS_keyctl, "keyctl"),
    (libc::SYS_open_by_handle_at, "open_by_handle_at"),
    (libc::SYS_swapon, "swapon"),
    (libc::SYS_swapoff, "swapoff"),
    (libc::SYS_reboot, "reboot"),
    (libc::SYS_acct, "acct"),
    (libc::SYS_quotactl, "quotactl"),
    (libc::SYS_quotactl_fd, "quotactl_fd"),
    (libc::SYS_syslog, "syslog"),
    (libc::SYS_settimeofday, "settimeofday"),
    (libc::SYS_clock_settime, "clock_settime"),
    (libc::SYS_sethostname, "sethostname"),
    (libc::SYS_setdomainname, "setdomainname"),
    (libc::SYS_vhangup, "vhangup"),
    (libc::SYS_lookup_dcookie, "lookup_dcookie"),
];

/// The same, of x86 alone: ports, descriptor tables, a loader of old libraries.
#[cfg(target_arch = "x86_64")]
pub(super) const MACHINE_HERE: &[Call] = &[
    (libc::SYS_ioperm, "ioperm"),
    (libc::SYS_iopl, "iopl"),
    (libc::SYS_modify_ldt, "modify_ldt"),
    (libc::SYS_uselib, "uselib"),
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const MACHINE_HERE: &[Call] = &[];

/// Refused with EPERM unless `process.namespaces = "allow"`.
pub(super) const MOUNTS: &[Call] = &[
    (libc::SYS_setns, "setns"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_chroot, "chroot"),
];

/// Refused with EPERM as these, and with ENOSYS where they are allowed: what is mounted lies in memory or behind
/// descriptors, which neither this filter nor a hook can judge, and programs fall back to mount(2).
pub(super) const MOUNTS_BY_DESCRIPTOR: &[Call] = &[
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_open_tree, "open_tree"),
    (libc::SYS_fsopen, "fsopen"),
    (libc::SYS_fsconfig, "fsconfig"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_fspick, "fspick"),
    (libc::SYS_mount_setattr, "mount_setattr"),
    (OPEN_TREE_ATTR, "open_tree_attr"),
];

/// Refused by their arguments.
pub(super) const BY_ARGUMENTS: &[(Call, Reason)] = &[
    ((libc::SYS_clone, "clone"), Reason::Namespaces),
    ((libc::SYS_unshare, "unshare"), Reason::Namespaces),
    ((libc::SYS_userfaultfd, "userfaultfd"), Reason::Userfaultfd),
    ((libc::SYS_ioctl, "ioctl"), Reason::Terminal),
    ((libc::SYS_socket, "socket"), Reason::Sockets),
    ((libc::SYS_socketpair, "socketpair"), Reason::Sockets),
    ((libc::SYS_setsockopt, "setsockopt"), Reason::Sockets),
    ((libc::SYS_personality, "personality"), Reason::Machine),
    ((libc::SYS_setpriority, "setpriority"), Reason::Processes),
    ((libc::SYS_ioprio_set, "ioprio_set"), Reason::Processes),
    ((libc::SYS_kill, "kill"), Reason::Processes),
    ((libc::SYS_fcntl, "fcntl"), Reason::Processes),
    ((libc::SYS_prctl, "prctl"), Reason::Processes),
];

/// All of them with their reasons.
pub(super) fn all() -> impl Iterator<Item = (Call, Reason)> {
    let of = |calls: &'static [Call], reason: Reason| calls.iter().map(move |call| (*call, reason));
    of(MACHINE, Reason::Machine)
        .chain(of(MACHINE_HERE, Reason::Machine))
        .chain(of(MOUNTS, Reason::Namespaces))
        .chain(of(MOUNTS_BY_DESCRIPTOR, Reason::Namespaces))
        .chain(BY_ARGUMENTS.iter().copied())
}
