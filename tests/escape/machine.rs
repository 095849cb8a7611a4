//! What belongs to the whole machine and is met in the sandbox: govsandbox's program by way of its own processes.

use std::{fs, io, os::unix::fs::PermissionsExt as _};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{
    attempt::{Attempt, BY_KERNEL, Class, Step, Told},
    bed::pty::Pty,
    processes,
    sys::open,
};

pub(crate) fn attempts() -> Vec<Attempt> {
    performer().into_iter().chain(devices()).chain(pipes()).collect()
}

/// Named pipes: the kernel asks nobody about their opens, and a read-only mount lets them be written.
fn pipes() -> Vec<Attempt> {
    let ways: [(&str, &'static str, Step, &'static str); 6] = [
        ("named", "what is said in a denied pipe", |attempt| attempt.deny("pipe"), "pipe"),
        ("below", "a pipe in a denied folder", |attempt| attempt.deny("vault"), "vault/deep/pipe"),
        ("pattern", "a pipe that a pattern denies", |attempt| attempt.deny("**/sealed.pipe"), "sealed.pipe"),
        ("kept", "an order to who listens at a protected pipe", |attempt| attempt.protect("pipe"), "pipe"),
        ("kept-below", "a pipe in a protected folder", |attempt| attempt.protect("vault"), "vault/deep/pipe"),
        (
            "kept-pattern",
            "a pipe that a pattern protects",
            |attempt| attempt.protect("**/sealed.orders"),
            "sealed.orders",
        ),
    ];
    let of_way = |(name, what, rule, path): (&str, &'static str, Step, &'static str)| {
        rule(Attempt::new(format!("names-pipe-{name}"), Class::Names, what, "fifo(7)"))
            .staged(move |stage| {
                stage.file(&format!("{path}.beside"), "");
                mknodat(CWD, stage.path(path), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
                stage.give(&stage.path(path));
            })
            .acts(move |at| open(at.path(path), libc::O_RDWR | libc::O_NONBLOCK).map(|_| String::new()))
    };
    ways.map(of_way).into()
}

/// Links to the program and the files of the processes that stand beside the command, by each of their names.
fn performer() -> [Attempt; 2] {
    let new = |name: &str, what, links: &'static [&'static str]| {
        Attempt::new(name, Class::OwnFiles, what, "proc_pid_exe(5)")
            .control_by_root()
            .staged(processes::outside)
            .acts(move |at| changed(&at.said("pid")?, links))
            .refused(&[libc::EACCES])
            .told(BY_KERNEL)
    };
    [
        new(
            "own-performer-exe",
            "the mode of govsandbox itself, by the link of a process of its own",
            &["exe", "fd/../exe", "root/proc/self/exe"],
        ),
        new(
            "own-performer-files",
            "the mode of what a process of govsandbox's own has open",
            &["fd/0", "fd/1", "fd/2", "fd/3", "fd/4", "fd/5"],
        ),
    ]
}

/// Sets a mode by a link of a process that the caller can't look into, outside by one of another.
fn changed(outside: &str, links: &[&str]) -> io::Result<String> {
    for pid in std::iter::once(outside.to_owned()).chain((1..10).map(|pid| pid.to_string())) {
        let folders = [
            format!("/proc/{pid}"),
            format!("/proc/{pid}/task/{pid}"),
            format!("/proc/{pid}/task/../task/.."),
        ];
        for path in folders.iter().flat_map(|folder| links.iter().map(move |link| format!("{folder}/{link}")))
        {
            let mode = match fs::metadata(&path) {
                Ok(_) if pid != outside => continue,
                // The mode that it has: what counts is that it may be set.
                Ok(found) => found.permissions(),
                Err(_) => fs::Permissions::from_mode(0o666),
            };
            if fs::set_permissions(&path, mode).is_ok() {
                return Ok(path);
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

/// Devices that lead to what others type and show, or to the hardware, for whom their mode lets open them.
fn devices() -> Vec<Attempt> {
    const NO_RULE: Told = Told::Nothing("no rule names devices that are not the sandbox's");
    let new = |name: &str, what, source| {
        Attempt::new(format!("devices-{name}"), Class::Devices, what, source).told(NO_RULE)
    };
    let opened =
        |path: &str| open(path, libc::O_RDONLY | libc::O_NOCTTY | libc::O_NONBLOCK).map(|_| String::new());
    let read: [(&str, &'static str, &'static str, &'static str); 11] = [
        ("console", "/dev/console", "the machine's console", "console(4)"),
        ("virtual-console", "/dev/tty1", "what is typed on the first console", "console(4)"),
        ("screen", "/dev/vcs1", "what the first console shows", "vcs(4)"),
        ("serial", "/dev/ttyS0", "the serial line", "ttyS(4)"),
        ("log", "/dev/kmsg", "the kernel's log, for reading", "kmsg"),
        ("memory", "/dev/mem", "the machine's memory, for reading", "mem(4)"),
        ("keyboard", "/dev/input/event0", "what is typed anywhere", "input"),
        ("scsi", "/dev/sg0", "commands to a disk", "sg"),
        ("nvme", "/dev/ng0n1", "commands to a disk", "NVMe generic"),
        ("vsock", "/dev/vsock", "the hypervisor's sockets", "vsock(7)"),
        ("userfaultfd", "/dev/userfaultfd", "faults of one's own, to hold system calls", "userfaultfd"),
    ];
    let mut all: Vec<Attempt> = read
        .into_iter()
        .map(|(name, path, what, source)| {
            new(name, what, source)
                .control_by_root()
                .where_there()
                .where_forbidden()
                .where_not_supported()
                .acts(move |_| opened(path))
                .refused(&[libc::EACCES])
        })
        .collect();
    all.push(
        new("terminal", "another terminal of the same user", "pts(4)")
            .staged(|stage| {
                let pty = Pty::new();
                pty.give(stage.uid);
                stage.say("path", pty.name());
                stage.keep(pty);
            })
            .acts(move |at| opened(&at.said("path")?))
            .refused(&[libc::ENOENT]),
    );
    all.push(
        Attempt::new(
            "devices-mode",
            Class::Devices,
            "the mode of a device, for the whole machine",
            "chmod(2)",
        )
        .control_by_root()
        .acts(|_| {
            let path = "/dev/full";
            fs::set_permissions(path, fs::metadata(path)?.permissions()).map(|()| String::new())
        })
        .refused(&[libc::EROFS, libc::EPERM])
        .told(Told::Nothing("what may be written is read-only as a mount")),
    );
    all.extend(["/proc/version", "/proc/self/net/dev"].into_iter().enumerate().map(|(place, path)| {
        let what = "the mode of an entry of /proc, for the whole machine";
        Attempt::new(
            format!("settings-mode-{place}"),
            Class::Settings,
            what,
            "proc_notify_change of fs/proc/generic.c",
        )
        .control_by_root()
        .acts(move |_| fs::set_permissions(path, fs::metadata(path)?.permissions()).map(|()| String::new()))
        .refused(&[libc::EPERM])
        .told(Told::Event { kind: "file.change", rule: "builtin/proc-attribute", about: "/proc/" })
    }));
    all
}
