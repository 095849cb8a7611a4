//! Where the running kernel keeps what we read: set by the loader from its BTF, constants to the verifier.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};

/// What an offset is until the loader sets it. A number that nothing else is: the compiler may let a constant of the same
/// value (a map's key 0) share the place, and the loader would change that too.
const UNSET: u32 = 0x0ff5_e700;

/// The same for an address.
const UNSET_ADDRESS: u64 = 0x0ff5_e700_0ff5_e700;

macro_rules! offsets {
    ($($name:ident),* $(,)?) => {
        $(
            // SAFETY: the symbol's name is the loader's handle on it; no other object is linked in.
            #[unsafe(no_mangle)]
            pub static $name: Global<u32> = Global::new(UNSET);
        )*
    };
}

// One for each row of the host's table (`bpf/offsets.rs`): STRUCT_MEMBER, in bytes; and two facts of this machine.
offsets!(
    BPRM_FILE,
    BPRM_FILENAME,
    BPRM_INTERP,
    COMPAT_BIT,
    DCACHE_UNSTEADY,
    DENTRY_D_FLAGS,
    DENTRY_D_INAME,
    DENTRY_D_INODE,
    DENTRY_D_NAME,
    DENTRY_D_PARENT,
    DENTRY_D_SB,
    FDTABLE_FD,
    FDTABLE_MAX_FDS,
    FILES_FDT,
    FILE_F_FLAGS,
    FILE_F_INODE,
    FILE_F_MODE,
    FILE_F_PATH,
    FS_PWD,
    FS_ROOT,
    IATTR_IA_VALID,
    INODE_I_GENERATION,
    INODE_I_INO,
    INODE_I_MODE,
    INODE_I_SB,
    LOADS_IN_ORDER,
    MM_ARG_END,
    MM_ARG_START,
    MM_EXE_FILE,
    MOUNT_MNT,
    MOUNT_MNT_MOUNTPOINT,
    MOUNT_MNT_NS,
    MOUNT_MNT_PARENT,
    PATH_DENTRY,
    PATH_MNT,
    PID_LEVEL,
    PT_REGS_ARG0,
    PT_REGS_ARG1,
    PT_REGS_ARG2,
    PT_REGS_ARG3,
    PT_REGS_ARG4,
    PT_REGS_NR,
    QSTR_HASH,
    QSTR_LEN,
    QSTR_NAME,
    SB_S_DEV,
    SB_S_FLAGS,
    SB_S_MAGIC,
    SB_S_ROOT,
    SB_S_USER_NS,
    SIGNAL_LIVE,
    SOCKET_SK,
    SOCK_SKC_DADDR,
    SOCK_SKC_DPORT,
    SOCK_SKC_FAMILY,
    SOCK_SKC_NUM,
    SOCK_SKC_RCV_SADDR,
    SOCK_SKC_STATE,
    SOCK_SKC_V6_DADDR,
    SOCK_SKC_V6_RCV_SADDR,
    SOCK_SK_FLAGS,
    SOCK_SK_PROTOCOL,
    SOCK_SK_SHUTDOWN,
    SOCK_SK_TYPE,
    TASK_EXIT_CODE,
    TASK_FILES,
    TASK_FS,
    TASK_GROUP_LEADER,
    TASK_MM,
    TASK_PID,
    TASK_REAL_PARENT,
    TASK_SIGNAL,
    TASK_START_BOOTTIME,
    TASK_TGID,
    TASK_THREAD_PID,
    TASK_THREAD_STATUS,
    TCP_BYTES_RECEIVED,
    TCP_BYTES_RETRANS,
    TCP_BYTES_SENT,
    TCP_SND_NXT,
    TCP_WRITE_SEQ,
    UNIX_ADDRESS_LEN,
    UNIX_ADDRESS_NAME,
    UNIX_SOCK_ADDR,
    UNIX_SOCK_PATH,
    USER_NS_LEVEL,
    VFSMOUNT_MNT_ROOT,
    VMA_VM_FILE,
);

// Addresses of the kernel's own counts: 0 where it doesn't tell them.
/// `seqlock_t mount_lock` (fs/namespace.c).
// SAFETY: as above.
#[unsafe(no_mangle)]
pub static MOUNT_LOCK: Global<u64> = Global::new(UNSET_ADDRESS);
/// `seqlock_t rename_lock` (fs/dcache.c).
// SAFETY: as above.
#[unsafe(no_mangle)]
pub static RENAME_LOCK: Global<u64> = Global::new(UNSET_ADDRESS);

/// Reads a member by a load of its own; the verifier wants `base` to point to a kernel type it knows.
///
/// # Safety
/// `base` is a pointer to a kernel structure (`PTR_TO_BTF_ID`) and `T` is what stands at `offset`.
#[inline(always)]
pub unsafe fn typed<T: Copy>(base: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: the verifier turns a load through such a pointer into one that yields 0 where nothing is mapped.
    unsafe { *base.add(offset.load() as usize).cast::<T>() }
}

/// Reads a member through a helper; 0 where nothing is mapped (the helper clears what it can't read).
#[inline(always)]
pub fn probed<T: Copy>(base: u64, offset: &Global<u32>) -> T {
    probed_at(base + u64::from(offset.load()))
}

/// Reads what stands at an address through a helper; 0 where nothing is mapped.
#[inline(always)]
pub fn probed_at<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address itself and writes every byte of `value`, whatever it answers; the types read
    // are integers.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void);
        value.assume_init()
    }
}
