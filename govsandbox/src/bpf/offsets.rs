//! The structure members that the kernel programs read; each is a global of the object, set before it is loaded.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
};

use super::btf::{BtfError, KernelBtf};

/// Global of the object, structure, member.
type Row = (&'static str, &'static str, &'static str);

const MEMBERS: &[Row] = &[
    ("BPRM_FILE", "linux_binprm", "file"),
    ("BPRM_FILENAME", "linux_binprm", "filename"),
    ("BPRM_INTERP", "linux_binprm", "interp"),
    ("DENTRY_D_FLAGS", "dentry", "d_flags"),
    ("DENTRY_D_INODE", "dentry", "d_inode"),
    ("DENTRY_D_NAME", "dentry", "d_name"),
    ("DENTRY_D_PARENT", "dentry", "d_parent"),
    ("DENTRY_D_SB", "dentry", "d_sb"),
    ("FDTABLE_FD", "fdtable", "fd"),
    ("FDTABLE_MAX_FDS", "fdtable", "max_fds"),
    ("FILES_FDT", "files_struct", "fdt"),
    ("FILE_F_FLAGS", "file", "f_flags"),
    ("FILE_F_INODE", "file", "f_inode"),
    ("FILE_F_MODE", "file", "f_mode"),
    ("FILE_F_PATH", "file", "f_path"),
    ("FS_PWD", "fs_struct", "pwd"),
    ("FS_ROOT", "fs_struct", "root"),
    ("IATTR_IA_VALID", "iattr", "ia_valid"),
    ("INODE_I_GENERATION", "inode", "i_generation"),
    ("INODE_I_INO", "inode", "i_ino"),
    ("INODE_I_MODE", "inode", "i_mode"),
    ("INODE_I_SB", "inode", "i_sb"),
    ("MM_ARG_END", "mm_struct", "arg_end"),
    ("MM_ARG_START", "mm_struct", "arg_start"),
    ("MM_EXE_FILE", "mm_struct", "exe_file"),
    ("MOUNT_MNT", "mount", "mnt"),
    ("MOUNT_MNT_MOUNTPOINT", "mount", "mnt_mountpoint"),
    ("MOUNT_MNT_NS", "mount", "mnt_ns"),
    ("MOUNT_MNT_PARENT", "mount", "mnt_parent"),
    ("PATH_DENTRY", "path", "dentry"),
    ("PATH_MNT", "path", "mnt"),
    ("PID_LEVEL", "pid", "level"),
    ("QSTR_HASH", "qstr", "hash"),
    ("QSTR_LEN", "qstr", "len"),
    ("QSTR_NAME", "qstr", "name"),
    ("SB_S_DEV", "super_block", "s_dev"),
    ("SB_S_FLAGS", "super_block", "s_flags"),
    ("SB_S_MAGIC", "super_block", "s_magic"),
    ("SB_S_ROOT", "super_block", "s_root"),
    ("SB_S_USER_NS", "super_block", "s_user_ns"),
    ("SIGNAL_LIVE", "signal_struct", "live"),
    ("SOCKET_SK", "socket", "sk"),
    ("SOCK_SKC_DADDR", "sock_common", "skc_daddr"),
    ("SOCK_SKC_DPORT", "sock_common", "skc_dport"),
    ("SOCK_SKC_FAMILY", "sock_common", "skc_family"),
    ("SOCK_SKC_NUM", "sock_common", "skc_num"),
    ("SOCK_SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr"),
    ("SOCK_SKC_STATE", "sock_common", "skc_state"),
    ("SOCK_SKC_V6_DADDR", "sock_common", "skc_v6_daddr"),
    ("SOCK_SKC_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr"),
    ("SOCK_SK_FLAGS", "sock_common", "skc_flags"),
    ("SOCK_SK_PROTOCOL", "sock", "sk_protocol"),
    ("SOCK_SK_SHUTDOWN", "sock", "sk_shutdown"),
    ("SOCK_SK_TYPE", "sock", "sk_type"),
    ("TASK_EXIT_CODE", "task_struct", "exit_code"),
    ("TASK_FILES", "task_struct", "files"),
    ("TASK_FS", "task_struct", "fs"),
    ("TASK_GROUP_LEADER", "task_struct", "group_leader"),
    ("TASK_MM", "task_struct", "mm"),
    ("TASK_PID", "task_struct", "pid"),
    ("TASK_REAL_PARENT", "task_struct", "real_parent"),
    ("TASK_SIGNAL", "task_struct", "signal"),
    ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TCP_BYTES_RECEIVED", "tcp_sock", "bytes_received"),
    ("TCP_BYTES_RETRANS", "tcp_sock", "bytes_retrans"),
    ("TCP_BYTES_SENT", "tcp_sock", "bytes_sent"),
    ("TCP_SND_NXT", "tcp_sock", "snd_nxt"),
    ("TCP_WRITE_SEQ", "tcp_sock", "write_seq"),
    ("TASK_THREAD_PID", "task_struct", "thread_pid"),
    ("UNIX_ADDRESS_LEN", "unix_address", "len"),
    ("UNIX_ADDRESS_NAME", "unix_address", "name"),
    ("UNIX_SOCK_ADDR", "unix_sock", "addr"),
    ("UNIX_SOCK_PATH", "unix_sock", "path"),
    ("USER_NS_LEVEL", "user_namespace", "level"),
    ("VFSMOUNT_MNT_ROOT", "vfsmount", "mnt_root"),
    ("VMA_VM_FILE", "vm_area_struct", "vm_file"),
];

/// Where a syscall's number and its arguments stand at its exit (arch/x86/entry, the System V syscall convention).
#[cfg(target_arch = "x86_64")]
const REGISTERS: &[Row] = &[
    ("PT_REGS_NR", "pt_regs", "orig_ax"),
    ("PT_REGS_ARG0", "pt_regs", "di"),
    ("PT_REGS_ARG1", "pt_regs", "si"),
    ("PT_REGS_ARG2", "pt_regs", "dx"),
    ("PT_REGS_ARG3", "pt_regs", "r10"),
    ("PT_REGS_ARG4", "pt_regs", "r8"),
];

/// The same (arch/arm64/include/asm/ptrace.h); the first argument is overwritten by the result and kept in `orig_x0`.
#[cfg(target_arch = "aarch64")]
const REGISTERS: &[Row] = &[("PT_REGS_NR", "pt_regs", "syscallno"), ("PT_REGS_ARG0", "pt_regs", "orig_x0")];

/// Where a task says that its system call is one of 32 bits, and the bit: `TS_COMPAT` (arch/x86/include/asm/thread_info.h).
#[cfg(target_arch = "x86_64")]
const COMPAT: (&str, u32) = ("status", 2);
/// The same: `TIF_32BIT` (arch/arm64/include/asm/thread_info.h).
#[cfg(target_arch = "aarch64")]
const COMPAT: (&str, u32) = ("flags", 1 << 22);

/// Every global of 32 bits with its value on this kernel: offsets in bytes, and facts.
///
/// # Errors
/// When the kernel has no such member.
pub fn all(btf: &KernelBtf) -> Result<Vec<(&'static str, u32)>, BtfError> {
    let mut found = Vec::with_capacity(MEMBERS.len() + REGISTERS.len());
    for &(global, structure, member) in MEMBERS.iter().chain(REGISTERS) {
        found.push((global, btf.offset(structure, member)?));
    }
    let (member, bit) = COMPAT;
    let thread = btf.offset("task_struct", "thread_info")?;
    found.push(("TASK_THREAD_STATUS", thread + btf.offset("thread_info", member)?));
    found.push(("COMPAT_BIT", bit));
    // Linux 6.14 renamed it.
    let name = btf.offset("dentry", "d_shortname").or_else(|_| btf.offset("dentry", "d_iname"))?;
    found.push(("DENTRY_D_INAME", name));
    // An enumeration from Linux 6.15 on, before a macro.
    found.push(("DCACHE_UNSTEADY", btf.enumerator("DCACHE_OP_REVALIDATE")?.unwrap_or(1 << 2)));
    found.push(("LOADS_IN_ORDER", u32::from(cfg!(target_arch = "x86_64"))));
    #[cfg(target_arch = "aarch64")]
    {
        let registers = btf.offset("pt_regs", "regs")?;
        for (place, global) in
            ["PT_REGS_ARG1", "PT_REGS_ARG2", "PT_REGS_ARG3", "PT_REGS_ARG4"].into_iter().enumerate()
        {
            found.push((global, registers + 8 * (place as u32 + 1)));
        }
    }
    Ok(found)
}

/// Addresses of the kernel's counts of changed names and changed mounts, by the name of their global; 0: it doesn't tell.
#[must_use]
pub fn counts() -> [(&'static str, u64); 2] {
    let mut counts = [("RENAME_LOCK", 0), ("MOUNT_LOCK", 0)];
    let Ok(symbols) = File::open("/proc/kallsyms") else { return counts };
    for line in BufReader::new(symbols).split(b'\n').map_while(Result::ok) {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let place = match name {
            b"rename_lock" => 0,
            b"mount_lock" => 1,
            _ => continue,
        };
        let address = str::from_utf8(address).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        if let (Some(count), Some(address)) = (counts.get_mut(place), address) {
            count.1 = address;
        }
        if counts.iter().all(|(_, address)| *address != 0) {
            break;
        }
    }
    counts
}
