//! Takes the kernel programs away again.

use std::{fs, io, path::Path};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use govsandbox_ebpf::abi::rule::SandboxConfig;

use super::{
    load::{self, COMPLETE, LoadError, PINS_FOLDER},
    mount::MountError,
};
use crate::sys::mountinfo;

/// `/proc/self/ns/pid` of processes in the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What became of the pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unloaded {
    /// These are gone, and the programs with them; none: nothing was there.
    Removed(Vec<Removed>),
    /// Everything stays.
    Alive(Vec<Alive>),
}

/// One version's pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Folder under bpffs.
    pub folder: String,
    /// Attached programs.
    pub programs_count: usize,
    /// Maps.
    pub maps_count: usize,
}

/// A sandbox that needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Its key in the maps.
    pub sandbox_id: u32,
    /// Its supervisor, as the initial pid namespace sees it.
    pub supervisor_tgid: u32,
}

/// Removes the pins of every version, unless a sandbox is alive.
///
/// # Errors
/// When bpffs can't be read or written, or it can't be told whether a sandbox is alive.
pub fn unload() -> Result<Unloaded, LoadError> {
    let Some(bpffs) = mountinfo::find("bpf").map_err(MountError::Mountinfo)? else {
        return Ok(Unloaded::Removed(Vec::new()));
    };
    let _lock = load::lock()?;
    let parent = bpffs.join(PINS_FOLDER);
    let names = match entries(&parent) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Unloaded::Removed(Vec::new())),
        Err(source) => return Err(pin_error(&parent, source)),
    };
    let mut alive = Vec::new();
    for folder in names.iter().map(|name| parent.join(name)) {
        // Without the last pin it was never finished, and no run has used it.
        if folder.join(COMPLETE).exists() {
            alive.extend(living(&folder)?);
        }
    }
    if !alive.is_empty() {
        return Ok(Unloaded::Alive(alive));
    }
    let mut removed = Vec::new();
    for name in names {
        let folder = parent.join(&name);
        let pins = entries(&folder).map_err(|source| pin_error(&folder, source))?;
        let count = |prefix| pins.iter().filter(|pin| pin.starts_with(prefix)).count();
        let (programs_count, maps_count) = (count("link_"), count("map_"));
        removed.push(Removed { folder: folder.display().to_string(), programs_count, maps_count });
    }
    load::discard(&parent)?;
    Ok(Unloaded::Removed(removed))
}

/// Removes the pins of other versions that no sandbox uses any more. The caller holds the lock.
///
/// # Errors
/// When bpffs can't be read or written.
pub(super) fn discard_idle(parent: &Path, keep: &Path) -> Result<(), LoadError> {
    for folder in
        entries(parent).map_err(|source| pin_error(parent, source))?.iter().map(|name| parent.join(name))
    {
        let idle = folder != keep && (!folder.join(COMPLETE).exists() || living(&folder)?.is_empty());
        if idle {
            load::discard(&folder)?;
        }
    }
    Ok(())
}

/// The sandboxes of one version that have a supervisor, or processes.
fn living(folder: &Path) -> Result<Vec<Alive>, LoadError> {
    let members: HashMap<_, u32, u32> = open(&folder.join("map_MEMBERS"))?;
    let inhabited: Vec<u32> =
        members.iter().filter_map(|entry| entry.ok().map(|(_, sandbox)| sandbox)).collect();
    // Another version may know other things of a sandbox; who is a member has always been two numbers.
    let Ok(sandboxes) = open::<u32, SandboxConfig>(&folder.join("map_SANDBOXES")) else {
        return Ok(inhabited
            .into_iter()
            .map(|sandbox_id| Alive { sandbox_id, supervisor_tgid: 0 })
            .collect());
    };
    // Elsewhere the numbers of /proc are not those of the map.
    let knows_pids = fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace == Path::new(INITIAL_PID_NAMESPACE));
    let is_gone = |tgid: u32| knows_pids && !Path::new("/proc").join(tgid.to_string()).exists();
    let mut found = Vec::new();
    for entry in sandboxes.iter() {
        let unreadable = |error| pin_error(folder, io::Error::other(error));
        let (sandbox_id, config) = entry.map_err(unreadable)?;
        let is_supervised = config.orphaned == 0 && !is_gone(config.supervisor_tgid);
        if is_supervised || inhabited.contains(&sandbox_id) {
            found.push(Alive { sandbox_id, supervisor_tgid: config.supervisor_tgid });
        }
    }
    Ok(found)
}

fn open<K: Pod, V: Pod>(pin: &Path) -> Result<HashMap<MapData, K, V>, LoadError> {
    let other = |error| pin_error(pin, io::Error::other(error));
    let map = MapData::from_pin(pin).map_err(other)?;
    HashMap::try_from(Map::HashMap(map)).map_err(other)
}

fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn pin_error(path: &Path, source: io::Error) -> LoadError {
    LoadError::Pin { path: path.display().to_string(), source }
}
