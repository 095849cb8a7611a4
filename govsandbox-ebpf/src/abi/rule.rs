//! Map keys and values, host → kernel.

use super::ground::Lists;

/// Rules of one sandbox that match an object, one for each effect: the best by precedence. 0 means none.
///
/// A rule's number is its place in the sandbox's table of rules, from 1. The compiler numbers rules by precedence, so
/// that of two rules with the same effect the smaller number decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "host",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct Hits {
    /// Best `filesystem.deny` rule.
    pub deny: u16,
    /// Best `filesystem.protect` rule.
    pub protect: u16,
}

/// The number of the rule that holds govsandbox's own files, before all others: never changed from inside, in any mode.
pub const RULE_OWN: u16 = 1;

/// In the place of a rule's number: a folder may not be renamed, because other rules by name hold below its new path than
/// below its old one.
pub const RULE_MOVED: u16 = u16::MAX;
/// Likewise: no entry of `filesystem.read` has it.
pub const RULE_READ: u16 = u16::MAX - 3;
/// Likewise: no entry of `filesystem.write` has it.
pub const RULE_WRITE: u16 = u16::MAX - 4;

/// Likewise: a unix socket of others may not get a name that `network.unix` has.
pub const RULE_SOCKET: u16 = u16::MAX - 5;

/// Likewise: no symlink may stand in the place of a folder below which rules by name hold.
pub const RULE_SYMLINK: u16 = u16::MAX - 1;

/// Likewise: mode and owner of an entry of `/proc` are the whole machine's, whichever mount they are changed by.
pub const RULE_PROC: u16 = u16::MAX - 2;

impl Hits {
    /// Nothing matches.
    pub const NONE: Self = Self { deny: 0, protect: 0 };

    /// The better rule of both, for each effect.
    #[inline(always)]
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { deny: better(self.deny, other.deny), protect: better(self.protect, other.protect) }
    }

    /// No rule matches.
    #[inline(always)]
    #[must_use]
    pub fn is_none(self) -> bool {
        self.deny == 0 && self.protect == 0
    }
}

#[inline(always)]
fn better(a: u16, b: u16) -> u16 {
    if a == 0 || (b != 0 && b < a) { b } else { a }
}

/// Task storage: which sandbox a task belongs to. Absent or 0: none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskMark {
    /// Sandbox of the task.
    pub sandbox_id: u32,
    /// Our own hook refused something in the syscall that is running: its exit is not reported again.
    pub refused: u32,
    /// The sandbox that this task is the supervisor of; not inherited.
    pub supervises: u32,
    /// 1: it does calls on behalf of the others, and its end is no event; not inherited.
    pub performs: u32,
    /// How long it waits when the syscall that is running ends, in ns: what it was refused fills the buffer.
    pub pause_ns: u32,
    /// 1: there was no room for it among the members, by which egress is judged: it ends before its first instruction.
    pub unlisted: u32,
}
const _: () = assert!(size_of::<TaskMark>() == 24);

/// What the rules of one sandbox say of one tagged inode.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagRule {
    /// For the inode and everything below it.
    pub hits: Hits,
    /// For the inode's own name only: a rule that would be got around if it were renamed or removed. 0: none.
    pub pinned: u16,
}
const _: () = assert!(size_of::<TagRule>() == 6);

/// Which opens are recorded: `trace.opens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TraceOpens {
    /// Every open.
    All = 0,
    /// The first of each process and file, reading and writing apart.
    First = 1,
    /// Opens for writing.
    Writes = 2,
    /// Refused ones only.
    Denied = 3,
}

/// One live sandbox. Key: its id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Thread-group id of the supervisor, initial pid namespace.
    pub supervisor_tgid: u32,
    /// The sandbox that this one was started in; 0 for none. Its rules hold too.
    pub parent_id: u32,
    /// [`TraceOpens`].
    pub trace_opens: u8,
    /// 1: `mode = "audit"`, nothing is refused.
    pub audit_mode: u8,
    /// 1: argv is recorded.
    pub trace_args: u8,
    /// 1: the supervisor is gone, everything is refused.
    pub orphaned: u8,
    /// 1: paths and egress are decided by hooks in the kernel (`lsm`); 0: elsewhere (`fanotify`).
    pub path_hooks: u8,
    /// 1: `process.namespaces = "allow"`: new namespaces and mounts are not refused, and the hooks hold the allow-lists.
    pub namespaces: u8,
    /// 1: there are exec rules, in the table of its slot.
    pub exec_rules: u8,
    /// 1: there are unix sockets of others that may be reached, in the table of its slot.
    pub unix_rules: u8,
    /// Which ring buffers and which automaton are its own. They stay for the next sandbox: putting a map into a map waits
    /// for all processors, some 10 ms.
    pub slot: u32,
    /// 1: what folders come to is kept with their inodes; 0: this kernel does not tell when it goes stale.
    pub keep_folders: u32,
    /// Not 0, and never the same for two sandboxes as long as the machine runs: what is kept for one is for no other.
    pub epoch: u64,
    /// With `namespaces`: the lists that there are, an access needs all of its kind.
    pub lists: Lists,
    /// 1: `network.icmp = "allow"`: ping sockets may be made, and reach the addresses of allowed hosts. 2: likewise, but none
    /// that connections go to through the relay, where somebody may be asked.
    pub icmp: u8,
    pub _pad_end: [u8; 3],
}
const _: () = assert!(size_of::<SandboxConfig>() == 40);

/// Key of the rules that hold an inode: the tag is what inode storage has for it, the same for all sandboxes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagKey {
    pub sandbox_id: u32,
    /// From 1.
    pub tag: u32,
}

/// Words of one automaton. A power of two, so that an index can be masked; as bytes at most what Linux 6.1 takes for an
/// element of an array (4 MiB).
pub const AUTOMATON_WORDS: usize = 1 << 20;
/// Where [`Automaton::words`] says how many of the rows' words count; the next word: how many of all.
pub const AUTOMATON_LENGTHS: usize = 256;
/// Where the rows begin.
pub const AUTOMATON_ROWS: usize = 272;
/// Rows begin at multiples of this.
pub const AUTOMATON_ROW_ALIGN: usize = 16;
/// Where the states begin, and the first state's number.
pub const AUTOMATON_STATES: usize = 1 << 15;
/// Bits of a word that are a state or an index.
pub const AUTOMATON_INDEX_BITS: u32 = 20;
/// In the bits above: the word belongs to the state that stands as many words before it as the class says.
pub const AUTOMATON_CELL: u32 = 1 << 11;
/// The class of a component's end, behind those of bytes: where it leads to are the rules that match.
pub const AUTOMATON_END: u32 = 256;
/// In a row: the state's own usual successor.
pub const AUTOMATON_OWN: u32 = 1 << 31;

/// The path patterns of one sandbox as one table, run over the bytes of an absolute path by
/// [`crate::decide::automaton`]. Everything is a word, so that one mask bounds every access.
///
/// - `words[byte]` is the byte's class: its mark (`AUTOMATON_CELL | class`) above the index bits, and `class + 1` in them.
/// - A state is an index of a word, its head: in the index bits the successor that it has for most bytes, above them
///   which row it shares with others (in units of [`AUTOMATON_ROW_ALIGN`] words).
/// - The successor for a class is the word `class + 1` behind the head, if that one bears the class' mark: states lie
///   interleaved, and no two have the same index, so that the mark and the place say whose word it is. If it doesn't,
///   it is the word `class + 1` of the row, and if that one is [`AUTOMATON_OWN`] the one in the head.
/// - What matches when a component ends in a state stands where the word for the class [`AUTOMATON_END`] leads to:
///   [`Hits::deny`] in its lower half. No such word: nothing.
#[repr(C)]
#[cfg_attr(
    feature = "host",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct Automaton {
    pub words: [u32; AUTOMATON_WORDS],
}

/// Without its million words.
impl core::fmt::Debug for Automaton {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Automaton").finish_non_exhaustive()
    }
}
const _: () = assert!(size_of::<Automaton>() <= 4 << 20 && AUTOMATON_WORDS <= 1 << AUTOMATON_INDEX_BITS);
const _: () = assert!(AUTOMATON_ROWS.is_multiple_of(AUTOMATON_ROW_ALIGN));

/// Syscalls that the exit program knows at most; numbers are below this on every architecture in use.
pub const SYSCALLS_MAX: usize = 512;

/// How to read the arguments of a syscall that names a path. An argument's place is from 0; [`NO_ARG`]: there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyscallSpec {
    /// [`super::event::RecordKind`]; 0: not traced.
    pub kind: u8,
    /// [`super::event::RecordAction`]; of opens: told by the flags instead.
    pub action: u8,
    /// The directory that the path is relative to.
    pub dirfd_arg: u8,
    /// The path.
    pub path_arg: u8,
    /// Flags of an open, or a pointer to them when `flags_indirect`.
    pub flags_arg: u8,
    /// 1: `flags_arg` points to a structure that begins with them (`openat2`); of datagrams `path_arg` to one that begins with
    /// a pointer to the address (`sendmsg`).
    pub flags_indirect: u8,
    /// The second path of rename and link.
    pub target_arg: u8,
    pub _pad: u8,
}
const _: () = assert!(size_of::<SyscallSpec>() == 8);

/// No such argument.
pub const NO_ARG: u8 = 0xff;

/// Key of the counts of lost records.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossKey {
    pub sandbox_id: u32,
    /// [`super::event::RecordKind`], and [`LOST_REFUSALS`].
    pub kind: u32,
}

/// In [`LossKey::kind`]: of what was refused, or failed.
pub const LOST_REFUSALS: u32 = 0x100;

/// Records of one kind that found no room.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub count: u64,
    /// The first one.
    pub first: Lost,
    /// The last one.
    pub last: Lost,
}
const _: () = assert!(size_of::<Loss>() == 88);

/// What is known of a record that found no room.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// When, ns since boot.
    pub time_boot_ns: u64,
    /// As in [`super::event::EventRecord`].
    pub dev: u64,
    /// Likewise.
    pub ino: u64,
    /// Likewise.
    pub tgid: u32,
    /// Likewise.
    pub rule: u16,
    /// Likewise.
    pub action: u8,
    pub _pad: [u8; 9],
}
const _: () = assert!(size_of::<Lost>() == 40);
