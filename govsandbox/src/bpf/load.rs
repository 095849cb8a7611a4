//! Loads the kernel programs once for the machine: they stay pinned, and later runs find them.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{MapData, MapError},
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
        links::{FdLink, PinnedLink},
    },
};
use govsandbox_ebpf::abi::ABI_VERSION;

use super::{
    btf::{BtfError, KernelBtf, VMLINUX},
    hooks::{Hook, PROGRAMS},
    lock::{LockError, lock},
    mount::{self, MountError},
    offsets, unix, unload,
};
use crate::{
    fault::{self, Step},
    sys::{self, lock_file, mountinfo},
};

/// The kernel programs, as `cargo xtask ebpf` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("GOVSANDBOX_BPF_OBJECT"));

/// Folder under bpffs that holds one folder for each version.
pub(super) const PINS_FOLDER: &str = "govsandbox";
/// The last pin of a version.
pub(super) const COMPLETE: &str = "complete";

/// The maps that lie in inode storage.
const IN_INODES: [&str; 2] = ["TAGS", "FOLDERS"];
/// Remembered where the kernel tells when what is kept of a folder goes stale.
const KEEPS_FOLDERS: &str = "keeps-folders";

/// The kernel side could not be set up.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// bpffs.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mount(#[from] MountError),
    /// Structure offsets.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Btf(#[from] BtfError),
    /// Another process loads.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lock(#[from] LockError),
    /// `bpf(2)` itself.
    #[error("this kernel takes no BPF object: {reason}")]
    #[diagnostic(help(
        "run as root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN) on a kernel with CONFIG_BPF_SYSCALL; `govsandbox doctor` says more"
    ))]
    Object {
        /// What the loader says.
        reason: String,
    },
    /// A program that no backend can do without.
    #[error("cannot load or attach the BPF program \"{program}\": {reason}")]
    #[diagnostic(help("`govsandbox doctor` says what this kernel lacks"))]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        reason: String,
    },
    /// cgroup v2.
    #[error("cgroup v2 is not mounted")]
    #[diagnostic(help("mount -t cgroup2 none /sys/fs/cgroup/unified (it may stand beside v1)"))]
    NoCgroup2,
    /// A file under bpffs.
    #[error("cannot use {path}")]
    #[diagnostic(help("`govsandbox unload` removes what an earlier version left there"))]
    Pin {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// The loaded programs of this machine.
#[derive(Debug)]
pub struct Loaded {
    folder: PathBuf,
    /// Programs that this kernel did not take, with the reason; empty when they were loaded by an earlier run.
    pub left_out: BTreeMap<&'static str, String>,
    /// bpffs was not mounted and now is.
    pub mounted_bpffs: bool,
    /// They were there already.
    pub warm: bool,
    /// Keeps every program attached as long as this process lives, whatever becomes of the pins.
    links: Vec<PinnedLink>,
    /// The folder with a shared lock on it: whoever takes pins away leaves those that a run is about to use.
    in_use: Option<File>,
}

/// Finds the pinned programs, or loads, attaches and pins them.
///
/// # Errors
/// When a program that every backend needs can't be loaded; LSM programs may be missing.
pub fn load() -> Result<Loaded, LoadError> {
    let (bpffs, mounted_bpffs) = mount::bpffs()?;
    let parent = bpffs.join(PINS_FOLDER);
    let folder = parent.join(folder_name());
    let _lock = lock()?;
    let mut loaded = Loaded {
        folder,
        left_out: BTreeMap::new(),
        mounted_bpffs,
        warm: true,
        links: Vec::new(),
        in_use: None,
    };
    if !loaded.folder.join(COMPLETE).exists() {
        loaded.warm = false;
        discard(&loaded.folder)?;
        // Who may open a folder of pins may keep a lock on it.
        let closed =
            std::fs::create_dir_all(&parent).and_then(|()| lock_file::close_to_others(&File::open(&parent)?));
        closed.map_err(|source| LoadError::Pin { path: parent.display().to_string(), source })?;
        loaded.fresh()?;
        unload::discard_idle(&parent, &loaded.folder)?;
    }
    loaded.in_use = Some(use_of(&loaded.folder)?);
    loaded.links = loaded.open_links()?;
    Ok(loaded)
}

/// Says that these pins are in use, as long as the file is open. The caller holds the lock, so nobody removes them now.
fn use_of(folder: &Path) -> Result<File, LoadError> {
    let opened =
        File::open(folder).and_then(|file| file.try_lock_shared().map(|()| file).map_err(io::Error::from));
    opened.map_err(|source| LoadError::Pin { path: folder.display().to_string(), source })
}

/// Names the folder of this binary's programs: the version of the ABI, the object itself (one that differs is another,
/// whatever its version says), and whether they log.
pub(super) fn folder_name() -> String {
    let name = format!("v{ABI_VERSION}-{}", env!("GOVSANDBOX_BPF_OBJECT_ID"));
    match log_level() {
        0 => name,
        level => format!("{name}-log{level}"),
    }
}

/// Removes a folder of pins; one that is not there is no error.
pub(super) fn discard(folder: &Path) -> Result<(), LoadError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::Pin { path: folder.display().to_string(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Loaded {
    /// Does the kernel tell when what is kept of a folder goes stale?
    #[must_use]
    pub fn keeps_folders(&self) -> bool {
        self.remembers(KEEPS_FOLDERS)
    }

    /// Pins a map of another kind in the place of one in inode storage: the LSM programs that look into it are left out, all
    /// others load.
    fn stand_in(&self, map: &str) -> Result<PathBuf, LoadError> {
        let path = self.map_path(map);
        let pinned = sys::bpf::create_array_of_one(4, false)
            .and_then(|map| MapData::from_fd(map).map_err(io::Error::other))
            .and_then(|map| map.pin(&path).map_err(io::Error::other));
        pinned.map_err(|source| LoadError::Pin { path: path.display().to_string(), source })?;
        Ok(path)
    }

    fn open_links(&self) -> Result<Vec<PinnedLink>, LoadError> {
        let attached = PROGRAMS.iter().filter(|(name, ..)| self.has(name));
        let opened = attached.map(|(name, ..)| {
            let path = self.link_path(name);
            PinnedLink::from_pin(&path).map_err(|error| LoadError::Pin {
                path: path.display().to_string(),
                source: io::Error::other(error),
            })
        });
        opened.collect()
    }

    /// Is the program attached?
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        self.link_path(program).exists()
    }

    /// Are all LSM programs attached? Whether the kernel calls them is another question: try.
    #[must_use]
    pub fn has_lsm(&self) -> bool {
        self.missing_lsm().is_none()
    }

    /// The first LSM program that should be attached and is not.
    #[must_use]
    pub fn missing_lsm(&self) -> Option<&'static str> {
        let is_there = |(name, hook, target): &(&str, Hook, &str)| match hook {
            Hook::Lsm => self.has(name),
            Hook::LsmSince => self.has_any_of(target) || self.remembers(&absent(target)),
            Hook::LaterLsm | Hook::LaterTracepoint | Hook::Tracepoint | Hook::Cgroup | Hook::UnixCgroup => {
                true
            }
        };
        PROGRAMS.iter().find(|program| !is_there(program)).map(|(name, ..)| *name)
    }

    /// Is any of the programs for this hook attached?
    fn has_any_of(&self, hook: &str) -> bool {
        PROGRAMS.iter().any(|(name, _, target)| *target == hook && self.has(name))
    }

    /// Does the kernel ask about connections of unix sockets at the cgroup (Linux 6.7)?
    #[must_use]
    pub fn holds_unix_sockets(&self) -> bool {
        [unix::Way::Connect, unix::Way::Send].into_iter().all(|way| self.has(way.program()))
    }

    /// Does the kernel tell who sends by a connection, before anything is sent (Linux 6.16)?
    #[must_use]
    pub fn sees_streams(&self) -> bool {
        self.has("stream_send")
    }

    /// A pinned map.
    ///
    /// # Errors
    /// When its pin can't be opened.
    pub fn map(&self, name: &str) -> Result<MapData, LoadError> {
        let path = self.map_path(name);
        MapData::from_pin(&path).map_err(|error| LoadError::Pin {
            path: path.display().to_string(),
            source: io::Error::other(error),
        })
    }

    /// Remembers something that is true of these programs on this kernel, as long as they are loaded.
    ///
    /// # Errors
    /// When bpffs can't be written.
    pub fn remember(&self, fact: &str) -> Result<(), LoadError> {
        let path = self.folder.join(fact);
        match self.map("SYSCALLS")?.pin(&path) {
            // Another run found out the same at the same time.
            Err(_) if path.exists() => Ok(()),
            pinned => pinned.map_err(|error| LoadError::Pin {
                path: path.display().to_string(),
                source: io::Error::other(error),
            }),
        }
    }

    /// Was it remembered?
    #[must_use]
    pub fn remembers(&self, fact: &str) -> bool {
        self.folder.join(fact).exists()
    }

    fn map_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("map_{name}"))
    }

    fn link_path(&self, program: &str) -> PathBuf {
        self.folder.join(format!("link_{program}"))
    }

    fn step(&self, step: Step) -> Result<(), LoadError> {
        fault::at(step).map_err(|source| LoadError::Pin { path: self.folder.display().to_string(), source })
    }

    fn fresh(&mut self) -> Result<(), LoadError> {
        let kernel = KernelBtf::read(Path::new(VMLINUX))?;
        let offsets = offsets::all(&kernel)?;
        let btf = Btf::from_sys_fs().map_err(|error| LoadError::Object { reason: error.to_string() })?;
        let mut loader = EbpfLoader::new();
        let level = log_level();
        let verifier = if level == 0 { VerifierLogLevel::empty() } else { VerifierLogLevel::DEBUG };
        loader.allow_unsupported_maps().btf(Some(&btf)).verifier_log_level(verifier);
        for (global, offset) in &offsets {
            loader.override_global(global, offset, true);
        }
        let counts = offsets::counts();
        for (global, address) in &counts {
            loader.override_global(global, address, true);
        }
        loader.override_global(aya_log::LEVEL, &level, false);
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| LoadError::Pin { path: self.folder.display().to_string(), source })?;
        let mut object = loader.load(OBJECT);
        if object.as_ref().is_err_and(is_without_inode_storage) {
            for map in IN_INODES {
                loader.map_pin_path(map, self.stand_in(map)?);
            }
            object = loader.load(OBJECT);
        }
        let mut object = object.map_err(|error| LoadError::Object { reason: chain(&error) })?;
        self.step(Step::Object)?;
        let cgroup =
            mountinfo::find("cgroup2").map_err(MountError::Mountinfo)?.ok_or(LoadError::NoCgroup2)?;
        let cgroup = File::open(&cgroup)
            .map_err(|source| LoadError::Pin { path: cgroup.display().to_string(), source })?;
        for &(name, hook, target) in PROGRAMS.iter().filter(|(_, hook, _)| *hook != Hook::UnixCgroup) {
            match attach(&mut object, name, target, &btf, &cgroup, &self.link_path(name)) {
                Ok(()) => {}
                Err(reason)
                    if matches!(
                        hook,
                        Hook::Lsm | Hook::LsmSince | Hook::LaterLsm | Hook::LaterTracepoint
                    ) =>
                {
                    self.left_out.insert(name, reason);
                }
                Err(reason) => return Err(LoadError::Program { program: name, reason }),
            }
        }
        self.step(Step::Links)?;
        for (name, map) in object.maps() {
            let path = self.map_path(name);
            if !name.starts_with('.') && !path.exists() {
                map.pin(&path).map_err(|error| LoadError::Pin {
                    path: path.display().to_string(),
                    source: io::Error::other(error),
                })?;
            }
        }
        self.step(Step::Maps)?;
        for way in [unix::Way::Connect, unix::Way::Send] {
            let maps = (self.map("MEMBERS")?, self.map("SANDBOXES")?);
            let (members, sandboxes) = (maps.0.fd().as_fd(), maps.1.fd().as_fd());
            if let Err(error) =
                unix::attach(way, members, sandboxes, cgroup.as_fd(), &self.link_path(way.program()))
            {
                self.left_out.insert(way.program(), error.to_string());
            }
        }
        for (_, _, target) in PROGRAMS.iter().filter(|(_, hook, _)| *hook == Hook::LsmSince) {
            if !kernel.has_function(&format!("bpf_lsm_{target}"))? {
                self.remember(&absent(target))?;
            }
        }
        if self.has_lsm() && counts.iter().all(|(_, address)| *address != 0) {
            self.remember(KEEPS_FOLDERS)?;
        }
        // The last pin says that all others are there.
        let complete = self.folder.join(COMPLETE);
        let done = object.map("SYSCALLS").map_or(Ok(()), |map| map.pin(&complete));
        done.map_err(|error| LoadError::Pin {
            path: complete.display().to_string(),
            source: io::Error::other(error),
        })
    }
}

/// What is remembered of a hook that this kernel does not have.
fn absent(hook: &str) -> String {
    format!("absent_{hook}")
}

/// A kernel that runs no BPF LSM has no inode storage either (`bpf_inode`, include/linux/bpf_lsm.h).
fn is_without_inode_storage(error: &EbpfError) -> bool {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            IN_INODES.contains(&name.as_str()) && io_error.raw_os_error() == Some(libc::EOPNOTSUPP)
        }
        _ => false,
    }
}

fn attach(
    object: &mut Ebpf,
    name: &str,
    target: &str,
    btf: &Btf,
    cgroup: &File,
    pin: &Path,
) -> Result<(), String> {
    let Some(program) = object.program_mut(name) else { return Err("not in the object".to_owned()) };
    let link = (|| -> Result<FdLink, Box<dyn std::error::Error>> {
        Ok(match program {
            Program::Lsm(program) => {
                program.load(target, btf)?;
                let link = program.attach()?;
                program.take_link(link)?.into()
            }
            Program::BtfTracePoint(program) => {
                program.load(target, btf)?;
                let link = program.attach()?;
                program.take_link(link)?.into()
            }
            Program::CgroupSockAddr(program) => {
                program.load()?;
                let link = program.attach(cgroup, CgroupAttachMode::Single)?;
                program.take_link(link)?.try_into()?
            }
            Program::CgroupSock(program) => {
                program.load()?;
                let link = program.attach(cgroup, CgroupAttachMode::Single)?;
                program.take_link(link)?.try_into()?
            }
            Program::CgroupSkb(program) => {
                program.load()?;
                let way = program.expected_attach_type().unwrap_or(CgroupSkbAttachType::Egress);
                let link = program.attach(cgroup, way, CgroupAttachMode::Single)?;
                program.take_link(link)?.try_into()?
            }
            _ => return Err(ProgramError::UnexpectedProgramType.into()),
        })
    })();
    let pinned: PinnedLink =
        link.map_err(|error| chain(error.as_ref()))?.pin(pin).map_err(|error| chain(&error))?;
    drop(pinned);
    Ok(())
}

/// An error with its causes, on one line; of the verifier's log the end.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail =
        lines.len().saturating_sub(if std::env::var_os("GOVSANDBOX_BPF_LOG").is_some() { 400 } else { 3 });
    lines.get(tail..).unwrap_or_default().join(" | ")
}

/// `GOVSANDBOX_BPF_LOG`: error, warn, info, debug or trace turns the programs' own messages on, at load.
pub(super) fn log_level() -> u8 {
    match std::env::var("GOVSANDBOX_BPF_LOG").as_deref() {
        Ok("error") => 1,
        Ok("warn") => 2,
        Ok("info") => 3,
        Ok("debug") => 4,
        Ok("trace") => 5,
        _ => 0,
    }
}
