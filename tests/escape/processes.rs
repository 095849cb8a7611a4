//! Processes outside: they have no number inside, whatever call is asked.

use std::{
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
};

use crate::{
    attempt::{Attempt, BY_KERNEL, Class, Inside, Told},
    privileges::past,
    stage::Stage,
    sys::{call, open, owned, read},
};

/// A process of the same user, outside.
struct Outside(Child);

impl Drop for Outside {
    fn drop(&mut self) {
        // Reached by the attempt is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process outside whose environment holds the canary, with the attempt's number for it.
pub(crate) fn outside(stage: &mut Stage) {
    let canary = std::fs::read_to_string(stage.path("canary")).unwrap_or_default();
    let mut command = Command::new("sleep");
    command.arg("600").env_clear().env("CANARY", canary).current_dir(&stage.folder);
    let child = command.uid(stage.uid).gid(stage.uid).stdin(Stdio::null()).spawn().unwrap();
    stage.say("pid", child.id());
    stage.keep(Outside(child));
}

fn pid(at: &Inside) -> io::Result<i64> {
    at.said("pid")?.parse().map_err(io::Error::other)
}

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("processes-{name}"), Class::Processes, what, source)
}

/// A call about a process outside: the kernel knows none of that number.
fn about(
    name: &str,
    what: &'static str,
    source: &'static str,
    act: impl Fn(i64) -> io::Result<i64> + 'static,
) -> Attempt {
    new(name, what, source)
        .control_by_root()
        .staged(outside)
        .acts(move |at| act(pid(at)?).map(|_| String::new()))
        .refused(&[libc::ESRCH])
        .told(BY_KERNEL)
}

fn pidfd(pid: i64) -> io::Result<std::os::fd::OwnedFd> {
    call!(libc::SYS_pidfd_open, pid, 0).map(owned)
}

/// So that the control slows down nobody but itself.
fn own_group() -> io::Result<()> {
    call!(libc::SYS_setpgid, 0, 0).map(|_| ())
}

/// Whoever opens the file elsewhere would wait, 45 s at a time; it need only be the user's own, and readable.
fn leases() -> [Attempt; 3] {
    // F_SETLEASE of F_WRLCK, F_NOTIFY of DN_CREATE.
    const ASKED: [(&str, &str, i32, u64); 3] = [
        ("lease", "whoever opens a file held up", libc::F_SETLEASE, libc::F_WRLCK as u64),
        ("lease-high", "the same with more in the register", libc::F_SETLEASE, libc::F_WRLCK as u64),
        ("notify", "a folder watched by signals", libc::F_NOTIFY, 4),
    ];
    ASKED.map(|(name, what, command, argument)| {
        new(name, what, "fcntl(2)")
            .acts(move |at| {
                let path = at.path("own");
                std::fs::write(&path, "")?;
                let file = open(if command == libc::F_NOTIFY { &at.folder } else { &path }, libc::O_RDONLY)?;
                let high = if name == "lease-high" { 0xbad_0000_0000 } else { 0 };
                let command = i64::from(command) | high;
                call!(libc::SYS_fcntl, file.as_raw_fd(), command, argument).map(|_| String::new())
            })
            .told(Told::Event { kind: "privilege.use", rule: "builtin/processes", about: "lease" })
    })
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut all = vec![
        about("kill", "ended", "kill(2)", |pid| call!(libc::SYS_kill, pid, libc::SIGKILL)),
        about("stop", "stopped", "kill(2)", |pid| call!(libc::SYS_kill, pid, libc::SIGSTOP)),
        about("tgkill", "a thread ended", "tgkill(2)", |pid| {
            call!(libc::SYS_tgkill, pid, pid, libc::SIGKILL)
        }),
        about("sigqueue", "a signal with a value", "rt_sigqueueinfo(2)", |pid| {
            // siginfo_t: SI_QUEUE.
            let information = [
                0_i32, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 0, 0,
            ];
            call!(libc::SYS_rt_sigqueueinfo, pid, libc::SIGTERM, information.as_ptr())
        }),
        about("pidfd-signal", "a signal by descriptor", "pidfd_send_signal(2)", |pid| {
            call!(libc::SYS_pidfd_send_signal, pidfd(pid)?.as_raw_fd(), libc::SIGKILL, 0, 0)
        }),
        about("pidfd-getfd", "a descriptor taken", "pidfd_getfd(2)", |pid| {
            call!(libc::SYS_pidfd_getfd, pidfd(pid)?.as_raw_fd(), 0, 0)
        }),
        about("madvise", "memory thrown out", "process_madvise(2)", |pid| {
            call!(libc::SYS_process_madvise, pidfd(pid)?.as_raw_fd(), 0, 0, 20, 0)
        }),
        about("ptrace", "traced", "ptrace(2)", |pid| call!(libc::SYS_ptrace, 0x4206, pid, 0, 0)),
        about("memory", "memory read", "process_vm_readv(2)", |pid| {
            let mut byte = 0_u8;
            let (here, there) = ([(&raw mut byte) as u64, 1], [1_u64, 1]);
            let read = call!(libc::SYS_process_vm_readv, pid, here.as_ptr(), 1, there.as_ptr(), 1, 0);
            // Nothing is at that address: the kernel looked.
            past(read, &[libc::EFAULT]).map(|_| 0)
        }),
        about("kcmp", "kernel objects compared", "kcmp(2)", |pid| call!(libc::SYS_kcmp, pid, pid, 0, 0, 0)),
        about("priority", "slowed down", "setpriority(2)", |pid| {
            call!(libc::SYS_setpriority, libc::PRIO_PROCESS, pid, 19)
        }),
        about("affinity", "put on one processor", "sched_setaffinity(2)", |pid| {
            let mask = 1_u64;
            call!(libc::SYS_sched_setaffinity, pid, 8, &raw const mask)
        }),
        about("scheduler", "scheduled as idle", "sched_setscheduler(2)", |pid| {
            let priority = 0_i32;
            call!(libc::SYS_sched_setscheduler, pid, libc::SCHED_IDLE, &raw const priority)
        }),
        about("ioprio", "its input and output put last", "ioprio_set(2)", |pid| {
            call!(libc::SYS_ioprio_set, 1, pid, 3 << 13)
        }),
        about("pages", "its pages moved", "migrate_pages(2)", |pid| {
            let nodes = 1_u64;
            call!(libc::SYS_migrate_pages, pid, 64, &raw const nodes, &raw const nodes)
        })
        .where_there(),
    ];
    for (name, what, file) in [
        ("environ", "its environment", "environ"),
        ("cwd", "the denied file below its folder", "cwd/canary"),
        ("root", "the denied file below its root", "root"),
    ] {
        all.push(
            new(name, what, "proc(5)")
                .secret("canary")
                .control_by_root()
                .staged(outside)
                .reads(move |at| {
                    let below =
                        if file == "root" { at.secret().display().to_string() } else { String::new() };
                    read(format!("/proc/{}/{file}{below}", pid(at)?))
                })
                .refused(&[libc::ENOENT])
                .told(BY_KERNEL),
        );
    }
    const GROUP: Told = Told::Event { kind: "privilege.use", rule: "builtin/processes", about: "group" };
    all.push(
        new("group-priority", "the rest of the shell's job slowed down", "setpriority(2), PRIO_PGRP")
            .acts(|_| {
                own_group()
                    .and_then(|()| call!(libc::SYS_setpriority, libc::PRIO_PGRP, 0, 19))
                    .map(|_| String::new())
            })
            .told(GROUP),
    );
    all.push(
        new("group-ioprio", "the same of input and output", "ioprio_set(2), IOPRIO_WHO_PGRP")
            .acts(|_| {
                own_group().and_then(|()| call!(libc::SYS_ioprio_set, 2, 0, 3 << 13)).map(|_| String::new())
            })
            .told(GROUP),
    );
    all.extend(leases());
    all
}
