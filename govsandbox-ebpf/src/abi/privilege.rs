//! Hooks that refuse what leads out of a sandbox, as records name them.

use super::event::UnknownByte;

macro_rules! hooks {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// A hook of the kernel (include/linux/lsm_hook_defs.h).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Hook {
            $(#[doc = $name] $variant = $number,)*
        }

        impl Hook {
            /// As the kernel calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl TryFrom<u8> for Hook {
            type Error = UnknownByte;

            fn try_from(byte: u8) -> Result<Self, UnknownByte> {
                match byte {
                    $($number => Ok(Self::$variant),)*
                    other => Err(UnknownByte(other)),
                }
            }
        }
    };
}

hooks! {
    PtraceAccessCheck = 1, "ptrace_access_check";
    PtraceTraceme = 2, "ptrace_traceme";
    TaskKill = 3, "task_kill";
    TaskSetnice = 4, "task_setnice";
    TaskSetioprio = 5, "task_setioprio";
    TaskSetscheduler = 6, "task_setscheduler";
    SbMount = 7, "sb_mount";
    MoveMount = 8, "move_mount";
    SbUmount = 9, "sb_umount";
    SbRemount = 10, "sb_remount";
    SbPivotroot = 11, "sb_pivotroot";
    UsernsCreate = 12, "userns_create";
    Bpf = 13, "bpf";
    PerfEventOpen = 14, "perf_event_open";
    SocketCreate = 15, "socket_create";
    SocketSetsockopt = 16, "socket_setsockopt";
    FileIoctl = 17, "file_ioctl";
}

/// A refused system call or hook with the same first four arguments, by one process: told once while it is remembered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalKey {
    /// Start of the process since boot: its number alone is used again.
    pub start_boot_ns: u64,
    /// Thread-group id.
    pub tgid: u32,
    /// Number of the call or hook.
    pub number: u32,
    /// Bits `FLAG_*` of the record.
    pub flags: u32,
    /// What the caller got.
    pub errno: u32,
    /// The first four arguments, 32 bits each.
    pub arguments: [u8; 16],
}
const _: () = assert!(size_of::<RefusalKey>() == 40);
