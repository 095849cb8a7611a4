//! The checks of `doctor`: each looks at one thing, or at what came of trying it.

use std::path::Path;

use miette::Diagnostic;
use rustix::{
    fs::{Access, access},
    thread::{CapabilitySet, capabilities as capabilities_of},
};

use super::{
    Kind,
    machine::{Check, LANDLOCK_ABI_MIN, Level, Trial, Tried, told},
};
use crate::{
    bpf::{
        btf::VMLINUX,
        mount::BPFFS,
        probe::{self, Known, Pins},
    },
    launch::landlock::Strength,
    sys::mountinfo,
};

/// Capabilities that a supervisor needs, each with what for.
const CAPABILITIES: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
];

pub(super) fn capabilities() -> Check {
    let name = "capabilities";
    let held = match capabilities_of(None) {
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

pub(super) fn btf() -> Check {
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
pub(super) fn programs(trial: Option<&Trial>) -> Check {
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

pub(super) fn bpf_lsm(modules: &Known<Vec<String>>, tried: &Tried, was_tried: bool) -> Check {
    let name = "bpf-lsm";
    if tried.kind == Some(Kind::Lsm) {
        let found = "a program refused one open and let another pass".to_owned();
        return Check { name, status: Level::Ok, found, mend: None };
    }
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
    let listed = names.join(",");
    if !names.iter().any(|name| name == "bpf") {
        // `capability` is always there and never named.
        let wanted: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| *name != "capability").collect();
        let mend = format!(
            "boot with the kernel parameter lsm={},bpf (needs CONFIG_BPF_LSM=y): in /etc/default/grub, \
             GRUB_CMDLINE_LINUX, then update-grub and reboot",
            wanted.join(",")
        );
        let found = format!("`bpf` is not among the security modules ({listed})");
        return Check { name, status: Level::Missing, found, mend: Some(mend) };
    }
    if !was_tried {
        return Check { found: format!("listed ({listed}), not tried: that needs root"), ..untried(name) };
    }
    let why = tried.not_had.iter().find(|(kind, _)| *kind == Kind::Lsm).map_or("", |(_, why)| why.as_str());
    let mend = "if the kernel refuses to load them, it may be built without trampolines or be hardened against patching \
                its own text, as in many micro-VMs: a distribution's kernel takes them";
    let found = format!("listed, and does not work: {why}");
    Check { name, status: Level::Missing, found, mend: Some(mend.to_owned()) }
}

pub(super) fn fanotify(trial: Option<&Trial>) -> Check {
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

pub(super) fn landlock(strength: &Strength) -> Check {
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

pub(super) fn cgroup(mounted: Option<&Path>, trial: Option<&Trial>) -> Check {
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

pub(super) fn pins(pins: &std::io::Result<Pins>) -> Check {
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

pub(super) fn lockdown() -> Check {
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

pub(super) fn unprivileged_bpf() -> Check {
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

pub(super) fn log(log: Option<&Path>) -> Check {
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
