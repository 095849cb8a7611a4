//! Writes one sandbox into the kernel's maps, and takes it out again. The only writer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use govsandbox_ebpf::abi::{
    egress::PortTable,
    event::RecordKind,
    exec::{ExecHits, ExecTable},
    ground::{Ground, PROC_TAG},
    rule::{
        AUTOMATON_LENGTHS, AUTOMATON_STATES, Automaton, LOST_REFUSALS, Loss, LossKey, SandboxConfig,
        SyscallSpec, TagKey, TagRule, TaskMark,
    },
    unix::UnixTable,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use zerocopy::IntoBytes as _;

use super::{
    egress::Network,
    load::{LoadError, Loaded},
    lock::{LockError, lock},
    networks::{self, Networks},
    reader::Rings,
    syscalls,
    tag::{Held, TagError},
};
use crate::{
    fault::{self, Step},
    id::SandboxId,
    sys,
};

/// Sandbox ids are tried from the supervisor's pid on.
const ID_TRIES: u32 = 1024;
/// Kinds of records that can be lost.
const KINDS: [RecordKind; 10] = [
    RecordKind::Exec,
    RecordKind::Exit,
    RecordKind::Open,
    RecordKind::Change,
    RecordKind::Connect,
    RecordKind::Send,
    RecordKind::Fork,
    RecordKind::Privilege,
    RecordKind::Close,
    RecordKind::Listen,
];

/// The maps could not be filled.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum FillError {
    /// The pins.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Load(#[from] LoadError),
    /// Another run enters its sandbox.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lock(#[from] LockError),
    /// A file that a rule names.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Tag(#[from] TagError),
    /// One map.
    #[error("cannot write the kernel map {map}")]
    #[diagnostic(help(
        "`govsandbox unload` removes what an earlier version left; a full map means too many sandboxes"
    ))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// All ids are taken.
    #[error("too many sandboxes are running")]
    #[diagnostic(help("wait for one to end: `govsandbox doctor` lists what is loaded"))]
    NoId,
}

/// What holds in one sandbox, as the kernel needs it.
#[derive(Debug)]
pub struct Contents<'a> {
    /// How it is run; `supervisor_tgid` is filled in.
    pub config: SandboxConfig,
    /// Paths held by inode: those of the backend `lsm`.
    pub held: Vec<Held>,
    /// The path patterns.
    pub automaton: Option<&'a Automaton>,
    /// The exec rules.
    pub exec: Option<&'a ExecTable>,
    /// Unix sockets of others that may be reached.
    pub unix: Option<&'a UnixTable>,
    /// Egress.
    pub egress: &'a BTreeMap<Network, PortTable>,
    /// Own addresses that are reached from other machines.
    pub listen: &'a BTreeMap<Network, PortTable>,
    /// Where namespaces are allowed, what is known of whatever `proc` there is.
    pub proc: Option<Ground>,
    /// Numbers of the system calls that the sandbox's filter may refuse.
    pub refusable: &'a [u32],
}

/// One sandbox's entries; dropped, they are gone, and whatever still bears its mark is refused everything.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    maps: Maps,
    tags: Vec<u32>,
    networks: Arc<Networks>,
    /// Keeps the tagged inodes in memory, and their tags with them.
    _held: Vec<Held>,
}

/// The maps that are written while a sandbox lives.
#[derive(Debug)]
struct Maps {
    sandboxes: HashMap<MapData, u32, SandboxConfig>,
    marks: MapData,
    tag_rules: HashMap<MapData, TagKey, TagRule>,
    automata: MapData,
    exec_tag_rules: HashMap<MapData, TagKey, ExecHits>,
    grounds: HashMap<MapData, TagKey, Ground>,
    exec_tables: MapData,
    unix_tables: MapData,
    events: MapData,
    denials: MapData,
    losses: HashMap<MapData, LossKey, Loss>,
}

impl Sandbox {
    /// Writes everything and makes the ring buffers.
    ///
    /// # Errors
    /// [`FillError`]; nothing is left behind.
    pub fn create(loaded: &Loaded, contents: Contents<'_>) -> Result<(Self, Rings), FillError> {
        let _lock = lock()?;
        let mut maps = Maps::open(loaded)?;
        maps.forget_orphans(loaded)?;
        let id = maps.free_id()?;
        let mut syscalls: Array<_, SyscallSpec> = typed(loaded, "SYSCALLS", Map::Array)?;
        for (number, spec) in
            syscalls::table().chain(contents.refusable.iter().map(|call| syscalls::refusable(*call)))
        {
            syscalls.set(number, spec, 0).map_err(map_error("SYSCALLS"))?;
        }
        let mut held = contents.held;
        let slot = maps.free_slot();
        let exec_rules = u8::from(contents.exec.is_some());
        let mut config = SandboxConfig {
            supervisor_tgid: std::process::id(),
            slot,
            exec_rules,
            unix_rules: u8::from(contents.unix.is_some()),
            // A folder has several paths where the sandbox mounts.
            keep_folders: u32::from(loaded.keeps_folders() && contents.config.namespaces == 0),
            epoch: epoch(),
            ..contents.config
        };
        let networks = Arc::new(Networks::open(loaded, id)?);
        let mut sandbox = Self { id, maps, tags: Vec::new(), networks, _held: Vec::new() };
        // First, and as if its supervisor were gone: when this process dies on the way, the next run finds what is left.
        config.orphaned = 1;
        sandbox.maps.sandboxes.insert(id.0, config, 0).map_err(map_error("SANDBOXES"))?;
        step(Step::Number)?;
        super::tag::give(loaded, &mut held)?;
        for object in &held {
            let key = TagKey { sandbox_id: id.0, tag: object.tag };
            let before = sandbox.maps.tag_rules.get(&key, 0).unwrap_or_default();
            sandbox
                .maps
                .tag_rules
                .insert(key, object.rule_joined(before), 0)
                .map_err(map_error("TAG_RULES"))?;
            sandbox.tags.push(object.tag);
            if object.exec != ExecHits::NONE {
                let before = sandbox.maps.exec_tag_rules.get(&key, 0).unwrap_or_default();
                let joined = object.exec.or(before);
                sandbox.maps.exec_tag_rules.insert(key, joined, 0).map_err(map_error("EXEC_TAG_RULES"))?;
            }
            if let Some(ground) = object.ground {
                let before = sandbox.maps.grounds.get(&key, 0).unwrap_or(Ground::NONE);
                let joined = joined(before, ground);
                sandbox.maps.grounds.insert(key, joined, 0).map_err(map_error("GROUNDS"))?;
            }
        }
        if let Some(proc) = contents.proc {
            let key = TagKey { sandbox_id: id.0, tag: PROC_TAG };
            sandbox.maps.grounds.insert(key, proc, 0).map_err(map_error("GROUNDS"))?;
        }
        sandbox._held = held;
        step(Step::Tags)?;
        let rings = sandbox.fill_slot(slot, contents.automaton, contents.exec, contents.unix)?;
        step(Step::Slot)?;
        sandbox.networks.set_egress(contents.egress)?;
        sandbox.networks.set_listen(contents.listen)?;
        step(Step::Networks)?;
        // Before it exists, so that the kernel sees this process end whenever it does.
        sandbox.mark_supervisor()?;
        step(Step::Supervisor)?;
        // Last: from here on the sandbox exists.
        config.orphaned = 0;
        sandbox.maps.sandboxes.insert(id.0, config, 0).map_err(map_error("SANDBOXES"))?;
        step(Step::Sandbox)?;
        Ok((sandbox, rings))
    }

    fn fill_slot(
        &mut self,
        slot: u32,
        automaton: Option<&Automaton>,
        exec: Option<&ExecTable>,
        unix: Option<&UnixTable>,
    ) -> Result<Rings, FillError> {
        let raw = |map| move |source| FillError::Map { map, source };
        if let Some(automaton) = automaton {
            write_automaton(&self.maps.automata, slot, automaton).map_err(raw("AUTOMATA"))?;
        }
        if let Some(exec) = exec {
            write_table(&self.maps.exec_tables, slot, exec.as_bytes()).map_err(raw("EXEC_TABLES"))?;
        }
        if let Some(unix) = unix {
            write_table(&self.maps.unix_tables, slot, unix.as_bytes()).map_err(raw("UNIX_TABLES"))?;
        }
        for (_, _, kind) in loss_kinds() {
            let key = LossKey { sandbox_id: self.id.0, kind };
            self.maps.losses.insert(key, Loss::default(), 0).map_err(map_error("LOSSES"))?;
        }
        Rings::of_slot(&self.maps.events, &self.maps.denials, slot, self.id).map_err(raw("EVENTS"))
    }

    /// Where it may connect to.
    #[must_use]
    pub fn networks(&self) -> &Arc<Networks> {
        &self.networks
    }

    /// Marks a process as a member: one thread, stopped before the command's first instruction.
    ///
    /// # Errors
    /// [`FillError::Map`].
    pub fn mark(&self, command: BorrowedFd<'_>) -> Result<(), FillError> {
        self.write_mark(command, TaskMark { sandbox_id: self.id.0, ..TaskMark::default() })
    }

    /// Marks the process that performs calls, and its end is no event. `is_judged`: what it does is judged as the sandbox's.
    ///
    /// # Errors
    /// [`FillError::Map`].
    pub fn mark_performer(&self, performer: BorrowedFd<'_>, is_judged: bool) -> Result<(), FillError> {
        let sandbox_id = if is_judged { self.id.0 } else { 0 };
        self.write_mark(performer, TaskMark { sandbox_id, performs: 1, ..TaskMark::default() })
    }

    /// Ties the sandbox to this process: when it ends the kernel refuses everything in the sandbox.
    fn mark_supervisor(&self) -> Result<(), FillError> {
        let own = pidfd_open(getpid(), PidfdFlags::empty());
        let own = own.map_err(|errno| FillError::Map { map: "MARKS", source: errno.into() })?;
        self.write_mark(own.as_fd(), TaskMark { supervises: self.id.0, ..TaskMark::default() })
    }

    fn write_mark(&self, task: BorrowedFd<'_>, mark: TaskMark) -> Result<(), FillError> {
        use std::os::fd::AsRawFd as _;
        let key = task.as_raw_fd().to_ne_bytes();
        let mut value = [0_u8; size_of::<TaskMark>()];
        let words = [mark.sandbox_id, mark.refused, mark.supervises, mark.performs];
        for (bytes, word) in value.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        sys::bpf::map_update(self.maps.marks.fd().as_fd(), &key, &value)
            .map_err(|source| FillError::Map { map: "MARKS", source })
    }

    /// Records that found no room since the start, by kind; `true`: of what was refused, or failed.
    #[must_use]
    pub fn losses(&self) -> Vec<(RecordKind, bool, Loss)> {
        let loss = |(record, refused, kind)| {
            let key = LossKey { sandbox_id: self.id.0, kind };
            self.maps.losses.get(&key, 0).ok().map(|loss| (record, refused, loss))
        };
        loss_kinds().filter_map(loss).collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.networks.clear();
        self.maps.forget(self.id.0, &self.tags);
    }
}

impl Maps {
    fn open(loaded: &Loaded) -> Result<Self, FillError> {
        Ok(Self {
            sandboxes: typed(loaded, "SANDBOXES", Map::HashMap)?,
            marks: loaded.map("MARKS")?,
            tag_rules: typed(loaded, "TAG_RULES", Map::HashMap)?,
            automata: loaded.map("AUTOMATA")?,
            exec_tag_rules: typed(loaded, "EXEC_TAG_RULES", Map::HashMap)?,
            grounds: typed(loaded, "GROUNDS", Map::HashMap)?,
            exec_tables: loaded.map("EXEC_TABLES")?,
            unix_tables: loaded.map("UNIX_TABLES")?,
            events: loaded.map("EVENTS")?,
            denials: loaded.map("DENIALS")?,
            losses: typed(loaded, "LOSSES", Map::HashMap)?,
        })
    }

    fn free_id(&self) -> Result<SandboxId, FillError> {
        let first = std::process::id();
        let mut ids = (0..ID_TRIES).map(|more| first.wrapping_add(more << 22)).filter(|id| *id != 0);
        ids.find(|id| self.sandboxes.get(id, 0).is_err()).map(SandboxId).ok_or(FillError::NoId)
    }

    /// The first slot that no sandbox uses. The caller holds the lock.
    fn free_slot(&self) -> u32 {
        let used: BTreeSet<u32> = self.sandboxes.iter().flatten().map(|(_, config)| config.slot).collect();
        (0..).find(|slot| !used.contains(slot)).unwrap_or(u32::MAX)
    }

    /// Removes what supervisors left that were killed. The kernel itself has seen them end, whatever their pid namespace.
    fn forget_orphans(&mut self, loaded: &Loaded) -> Result<(), FillError> {
        let dead: Vec<u32> = self
            .sandboxes
            .iter()
            .flatten()
            .filter(|(_, config)| config.orphaned != 0)
            .map(|(id, _)| id)
            .collect();
        for id in dead {
            let tags: Vec<u32> = self
                .tag_rules
                .keys()
                .flatten()
                .filter(|key| key.sandbox_id == id)
                .map(|key| key.tag)
                .collect();
            networks::forget(loaded, id)?;
            self.forget(id, &tags);
        }
        Ok(())
    }

    /// Takes a sandbox out. Its entry goes first: a task that still bears the mark is refused everything from then on.
    fn forget(&mut self, id: u32, tags: &[u32]) {
        self.sandboxes.remove(&id).ok(); // each of these may be gone already
        for tag in tags.iter().chain([&PROC_TAG]) {
            let key = TagKey { sandbox_id: id, tag: *tag };
            self.tag_rules.remove(&key).ok();
            self.exec_tag_rules.remove(&key).ok();
            self.grounds.remove(&key).ok();
        }
        for (_, _, kind) in loss_kinds() {
            self.losses.remove(&LossKey { sandbox_id: id, kind }).ok();
        }
    }
}

/// What is known of an inode that several paths lead to. The first mount that begins there is the one that counts.
fn joined(before: Ground, ground: Ground) -> Ground {
    let place = if before.is_root != 0 { before } else { ground };
    Ground { lists: before.lists.or(ground.lists), ..place }
}

/// A number that no other sandbox has since the machine runs: the caller holds the lock, and time goes on meanwhile.
fn epoch() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

/// Writes a table into the only entry of the slot's array, which is made if there is none.
fn write_table(outer: &MapData, slot: u32, bytes: &[u8]) -> io::Result<()> {
    let array = array_of_slot(outer, slot, bytes.len(), false)?;
    sys::bpf::map_update(array.fd().as_fd(), &0_u32.to_ne_bytes(), bytes)
}

/// The same for an automaton, of which only what counts is written: megabytes else.
fn write_automaton(outer: &MapData, slot: u32, automaton: &Automaton) -> io::Result<()> {
    let array = array_of_slot(outer, slot, size_of::<Automaton>(), true)?;
    let bytes = automaton.as_bytes();
    let length =
        |place: usize| automaton.words.get(place).map_or(0, |words| *words as usize * size_of::<u32>());
    let part = |begin: usize, place: usize| (begin, bytes.get(begin..length(place)).unwrap_or_default());
    let states = AUTOMATON_STATES * size_of::<u32>();
    let parts = [part(0, AUTOMATON_LENGTHS), part(states, AUTOMATON_LENGTHS + 1)];
    sys::bpf::write_mapped(array.fd().as_fd(), bytes.len(), &parts)
}

/// The array of one element that stands in a slot; it is made if there is none.
fn array_of_slot(outer: &MapData, slot: u32, size_bytes: usize, mapped: bool) -> io::Result<MapData> {
    let outer = outer.fd().as_fd();
    if let Some(id) = sys::bpf::inner_id(outer, slot)? {
        return MapData::from_id(id).map_err(io::Error::other);
    }
    let size_bytes = u32::try_from(size_bytes).map_err(io::Error::other)?;
    let array = sys::bpf::create_array_of_one(size_bytes, mapped)?;
    sys::bpf::insert_inner(outer, slot, &array)?;
    MapData::from_fd(array).map_err(io::Error::other)
}

/// What losses are counted by: the kind, whether of refusals, and both as the key has them.
fn loss_kinds() -> impl Iterator<Item = (RecordKind, bool, u32)> {
    let both = |kind: RecordKind| [(kind, false, kind as u32), (kind, true, kind as u32 | LOST_REFUSALS)];
    KINDS.into_iter().flat_map(both)
}

/// Sandboxes that are alive: their ids and their supervisors' thread-group ids.
///
/// # Errors
/// When the pins can't be opened.
pub fn alive(loaded: &Loaded) -> Result<Vec<(SandboxId, u32)>, FillError> {
    let sandboxes: HashMap<_, u32, SandboxConfig> = typed(loaded, "SANDBOXES", Map::HashMap)?;
    let entries = sandboxes.iter().flatten().filter(|(_, config)| config.orphaned == 0);
    Ok(entries.map(|(id, config)| (SandboxId(id), config.supervisor_tgid)).collect())
}

fn step(step: Step) -> Result<(), FillError> {
    fault::at(step).map_err(|source| FillError::Map { map: "SANDBOXES", source })
}

/// A pinned map as aya's type for it.
pub(super) fn typed<M>(
    loaded: &Loaded,
    name: &'static str,
    kind: impl Fn(MapData) -> Map,
) -> Result<M, FillError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(kind(loaded.map(name)?)).map_err(map_error(name))
}

pub(super) fn map_error(map: &'static str) -> impl Fn(MapError) -> FillError {
    move |error| FillError::Map { map, source: io::Error::other(error) }
}
