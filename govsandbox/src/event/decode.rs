//! From records of kernel and verdict threads to events.

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    path::Path,
    path::PathBuf,
    sync::Arc,
};

use govsandbox_ebpf::abi::{
    event::{
        EventRecord, FLAG_ARGV_CUT, FLAG_PATH_AS_GIVEN, FLAG_PATH_CUT, RecordAction, RecordKind,
        RecordOutcome,
    },
    exec::ExecTable,
    rule::{Loss, Lost, RULE_MOVED, RULE_PROC, RULE_READ, RULE_SOCKET, RULE_SYMLINK, RULE_WRITE},
};

pub use super::record::DecodeError;
use super::{
    clock::Clock,
    model::{Action, Event, Kind, Object, Outcome, Rule},
    object,
    privilege::{self, Filter, Refused},
    processes::{Processes, Program, Subject},
    record::Record,
    refused::{Meant, Refusals},
    text::{Text, for_terminal},
};
use crate::{
    id::RuleId,
    policy::compile::{Compiled, EgressTarget, Layer, PathTable, RuleInfo},
};

/// Threads with refusals of verdict threads whose syscall did not end yet, and such refusals of one, at most; beyond that a refusal may be told twice.
const UNFINISHED_MAX: usize = 4096;

/// A call that the host refused and that did not end yet: when, and of an open the object's last name.
type Unfinished = (u64, Option<Vec<u8>>);

/// Makes events of one sandbox's records.
///
/// Records may come out of order between the two ring buffers. Hand in a verdict thread's refusals before the ring
/// buffers' records: the thread tells of them before the syscall goes on.
#[derive(Debug)]
pub struct Decoder {
    refusals: Refusals,
    filter: Filter,
    /// By rule number from 1: the host name that the rule is about.
    names: Vec<Option<String>>,
    enforcing: bool,
    clock: Clock,
    processes: Processes,
    /// By thread.
    unfinished: HashMap<u32, VecDeque<Unfinished>>,
}

impl Decoder {
    /// `compiled` has its links followed (`policy::explain::with_links_followed`); `root` is where the sandbox's file
    /// system is seen from here (`/proc/INIT/root`). `enforcing`: the policy's mode is not `audit`. `filter` knows what seccomp refuses.
    #[must_use]
    pub fn new(
        compiled: Arc<Compiled>,
        automaton: PathTable,
        root: PathBuf,
        enforcing: bool,
        filter: Filter,
    ) -> Self {
        Self {
            names: names(&compiled),
            refusals: Refusals { compiled, automaton, programs: None, root },
            filter,
            enforcing,
            clock: Clock::measured(),
            processes: Processes::default(),
            unfinished: HashMap::new(),
        }
    }

    /// The exec rules of the run.
    #[must_use]
    pub fn with_programs(mut self, programs: Option<Arc<ExecTable>>) -> Self {
        self.refusals.programs = programs;
        self
    }

    /// The command before its first exec, so that its fork and events have a parent. Call it before the first record.
    pub fn command(&mut self, tgid: u32, argv: &[OsString], cwd: &Path) {
        let mut bytes = Vec::new();
        for argument in argv {
            bytes.extend_from_slice(argument.as_bytes());
            bytes.push(0);
        }
        let program = Program { exe: None, argv: bytes, argv_truncated: false, cwd: Some(Text::from(cwd)) };
        self.processes.begin(tgid, program);
    }

    /// One record of a ring buffer: an `EventRecord` followed by its texts. `None`: nothing for the log (a fork; a
    /// refusal that was reported already; an exit that was).
    ///
    /// # Errors
    /// The bytes are no record of this ABI.
    pub fn record(&mut self, bytes: &[u8]) -> Result<Option<Event>, DecodeError> {
        let record = Record::parse(bytes)?;
        let subject = subject(&record.head);
        let number = || {
            let value = record.head.value;
            u32::try_from(value).map_err(|_| DecodeError::Value { kind: record.kind, value })
        };
        if record.outcome == RecordOutcome::Failed && record.has(FLAG_PATH_AS_GIVEN) {
            return Ok(self.failed(&record));
        }
        let object = match record.kind {
            RecordKind::Fork => {
                self.processes.fork(&subject, number()?);
                return Ok(None);
            }
            RecordKind::Exit => {
                let object = object::end(number()?);
                if !self.processes.exit(&subject) {
                    return Ok(None);
                }
                object
            }
            RecordKind::Exec => {
                if is_loaded(&record) {
                    self.processes.exec(&subject, program(&record));
                }
                object::walked(&record)
            }
            RecordKind::Open | RecordKind::Change => object::walked(&record),
            RecordKind::Connect | RecordKind::Send if object::is_unix(&record) => object::socket(&record),
            RecordKind::Connect | RecordKind::Send | RecordKind::Listen => {
                object::destination(&record.head, self.name(record.head.rule))
            }
            RecordKind::Close => object::ended(&record.head, self.name(record.head.rule)),
            RecordKind::Privilege => return Ok(self.privilege(&record)),
        };
        Ok(Some(self.event(&record, object)))
    }

    /// What the policy calls what a rule is about.
    fn name(&self, rule: u16) -> Option<&str> {
        self.names.get(usize::from(rule).checked_sub(1)?)?.as_deref()
    }

    /// A call or hook that names no file. `None`: the kernel's own refusal, which is as without a sandbox.
    fn privilege(&mut self, record: &Record<'_>) -> Option<Event> {
        let Refused { call, rule, detail } = privilege::refused(record, &self.filter)?;
        let object = Object { detail: Some(detail), ..Object::default() };
        let rule = Some(Rule { id: RuleId(rule.to_owned()), layer: Layer::Builtin });
        let event = self.event(record, object);
        Some(Event { action: Action::Call(call), outcome: Outcome::Denied, rule, ..event })
    }

    /// A refusal that a verdict thread of the host made (backend `fanotify`); the syscall's own exit record with EPERM,
    /// which follows, is then not reported again. Where `start_boot_ns` is 0 the youngest process of that number is
    /// meant, and `ppid` and `uid` are its. `target`: the new name of a rename or link; `argv`: what an exec was asked for.
    pub fn refusal(&mut self, record: &EventRecord, path: &[u8], target: &[u8], argv: &[u8]) -> Event {
        let record = Record::of(record, path, target, argv);
        // The end of a connect(2) is no record.
        if record.outcome == RecordOutcome::Denied && !object::is_unix(&record) {
            if self.unfinished.len() >= UNFINISHED_MAX {
                self.unfinished.clear();
            }
            let of_thread = self.unfinished.entry(record.head.tid).or_default();
            if of_thread.len() >= UNFINISHED_MAX {
                of_thread.pop_front();
            }
            // A performed call is the thread's own until it ends; an open may be one of many in a path's look-up.
            let name = (record.kind == RecordKind::Open).then(|| last_name(path).to_vec());
            of_thread.push_back((record.head.time_boot_ns, name));
        }
        let object = if object::is_unix(&record) { object::socket(&record) } else { object::walked(&record) };
        self.event(&record, object)
    }

    /// A syscall that ended in an errno: is one of our rules behind it?
    fn failed(&mut self, record: &Record<'_>) -> Option<Event> {
        let Meant { path, target, rule } = self.refusals.explain(record);
        if self.is_reported(record, &path) {
            return None;
        }
        if record.kind == RecordKind::Exec && rule.is_none() {
            return None; // a name in PATH that is no program, and the like
        }
        let object = Object {
            path: object::text(&path),
            target: target.as_deref().and_then(object::text),
            ..object::file(record)
        };
        let outcome = match (&rule, self.enforcing) {
            (Some(_), true) => Outcome::Denied,
            (Some(_), false) => Outcome::WouldDeny,
            (None, _) => Outcome::Failed,
        };
        Some(Event { outcome, rule: rule.map(into_rule), ..self.event(record, object) })
    }

    /// Is this the end of an open that a verdict thread refused and [`Self::refusal`] told of? It is the thread's next
    /// failure, so that a later one of the same name is told.
    fn is_reported(&mut self, record: &Record<'_>, path: &[u8]) -> bool {
        let Some(of_thread) = self.unfinished.get_mut(&record.head.tid) else { return false };
        // Under load refusals are told of ahead of the ends of the opens before.
        let before = of_thread.partition_point(|(refused_ns, _)| *refused_ns <= record.head.time_boot_ns);
        let last = of_thread.drain(..before).next_back();
        if of_thread.is_empty() {
            self.unfinished.remove(&record.head.tid);
        }
        let Some((_, name)) = last else { return false };
        i32::try_from(record.head.errno) == Ok(libc::EPERM) && name.is_none_or(|name| last_name(path) == name)
    }

    /// Something that a process of the host says of one inside: the process, what happened, and the rule behind it by its
    /// number or, where it has none, by the name.
    pub fn told(&mut self, who: &EventRecord, rule: Result<u16, &'static str>, event: Event) -> Event {
        let rule = match rule {
            Ok(number) => self.refusals.compiled.rule(number).cloned().map(into_rule),
            Err(name) => Some(Rule { id: RuleId(name.to_owned()), layer: Layer::Builtin }),
        };
        let is_known = who.tgid != 0;
        let process = is_known.then(|| self.processes.describe(&subject(who)));
        Event { rule, process, ..event }
    }

    /// What is known of refusals that found no room: who was refused what by which rule, first and last.
    pub fn lost(&mut self, loss: &Loss) -> String {
        let (first, last) = (self.lost_one(&loss.first), self.lost_one(&loss.last));
        format!("refusals that the kernel's buffer had no room for; the first: {first}; the last: {last}")
    }

    fn lost_one(&mut self, lost: &Lost) -> String {
        let subject = Subject {
            tgid: lost.tgid,
            tid: lost.tgid,
            start_ns: 0,
            ppid: 0,
            uid: 0,
            time_ns: lost.time_boot_ns,
        };
        let process = self.processes.describe(&subject);
        let exe = process.exe.map(|exe| format!(" ({})", for_terminal(&String::from_utf8_lossy(&exe.0))));
        let rule = self.refusals.compiled.rule(lost.rule).map(|rule| format!(" by {}", rule.id.0));
        format!(
            "process {}{}{} on inode {} of {}:{}",
            lost.tgid,
            exe.unwrap_or_default(),
            rule.unwrap_or_default(),
            lost.ino,
            lost.dev >> 20,
            lost.dev & 0xf_ffff
        )
    }

    fn event(&mut self, record: &Record<'_>, object: Object) -> Event {
        let head = &record.head;
        let (kind, action) = record.kind_and_action().unwrap_or((Kind::FileOpen, Action::Read));
        let outcome = match record.outcome {
            RecordOutcome::Allowed => Outcome::Allowed,
            RecordOutcome::Denied => Outcome::Denied,
            RecordOutcome::WouldDeny => Outcome::WouldDeny,
            RecordOutcome::Failed => Outcome::Failed,
        };
        let mut process = self.processes.describe(&subject(head));
        if record.kind == RecordKind::Exec && !is_loaded(record) && !record.argv.is_empty() {
            // Who asked is the caller; what for, is told with it.
            let asked = program(record);
            process.argv = asked.arguments();
            process.argv_truncated = asked.argv_truncated;
        }
        Event {
            time: self.clock.utc(head.time_boot_ns),
            kind,
            action,
            outcome,
            errno: i32::try_from(head.errno).ok().filter(|errno| *errno != 0),
            rule: self.rule(record, outcome),
            process: Some(process),
            object,
        }
    }

    fn rule(&self, record: &Record<'_>, outcome: Outcome) -> Option<Rule> {
        if let Some(rule) = self.refusals.compiled.rule(record.head.rule) {
            return Some(into_rule(rule.clone()));
        }
        let id = match (outcome, record.kind) {
            _ if record.head.rule == RULE_MOVED => "builtin/renamed-folder",
            _ if record.head.rule == RULE_SYMLINK => "builtin/symlink-in-place",
            _ if record.head.rule == RULE_PROC => "builtin/proc-attribute",
            _ if record.head.rule == RULE_SOCKET => "builtin/socket-renamed",
            _ if record.head.rule == RULE_READ => "default/filesystem.read",
            _ if record.head.rule == RULE_WRITE => "default/filesystem.write",
            (Outcome::Allowed | Outcome::Failed, _) => return None,
            // The kernel program refuses what it can't judge.
            (Outcome::Denied | Outcome::WouldDeny, RecordKind::Connect | RecordKind::Send)
                if record.has(FLAG_PATH_CUT) =>
            {
                "builtin/path-unreadable"
            }
            (Outcome::Denied | Outcome::WouldDeny, RecordKind::Connect | RecordKind::Send)
                if object::is_unix(record) =>
            {
                "default/network.unix"
            }
            (Outcome::Denied | Outcome::WouldDeny, RecordKind::Connect | RecordKind::Send) => {
                "default/network.allow"
            }
            (Outcome::Denied | Outcome::WouldDeny, RecordKind::Listen) => "default/network.listen",
            (Outcome::Denied | Outcome::WouldDeny, RecordKind::Exec) if !record.has(FLAG_PATH_CUT) => {
                "default/exec.allow"
            }
            (
                Outcome::Denied | Outcome::WouldDeny,
                RecordKind::Exec | RecordKind::Open | RecordKind::Change,
            ) => "builtin/path-unreadable",
            (
                Outcome::Denied | Outcome::WouldDeny,
                RecordKind::Exit | RecordKind::Fork | RecordKind::Privilege | RecordKind::Close,
            ) => return None,
        };
        Some(Rule { id: RuleId(id.to_owned()), layer: Layer::Builtin })
    }
}

/// Is it a program that was loaded, whatever became of it then?
fn is_loaded(record: &Record<'_>) -> bool {
    let is_ended = record.head.value != 0;
    let went_on = matches!(record.outcome, RecordOutcome::Allowed | RecordOutcome::WouldDeny);
    record.action != RecordAction::Execute && (went_on || is_ended)
}

/// The host name behind each rule; a rule about addresses has none.
fn names(compiled: &Compiled) -> Vec<Option<String>> {
    let mut names = vec![None; compiled.rules.len()];
    for rule in compiled.egress.iter().flat_map(|lists| &lists.rules) {
        let place = usize::from(rule.rule.0).checked_sub(1);
        match (&rule.target, place.and_then(|place| names.get_mut(place))) {
            (EgressTarget::Name(name), Some(slot)) => *slot = Some(name.clone()),
            (
                EgressTarget::Name(_)
                | EgressTarget::Below(_)
                | EgressTarget::Any
                | EgressTarget::Network { .. },
                _,
            ) => {}
        }
    }
    names
}

fn subject(head: &EventRecord) -> Subject {
    Subject {
        tgid: head.tgid,
        tid: head.tid,
        start_ns: head.start_boot_ns,
        ppid: head.ppid,
        uid: head.uid,
        time_ns: head.time_boot_ns,
    }
}

fn program(record: &Record<'_>) -> Program {
    Program {
        exe: object::text(record.path),
        argv: record.argv.to_vec(),
        argv_truncated: record.has(FLAG_ARGV_CUT),
        cwd: object::text(record.second),
    }
}

fn into_rule(rule: RuleInfo) -> Rule {
    Rule { id: rule.id, layer: rule.layer }
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
