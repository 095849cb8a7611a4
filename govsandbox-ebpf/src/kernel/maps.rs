//! Every map: what it holds, its size and why. All are keyed by sandbox, so that many run at once.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, HashOfMaps, InodeStorage, LpmTrie, LruHashMap, RingBuf},
    macros::btf_map,
};
use govsandbox_ebpf::abi::{
    egress::{AliasKey, EgressKey, EgressService, Original, PortTable, Server},
    event::EventRecord,
    exec::{ExecHits, ExecTable},
    ground::Ground,
    privilege::RefusalKey,
    rule::{Automaton, Loss, LossKey, SYSCALLS_MAX, SandboxConfig, SyscallSpec, TagKey, TagRule, TaskMark},
    unix::UnixTable,
};

use super::{
    cache::Folder,
    flow::FlowKey,
    ground::{Found, Way},
    hooks::moved::Moved,
    object::{Matched, PathScan},
    program::ProgramScan,
    socket::SocketTag,
    socket_storage::SocketStorage,
    task_storage::TaskStorage,
    unix::UnixScan,
    walk::Climb,
};

/// Live sandboxes of one machine at most.
pub const SANDBOXES_MAX: usize = 256;
/// `BPF_F_NO_PREALLOC`: an entry costs memory only while it is there.
const NO_PREALLOC: usize = 1;
/// `BPF_F_MMAPABLE`: the host writes what counts, and not all of it.
const MAPPED: usize = 1 << 10;

/// Folders of one path that are looked at; a deeper path is refused.
pub const PATH_DEPTH_MAX: usize = 64;
/// Steps of one path at most: its folders, and the mounts that it crosses. A power of two so that an index can be masked.
pub const CHAIN_MAX: usize = 128;
/// Room for the texts of a record, a power of two so that an offset can be masked.
pub const TEXT_BYTES: usize = 1 << 14;
/// Room behind it for what begins at the last masked offset.
pub const TEXT_SLACK_BYTES: usize = 4096;

/// Where a task composes a path and a record: too large for the stack, and not per CPU, because a program can be
/// preempted by another task's.
///
/// What a loop's body changes lies here too, never in the program's stack: Linux 6.1 and 6.12 take a stack slot that only
/// a callback writes for a constant, and throw away what depends on it.
#[repr(C)]
pub struct Scratch {
    pub climb: Climb,
    pub scan: PathScan,
    /// Between the two programs of a rename.
    pub moved: Moved,
    pub matched: Matched,
    pub ground: Found,
    /// Of the program that is being executed.
    pub program_ground: Found,
    /// From where to where the path that is being written leads.
    pub way: Way,
    pub program: ProgramScan,
    pub unix: UnixScan,
    /// What [`super::hooks`] decided on the way: may it happen, the rule, holds in audit mode too.
    pub decided: [u32; 3],
    pub _pad: u32,
    /// Dentries from the object up; 0 where a mount is crossed.
    pub chain: [u64; CHAIN_MAX],
    /// States of the automaton at the ends of the path's components.
    pub kept: [u32; CHAIN_MAX],
    pub record: EventRecord,
    pub text: [u8; TEXT_BYTES + TEXT_SLACK_BYTES],
}

/// Whose sandbox a task is in.
#[btf_map]
pub static MARKS: TaskStorage<TaskMark> = TaskStorage::new();

/// Thread-group id → sandbox, for the cgroup programs, which may not look into task storage.
#[btf_map]
pub static MEMBERS: HashMap<u32, u32, 262144, NO_PREALLOC> = HashMap::new();

/// Made when a task of a sandbox first needs it.
#[btf_map]
pub static SCRATCH: TaskStorage<Scratch> = TaskStorage::new();

/// Sandbox → how it is run.
#[btf_map]
pub static SANDBOXES: HashMap<u32, SandboxConfig, SANDBOXES_MAX> = HashMap::new();

/// Inode → tag. The supervisor holds every tagged inode open: storage goes when the inode leaves memory.
#[btf_map]
pub static TAGS: InodeStorage<u32> = InodeStorage::new();

/// Folder → what its path comes to for one sandbox or two. Gone with the inode; one that is missing costs a walk.
#[btf_map]
pub static FOLDERS: InodeStorage<Folder> = InodeStorage::new();

/// The last tag that was given; the host counts under its lock.
#[btf_map]
pub static TAG_COUNTER: Array<u32, 1> = Array::new();

/// Tag → what the rules say of it.
#[btf_map]
pub static TAG_RULES: HashMap<TagKey, TagRule, 262144, NO_PREALLOC> = HashMap::new();

/// Tag → where it lies and which allow-lists have it, where `process.namespaces = "allow"`.
#[btf_map]
pub static GROUNDS: HashMap<TagKey, Ground, 65536, NO_PREALLOC> = HashMap::new();

/// An [`Automaton`] as words: were it a structure, Linux 6.1 would take no inner map that was made without BTF.
pub type AutomatonWords = [u64; size_of::<Automaton>() / 8];

/// Slot → path automaton.
#[btf_map]
pub static AUTOMATA: ArrayOfMaps<Array<AutomatonWords, 1, MAPPED>, SANDBOXES_MAX> = ArrayOfMaps::new();

/// Tag → what the exec rules say of it.
#[btf_map]
pub static EXEC_TAG_RULES: HashMap<TagKey, ExecHits, 65536, NO_PREALLOC> = HashMap::new();

/// An [`ExecTable`] as words, as [`AutomatonWords`].
pub type ExecTableWords = [u64; size_of::<ExecTable>() / 8];

/// Slot → exec rules.
#[btf_map]
pub static EXEC_TABLES: HashOfMaps<u32, Array<ExecTableWords, 1>, SANDBOXES_MAX> = HashOfMaps::new();

/// An [`UnixTable`] as words, as [`AutomatonWords`].
pub type UnixTableWords = [u64; size_of::<UnixTable>() / 8];

/// Slot → unix sockets of others that may be reached.
#[btf_map]
pub static UNIX_TABLES: HashOfMaps<u32, Array<UnixTableWords, 1>, SANDBOXES_MAX> = HashOfMaps::new();

/// Networks of all sandboxes.
#[btf_map]
pub static EGRESS: LpmTrie<EgressKey, PortTable, 262144> = LpmTrie::new();

/// Own addresses where connections and datagrams may arrive from elsewhere.
#[btf_map]
pub static LISTEN: LpmTrie<EgressKey, PortTable, 16384> = LpmTrie::new();

/// Socket → whose it is, and where it leads; a connection has what the socket has that it came in through.
#[btf_map]
pub static SOCKETS: SocketStorage<SocketTag> = SocketStorage::new();

/// Sandbox → its egress service.
#[btf_map]
pub static SERVICES: HashMap<u32, EgressService, SANDBOXES_MAX> = HashMap::new();

/// Socket's cookie → whom it wanted before it was led to the service. A service looks when a connection arrives; an entry
/// that is gone by then costs that connection.
#[btf_map]
pub static ORIGINALS: LruHashMap<u64, Original, 131072> = LruHashMap::new();

/// Number of a server that was asked by UDP → its address.
#[btf_map]
pub static SERVERS: HashMap<AliasKey, Server, 65536, NO_PREALLOC> = HashMap::new();

/// Flow of datagrams → when it was last used, ns since boot. The oldest are forgotten, which costs a refusal where no rule
/// allows any more what is sent.
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, u64, 65536> = LruHashMap::new();

/// Slot → ring buffer for what was allowed.
#[btf_map]
pub static EVENTS: HashOfMaps<u32, RingBuf<EventRecord, 4096>, SANDBOXES_MAX> = HashOfMaps::new();

/// Slot → ring buffer for what was refused, so that no flood of the others can push it out.
#[btf_map]
pub static DENIALS: HashOfMaps<u32, RingBuf<EventRecord, 4096>, SANDBOXES_MAX> = HashOfMaps::new();

/// Records that found no room, those of refusals apart. The host makes the entries, so that counting never needs memory.
#[btf_map]
pub static LOSSES: HashMap<LossKey, Loss, 8192, NO_PREALLOC> = HashMap::new();

/// Opens that `trace.opens = "first"` has seen; the oldest are forgotten, which costs a repeated event.
#[btf_map]
pub static SEEN: LruHashMap<SeenKey, u32, 65536> = LruHashMap::new();

/// Refused calls and hooks that were told of; the oldest are forgotten, which costs a repeated event.
#[btf_map]
pub static REFUSALS: LruHashMap<RefusalKey, u32, 16384> = LruHashMap::new();

/// Syscall number → how to read its arguments, by architecture.
#[btf_map]
pub static SYSCALLS: Array<SyscallSpec, SYSCALLS_MAX> = Array::new();

/// One process and one file, reading and writing apart.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SeenKey {
    pub ino: u64,
    /// Of the process: its number alone is used again.
    pub start_boot_ns: u64,
    pub dev: u32,
    pub which: Which,
    pub tgid: u32,
    pub action: u32,
    pub _pad: u32,
}

/// Which of the files that bear an inode's number: it is used again when a file is gone, and volumes of one file system
/// (btrfs) each have their own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Which {
    /// `inode.i_generation`; some file systems leave it 0.
    pub generation: u32,
    /// `dentry.d_name.hash`: of the name and the folder's address.
    pub name: u32,
}
