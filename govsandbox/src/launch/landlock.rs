//! The Landlock domain: write and read allow-lists of the policy, and the scopes of signals and abstract sockets.

use std::{
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};

use crate::{policy::compile::OPEN_DEVICES, sys};

/// First ABI whose file rights are used: before, every rename across folders fails (no REFER) and git breaks.
const FILE_ABI_MIN: i32 = 2;
/// First ABI that keeps signals and abstract unix sockets inside.
pub const SCOPE_ABI_MIN: i32 = 6;

/// The domain of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LandlockPlan {
    /// One for each layer of the policy; an access needs all of them. Empty: no file rights are handled (`mode =
    /// "audit"`).
    pub layers: Vec<LandlockLayer>,
    /// Hooks and mounts hold the layers, and no file rights are handled either: a domain that has any stops `mount(2)`
    /// (`process.namespaces = "allow"`).
    pub by_hooks: bool,
    /// Abstract unix sockets of others are held otherwise: that some may be reached Landlock can't say.
    pub open_abstract: bool,
}

/// Allow-lists; what does not exist gives nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LandlockLayer {
    /// Readable and executable, with all below.
    pub read: Vec<PathBuf>,
    /// Writable too. A file gives the file itself, not its siblings (`NAME.lock`, `NAME.tmp`).
    pub write: Vec<PathBuf>,
    /// Writing is not limited by this layer; reading is.
    pub any_write: bool,
}

/// What the running kernel's Landlock holds, in words for the log and `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strength {
    /// The kernel's ABI; 0: no Landlock.
    pub abi: i32,
    /// What is not held, one phrase each.
    pub not_held: Vec<&'static str>,
}

/// Asks the kernel.
#[must_use]
pub fn strength() -> Strength {
    let abi = sys::landlock::abi().unwrap_or(0);
    let missing = [
        (FILE_ABI_MIN, "file allow-lists"),
        (3, "truncate(2) of a file outside the write list"),
        (5, "ioctl on devices outside the write list"),
        (SCOPE_ABI_MIN, "signals and abstract unix sockets to processes outside, by Landlock"),
    ];
    Strength {
        abi,
        not_held: missing.into_iter().filter(|(since, _)| abi < *since).map(|(_, what)| what).collect(),
    }
}

/// Rulesets, ready to be applied; made while paths can still be opened.
pub(super) struct Domain(Vec<RulesetCreated>);

/// Makes the rulesets.
pub(super) fn prepare(plan: &LandlockPlan) -> io::Result<Domain> {
    let number = sys::landlock::abi()?;
    let layers = if plan.by_hooks { &[] } else { plan.layers.as_slice() };
    if number < FILE_ABI_MIN && !layers.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let abi = ABI::from(number);
    let mut rulesets = Vec::new();
    if layers.is_empty() && number >= SCOPE_ABI_MIN {
        rulesets.push(create(Ruleset::default(), scopes(plan))?);
    }
    for (index, layer) in layers.iter().enumerate() {
        // Rights that a later kernel may add are not handled: what they would break is not known.
        let handled = AccessFs::from_all(abi) & AccessFs::from_all(ABI::V8);
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(handled);
        let scopes = if index == 0 && number >= SCOPE_ABI_MIN { scopes(plan) } else { BitFlags::EMPTY };
        let mut ruleset = create(ruleset.map_err(io::Error::other)?, scopes)?;
        let read = AccessFs::from_read(abi);
        let write = handled & !(AccessFs::MakeChar | AccessFs::MakeBlock);
        for path in &layer.read {
            ruleset = allow(ruleset, path, read)?;
        }
        for path in &layer.write {
            ruleset = allow(ruleset, path, write)?;
        }
        if layer.any_write {
            ruleset = allow(ruleset, Path::new("/"), write & !read)?;
        }
        let device = (AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::IoctlDev
            | AccessFs::ReadDir)
            & handled;
        for path in OPEN_DEVICES {
            ruleset = allow(ruleset, Path::new(path), device)?;
        }
        rulesets.push(ruleset);
    }
    Ok(Domain(rulesets))
}

/// Applies them to this thread; needs `no_new_privs`.
pub(super) fn apply(domain: Domain) -> io::Result<()> {
    for ruleset in domain.0 {
        let status = ruleset.restrict_self().map_err(io::Error::other)?;
        if status.ruleset == landlock::RulesetStatus::NotEnforced {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
    }
    Ok(())
}

fn scopes(plan: &LandlockPlan) -> BitFlags<Scope> {
    if plan.open_abstract { Scope::Signal.into() } else { Scope::from_all(ABI::V6) }
}

fn create(ruleset: Ruleset, scopes: BitFlags<Scope>) -> io::Result<RulesetCreated> {
    let ruleset =
        if scopes.is_empty() { ruleset } else { ruleset.scope(scopes).map_err(io::Error::other)? };
    ruleset.create().map_err(io::Error::other)
}

fn allow(ruleset: RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    let object = match PathFd::new(path) {
        Ok(object) => object,
        // A missing entry gives nothing.
        Err(landlock::PathFdError::OpenCall { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) =>
        {
            return Ok(ruleset);
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    let is_folder = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&object)?.st_mode).is_dir();
    let rights = if is_folder { rights } else { rights & AccessFs::from_file(ABI::V8) };
    if rights.is_empty() {
        return Ok(ruleset);
    }
    ruleset.add_rule(PathBeneath::new(object, rights)).map_err(io::Error::other)
}
