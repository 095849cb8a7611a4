//! Devices and kernel settings: files that are not on a disk.

use crate::{
    attempt::{Attempt, BY_SECCOMP, Class, Told},
    sys::{c, call, open},
};

/// Files that root could write, and what a write would do.
const SETTINGS: [(&str, &str, &str, &str); 17] = [
    ("core-pattern", "/proc/sys/kernel/core_pattern", "a program for the next core dump", "core(5)"),
    ("modprobe", "/proc/sys/kernel/modprobe", "a program for the next module", "proc(5)"),
    ("hotplug", "/sys/kernel/uevent_helper", "a program for the next device", "CVE-2022-0492's kin"),
    ("sysrq-trigger", "/proc/sysrq-trigger", "a key of the console", "proc(5)"),
    ("sysrq", "/proc/sys/kernel/sysrq", "the console's keys", "proc(5)"),
    ("randomize", "/proc/sys/kernel/randomize_va_space", "address randomisation", "proc(5)"),
    ("ptrace-scope", "/proc/sys/kernel/yama/ptrace_scope", "who may trace whom", "Yama"),
    ("unprivileged-bpf", "/proc/sys/kernel/unprivileged_bpf_disabled", "who may load programs", "bpf(2)"),
    ("perf-paranoid", "/proc/sys/kernel/perf_event_paranoid", "who may count events", "perf_event_open(2)"),
    ("suid-dumpable", "/proc/sys/fs/suid_dumpable", "core dumps of setuid programs", "proc(5)"),
    ("protected-symlinks", "/proc/sys/fs/protected_symlinks", "symlinks in sticky folders", "proc(5)"),
    ("forward", "/proc/sys/net/ipv4/ip_forward", "routing", "ip(7)"),
    ("panic", "/proc/sys/kernel/panic", "restart after a panic", "proc(5)"),
    ("domainname", "/proc/sys/kernel/domainname", "the machine's domain", "proc(5)"),
    ("drop-caches", "/proc/sys/vm/drop_caches", "everyone's caches", "proc(5)"),
    ("overcommit", "/proc/sys/vm/overcommit_memory", "everyone's memory", "proc(5)"),
    ("hostname", "/proc/sys/kernel/hostname", "the machine's name", "proc(5)"),
];

const WRITE: Told = Told::Event { kind: "file.open", rule: "", about: "{path}" };

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut all: Vec<Attempt> = SETTINGS
        .into_iter()
        .map(|(name, path, what, source)| {
            Attempt::new(format!("settings-{name}"), Class::Settings, what, source)
                .control_by_root()
                .where_there()
                .staged(move |stage| stage.say("path", path))
                // Opened and not written: the control must not change the machine.
                .acts(move |_| open(path, libc::O_WRONLY).map(|_| String::new()))
                .refused(&[libc::EPERM, libc::EACCES, libc::EROFS])
                .told(WRITE)
        })
        .collect();
    all.extend([Attempt::new(
        "settings-binfmt",
        Class::Settings,
        "a handler for files that others execute",
        "binfmt_misc",
    )
    .control_by_root()
    .acts(|_| {
        let target = c("/proc/sys/fs/binfmt_misc");
        let kind = c("binfmt_misc");
        call!(libc::SYS_mount, kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, 0)?;
        call!(libc::SYS_umount2, target.as_ptr(), 0)?;
        Ok(String::new())
    })
    .told(BY_SECCOMP)]);
    all
}
