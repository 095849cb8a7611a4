//! The thread that turns records into events, and keeps names and losses up to date.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use govsandbox_ebpf::abi::{
    event::{EventRecord, FLAG_ARGV_CUT, RecordAction, RecordKind, RecordOutcome},
    exec::ExecTable,
    rule::Loss,
};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    broker::{Egress, Told},
    limits::Reports,
    lookups,
    resolve::Resolver,
};
use crate::{
    audit::recorder::RecorderHandle,
    backend::fanotify::{Inbox, Refusal},
    bpf::{
        fill::Sandbox,
        log::KernelLog,
        reader::{Rings, Woken},
    },
    event::{
        clock::Clock,
        decode::Decoder,
        model::{Event, Kind},
        privilege::Filter,
    },
    launch::Killer,
    policy::compile::{Compiled, PathTable},
};

/// How often losses are looked at, and refusals that no record follows.
const TICK_MS: u32 = 100;
/// What the egress service says that is taken at a time.
const TOLD_AT_ONCE: usize = 256;
/// Of losses of what was allowed.
const NO_ROOM: &str = "the kernel's buffer was full";
/// How long a name's addresses are taken for true.
const NAMES_KEPT: Duration = Duration::from_secs(60);

/// The command before its first exec, so that its events have a subject.
pub(super) struct Command {
    pub(super) pid: u32,
    pub(super) argv: Vec<OsString>,
    pub(super) cwd: PathBuf,
}

/// What the thread works on.
pub(super) struct Observed {
    pub(super) sandbox: Sandbox,
    pub(super) rings: Rings,
    pub(super) kernel_log: Option<KernelLog>,
    pub(super) killer: Option<Killer>,
    pub(super) limits: Reports,
    pub(super) refused: Inbox,
    pub(super) resolver: Resolver,
    pub(super) egress: Arc<Egress>,
    pub(super) told: Receiver<Told>,
    pub(super) compiled: Arc<Compiled>,
    pub(super) automaton: PathTable,
    pub(super) programs: Option<Arc<ExecTable>>,
    pub(super) root: PathBuf,
    pub(super) enforcing: bool,
    pub(super) command: Command,
    pub(super) recorder: RecorderHandle,
}

/// The running thread.
pub(super) struct Observer {
    thread: JoinHandle<()>,
    stop: OwnedFd,
}

impl Observer {
    pub(super) fn start(observed: Observed, filter: Filter) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = std::thread::Builder::new().name("observer".to_owned()).spawn(move || {
            let mut decoder = Decoder::new(
                Arc::clone(&observed.compiled),
                observed.automaton.clone(),
                observed.root.clone(),
                observed.enforcing,
                filter,
            )
            .with_programs(observed.programs.clone());
            decoder.command(observed.command.pid, &observed.command.argv, &observed.command.cwd);
            Work { observed, decoder, waiting: VecDeque::new(), reported: Vec::new() }.run(&stopped);
        })?;
        Ok(Self { thread, stop })
    }

    /// Ends it once the sandbox is gone and everything that was written has been read.
    pub(super) fn stop(self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).ok(); // an eventfd takes 1
        if self.thread.join().is_err() {
            crate::diagnostic::tell("the thread that reads events failed; the log is not complete");
        }
    }
}

struct Work {
    observed: Observed,
    decoder: Decoder,
    /// Refusals of the verdict thread whose syscalls' ends have not been read yet.
    waiting: VecDeque<Refusal>,
    /// Losses that are in the log already, by kind.
    reported: Vec<((RecordKind, bool), u64)>,
}

impl Work {
    fn run(&mut self, stop: &OwnedFd) {
        let mut names_due = Instant::now() + NAMES_KEPT;
        let mut losses_due = Instant::now();
        loop {
            let woken = self.observed.rings.wait(stop.as_fd(), TICK_MS);
            self.read_all();
            if let Some(log) = &mut self.observed.kernel_log {
                log.flush();
            }
            let now = Instant::now();
            if now >= losses_due {
                self.report_losses();
                self.observed.egress.expire();
                losses_due = now + Duration::from_secs(1);
            }
            self.take_names();
            if self.observed.resolver.has_names() && now >= names_due {
                self.observed.resolver.begin();
                names_due = now + NAMES_KEPT;
            }
            match woken {
                Ok(Woken::Other) => break,
                Ok(Woken::Records | Woken::Timeout) => {}
                Err(error) => {
                    // What nobody records does not go on.
                    crate::diagnostic::tell(&format!(
                        "cannot wait for the kernel's records, so the run ends: {error}"
                    ));
                    if let Some(killer) = &self.observed.killer {
                        killer.kill();
                    }
                    break;
                }
            }
        }
        // The sandbox's cgroup is empty and gone, so every record is there.
        while self.read_all() {}
        for refusal in std::mem::take(&mut self.waiting) {
            self.observed.recorder.record(told(&mut self.decoder, &refusal));
        }
        self.report_losses();
    }

    /// What the kernel and the egress service have told until now. What the service says is taken first and told last, so
    /// that the start of whoever asked is known. `true`: the service may have more to say.
    fn read_all(&mut self) -> bool {
        let told: Vec<Told> = self.observed.told.try_iter().take(TOLD_AT_ONCE).collect();
        while self.read() {}
        for told in &told {
            if let Some(event) = lookups::event(&mut self.decoder, told, self.observed.enforcing) {
                self.observed.recorder.record(event);
            }
        }
        !told.is_empty()
    }

    /// Hands everything to the recorder by time. `true`: there may be more.
    ///
    /// A refusal of the verdict thread is sent before the open goes on: before the record of that syscall's end is there,
    /// and after that of its process's exec.
    fn read(&mut self) -> bool {
        let Observed { rings, refused, recorder, egress, .. } = &mut self.observed;
        let (decoder, waiting) = (&mut self.decoder, &mut self.waiting);
        let patience_ns = u64::from(TICK_MS) * 1_000_000;
        let overdue_ns = boot_ns().saturating_sub(patience_ns);
        waiting.extend(refused.take());
        let more = rings.drain(|header, bytes| {
            if header.outcome != RecordOutcome::Allowed as u8 {
                waiting.extend(refused.take());
            }
            while waiting.front().is_some_and(|refusal| refusal.time_boot_ns <= header.time_boot_ns) {
                if let Some(refusal) = waiting.pop_front() {
                    recorder.record(told(decoder, &refusal));
                    refused.told();
                }
            }
            match decoder.record(bytes) {
                Ok(Some(event)) => recorder.record(with_names(event, header, egress)),
                Ok(None) => {}
                Err(error) => {
                    let now = jiff::Timestamp::now();
                    recorder.record(Event::gap(now, "unknown", 1, (now, now), &error.to_string()));
                }
            }
        });
        // The decoder knows one refusal of each thread: told of ahead of its record, the next would take its place.
        while !more && waiting.front().is_some_and(|refusal| refusal.time_boot_ns <= overdue_ns) {
            if let Some(refusal) = waiting.pop_front() {
                recorder.record(told(decoder, &refusal));
                refused.told();
            }
        }
        more
    }

    fn report_losses(&mut self) {
        let Observed { limits, recorder, .. } = &mut self.observed;
        limits.due().into_iter().for_each(|event| recorder.record(event));
        for (kind, refused, loss) in self.observed.sandbox.losses() {
            let key = (kind, refused);
            let known = self.reported.iter().find(|(known, _)| *known == key).map_or(0, |(_, count)| *count);
            if loss.count > known {
                let detail = if refused { self.decoder.lost(&loss) } else { NO_ROOM.to_owned() };
                self.observed.recorder.record(gap(kind, &loss, loss.count - known, &detail));
                self.reported.retain(|(known, _)| *known != key);
                self.reported.push((key, loss.count));
            }
        }
    }

    fn take_names(&mut self) {
        if self.observed.resolver.collect(Duration::ZERO) {
            self.observed.egress.set_denied(self.observed.resolver.resolved());
        }
    }
}

/// A destination's name, where its rule does not tell: the one that the address was looked up by. Whom the connection said
/// it talks to, where that was compared.
fn with_names(mut event: Event, header: &EventRecord, egress: &Egress) -> Event {
    if event.object.name.is_none() {
        let address = event.object.address.as_deref().and_then(|address| address.parse().ok());
        event.object.name = address.and_then(|address| egress.name_of(address));
    }
    if event.kind == Kind::NetClose {
        let asked_boot_ns = header.time_boot_ns.saturating_sub(header.value);
        event.object.server_name = egress.spoken_to((asked_boot_ns, header.tgid));
    }
    event
}

fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

fn gap(kind: RecordKind, loss: &Loss, count: u64, detail: &str) -> Event {
    let mut clock = Clock::measured();
    // 0: there was no record yet that could have had a time.
    let mut time = |boot_ns| if boot_ns == 0 { jiff::Timestamp::now() } else { clock.utc(boot_ns) };
    let (from, to) = (time(loss.first.time_boot_ns), time(loss.last.time_boot_ns));
    let kind = match kind {
        RecordKind::Exec | RecordKind::Fork => Kind::ProcessExec,
        RecordKind::Exit => Kind::ProcessExit,
        RecordKind::Open => Kind::FileOpen,
        RecordKind::Change => Kind::FileChange,
        RecordKind::Connect => Kind::NetConnect,
        RecordKind::Send => Kind::NetSend,
        RecordKind::Listen => Kind::NetListen,
        RecordKind::Close => Kind::NetClose,
        RecordKind::Privilege => Kind::PrivilegeUse,
    };
    Event::gap(to, kind.name(), count, (from, to), detail)
}

fn told(decoder: &mut Decoder, refusal: &Refusal) -> Event {
    let argv = refusal.call.as_ref().map_or(&[][..], |call| &call.argv);
    decoder.refusal(&as_record(refusal), &refusal.path, &refusal.target, argv)
}

/// A refusal by the verdict thread in the form of the kernel's records.
fn as_record(refusal: &Refusal) -> EventRecord {
    let action = if let Some(change) = refusal.change {
        change
    } else if refusal.exec {
        RecordAction::Execute
    } else if refusal.list {
        RecordAction::List
    } else if refusal.write {
        RecordAction::Write
    } else {
        RecordAction::Read
    };
    let outcome = match refusal.socket {
        Some(socket) if socket.allowed => RecordOutcome::Allowed,
        _ if refusal.refused => RecordOutcome::Denied,
        _ => RecordOutcome::WouldDeny,
    };
    EventRecord {
        time_boot_ns: refusal.time_boot_ns,
        start_boot_ns: 0,
        dev: refusal.dev,
        ino: refusal.ino,
        value: 0,
        sandbox_id: 0,
        tgid: refusal.tgid,
        tid: refusal.tid,
        ppid: 0,
        uid: 0,
        errno: if refusal.refused { libc::EPERM as u32 } else { 0 },
        flags: if refusal.call.as_ref().is_some_and(|call| call.is_cut) { FLAG_ARGV_CUT } else { 0 },
        path_len: refusal.path.len() as u32,
        second_len: refusal.target.len() as u32,
        argv_len: 0,
        address: [0; 16],
        port: 0,
        family: refusal.socket.map_or(0, |_| libc::AF_UNIX as u16),
        protocol: refusal.socket.map_or(0, |socket| socket.kind),
        rule: refusal.rule,
        kind: match (&refusal.call, &refusal.change) {
            (Some(_), _) => RecordKind::Exec,
            (None, Some(_)) => RecordKind::Change,
            (None, None) if refusal.socket.is_some() => RecordKind::Connect,
            (None, None) => RecordKind::Open,
        } as u8,
        action: if refusal.call.is_some() || refusal.socket.is_some() { RecordAction::None } else { action }
            as u8,
        outcome: outcome as u8,
        _pad: [0; 5],
    }
}
