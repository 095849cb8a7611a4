//! Records from kernel to host: one [`EventRecord`], followed by its texts.

use super::PATH_BYTES_MAX;

/// Bytes of argv that one exec record carries at most; what is beyond is cut and [`FLAG_ARGV_CUT`] is set.
pub const ARGV_BYTES_MAX: usize = 4096;
/// Bytes of all texts of one record: two paths and the arguments.
pub const TEXT_BYTES_MAX: usize = 2 * PATH_BYTES_MAX + ARGV_BYTES_MAX;

/// The arguments were longer than [`ARGV_BYTES_MAX`].
pub const FLAG_ARGV_CUT: u32 = 1;
/// The path could not be read whole (too deep, too long): what is there is its end.
pub const FLAG_PATH_CUT: u32 = 2;
/// `path` is the caller's own argument, relative to `second`; the host resolves it.
pub const FLAG_PATH_AS_GIVEN: u32 = 4;
/// `target` is the caller's own argument as well (rename, link).
pub const FLAG_TARGET_AS_GIVEN: u32 = 8;
/// `second` is the object that the syscall names first, `path` its target: the target is what a rule holds.
pub const FLAG_TARGET_FIRST: u32 = 16;

/// The call was made as one of another architecture or of x32: `value` is its number there.
pub const FLAG_FOREIGN_CALL: u32 = 32;
/// `value` is a [`super::privilege::Hook`], not the number of a system call.
pub const FLAG_HOOK: u32 = 64;

/// What a record tells. The wire has a `u8`; any byte may arrive, so the host converts with `TryFrom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A new program image: `path` is the file, `second` the working directory, then argv (NUL-separated). Refused before
    /// it was loaded argv is what the caller asked for; with `value` the signal that ends it, it was loaded. With the
    /// action `Execute`: code of `path` that the program maps.
    Exec = 1,
    /// The last thread of a process is gone: `value` is the wait status (`wait(2)`).
    Exit = 2,
    /// An open: `value` is the flags of `open(2)`.
    Open = 3,
    /// A change of a name or of attributes; `action` tells which.
    Change = 4,
    /// `connect(2)` of an inet socket.
    Connect = 5,
    /// A datagram to an address, without `connect(2)`.
    Send = 6,
    /// A new process: `value` is its thread-group id, the header is the parent's.
    Fork = 7,
    /// A system call or hook that leads out of the sandbox; `value` is the call's number or, with [`FLAG_HOOK`], the hook,
    /// and `address` holds its first four arguments, 32 bits each.
    Privilege = 8,
    /// A connection ended: `dev` is bytes sent, `ino` bytes received, `value` how long it stood, in ns.
    Close = 9,
    /// A socket is listened on; with the action `Accept`: a connection came in, from `address` and `port`.
    Listen = 10,
}

/// What was done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordAction {
    None = 0,
    Read = 1,
    Write = 2,
    Execute = 3,
    List = 4,
    Create = 5,
    Truncate = 6,
    Unlink = 7,
    Rename = 8,
    Link = 9,
    Chmod = 10,
    Chown = 11,
    Xattr = 12,
    Mount = 13,
    Accept = 14,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordOutcome {
    Allowed = 0,
    Denied = 1,
    WouldDeny = 2,
    /// The syscall failed with the kernel's own errno; the host asks the decision core whether a rule is behind it.
    Failed = 3,
}

/// Fixed part of every record. `path`, then `second`, then argv follow it without separators, their lengths in
/// `path_len`, `second_len`, `argv_len` (bytes, no NUL at the end).
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "host",
    derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct EventRecord {
    /// Since boot, suspend included. Source: `bpf_ktime_get_boot_ns`.
    pub time_boot_ns: u64,
    /// Start of the process since boot. Source: `task_struct.group_leader.start_boottime`.
    pub start_boot_ns: u64,
    /// Device of the object as the kernel encodes it (`MKDEV`: major << 20 | minor); 0 when there is none.
    pub dev: u64,
    /// Inode number of the object.
    pub ino: u64,
    /// By kind: open flags, wait status, syscall number, child's thread-group id.
    pub value: u64,
    /// Sandbox of the subject, never 0.
    pub sandbox_id: u32,
    /// Thread-group id as the initial pid namespace sees it.
    pub tgid: u32,
    /// Thread id as the initial pid namespace sees it.
    pub tid: u32,
    /// Thread-group id of the real parent.
    pub ppid: u32,
    /// Effective user id, in the initial user namespace.
    pub uid: u32,
    /// What the caller got, positive; 0 when it succeeded or is not known yet.
    pub errno: u32,
    /// Bits `FLAG_*`.
    pub flags: u32,
    /// Length of `path` in bytes.
    pub path_len: u32,
    /// Length of the second path in bytes: working directory (exec), base of `path` (as given), target (change).
    pub second_len: u32,
    /// Length of argv in bytes.
    pub argv_len: u32,
    /// Remote address; IPv4 as v4-mapped IPv6, network order.
    pub address: [u8; 16],
    /// Remote port, host order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6` as the caller used it.
    pub family: u16,
    /// `IPPROTO_TCP`, `IPPROTO_UDP` or another.
    pub protocol: u16,
    /// Rule that decided: index into the sandbox's rules from 1; 0 when no rule did.
    pub rule: u16,
    /// [`RecordKind`].
    pub kind: u8,
    /// [`RecordAction`].
    pub action: u8,
    /// [`RecordOutcome`].
    pub outcome: u8,
    pub _pad: [u8; 5],
}
const _: () = assert!(size_of::<EventRecord>() == 112 && align_of::<EventRecord>() == 8);

/// A byte that stands for none of the values of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownByte(pub u8);

impl TryFrom<u8> for RecordKind {
    type Error = UnknownByte;

    fn try_from(byte: u8) -> Result<Self, UnknownByte> {
        Ok(match byte {
            1 => Self::Exec,
            2 => Self::Exit,
            3 => Self::Open,
            4 => Self::Change,
            5 => Self::Connect,
            6 => Self::Send,
            7 => Self::Fork,
            8 => Self::Privilege,
            9 => Self::Close,
            10 => Self::Listen,
            other => return Err(UnknownByte(other)),
        })
    }
}

impl TryFrom<u8> for RecordAction {
    type Error = UnknownByte;

    fn try_from(byte: u8) -> Result<Self, UnknownByte> {
        Ok(match byte {
            0 => Self::None,
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Execute,
            4 => Self::List,
            5 => Self::Create,
            6 => Self::Truncate,
            7 => Self::Unlink,
            8 => Self::Rename,
            9 => Self::Link,
            10 => Self::Chmod,
            11 => Self::Chown,
            12 => Self::Xattr,
            13 => Self::Mount,
            14 => Self::Accept,
            other => return Err(UnknownByte(other)),
        })
    }
}

impl TryFrom<u8> for RecordOutcome {
    type Error = UnknownByte;

    fn try_from(byte: u8) -> Result<Self, UnknownByte> {
        Ok(match byte {
            0 => Self::Allowed,
            1 => Self::Denied,
            2 => Self::WouldDeny,
            3 => Self::Failed,
            other => return Err(UnknownByte(other)),
        })
    }
}
