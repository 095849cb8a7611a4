//! What the running kernel offers, by looking alone: nothing is loaded, mounted or changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::load;
use crate::sys::{lsm, mountinfo};

/// Where securityfs is mounted by convention.
const SECURITYFS: &str = "/sys/kernel/security";

/// Where a piece of knowledge about the kernel comes from, or that it can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// It is so.
    Yes(T),
    /// securityfs is not mounted, or holds no such file.
    NoSecurityfs,
    /// It is there and can't be read.
    Unreadable(String),
}

/// What [`super::load`] has left under bpffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    /// No bpffs.
    NoBpffs,
    /// Only root may look.
    Hidden(PathBuf),
    /// bpffs is there, and so are these.
    Folders(PathBuf, Vec<Pinned>),
}

/// The programs of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// `vABI-OBJECT`.
    pub name: String,
    /// Of this binary's own object.
    pub is_ours: bool,
    /// Everything that belongs to it is there.
    pub is_complete: bool,
}

/// `6.12.9-amd64`.
#[must_use]
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `x86_64`.
#[must_use]
pub fn machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// The active security modules, in the kernel's order.
#[must_use]
pub fn security_modules() -> Known<Vec<String>> {
    match security_file("lsm") {
        Known::Yes(text) => Known::Yes(text.trim().split(',').map(str::to_owned).collect()),
        // The system call came later than the file, and needs nothing mounted.
        Known::NoSecurityfs => lsm::active().map_or(Known::NoSecurityfs, Known::Yes),
        Known::Unreadable(why) => Known::Unreadable(why),
    }
}

/// The kernel's lockdown: `none`, `integrity` or `confidentiality`.
#[must_use]
pub fn lockdown() -> Known<String> {
    match security_file("lockdown") {
        Known::Yes(text) => {
            let chosen = text.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0.to_owned()));
            chosen.map_or_else(|| Known::Unreadable(format!("`{}`", text.trim())), Known::Yes)
        }
        Known::NoSecurityfs => Known::NoSecurityfs,
        Known::Unreadable(why) => Known::Unreadable(why),
    }
}

/// `kernel.unprivileged_bpf_disabled`: 0, 1 or 2.
///
/// # Errors
/// It can't be read: a kernel without `bpf(2)`, or no /proc.
pub fn unprivileged_bpf_disabled() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")?;
    Ok(text.trim().to_owned())
}

/// What is pinned now.
///
/// # Errors
/// The list of mounts or the folder can't be read.
pub fn pins() -> io::Result<Pins> {
    let Some(bpffs) = mountinfo::find("bpf")? else { return Ok(Pins::NoBpffs) };
    let folder = bpffs.join(load::PINS_FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pins::Folders(bpffs, Vec::new())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Pins::Hidden(bpffs)),
        Err(error) => return Err(error),
    };
    let own = load::folder_name();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_complete = entry.path().join(load::COMPLETE).exists();
        found.push(Pinned { is_ours: name == own, is_complete, name });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Pins::Folders(bpffs, found))
}

fn security_file(name: &str) -> Known<String> {
    match fs::read_to_string(Path::new(SECURITYFS).join(name)) {
        Ok(text) => Known::Yes(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Known::NoSecurityfs,
        Err(error) => Known::Unreadable(error.to_string()),
    }
}
