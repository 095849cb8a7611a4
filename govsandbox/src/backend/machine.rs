//! What this machine has for a run, and which backend a run would get: found by trying, leaving nothing behind.

use std::{ffi::OsString, path::PathBuf};

use miette::Diagnostic;
use serde::Serialize;

use super::{
    ChoiceError, Kind, agent, checks, choose, fanotify,
    guarantee::{self, Guarantee},
};
use crate::{
    bpf::{
        load::{self, LoadError, Loaded},
        mount::BPFFS,
        probe::{self, Pins},
    },
    launch::{LaunchError, cgroup, landlock},
    policy::compile::Require,
    sys::{mountinfo, namespace},
};

/// First Landlock ABI that a run takes: before, renames across folders fail.
pub(super) const LANDLOCK_ABI_MIN: i32 = 2;

/// What it is told of the caller.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// `PATH`.
    pub path: Option<OsString>,
    /// Where the audit log would be.
    pub log: Option<PathBuf>,
}

/// The result.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Which backend a run would get; `null`: none, or it can't be known.
    pub backend: Option<&'static str>,
    /// The strictest `require` of a policy that it satisfies.
    pub requirement: Option<&'static str>,
    /// A run would start.
    pub starts: bool,
    /// Release and architecture.
    pub kernel: String,
    /// Why a stronger backend is not had, one line each.
    pub reasons: Vec<String>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// What holds what.
    pub guarantees: Vec<Guarantee>,
    /// What the backend does not hold, whatever the policy.
    pub not_held: Vec<&'static str>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Stable, kebab-case.
    pub name: &'static str,
    /// How it is.
    pub status: Level,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Not there.
    Missing,
    /// There, and less than it could be.
    Degraded,
    /// It can't be told from here.
    Unknown,
}

/// What came of doing what a run does.
pub(super) struct Trial {
    pub(super) cgroup: Result<PathBuf, LaunchError>,
    pub(super) loaded: Result<Loaded, LoadError>,
    pub(super) fanotify: Result<(), fanotify::ProbeError>,
}

/// Which backend it came to.
#[derive(Default)]
pub(super) struct Tried {
    pub(super) kind: Option<Kind>,
    pub(super) not_had: Vec<(Kind, String)>,
    /// Why not even that could be tried.
    pub(super) failed: Option<String>,
}

/// Looks and tries. Of a process with one thread: from here on its mounts are its own.
#[must_use]
pub fn examine(caller: &Caller) -> Machine {
    let pins = probe::pins();
    let modules = probe::security_modules();
    let cgroup_mounted = mountinfo::find("cgroup2").ok().flatten();
    let trial = attempt(&pins);
    let strength = landlock::strength();

    let tried = trial.as_ref().map(decide).unwrap_or_default();
    let kind = tried.kind;
    let not_had = tried.not_had.iter().map(|(kind, why)| format!("not `{kind}`: {why}"));
    let reasons = not_had.chain(tried.failed.iter().map(|why| format!("no backend: {why}"))).collect();
    let starts = kind.is_some()
        && strength.abi >= LANDLOCK_ABI_MIN
        && trial.as_ref().is_some_and(|trial| trial.cgroup.is_ok());
    let loaded = trial.as_ref().and_then(|trial| trial.loaded.as_ref().ok());
    let kernel = guarantee::Kernel {
        landlock_abi: strength.abi,
        unix_at_cgroup: loaded.is_some_and(Loaded::holds_unix_sockets),
        sees_streams: loaded.is_some_and(Loaded::sees_streams),
    };
    let checks = vec![
        checks::capabilities(),
        checks::btf(),
        checks::programs(trial.as_ref()),
        checks::bpf_lsm(&modules, &tried, trial.is_some()),
        checks::fanotify(trial.as_ref()),
        checks::landlock(&strength),
        checks::cgroup(cgroup_mounted.as_deref(), trial.as_ref()),
        checks::pins(&pins),
        checks::lockdown(),
        checks::unprivileged_bpf(),
        agent::check(caller.path.as_deref()),
        checks::log(caller.log.as_deref()),
    ];
    Machine {
        requirement: kind.map(|kind| match kind.meets() {
            Require::Kernel => "kernel",
            Require::Root => "root",
            Require::Any => "any",
        }),
        guarantees: guarantee::table(kind, kernel),
        not_held: guarantee::not_held(kind, kernel),
        backend: kind.map(Kind::name),
        starts,
        kernel: format!("{} {}", probe::release(), probe::machine()),
        reasons,
        checks,
    }
}

/// Does what a run does, in a mount namespace that goes with this process. `None`: not even that is allowed.
fn attempt(pins: &std::io::Result<Pins>) -> Option<Trial> {
    namespace::private_mounts().ok()?;
    let cgroup = cgroup::root();
    let is_warm =
        matches!(pins, Ok(Pins::Folders(_, found)) if found.iter().any(|it| it.is_ours && it.is_complete));
    let mut loaded = if is_warm { load::load() } else { load_apart() };
    if is_warm && loaded.as_ref().is_ok_and(|loaded| !loaded.has_lsm()) {
        // Why they were left out is only known to who loads.
        loaded = load_apart();
    }
    Some(Trial { cgroup, loaded, fanotify: fanotify::probe() })
}

/// Loads under a bpffs of this process's own, so that nothing stays.
fn load_apart() -> Result<Loaded, LoadError> {
    // Where it can't be mounted, `load` says so.
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None).ok();
    load::load()
}

/// The backend, and why no stronger one.
fn decide(trial: &Trial) -> Tried {
    let none = |error: &dyn Diagnostic| Tried { failed: Some(told(error).0), ..Tried::default() };
    let loaded = match &trial.loaded {
        Ok(loaded) => loaded,
        Err(error) => return none(error),
    };
    let (kind, not_had) = match choose(loaded, Require::Any) {
        Ok(choice) => (Some(choice.kind), choice.not_had),
        Err(ChoiceError::None(not_had)) => (None, not_had),
        Err(error @ (ChoiceError::TooWeak { .. } | ChoiceError::Load(_))) => return none(&error),
    };
    let not_had = not_had.into_iter().map(|(kind, why)| (kind, first_words(&why))).collect();
    Tried { kind, not_had, failed: None }
}

/// Of what the loader says when a program is refused before the verifier's time there is no more to tell.
fn first_words(why: &str) -> String {
    why.replace(". Verifier output: ", "")
}

/// An error with its causes on one line, and its help.
pub(super) fn told(error: &dyn Diagnostic) -> (String, Option<String>) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    (text, error.help().map(|help| help.to_string()))
}
