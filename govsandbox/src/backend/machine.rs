//! What this machine has for a run, and which backend a run would get: found by trying, leaving nothing behind.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use miette::Diagnostic;
use rustix::{
    fs::{Access, access},
    thread::{CapabilitySet, capabilities},
};
use serde::Serialize;

use super::{
    agent, fanotify,
    guarantee::{self, Guarantee},
};
use crate::{
    bpf::{
        btf::VMLINUX,
        load::{self, LoadError, Loaded},
        mount::BPFFS,
        probe::{self, Known, Pins},
    },
    launch::{LaunchError, cgroup, landlock},
    sys::{mountinfo, namespace},
};

/// First Landlock ABI that a run takes: before, renames across folders fail.
const LANDLOCK_ABI_MIN: i32 = 2;

/// Capabilities that a supervisor needs, each with what for.
const CAPABILITIES: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
];

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
struct Trial {
    cgroup: Result<PathBuf, LaunchError>,
    loaded: Result<Loaded, LoadError>,
    fanotify: Result<(), fanotify::ProbeError>,
}

/// Looks and tries. Of a process with one thread: from here on its mounts are its own.
#[must_use]
pub fn examine(caller: &Caller) -> Machine {
    let pins = probe::pins();
    let modules = probe::security_modules();
    let cgroup_mounted = mountinfo::find("cgroup2").ok().flatten();
    let trial = attempt(&pins);
    let strength = landlock::strength();

    let (backend, reasons) =
        trial.as_ref().map_or_else(|| (None, Vec::new()), |trial| choose(trial, &modules));
    let starts = backend.is_some()
        && strength.abi >= LANDLOCK_ABI_MIN
        && trial.as_ref().is_some_and(|trial| trial.cgroup.is_ok());
    let checks = vec![
        check_capabilities(),
        check_btf(),
        check_programs(trial.as_ref()),
        check_bpf_lsm(&modules, trial.as_ref()),
        check_fanotify(trial.as_ref()),
        check_landlock(&strength),
        check_cgroup(cgroup_mounted.as_deref(), trial.as_ref()),
        check_pins(&pins),
        check_lockdown(),
        check_unprivileged_bpf(),
        agent::check(caller.path.as_deref()),
        check_log(caller.log.as_deref()),
    ];
    Machine {
        requirement: backend.map(|kind| if kind == guarantee::LSM { "kernel" } else { "root" }),
        guarantees: guarantee::table(backend, strength.abi),
        not_held: guarantee::not_held(backend),
        backend,
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
fn choose(trial: &Trial, modules: &Known<Vec<String>>) -> (Option<&'static str>, Vec<String>) {
    let loaded = match &trial.loaded {
        Ok(loaded) => loaded,
        Err(error) => return (None, vec![format!("no backend: {}", told(error).0)]),
    };
    let is_called = matches!(modules, Known::Yes(names) if names.iter().any(|name| name == "bpf"));
    let mut reasons = Vec::new();
    if loaded.has_lsm() && is_called {
        return (Some(guarantee::LSM), reasons);
    }
    reasons.push(format!("not `lsm`: {}", lsm_lacks(loaded, is_called)));
    match &trial.fanotify {
        Ok(()) => (Some(guarantee::FANOTIFY), reasons),
        Err(error) => {
            reasons.push(format!("not `fanotify`: {}", told(error).0));
            (None, reasons)
        }
    }
}

fn lsm_lacks(loaded: &Loaded, is_called: bool) -> String {
    match loaded.left_out.iter().next() {
        Some((name, why)) => {
            format!(
                "the kernel takes {} of the LSM programs not, `{name}` first: {why}",
                loaded.left_out.len()
            )
        }
        None if is_called => "LSM programs are not attached".to_owned(),
        None => "the kernel attaches LSM programs and does not call them".to_owned(),
    }
}

fn check_capabilities() -> Check {
    let name = "capabilities";
    let held = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(errno) => return Check { name, status: Level::Unknown, found: errno.to_string(), mend: None },
    };
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(one, _)| !held.contains(*one)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Check {
            name,
            status: Level::Ok,
            found: "all that a supervisor needs".to_owned(),
            mend: None,
        };
    }
    let mend = if rustix::process::geteuid().is_root() {
        "this root is confined: run outside of the container, or give it these capabilities"
    } else {
        "run as root: sudo govsandbox …"
    };
    let found = format!("without {}", missing.join(", "));
    Check { name, status: Level::Missing, found, mend: Some(mend.to_owned()) }
}

fn check_btf() -> Check {
    let name = "btf";
    match std::fs::metadata(VMLINUX) {
        Ok(_) => Check { name, status: Level::Ok, found: VMLINUX.to_owned(), mend: None },
        Err(error) => Check {
            name,
            status: Level::Missing,
            found: format!("{VMLINUX}: {error}"),
            mend: Some(
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of all large distributions are"
                    .to_owned(),
            ),
        },
    }
}

/// Programs that every backend needs.
fn check_programs(trial: Option<&Trial>) -> Check {
    let name = "bpf-programs";
    match trial.map(|trial| &trial.loaded) {
        None => untried(name),
        Some(Ok(loaded)) => {
            let how = if loaded.warm { "pinned by an earlier run" } else { "loaded and attached for a try" };
            let found = format!("tracing and cgroup programs: {how}");
            Check { name, status: Level::Ok, found, mend: None }
        }
        Some(Err(error)) => failed(name, Level::Missing, error),
    }
}

fn check_bpf_lsm(modules: &Known<Vec<String>>, trial: Option<&Trial>) -> Check {
    let name = "bpf-lsm";
    let loaded = trial.and_then(|trial| trial.loaded.as_ref().ok());
    let names = match modules {
        Known::Yes(names) => names,
        Known::NoSecurityfs => {
            let mend = "mount -t securityfs securityfs /sys/kernel/security";
            let found = "the kernel's security modules can't be listed: securityfs is not mounted".to_owned();
            return Check { name, status: Level::Unknown, found, mend: Some(mend.to_owned()) };
        }
        Known::Unreadable(why) => {
            return Check { name, status: Level::Unknown, found: why.clone(), mend: None };
        }
    };
    if !names.iter().any(|name| name == "bpf") {
        let listed: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| *name != "capability").collect();
        let (found, listed) =
            (format!("`bpf` is not among the security modules ({})", names.join(",")), listed.join(","));
        // A kernel that lacks it altogether refuses the programs as well.
        let mend = format!(
            "boot with the kernel parameter lsm={listed},bpf (needs CONFIG_BPF_LSM=y): in /etc/default/grub, \
             GRUB_CMDLINE_LINUX, then update-grub and reboot"
        );
        return Check { name, status: Level::Missing, found, mend: Some(mend) };
    }
    let Some(loaded) = loaded else {
        return Check {
            found: format!("listed ({}), not tried: that needs root", names.join(",")),
            ..untried(name)
        };
    };
    if loaded.has_lsm() {
        return Check {
            name,
            status: Level::Ok,
            found: format!("attached and called ({})", names.join(",")),
            mend: None,
        };
    }
    let mend = "the kernel lists `bpf` and refuses the programs: it may have been built without trampolines or be \
                hardened against patching its text; a distribution's own kernel takes them";
    Check { name, status: Level::Missing, found: lsm_lacks(loaded, true), mend: Some(mend.to_owned()) }
}

fn check_fanotify(trial: Option<&Trial>) -> Check {
    let name = "fanotify";
    match trial.map(|trial| &trial.fanotify) {
        None => untried(name),
        Some(Ok(())) => {
            let found = "one open was refused and another allowed, in a mount namespace of their own";
            Check { name, status: Level::Ok, found: found.to_owned(), mend: None }
        }
        Some(Err(error)) => failed(name, Level::Missing, error),
    }
}

fn check_landlock(strength: &landlock::Strength) -> Check {
    let name = "landlock";
    let found = match strength.abi {
        0 => "none".to_owned(),
        abi if strength.not_held.is_empty() => format!("ABI {abi}"),
        abi => format!("ABI {abi}, without {}", strength.not_held.join("; ")),
    };
    let (status, mend) = match strength.abi {
        0 => (
            Level::Missing,
            Some(
                "boot a kernel from 5.19 on with CONFIG_SECURITY_LANDLOCK=y and `landlock` in its lsm= list",
            ),
        ),
        abi if abi < LANDLOCK_ABI_MIN => (Level::Missing, Some("boot a kernel from 5.19 on (ABI 2)")),
        _ if strength.not_held.is_empty() => (Level::Ok, None),
        _ => (Level::Degraded, Some("a kernel from 6.12 on (ABI 6) has them")),
    };
    Check { name, status, found, mend: mend.map(str::to_owned) }
}

fn check_cgroup(mounted: Option<&Path>, trial: Option<&Trial>) -> Check {
    let name = "cgroup-v2";
    let beside_v1 = mountinfo::find("cgroup").ok().flatten().is_some();
    let beside = if beside_v1 { ", beside v1" } else { "" };
    let place = match (mounted, trial.map(|trial| &trial.cgroup)) {
        (Some(place), _) => place,
        (None, Some(Ok(place))) => {
            let found = format!("not mounted{beside}: a run mounts it at {}", place.display());
            return Check { name, status: Level::Ok, found, mend: None };
        }
        (None, Some(Err(error))) => return failed(name, Level::Missing, error),
        (None, None) => return untried(name),
    };
    let found = format!("{}{beside}", place.display());
    if trial.is_some() && access(place, Access::WRITE_OK).is_err() {
        let mend = "mount it writable, or run outside of the container";
        return Check {
            name,
            status: Level::Missing,
            found: format!("{found}, read-only"),
            mend: Some(mend.to_owned()),
        };
    }
    if beside_v1 {
        let mend = "limits of a policy need controllers that v1 holds: boot with systemd.unified_cgroup_hierarchy=1 or without v1";
        return Check { name, status: Level::Degraded, found, mend: Some(mend.to_owned()) };
    }
    Check { name, status: Level::Ok, found, mend: None }
}

fn check_pins(pins: &std::io::Result<Pins>) -> Check {
    let name = "pinned-programs";
    let (status, found, mend) = match pins {
        Ok(Pins::NoBpffs) => {
            (Level::Ok, format!("none: bpffs is not mounted, a run mounts it at {BPFFS}"), None)
        }
        Ok(Pins::Hidden(bpffs)) => {
            (Level::Unknown, format!("only root may look into {}", bpffs.display()), Some("run as root"))
        }
        Ok(Pins::Folders(bpffs, found)) if found.is_empty() => {
            (Level::Ok, format!("none in {}: the next run loads them", bpffs.display()), None)
        }
        Ok(Pins::Folders(bpffs, found)) => {
            let words = |it: &probe::Pinned| match (it.is_ours, it.is_complete) {
                (true, true) => format!("{} (this version)", it.name),
                (false, true) => format!("{} (another version)", it.name),
                (_, false) => format!("{} (not complete)", it.name),
            };
            let list: Vec<String> = found.iter().map(words).collect();
            let is_clean = found.iter().all(|it| it.is_ours && it.is_complete);
            let mend = "`govsandbox unload` removes them when no sandbox is alive";
            let status = if is_clean { Level::Ok } else { Level::Degraded };
            (status, format!("in {}: {}", bpffs.display(), list.join(", ")), (!is_clean).then_some(mend))
        }
        Err(error) => (Level::Unknown, error.to_string(), None),
    };
    Check { name, status, found, mend: mend.map(str::to_owned) }
}

fn check_lockdown() -> Check {
    let name = "lockdown";
    match probe::lockdown() {
        Known::Yes(mode) if mode == "confidentiality" => Check {
            name,
            status: Level::Missing,
            found: mode,
            mend: Some("the kernel lets no program read its memory: boot with lockdown=integrity".to_owned()),
        },
        Known::Yes(mode) => Check { name, status: Level::Ok, found: mode, mend: None },
        Known::NoSecurityfs => Check {
            name,
            status: Level::Unknown,
            found: "securityfs is not mounted, or the kernel has no lockdown".to_owned(),
            mend: None,
        },
        Known::Unreadable(why) => Check { name, status: Level::Unknown, found: why, mend: None },
    }
}

fn check_unprivileged_bpf() -> Check {
    let name = "unprivileged-bpf";
    let (status, found) = match probe::unprivileged_bpf_disabled() {
        Ok(value) if value == "0" => {
            (Level::Degraded, "any user may load BPF programs (inside a sandbox nobody may)".to_owned())
        }
        Ok(value) => (Level::Ok, format!("off (kernel.unprivileged_bpf_disabled = {value})")),
        Err(error) => (Level::Unknown, format!("kernel.unprivileged_bpf_disabled: {error}")),
    };
    let mend = (status == Level::Degraded).then(|| "sysctl -w kernel.unprivileged_bpf_disabled=2".to_owned());
    Check { name, status, found, mend }
}

fn check_log(log: Option<&Path>) -> Check {
    let name = "audit-log";
    match log {
        Some(log) => Check { name, status: Level::Ok, found: log.display().to_string(), mend: None },
        None => Check {
            name,
            status: Level::Unknown,
            found: "its place can't be told".to_owned(),
            mend: Some("name one: govsandbox run --audit-log FILE".to_owned()),
        },
    }
}

fn untried(name: &'static str) -> Check {
    let found = "not tried: a mount namespace of its own needs CAP_SYS_ADMIN".to_owned();
    Check { name, status: Level::Unknown, found, mend: Some("sudo govsandbox doctor".to_owned()) }
}

fn failed(name: &'static str, status: Level, error: &dyn Diagnostic) -> Check {
    let (found, mend) = told(error);
    Check { name, status, found, mend }
}

/// An error with its causes on one line, and its help.
fn told(error: &dyn Diagnostic) -> (String, Option<String>) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    (text, error.help().map(|help| help.to_string()))
}
