//! The thread that answers every waiting open.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    sync::Arc,
    thread::JoinHandle,
};

use govsandbox_ebpf::{
    abi::event::RecordAction,
    decide::path::{Operation, decide_path},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{FileType, Mode as FileMode, OFlags, Stat, StatVfsMountFlags, fstat, fstatvfs, major, minor},
    process::{Signal, pidfd_send_signal},
    time::{ClockId, clock_gettime},
};

use super::{
    programs::{self, Call},
    refusals::Outbox,
    rules::PathRules,
    syscall::{Purpose, purpose},
};
use crate::{
    backend::perform::Socket,
    launch::Forked,
    sys::fanotify::{Asked, Event, Group, Verdict},
};

/// `mode` of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuse.
    Enforce,
    /// Allow, and tell what would have been refused.
    Audit,
}

/// One open that a rule refuses (or would, in [`Mode::Audit`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Since boot, suspend included, when the event was read.
    pub time_boot_ns: u64,
    /// Process, as the supervisor's pid namespace sees it; 0: it can't be told any more.
    pub tgid: u32,
    /// Thread, likewise.
    pub tid: u32,
    /// The object's path as the sandbox sees it; what the kernel says of it where it has none.
    pub path: Vec<u8>,
    /// Device as in the kernel programs' records: major << 20 | minor.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// For writing or truncating.
    pub write: bool,
    /// To be executed.
    pub exec: bool,
    /// A folder, to be listed.
    pub list: bool,
    /// By an exec rule: what was asked for.
    pub call: Option<Call>,
    /// The rule; 0: it could not be decided.
    pub rule: u16,
    /// `false`: [`Mode::Audit`], it went through.
    pub refused: bool,
    /// No open, but this change of a name or attribute.
    pub change: Option<RecordAction>,
    /// No open: a unix socket that is reached or refused, `path` its name.
    pub socket: Option<Socket>,
    /// The new name, of a rename or link.
    pub target: Vec<u8>,
}

/// How much there was to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Opens that were asked about.
    pub asked: u64,
    /// Of those, refused.
    pub refused: u64,
    /// Reads of the group that failed: the kernel refuses such an open and tells nobody which.
    pub unreadable: u64,
}

/// The thread.
#[derive(Debug)]
pub struct Verdicts {
    thread: JoinHandle<Counts>,
    stop: OwnedFd,
}

struct Judge {
    group: Group,
    rules: Arc<PathRules>,
    mode: Mode,
    /// What stands before every path where the supervisor's root is not that of its mount namespace (a chroot).
    prefix: Vec<u8>,
    /// The sandbox's pid namespace: `st_dev` and inode of `/proc/INIT/ns/pid`.
    namespace: (u64, u64),
    refusals: Outbox,
    counts: Counts,
}

impl Verdicts {
    /// Starts it; from within `after_fork` of [`crate::launch::spawn`].
    ///
    /// Refusals are sent before the open goes on. If the thread can't go on it kills the sandbox.
    ///
    /// # Errors
    /// No group in `forked`, or no thread.
    pub fn start(
        forked: Forked<'_>,
        rules: Arc<PathRules>,
        mode: Mode,
        refusals: Outbox,
    ) -> io::Result<Self> {
        let group = forked.fanotify.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?.try_clone()?;
        let init = forked.init.try_clone_to_owned()?;
        let namespace = namespace_of(forked.init_pid)?;
        let prefix = prefix_of(forked.init_pid)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let mut judge = Judge { group, rules, mode, prefix, namespace, refusals, counts: Counts::default() };
        let thread = std::thread::Builder::new().name("verdicts".to_owned()).spawn(move || {
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge.run(&stopped)));
            if !matches!(ran, Ok(Ok(()))) {
                // Nobody would answer any more, so nothing may go on waiting. Fails only when it is gone.
                pidfd_send_signal(&init, Signal::KILL).ok();
            }
            judge.counts
        })?;
        Ok(Self { thread, stop })
    }

    /// Ends it, once the sandbox is gone.
    #[must_use]
    pub fn stop(self) -> Counts {
        // An eventfd takes 1 unless its counter is full; then it is readable already.
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).ok();
        self.thread.join().unwrap_or_default()
    }
}

impl Judge {
    fn run(&mut self, stop: &OwnedFd) -> io::Result<()> {
        loop {
            let mut watched = [
                PollFd::from_borrowed_fd(self.group.as_fd(), PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut watched, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let [asked, stopped] = watched.map(|one| !one.revents().is_empty());
            if asked {
                match self.group.read() {
                    Ok(events) => events.iter().for_each(|event| self.answer(event)),
                    // The kernel has refused the open whose object it could not hand over (fanotify_user.c, fanotify_read).
                    Err(_) => self.counts.unreadable += 1,
                }
            } else if stopped {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, event: &Event) {
        self.counts.asked += 1;
        let verdict = self.judge(event);
        if verdict == Verdict::Deny {
            self.counts.refused += 1;
        }
        // ENOENT: the thread was killed while it waited.
        self.group.answer(event, verdict).ok();
    }

    fn judge(&self, event: &Event) -> Verdict {
        let path = path_of(event, &self.prefix);
        let found = fstat(&event.object).ok();
        let Some(found) = found else {
            return self.refuse(event, path.unwrap_or_default(), None, Purpose::Write, 0);
        };
        let Some(path) = path else { return self.refuse(event, Vec::new(), Some(&found), Purpose::Write, 0) };
        if event.exec {
            return self.judge_program(event, path, &found);
        }
        let kind = FileType::from_raw_mode(found.st_mode);
        let Some(hits) = self.rules.hits(&path, (found.st_dev, found.st_ino)) else {
            return self.refuse(event, path, Some(&found), Purpose::Write, 0);
        };
        if hits.is_none() {
            // Another name of the same file could be one that a rule matches: then every open is asked about.
            if kind == FileType::RegularFile && found.st_nlink == 1 {
                // Without the mark the next open is asked about again, and that is all.
                self.group.ignore(Asked::Opens, event.object.as_fd()).ok();
            }
            return Verdict::Allow;
        }
        let purpose = match kind {
            // A folder can't be opened for anything but listing.
            FileType::Directory => Purpose::Read,
            _ => purpose(event.tid),
        };
        let operation = match purpose {
            Purpose::Write => Operation::Change,
            Purpose::Read | Purpose::Execute => Operation::Read,
        };
        let decision = decide_path(hits, operation);
        if decision.allow {
            return Verdict::Allow;
        }
        self.refuse(event, path, Some(&found), purpose, decision.rule)
    }

    /// A program, a script, an interpreter or a loader that is about to be executed.
    fn judge_program(&self, event: &Event, path: Vec<u8>, found: &Stat) -> Verdict {
        let Some(programs) = &self.rules.programs else { return Verdict::Allow };
        let Ok(file) = programs::file_of(event.object.as_fd()) else {
            return self.refuse(event, path, Some(found), Purpose::Execute, 0);
        };
        let judged = programs.judge(&path, &file, (found.st_dev, found.st_ino));
        if judged.decision.allow {
            // Its name is looked at again at the end of exec. What nobody inside can write stays the program it is.
            let is_read_only =
                fstatvfs(&event.object).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
            if judged.is_lasting && is_read_only && found.st_nlink == 1 {
                self.group.ignore(Asked::Programs, event.object.as_fd()).ok();
            }
            return Verdict::Allow;
        }
        if self.mode == Mode::Audit && judged.is_seen_later {
            return Verdict::Allow;
        }
        let call = Some(programs::call(event.tid));
        self.tell(event, path, Some(found), Purpose::Execute, judged.decision.rule, call)
    }

    /// Tells of it, then refuses; a process outside, met by way of a hard link, goes on untouched.
    fn refuse(
        &self,
        event: &Event,
        path: Vec<u8>,
        found: Option<&Stat>,
        purpose: Purpose,
        rule: u16,
    ) -> Verdict {
        self.tell(event, path, found, purpose, rule, None)
    }

    fn tell(
        &self,
        event: &Event,
        path: Vec<u8>,
        found: Option<&Stat>,
        purpose: Purpose,
        rule: u16,
        call: Option<Call>,
    ) -> Verdict {
        if namespace_of(event.tid).is_ok_and(|namespace| namespace != self.namespace) {
            return Verdict::Allow;
        }
        let refused = PathRules::refuses(rule, self.mode);
        let refusal = Refusal {
            time_boot_ns: now_boot_ns(),
            tgid: tgid_of(event.tid).unwrap_or(0),
            tid: u32::try_from(event.tid).unwrap_or(0),
            path,
            dev: found
                .map_or(0, |found| (u64::from(major(found.st_dev)) << 20) | u64::from(minor(found.st_dev))),
            ino: found.map_or(0, |found| found.st_ino),
            write: purpose == Purpose::Write,
            exec: purpose == Purpose::Execute,
            call,
            list: found.is_some_and(|found| FileType::from_raw_mode(found.st_mode).is_dir()),
            rule,
            refused,
            change: None,
            socket: None,
            target: Vec::new(),
        };
        self.refusals.send(refusal);
        if refused { Verdict::Deny } else { Verdict::Allow }
    }
}

/// The object's path as the sandbox sees it. `None`: it has none.
fn path_of(event: &Event, prefix: &[u8]) -> Option<Vec<u8>> {
    let path = link_of(event.object.as_fd()).ok()?;
    let inside = path.strip_prefix(prefix)?;
    Some(if inside.is_empty() { b"/".to_vec() } else { inside.to_vec() })
}

/// The path by which the sandbox's root is known to us.
fn prefix_of(init: i32) -> io::Result<Vec<u8>> {
    let root = rustix::fs::open(
        format!("/proc/{init}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        FileMode::empty(),
    )?;
    let path = link_of(root.as_fd())?;
    Ok(if path == b"/" { Vec::new() } else { path })
}

fn link_of(descriptor: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let link = fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
    Ok(link.into_os_string().into_vec())
}

fn namespace_of(tid: i32) -> io::Result<(u64, u64)> {
    let found = fs::metadata(format!("/proc/{tid}/ns/pid"))?;
    Ok((found.dev(), found.ino()))
}

fn tgid_of(tid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Since boot, suspend included.
pub(in crate::backend) fn now_boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
