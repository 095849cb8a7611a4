//! Takes the kernel programs away again.

use std::{
    fs::{self, File, TryLockError},
    io,
    mem::offset_of,
    os::fd::AsFd as _,
    path::Path,
};

use aya::maps::{MapData, MapError};
use govsandbox_ebpf::abi::rule::SandboxConfig;

use super::{
    load::{self, COMPLETE, LoadError, PINS_FOLDER},
    lock::lock,
    mount::MountError,
};
use crate::sys::{self, lock_file, mountinfo};

/// `/proc/self/ns/pid` of processes in the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

// Read of older versions too, whose entries may be shorter or longer: these two keep their places.
const _: () =
    assert!(offset_of!(SandboxConfig, supervisor_tgid) == 0 && offset_of!(SandboxConfig, orphaned) == 11);

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

/// A run that needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Its sandbox' key in the maps; `None`: it is about to make one, or has just taken it away.
    pub sandbox_id: Option<u32>,
    /// Its supervisor, as the initial pid namespace sees it.
    pub supervisor_tgid: u32,
}

/// Removes the pins of every version, unless a run uses one.
///
/// # Errors
/// When bpffs can't be read or written, or it can't be told whether a sandbox is alive.
pub fn unload() -> Result<Unloaded, LoadError> {
    let Some(bpffs) = mountinfo::find("bpf").map_err(MountError::Mountinfo)? else {
        return Ok(Unloaded::Removed(Vec::new()));
    };
    let _lock = lock()?;
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
            alive.extend(using(&folder)?);
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

/// Removes the pins of other versions that no run uses any more. The caller holds the lock, so that no other begins to.
///
/// # Errors
/// When bpffs can't be read or written.
pub(super) fn discard_idle(parent: &Path, keep: &Path) -> Result<(), LoadError> {
    for folder in
        entries(parent).map_err(|source| pin_error(parent, source))?.iter().map(|name| parent.join(name))
    {
        let idle = folder != keep && (!folder.join(COMPLETE).exists() || using(&folder)?.is_empty());
        if idle {
            load::discard(&folder)?;
        }
    }
    Ok(())
}

/// Who uses one version: its sandboxes, or who is about to make the first.
fn using(folder: &Path) -> Result<Vec<Alive>, LoadError> {
    let mut found = living(folder)?;
    if found.is_empty() {
        let file = File::open(folder).map_err(|source| pin_error(folder, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let supervisor_tgid = lock_file::holder(&file).map_or(0, |holder| holder.pid);
                found.push(Alive { sandbox_id: None, supervisor_tgid });
            }
            Err(TryLockError::Error(source)) => return Err(pin_error(folder, source)),
        }
    }
    Ok(found)
}

/// The sandboxes of one version that have a supervisor, or processes. Versions differ in what a sandbox's entry has, and
/// agree in its beginning.
fn living(folder: &Path) -> Result<Vec<Alive>, LoadError> {
    let sandboxes = read(&folder.join("map_SANDBOXES"))?;
    let inhabited: Vec<u32> =
        read(&folder.join("map_MEMBERS"))?.iter().filter_map(|(_, sandbox)| number(sandbox)).collect();
    // Elsewhere the numbers of /proc are not those of the map.
    let knows_pids = fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace == Path::new(INITIAL_PID_NAMESPACE));
    let is_gone = |tgid: u32| knows_pids && !Path::new("/proc").join(tgid.to_string()).exists();
    let mut found = Vec::new();
    for (sandbox_id, config) in sandboxes {
        let supervisor_tgid = number(&config).unwrap_or(0);
        let is_orphaned = config.get(offset_of!(SandboxConfig, orphaned)).is_some_and(|flag| *flag != 0);
        if (!is_orphaned && !is_gone(supervisor_tgid)) || inhabited.contains(&sandbox_id) {
            found.push(Alive { sandbox_id: Some(sandbox_id), supervisor_tgid });
        }
    }
    Ok(found)
}

/// A pinned map whose keys are numbers.
fn read(pin: &Path) -> Result<Vec<(u32, Vec<u8>)>, LoadError> {
    let other = |error: MapError| pin_error(pin, io::Error::other(error));
    let map = MapData::from_pin(pin).map_err(other)?;
    let size_bytes = map.info().map_err(other)?.value_size();
    sys::bpf::map_entries(map.fd().as_fd(), size_bytes).map_err(|source| pin_error(pin, source))
}

/// The number that some bytes begin with.
fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
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
