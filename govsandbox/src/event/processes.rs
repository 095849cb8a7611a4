//! Who runs what: program, arguments and folder of each process, as its records told.
//!
//! Nothing is read from `/proc`: a process can write what stands there. Refusals come by a buffer of their own, so a
//! record may arrive before the fork or after the exit of its process, and forks may be lost. What is not known of a
//! process is taken from its parent, which it was a copy of.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::{model::Process, text::Text};

/// Processes that are known at most, those that ended a moment ago included.
const PROCESSES_MAX: usize = 65_536;
/// Bytes of all their programs' texts at most; a text that several share counts for each.
const TEXT_BYTES_MAX: usize = 8 << 20;
/// Processes that ended and are still known, for what arrives late.
const ENDED_MAX: usize = 1024;
/// A process is told of so long after it began at most, in ns.
const FORK_DELAY_MAX_NS: u64 = 10_000_000_000;
/// Start of a process of which only the fork is known.
const NOT_KNOWN: u64 = 0;

/// A program image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) exe: Option<Text>,
    /// As in the process's memory: each argument ended by a NUL; empty: not known.
    pub(super) argv: Vec<u8>,
    pub(super) argv_truncated: bool,
    pub(super) cwd: Option<Text>,
}

/// Who a record is about, and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) tgid: u32,
    pub(super) tid: u32,
    /// Since boot; 0: not known, the youngest of that number is meant.
    pub(super) start_ns: u64,
    pub(super) ppid: u32,
    pub(super) uid: u32,
    pub(super) time_ns: u64,
}

/// Thread-group id and start.
type Key = (u32, u64);

#[derive(Debug)]
struct Entry {
    program: Arc<Program>,
    /// Its exec, since boot; what is older was done by `before`.
    since_ns: u64,
    before: Option<Arc<Program>>,
    /// Place in the order of arrival.
    age: u64,
    ended: bool,
    ppid: u32,
    uid: u32,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Processes {
    entries: HashMap<Key, Entry>,
    /// By number: the start of the youngest.
    youngest: HashMap<u32, u64>,
    /// By age, to drop the oldest.
    ages: BTreeMap<u64, Key>,
    ended: VecDeque<Key>,
    next_age: u64,
    text_bytes: usize,
}

impl Program {
    fn size_bytes(&self) -> usize {
        let text = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.0.len());
        size_of::<Self>() + text(&self.exe) + self.argv.len() + text(&self.cwd)
    }

    /// The arguments apart. The NUL at the end ends the last one; where it was cut off the last one is a part.
    pub(super) fn arguments(&self) -> Option<Vec<Text>> {
        let argv = self.argv.strip_suffix(b"\0").unwrap_or(&self.argv);
        (!self.argv.is_empty()).then(|| argv.split(|byte| *byte == 0).map(Text::from).collect())
    }
}

impl Entry {
    fn of(program: Arc<Program>, subject: &Subject) -> Self {
        let Subject { ppid, uid, time_ns, .. } = *subject;
        Self { program, since_ns: time_ns, before: None, age: 0, ended: false, ppid, uid }
    }

    fn size_bytes(&self) -> usize {
        self.program.size_bytes() + self.before.as_ref().map_or(0, |before| before.size_bytes())
    }
}

impl Processes {
    /// A process that begins to be traced: what it is before its first exec.
    pub(super) fn begin(&mut self, tgid: u32, program: Program) {
        let subject = Subject { tgid, tid: tgid, start_ns: NOT_KNOWN, ppid: 0, uid: 0, time_ns: NOT_KNOWN };
        self.insert((tgid, NOT_KNOWN), Entry::of(Arc::new(program), &subject));
    }

    /// `parent` forked; the child's own start is told by its first record.
    pub(super) fn fork(&mut self, parent: &Subject, child: u32) {
        if self.youngest.get(&child).is_some_and(|start| is_soon(*start, parent.time_ns)) {
            return; // a record of the child's came first
        }
        if let Some(program) = self.program(parent) {
            let subject = Subject { ppid: parent.tgid, ..*parent };
            self.insert((child, NOT_KNOWN), Entry::of(program, &subject));
        }
    }

    /// It runs another program now.
    pub(super) fn exec(&mut self, subject: &Subject, program: Program) {
        let program = Arc::new(program);
        let before = self.program(subject);
        self.insert((subject.tgid, subject.start_ns), Entry { before, ..Entry::of(program, subject) });
    }

    /// It ended. `false`: that was told before.
    pub(super) fn exit(&mut self, subject: &Subject) -> bool {
        let key = (subject.tgid, subject.start_ns);
        if self.known(subject).is_none() {
            self.insert(key, Entry::of(Arc::default(), subject));
        }
        match self.entries.get_mut(&key) {
            Some(entry) if entry.ended => return false,
            Some(entry) => entry.ended = true,
            None => {}
        }
        self.ended.push_back(key);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.remove(oldest);
        }
        true
    }

    /// What is known of it, in the words of the log.
    pub(super) fn describe(&mut self, subject: &Subject) -> Process {
        let Subject { tgid, tid, mut start_ns, mut ppid, mut uid, time_ns } = *subject;
        if start_ns == NOT_KNOWN {
            start_ns = self.youngest.get(&tgid).copied().unwrap_or(NOT_KNOWN);
        }
        let entry = match self.known(&Subject { start_ns, ..*subject }) {
            Some(key) => self.entries.get_mut(&key),
            None => None,
        };
        let entry = entry.map(|entry| {
            if subject.start_ns == NOT_KNOWN {
                (ppid, uid) = (entry.ppid, entry.uid);
            } else {
                (entry.ppid, entry.uid) = (ppid, uid);
            }
            &*entry
        });
        let program = entry.map(|entry| match &entry.before {
            Some(before) if time_ns < entry.since_ns => before,
            Some(_) | None => &entry.program,
        });
        Process {
            pid: tgid,
            tid,
            ppid,
            start_ns,
            uid,
            exe: program.and_then(|program| program.exe.clone()),
            argv: program.and_then(|program| program.arguments()),
            argv_truncated: program.is_some_and(|program| program.argv_truncated),
            cwd: program.and_then(|program| program.cwd.clone()),
        }
    }

    fn program(&mut self, subject: &Subject) -> Option<Arc<Program>> {
        let key = self.known(subject)?;
        self.entries.get(&key).map(|entry| Arc::clone(&entry.program))
    }

    /// Where its entry is: its own, that of its fork, or a copy of its parent's.
    fn known(&mut self, subject: &Subject) -> Option<Key> {
        let key = (subject.tgid, subject.start_ns);
        if !self.entries.contains_key(&key) {
            let entry = self.take_fork(subject).or_else(|| self.copy_of_parent(subject))?;
            self.insert(key, entry);
        }
        Some(key)
    }

    fn take_fork(&mut self, subject: &Subject) -> Option<Entry> {
        let key = (subject.tgid, NOT_KNOWN);
        let forked_ns = self.entries.get(&key)?.since_ns;
        // Else it is an older fork of that number, whose process never said a word.
        let is_its_own = forked_ns == NOT_KNOWN || is_soon(subject.start_ns, forked_ns);
        self.remove(key).filter(|_| is_its_own)
    }

    fn copy_of_parent(&self, subject: &Subject) -> Option<Entry> {
        let start = self.youngest.get(&subject.ppid)?;
        let parent = self.entries.get(&(subject.ppid, *start))?;
        Some(Entry::of(Arc::clone(&parent.program), subject))
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.remove(key);
        let age = self.next_age;
        self.next_age += 1;
        self.text_bytes += entry.size_bytes();
        self.ages.insert(age, key);
        self.youngest.insert(key.0, key.1);
        self.entries.insert(key, Entry { age, ..entry });
        while self.entries.len() > PROCESSES_MAX || self.text_bytes > TEXT_BYTES_MAX {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.text_bytes = self.text_bytes.saturating_sub(entry.size_bytes());
        self.ages.remove(&entry.age);
        if self.youngest.get(&key.0) == Some(&key.1) {
            self.youngest.remove(&key.0);
        }
        Some(entry)
    }
}

/// Can a fork that was told at `told_ns` be that of a process with this start?
fn is_soon(start_ns: u64, told_ns: u64) -> bool {
    start_ns != NOT_KNOWN && start_ns <= told_ns && told_ns - start_ns < FORK_DELAY_MAX_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(tgid: u32, ppid: u32, time_ns: u64) -> Subject {
        Subject { tgid, tid: tgid, start_ns: u64::from(tgid) * 100, ppid, uid: 1000, time_ns }
    }

    fn program(name: &str) -> Program {
        Program {
            exe: Some(Text::from(name)),
            argv: format!("{name}\0").into_bytes(),
            argv_truncated: false,
            cwd: Some(Text::from("/app")),
        }
    }

    fn exe(processes: &mut Processes, subject: &Subject) -> Option<String> {
        processes.describe(subject).exe.map(|exe| exe.escaped().into_owned())
    }

    #[test]
    fn a_child_is_its_parent_until_it_executes() {
        let mut processes = Processes::default();
        processes.begin(1, program("agent"));
        processes.fork(&subject(1, 0, 210), 2);
        assert_eq!(exe(&mut processes, &subject(2, 1, 220)).as_deref(), Some("agent"));
        processes.exec(&subject(2, 1, 230), program("sh"));
        assert_eq!(exe(&mut processes, &subject(2, 1, 240)).as_deref(), Some("sh"));
        assert_eq!(exe(&mut processes, &subject(1, 0, 240)).as_deref(), Some("agent"));
    }

    #[test]
    fn arguments_are_split_at_their_nul_and_empty_ones_survive() {
        for (argv, expected) in [
            ("a\0b\0", Some(vec!["a", "b"])),
            ("a\0\0b\0\0", Some(vec!["a", "", "b", ""])),
            ("\0", Some(vec![""])),
            ("a\0cut o", Some(vec!["a", "cut o"])),
            ("", None),
        ] {
            let program = Program { argv: argv.into(), ..Program::default() };
            let expected = expected.map(|list| list.into_iter().map(Text::from).collect::<Vec<_>>());
            assert_eq!(program.arguments(), expected, "{argv:?}");
        }
    }

    #[test]
    fn a_lost_fork_is_made_up_for_by_the_parent() {
        let mut processes = Processes::default();
        processes.exec(&subject(1, 0, 110), program("agent"));
        assert_eq!(exe(&mut processes, &subject(2, 1, 220)).as_deref(), Some("agent"));
        assert_eq!(exe(&mut processes, &subject(3, 9, 320)), None, "nothing is known of 9");
    }

    #[test]
    fn a_fork_that_is_told_after_its_childs_records_changes_nothing() {
        let mut processes = Processes::default();
        processes.exec(&subject(1, 0, 110), program("agent"));
        processes.exec(&subject(2, 1, 230), program("sh"));
        processes.fork(&subject(1, 0, 205), 2);
        assert_eq!(exe(&mut processes, &subject(2, 1, 240)).as_deref(), Some("sh"));
        assert_eq!(processes.youngest.get(&2), Some(&200));
    }

    #[test]
    fn an_old_fork_of_the_same_number_is_not_taken() {
        let mut processes = Processes::default();
        processes.exec(&subject(1, 0, 110), program("agent"));
        processes.fork(&subject(1, 0, 150), 2);
        let reused = Subject { start_ns: 90_000_000_000, ..subject(2, 7, 90_000_000_010) };
        assert_eq!(exe(&mut processes, &reused), None);
    }

    #[test]
    fn what_was_done_before_an_exec_was_done_by_the_program_before_it() {
        let mut processes = Processes::default();
        processes.exec(&subject(1, 0, 110), program("sh"));
        processes.exec(&subject(1, 0, 150), program("cat"));
        assert_eq!(exe(&mut processes, &subject(1, 0, 140)).as_deref(), Some("sh"));
        assert_eq!(exe(&mut processes, &subject(1, 0, 150)).as_deref(), Some("cat"));
    }

    #[test]
    fn an_exit_counts_once_and_late_records_still_find_their_process() {
        let mut processes = Processes::default();
        processes.exec(&subject(1, 0, 110), program("sh"));
        assert!(processes.exit(&subject(1, 0, 120)));
        assert!(!processes.exit(&subject(1, 0, 121)));
        assert_eq!(exe(&mut processes, &subject(1, 0, 119)).as_deref(), Some("sh"));
        assert!(processes.exit(&subject(5, 0, 520)), "one that nothing was known of");
        assert!(!processes.exit(&subject(5, 0, 520)));
        for tgid in 10..2000 {
            assert!(processes.exit(&subject(tgid, 0, 999_999)));
        }
        assert_eq!(processes.entries.len(), ENDED_MAX);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut processes = Processes::default();
        processes.exec(&subject(1, 0, 110), program("sh"));
        processes.exit(&subject(1, 0, 120));
        let again = Subject { start_ns: 500, ..subject(1, 0, 510) };
        assert_eq!(exe(&mut processes, &again), None);
        assert!(processes.exit(&again));
    }

    #[test]
    fn where_the_start_is_not_known_the_youngest_is_meant() {
        let mut processes = Processes::default();
        processes.exec(&subject(4, 3, 410), program("sh"));
        let told = Subject { tgid: 4, tid: 5, start_ns: 0, ppid: 0, uid: 0, time_ns: 450 };
        let process = processes.describe(&told);
        assert_eq!((process.start_ns, process.ppid, process.uid, process.tid), (400, 3, 1000, 5));
        assert_eq!(process.exe, Some(Text::from("sh")));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_their_texts_too_long() {
        let mut processes = Processes::default();
        for tgid in 1..=70_000 {
            processes.exec(&subject(tgid, 0, u64::from(tgid) * 100 + 1), Program::default());
        }
        assert!(processes.entries.len() <= PROCESSES_MAX);
        let long = Program { argv: vec![b'a'; 4096], ..program("long") };
        for tgid in 70_001..=75_000 {
            processes.exec(&subject(tgid, 0, u64::from(tgid) * 100 + 1), long.clone());
        }
        assert!(processes.text_bytes <= TEXT_BYTES_MAX);
        assert_eq!(exe(&mut processes, &subject(75_000, 0, 7_500_002)).as_deref(), Some("long"));
        assert_eq!(exe(&mut processes, &subject(70_001, 0, 7_000_102)), None);
        assert_eq!(processes.ages.len(), processes.entries.len());
        assert_eq!(processes.youngest.len(), processes.entries.len());
    }
}
