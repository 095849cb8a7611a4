//! What waits for a person's answer: joined where it is the same, bounded, and refused in the end.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    os::unix::ffi::OsStringExt as _,
    time::{Duration, Instant},
};

use super::addresses::Asked;
use crate::{
    approval::Decision,
    egress::channel::{Origin, Permission},
    event::text::Text,
};

/// Questions at a time: a person reads them, all in one packet.
pub(super) const OPEN_MAX: usize = 48;
/// Lookups or connections that wait for the same answer; the oldest goes for a new one. A resolver that gives up after
/// five seconds asks again, for A and AAAA each.
const WAITERS_MAX: usize = 8;
/// Connections do not ask again, and each has its place in the relay.
const CONNECTIONS_MAX: usize = 256;
/// How long an answer holds that is for once: a program looks up a name, then connects.
pub(super) const ONCE: Duration = Duration::from_secs(60);

/// Of a program's path the end is told.
pub(super) const PROGRAM_CHARACTERS_MAX: usize = 160;
/// Place after the name in /proc/PID/stat.
const STARTTIME: usize = 19;
/// `USER_HZ` is 100 (include/asm-generic/param.h).
const NS_PER_TICK: u64 = 10_000_000;

/// Told when there is an answer.
pub(super) type Waiter = Box<dyn FnOnce(Permission) + Send>;

/// One question.
pub(super) struct Question {
    pub(super) asked: Asked,
    pub(super) about: About,
    pub(super) since: Instant,
    waiters: VecDeque<Waiter>,
}

/// Who asked first, and why.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) origin: Origin,
    /// The rule that asks.
    pub(super) rule: u16,
    /// The program, for a terminal.
    pub(super) program: String,
    /// Names that the address has.
    pub(super) names: Vec<String>,
}

/// A question that does not wait any more.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) asked: Asked,
    pub(super) origin: Origin,
    pub(super) rule: u16,
    pub(super) names: Vec<String>,
    pub(super) waited: Duration,
    /// `None`: nobody answered.
    pub(super) decision: Option<Decision>,
    pub(super) by_uid: Option<u32>,
}

/// The questions of one run.
pub(super) struct Questions {
    open: BTreeMap<u64, Question>,
    last: u64,
    patience: Duration,
    /// What somebody has refused, and until when.
    refused: HashMap<Asked, Option<Instant>>,
}

impl Questions {
    /// Each waits so long.
    pub(super) fn new(patience: Duration) -> Self {
        Self { open: BTreeMap::new(), last: 0, patience, refused: HashMap::new() }
    }

    /// Has the waiter wait, unless there is an answer: then that comes back, with the waiter.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        asked: Asked,
        about: impl FnOnce() -> About,
        waiter: Waiter,
    ) -> Option<(Waiter, Permission)> {
        if let Some(until) = self.refused.get(&asked) {
            if until.is_none_or(|until| until > now) {
                return Some((waiter, Permission::RefusedByPerson));
            }
            self.refused.remove(&asked);
        }
        if let Some(same) = self.open.values_mut().find(|question| question.asked == asked) {
            same.waiters.push_back(waiter);
            let most = match &same.asked {
                Asked::Name(_) => WAITERS_MAX,
                Asked::Address(..) => CONNECTIONS_MAX,
            };
            let oldest = if same.waiters.len() > most { same.waiters.pop_front() } else { None };
            return oldest.map(|oldest| (oldest, Permission::Joined));
        }
        if self.open.len() >= OPEN_MAX {
            return Some((waiter, Permission::Crowded));
        }
        self.last += 1;
        let question = Question { asked, about: about(), since: now, waiters: VecDeque::from([waiter]) };
        self.open.insert(self.last, question);
        None
    }

    /// By their numbers, the oldest first, with what is left of their time.
    pub(super) fn open(&self, now: Instant) -> impl Iterator<Item = (u64, &Question, Duration)> {
        let left = move |since: Instant| (since + self.patience).saturating_duration_since(now);
        self.open.iter().map(move |(number, question)| (*number, question, left(question.since)))
    }

    /// Takes a question that is answered.
    pub(super) fn decide(&mut self, number: u64, decision: Decision, now: Instant) -> Option<Question> {
        let question = self.open.remove(&number)?;
        if !decision.allow {
            self.refused.insert(question.asked.clone(), decision.once.then(|| now + ONCE));
        }
        Some(question)
    }

    /// Takes what another answer has settled.
    pub(super) fn settled(&mut self, is_settled: impl Fn(&Question) -> bool) -> Vec<Question> {
        let settled: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, question)| is_settled(question))
            .map(|(number, _)| *number)
            .collect();
        settled.into_iter().filter_map(|number| self.open.remove(&number)).collect()
    }

    /// Takes what has waited for too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Question> {
        let late: Vec<u64> =
            self.open(now).filter(|(.., left)| left.is_zero()).map(|(number, ..)| number).collect();
        late.into_iter().filter_map(|number| self.open.remove(&number)).collect()
    }
}

impl Question {
    /// Tells all who wait.
    pub(super) fn answer(
        self,
        permission: Permission,
        now: Instant,
        decision: Option<Decision>,
        by_uid: Option<u32>,
    ) -> Decided {
        for waiter in self.waiters {
            waiter(permission);
        }
        let About { origin, rule, names, .. } = self.about;
        let waited = now.saturating_duration_since(self.since);
        Decided { asked: self.asked, origin, rule, names, waited, decision, by_uid }
    }
}

/// The program of whoever asked, for a terminal; empty: not known. Good for a person to know by, and no more than that:
/// what did it stands in the log.
pub(super) fn program(origin: &Origin) -> String {
    let pid = origin.tgid;
    let started_ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before may have anything in it but the last bracket (proc_pid_stat(5): field 22 of them all).
        stat.rsplit_once(')')?.1.split_whitespace().nth(STARTTIME)?.parse::<u64>().ok()
    };
    if started_ticks() != Some(origin.start_boot_ns / NS_PER_TICK) {
        return String::new(); // another process by now, or one of another pid namespace
    }
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let shown = Text(exe.into_os_string().into_vec()).for_terminal();
    let first = shown.char_indices().rev().nth(PROGRAM_CHARACTERS_MAX - 1).map_or(0, |(at, _)| at);
    shown.get(first..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::mpsc::{Receiver, Sender, channel},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const YES: Decision = Decision { allow: true, once: false };

    fn about() -> About {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let origin = Origin {
            cookie: 1,
            start_boot_ns: 1,
            tgid: 2,
            tid: 2,
            address,
            port: 53,
            rule: 0,
            compared: true,
            strict: true,
        };
        About { origin, rule: 3, program: "/usr/bin/curl".to_owned(), names: Vec::new() }
    }

    struct Bed {
        questions: Questions,
        now: Instant,
        told: Receiver<(u32, Permission)>,
        tell: Sender<(u32, Permission)>,
    }

    impl Bed {
        fn new() -> Self {
            let (tell, told) = channel();
            Self { questions: Questions::new(PATIENCE), now: Instant::now(), told, tell }
        }

        fn ask(&mut self, name: &str, who: u32) {
            let tell = self.tell.clone();
            let waiter: Waiter = Box::new(move |permission| tell.send((who, permission)).unwrap());
            let asked = Asked::Name(name.to_owned());
            if let Some((waiter, permission)) = self.questions.ask(self.now, asked, about, waiter) {
                waiter(permission);
            }
        }

        fn told(&self) -> Vec<(u32, Permission)> {
            self.told.try_iter().collect()
        }
    }

    #[test]
    fn the_same_is_asked_once_and_all_who_wait_are_told() {
        let mut bed = Bed::new();
        (1..=3).for_each(|who| bed.ask("a.example", who));
        bed.ask("b.example", 4);
        assert_eq!(bed.questions.open(bed.now).map(|(number, ..)| number).collect::<Vec<_>>(), [1, 2]);
        assert!(bed.told().is_empty());
        let question = bed.questions.decide(1, YES, bed.now).unwrap();
        question.answer(Permission::Allowed, bed.now, Some(YES), Some(0));
        assert_eq!(bed.told(), [1, 2, 3].map(|who| (who, Permission::Allowed)));
        assert!(bed.questions.decide(1, YES, bed.now).is_none(), "an id is never given twice");
        bed.ask("a.example", 5);
        assert_eq!(bed.questions.open(bed.now).map(|(number, ..)| number).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_no_is_kept_and_one_for_once_for_a_minute() {
        let mut bed = Bed::new();
        for (number, once) in [(1, false), (2, true)] {
            let name = format!("{number}.example");
            bed.ask(&name, 0);
            let no = Decision { allow: false, once };
            bed.questions.decide(number, no, bed.now).unwrap().answer(
                Permission::RefusedByPerson,
                bed.now,
                Some(no),
                None,
            );
            bed.ask(&name, 1);
            assert_eq!(bed.told(), [0, 1].map(|who| (who, Permission::RefusedByPerson)));
        }
        bed.now += ONCE;
        bed.ask("1.example", 2);
        bed.ask("2.example", 3);
        assert_eq!(bed.told(), [(2, Permission::RefusedByPerson)]);
        assert_eq!(bed.questions.open(bed.now).count(), 1);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut bed = Bed::new();
        for name in 0..OPEN_MAX {
            bed.ask(&format!("{name}.example"), 0);
        }
        assert!(bed.told().is_empty());
        bed.ask("more.example", 1);
        assert_eq!(bed.told(), [(1, Permission::Crowded)]);
        for who in 0..2 * WAITERS_MAX as u32 {
            bed.ask("0.example", who);
        }
        let told = bed.told();
        assert_eq!(told.len(), WAITERS_MAX + 1);
        assert!(told.iter().all(|(_, permission)| *permission == Permission::Joined));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut bed = Bed::new();
        bed.ask("a.example", 1);
        bed.now += PATIENCE - Duration::from_secs(1);
        bed.ask("b.example", 2);
        bed.ask("a.example", 3); // joins, and gets no more time
        assert!(bed.questions.overdue(bed.now).is_empty());
        bed.now += Duration::from_secs(1);
        let late = bed.questions.overdue(bed.now);
        assert_eq!(late.len(), 1);
        for question in late {
            let decided = question.answer(Permission::NoAnswer, bed.now, None, None);
            assert_eq!(decided.waited, PATIENCE);
        }
        assert_eq!(bed.told(), [1, 3].map(|who| (who, Permission::NoAnswer)));
        // It may be asked again.
        bed.ask("a.example", 4);
        assert_eq!(bed.questions.open(bed.now).count(), 2);
    }
}
