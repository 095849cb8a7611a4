//! Devices of the sandbox: those of a list and no other, by whatever name, and terminals of its own.
//!
//! A device node leads past files to what is behind it: disks, other people's terminals, the keyboard, a watchdog whose
//! opening alone restarts the machine. So every mount is `nodev`, and what may be opened is bound back over itself.

use std::{
    collections::BTreeSet,
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, fstat, major, minor, open},
    mount::{MountFlags, mount},
    pty::ptsname,
    termios::isatty,
};

use super::{
    super::{
        error::{Failure, Stage},
        landlock::LandlockLayer,
    },
    bind_with, clone_of, put_over,
    table::MountTable,
};
use crate::sys::mount_setattr::{self, Depth, NO_DEV, READ_ONLY};

const DEV: &str = "/dev";
/// Where the instance of the sandbox's own is.
pub(super) const TERMINALS: &str = "/dev/pts";
/// Hold nothing, and `tty`, which is the caller's own terminal.
const HARMLESS: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// What computes, by folder and beginning of a name: virtual machines and accelerators, without what puts something on a
/// screen. Their modes and the policy say who may open them.
const COMPUTING: [(&str, &str); 6] = [
    (DEV, "kvm"),
    (DEV, "kfd"),
    (DEV, "dxg"),
    (DEV, "nvidia"),
    ("/dev/nvidia-caps", "nvidia-cap"),
    ("/dev/dri", "renderD"),
];
const NOT_COMPUTING: &str = "/dev/nvidia-modeset";
/// `UNIX98_PTY_SLAVE_MAJOR` of include/uapi/linux/major.h.
const TERMINAL_MAJOR: u32 = 136;
/// Up to this number a terminal keeps its name: those before it are made, for a moment.
const TERMINAL_MAX: u32 = 1024;

/// What has to stay open as long as the sandbox lives: the places that the caller's terminals are bound over.
#[derive(Debug, Default)]
pub(in crate::launch) struct Places(#[expect(dead_code, reason = "kept open")] Vec<OwnedFd>);

/// Closes all devices but those of the list and those that every layer of the policy names by themselves.
pub(super) fn enter(layers: &[LandlockLayer]) -> Result<Places, Failure> {
    let fail =
        |path: &Path, source: &io::Error| Failure::new(Stage::Devices, path.display().to_string(), source);
    let mut nodes: BTreeSet<PathBuf> = HARMLESS.iter().map(PathBuf::from).collect();
    nodes.extend(COMPUTING.iter().flat_map(|(folder, name)| named(Path::new(folder), name)));
    nodes.remove(Path::new(NOT_COMPUTING));
    nodes.extend(named_by_all(layers));
    let own = callers_terminals();
    nodes.extend(own.iter().filter(|path| number(path).is_none()).cloned());
    let mut clones = Vec::new();
    for path in nodes.into_iter().filter(|path| is_device(path)) {
        clones.push((clone_of(&path, Depth::One).map_err(|source| fail(&path, &source))?, path));
    }
    let mut terminals = Vec::new();
    for path in own.iter().filter(|path| number(path).is_some()) {
        terminals.push((clone_of(path, Depth::One).map_err(|source| fail(path, &source))?, path));
    }
    let table = MountTable::read().map_err(|source| fail(Path::new("/proc/self/mountinfo"), &source))?;
    let is_mount = |path: &str| table.mounts().iter().any(|mount| mount.point == Path::new(path));
    // Read-only in the end, each without the other.
    for path in [DEV, "/dev/shm"].into_iter().filter(|path| Path::new(path).is_dir() && !is_mount(path)) {
        bind_with(Path::new(path), 0, Depth::Recursive).map_err(|source| fail(Path::new(path), &source))?;
    }
    let root = Path::new("/");
    mount_setattr::set(root, NO_DEV, Depth::Recursive).map_err(|source| fail(root, &source))?;
    for (tree, path) in &clones {
        put_read_only(tree.as_fd(), path).map_err(|source| fail(path, &source))?;
    }
    let instance = Path::new(TERMINALS);
    if !instance.is_dir() {
        return Ok(Places::default());
    }
    new_instance(&table).map_err(|source| fail(instance, &source))?;
    let mut places = Vec::new();
    for (tree, path) in terminals {
        // Without a place it has no name inside; it goes on working.
        let Some(place) = number(path).and_then(make_place) else { continue };
        put_read_only(tree.as_fd(), path).map_err(|source| fail(path, &source))?;
        places.push(place);
    }
    Ok(Places(places))
}

/// Modes of the machine's nodes stay, for who owns them too.
pub(super) fn close() -> Result<(), Failure> {
    let dev = Path::new(DEV);
    if !dev.is_dir() {
        return Ok(());
    }
    mount_setattr::set(dev, READ_ONLY, Depth::One)
        .map_err(|source| Failure::new(Stage::Devices, DEV.to_owned(), &source))
}

fn put_read_only(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    mount_setattr::set_of(tree, READ_ONLY, Depth::One)?;
    put_over(tree, path)
}

pub(super) fn is_device(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_char_device())
}

/// Entries of a folder whose names begin so.
fn named(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.filter(|entry| entry.file_name().as_bytes().starts_with(beginning.as_bytes()));
    paths.map(|entry| entry.path()).collect()
}

/// A project's own layer opens nothing that the others only let through with a folder.
fn named_by_all(layers: &[LandlockLayer]) -> BTreeSet<PathBuf> {
    let of_layer = |layer: &LandlockLayer| -> BTreeSet<PathBuf> {
        layer.read.iter().chain(&layer.write).filter_map(|path| path.canonicalize().ok()).collect()
    };
    layers.iter().map(of_layer).reduce(|all, next| &all & &next).unwrap_or_default()
}

/// The terminals on 0–2 and the controlling one, by the names that the caller has for them.
fn callers_terminals() -> BTreeSet<PathBuf> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let named = streams.into_iter().enumerate().filter(|(_, stream)| isatty(stream));
    let named = named.filter_map(|(number, stream)| {
        let path = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let (own, found) = (fstat(stream).ok()?, path.symlink_metadata().ok()?);
        let is_same = (own.st_rdev, own.st_dev, own.st_ino) == (found.rdev(), found.dev(), found.ino());
        is_same.then_some(path)
    });
    named.chain(controlling()).collect()
}

/// By `tty_nr` of proc_pid_stat(5): its major number in bits 8 to 15, its minor in the others.
fn controlling() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let device: u32 = text.rsplit_once(") ")?.1.split_ascii_whitespace().nth(4)?.parse().ok()?;
    let (major_number, minor_number) = ((device >> 8) & 0xff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    let path = Path::new(TERMINALS).join(minor_number.to_string());
    let found = path.symlink_metadata().ok()?;
    let is_it = major_number == TERMINAL_MAJOR
        && (major(found.rdev()), minor(found.rdev())) == (major_number, minor_number);
    is_it.then_some(path)
}

/// Of `/dev/pts/7` it is 7.
fn number(terminal: &Path) -> Option<u32> {
    terminal.strip_prefix(TERMINALS).ok()?.to_str()?.parse().ok()
}

/// Terminals of the sandbox's own, made as those of the machine are.
fn new_instance(table: &MountTable) -> io::Result<()> {
    let mut mounts = table.mounts().iter().rev();
    let before = mounts.find(|mount| mount.fs_type == "devpts" && mount.point == Path::new(TERMINALS));
    let before = before.map_or("", |mount| mount.options.as_str()).split(',');
    let kept = before.filter(|option| option.starts_with("gid=") || option.starts_with("mode="));
    let options: Vec<&str> = kept.chain(["ptmxmode=0666"]).collect();
    let options = CString::new(options.join(","))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", TERMINALS, "devpts", flags, Some(options.as_c_str()))?;
    let multiplexer = Path::new("/dev/ptmx");
    // Elsewhere a symlink to it.
    if is_device(multiplexer) {
        put_over(clone_of(&Path::new(TERMINALS).join("ptmx"), Depth::One)?.as_fd(), multiplexer)?;
    }
    Ok(())
}

/// Makes the terminal of that number in the new instance, which gives the lowest that is free, so that there is a file to
/// bind another over.
fn make_place(number: u32) -> Option<OwnedFd> {
    let mut lower = Vec::new();
    for _ in 0..=number.min(TERMINAL_MAX) {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let made = open("/dev/pts/ptmx", flags, Mode::empty()).ok()?;
        if ptsname(&made, Vec::new()).ok()?.to_str() == Ok(&format!("{TERMINALS}/{number}")) {
            return Some(made);
        }
        lower.push(made);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_names_a_folder_opens_no_device() {
        let layer = |paths: &[&str]| LandlockLayer {
            read: paths.iter().map(PathBuf::from).collect(),
            ..LandlockLayer::default()
        };
        let named = named_by_all(&[layer(&["/dev/null", "/dev/zero"]), layer(&["/dev/zero", "/usr"])]);
        assert_eq!(named, BTreeSet::from([PathBuf::from("/dev/zero")]));
        assert!(named_by_all(&[layer(&["/"]), layer(&["/dev/zero"])]).is_empty());
        assert!(named_by_all(&[]).is_empty());
    }

    #[test]
    fn a_terminal_is_known_by_its_number() {
        assert_eq!(number(Path::new("/dev/pts/7")), Some(7));
        assert_eq!(number(Path::new("/dev/pts/ptmx")), None);
        assert_eq!(number(Path::new("/dev/tty1")), None);
    }
}
