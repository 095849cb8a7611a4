//! Verdicts by BPF LSM programs: paths become tags on inodes and one automaton.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use govsandbox_ebpf::abi::rule::{Hits, RULE_OWN, SandboxConfig, TagRule};
use rustix::process::{WaitOptions, waitpid};

use super::{links, programs::Programs};
use crate::{
    bpf::{
        fill::{Contents, FillError, Sandbox},
        load::Loaded,
        lock::LockError,
        tag::{Held, Holding, TagError},
    },
    id::RuleIndex,
    policy::{
        automaton::{self, AutomatonError},
        compile::{GlobRule, LiteralRule, PathEffect, PathPlan, PathTable},
        procfs,
        rule::glob,
        way::Way,
    },
    sys::{clone, file_system, mountinfo, open_files},
};

/// Files that this process has open besides what rules name.
pub const OPEN_FILES_USUAL: u64 = 1024;
/// Files held open for one rule, ordinarily.
const OPEN_FILES_PER_RULE: u64 = 4;

/// Paths that exist and are patterns too, at most: more have no room, and finding that out takes its time.
const PLACES_MAX: usize = 2048;
const REPLACED_NOT_HELD: &str = "files that rules name, once a process outside puts another in their place: the policy names \
    more than the table of patterns has room for";

const OWN: RuleIndex = RuleIndex(RULE_OWN);

/// Why LSM programs do not hold here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel did not take them.
    #[error("this kernel takes no LSM programs ({0})")]
    NotLoaded(String),
    /// It took them and does not call them.
    #[error("LSM programs load but are never called: `bpf` is not in the kernel's lsm= list")]
    NotCalled,
    /// They refuse what no rule is about.
    #[error("LSM programs refuse a file that no rule names")]
    RefusesAll,
    /// Others start, and go on doing so: that says nothing about the kernel.
    #[error(transparent)]
    Busy(LockError),
    /// The trial itself.
    #[error("cannot try: {0}")]
    Trial(String),
}

/// What the kernel is to hold.
#[derive(Debug)]
pub struct Prepared {
    /// For [`Contents::held`].
    pub held: Vec<Held>,
    /// For [`Contents::automaton`].
    pub automaton: PathTable,
    /// What is not held in this run, in words.
    pub not_held: Vec<String>,
}

/// The rules can't be turned into what the kernel holds.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PrepareError {
    /// A named path.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Tag(#[from] TagError),
    /// The patterns.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Automaton(#[from] AutomatonError),
    /// The mounts.
    #[error("cannot read /proc/self/mountinfo")]
    #[diagnostic(help("mount /proc"))]
    Mountinfo(#[source] io::Error),
}

/// Finds what exists and holds it by inode; what does not exist yet becomes a pattern. The way there is pinned.
///
/// # Errors
/// [`PrepareError`].
pub fn prepare(
    paths: &PathPlan,
    automaton: &PathTable,
    programs: Option<&Programs>,
    own_files: &[PathBuf],
) -> Result<Prepared, PrepareError> {
    let mounts = mountinfo::read(Path::new("/proc/self/mountinfo")).map_err(PrepareError::Mountinfo)?;
    let points: Vec<PathBuf> = mounts.into_iter().map(|mount| mount.point).collect();
    // For each rule its file, the mounts below and the links on the way; the folders above are the same for many.
    let for_rules = OPEN_FILES_PER_RULE * paths.literals.len() as u64;
    open_files::raise(OPEN_FILES_USUAL + for_rules + links::FILES_MAX as u64);
    let mut holding = Holding::default();
    // Patterns that there must be, and those for what is held by inode: another inode may take its place from outside.
    let (mut more_globs, mut places, mut folders) = (Vec::new(), Vec::new(), Vec::new());
    for literal in &paths.literals {
        let LiteralRule { path, effect, rule } = literal;
        let way = Way::of(path);
        match path.canonicalize() {
            // By way of a symlink (`/etc/mtab`) it is this process's own: what is meant is that of who asks.
            Ok(resolved) if let Some(patterns) = procfs::of_resolved(&resolved) => {
                let glob = |pattern| GlobRule { pattern, effect: *effect, rule: *rule };
                more_globs.extend(patterns.into_iter().map(glob));
            }
            Ok(resolved) => {
                let hits = effect.hits(*rule);
                holding.path(&resolved, TagRule { hits, pinned: rule.0 }, &points)?;
                folders.push((resolved.clone(), hits));
                // Where a file may come back as another inode its path is what stays.
                let is_unstable = file_system::unstable(&resolved).is_some();
                if is_unstable { &mut more_globs } else { &mut places }
                    .push(by_path(&resolved, *effect, *rule));
            }
            Err(_) => more_globs.push(by_path(&way.end, *effect, *rule)),
        }
        holding.pin(way.names(), rule.0)?;
    }
    for path in own_files.iter().filter(|path| path.exists()) {
        let way = Way::of(path);
        let hits = PathEffect::Protect.hits(OWN);
        holding.path(&way.end, TagRule { hits, pinned: RULE_OWN }, &points)?;
        holding.pin(way.names(), RULE_OWN)?;
        // Who saves it from outside puts another inode there.
        more_globs
            .extend(way.links.iter().chain([&way.end]).map(|path| by_path(path, PathEffect::Protect, OWN)));
    }
    let writable =
        paths.allow.iter().flat_map(|lists| &lists.write).filter_map(|entry| entry.path.canonicalize().ok());
    // Without patterns there is nothing to be found in a folder that no rule names.
    let writable = writable.filter(|_| !paths.globs.is_empty()).map(|folder| (folder, Hits::NONE));
    let linked = links::find(automaton, folders.into_iter().chain(writable));
    for (path, hits) in linked.files {
        holding.path(&path, TagRule { hits, pinned: 0 }, &[])?;
    }
    let mut held = holding.into_held();
    for (path, hits) in programs.iter().flat_map(|programs| &programs.held) {
        held.extend(Held::program(path, *hits)?);
    }
    let build = |more: &[GlobRule]| match more {
        [] => Ok(automaton.clone()),
        more => automaton::build(&[paths.globs.as_slice(), more].concat()),
    };
    let all = [more_globs.as_slice(), &places].concat();
    let mut not_held: Vec<String> =
        if linked.complete { Vec::new() } else { vec![links::NOT_ALL_HELD.to_owned()] };
    let automaton = match (places.len() <= PLACES_MAX).then(|| build(&all)) {
        None | Some(Err(AutomatonError::TooLarge { .. })) => {
            not_held.push(REPLACED_NOT_HELD.to_owned());
            build(&more_globs)?
        }
        Some(built) => built?,
    };
    Ok(Prepared { held, automaton, not_held })
}

/// A rule on one path as a pattern.
fn by_path(path: &Path, effect: PathEffect, rule: RuleIndex) -> GlobRule {
    use std::os::unix::ffi::OsStrExt as _;
    GlobRule { pattern: glob::quote(path.as_os_str().as_bytes()), effect, rule }
}

/// Marks a child of this process, lets it open a file that a rule denies and one that none does, and sees what it gets.
///
/// # Errors
/// [`ProbeError`] says why the hooks do not hold here.
pub fn probe(loaded: &Loaded) -> Result<(), ProbeError> {
    if let Some(program) = loaded.missing_lsm() {
        let reason = loaded.left_out.get(program).map_or("left out when loading", String::as_str);
        return Err(ProbeError::NotLoaded(format!("{program}: {reason}")));
    }
    let trial = |error: io::Error| ProbeError::Trial(error.to_string());
    let folder = PathBuf::from(format!("/run/govsandbox/probe-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(trial)?;
    let seen = open_two_files(loaded, &folder);
    std::fs::remove_dir_all(&folder).map_err(trial)?;
    match seen {
        Ok(DENIED_ONLY) => Ok(()),
        Ok(BOTH_OPEN) => Err(ProbeError::NotCalled),
        Ok(_) => Err(ProbeError::RefusesAll),
        Err(FillError::Lock(error)) => Err(ProbeError::Busy(error)),
        Err(error) => Err(ProbeError::Trial(error.to_string())),
    }
}

/// Exit statuses of the child that tries.
const DENIED_ONLY: i32 = 0;
const BOTH_OPEN: i32 = 1;
const ALLOWED_REFUSED: i32 = 2;

fn open_two_files(loaded: &Loaded, folder: &Path) -> Result<i32, FillError> {
    let raw = |source| FillError::Map { map: "TAGS", source };
    let (denied, allowed) = (folder.join("denied"), folder.join("allowed"));
    for path in [&denied, &allowed] {
        std::fs::write(path, "").map_err(raw)?;
    }
    let rule = TagRule { hits: Hits { deny: 1, protect: 0 }, pinned: 0 };
    let held = Held::open(&denied, rule).map_err(FillError::from)?.into_iter().collect();
    let config = SandboxConfig { path_hooks: 1, ..SandboxConfig::default() };
    let contents = Contents {
        config,
        held,
        automaton: None,
        exec: None,
        unix: None,
        egress: &BTreeMap::new(),
        listen: &BTreeMap::new(),
        proc: None,
        refusable: &[],
    };
    let (sandbox, mut rings) = Sandbox::create(loaded, contents)?;
    let (wait, mut go) = io::pipe().map_err(raw)?;
    // In a pid namespace of its own, as everything in a sandbox: others the hooks don't look at.
    let child = clone::clone_into_namespaces(None, clone::Descriptors::All, move || {
        let mut wait = wait;
        let mut byte = [0];
        if io::Read::read_exact(&mut wait, &mut byte).is_err() {
            return ALLOWED_REFUSED;
        }
        match (File::open(&denied), File::open(&allowed)) {
            (Err(_), Ok(_)) => DENIED_ONLY,
            (Ok(_), Ok(_)) => BOTH_OPEN,
            (_, Err(_)) => ALLOWED_REFUSED,
        }
    })
    .map_err(raw)?;
    let marked = sandbox.mark(child.pidfd.as_fd());
    if marked.is_ok() {
        go.write_all(&[1]).map_err(raw)?;
    }
    drop(go);
    let status = waitpid(Some(child.pid), WaitOptions::empty()).map_err(|errno| raw(errno.into()))?;
    marked?;
    // The next sandbox of this process has the same id, and would take the trial's records for its own.
    while rings.drain(|_, _| {}) {}
    Ok(status.and_then(|(_, status)| status.exit_status()).unwrap_or(ALLOWED_REFUSED))
}
