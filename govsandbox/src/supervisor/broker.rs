//! What the supervisor does for the egress service: whose socket it is, which addresses a name leads to, and the record.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use govsandbox_ebpf::abi::egress::{Original, PortTable};

use super::{
    addresses::{Addresses, Asked, Change, Standing},
    questions::{self, About, Decided, ONCE, Question, Questions},
    spoken::{Connection, Spoken},
};
use crate::{
    approval::{Decision, Desk, Id, Waiting},
    bpf::{egress::Network, networks::Networks},
    egress::{
        Broker, Respond,
        channel::{Answer, Entered, Event, Origin, Permission, Permit, Permitted, Verdict, Verify, Who},
        names::Transport,
    },
    sys::sock_diag::{Protocol, SockDiag},
};

/// Events that wait to be recorded.
const TOLD_MAX: usize = 1024;
/// Names of an address that are told with a question.
const NAMES_SHOWN_MAX: usize = 4;

/// One of the service's events, and whose socket it is about as far as that is known.
#[derive(Debug)]
pub(super) enum Told {
    /// By the service.
    Event(Event, Option<Original>),
    /// A question of somebody's, no longer open.
    Decided(Decided, Option<Original>),
    /// It has ended and is started again.
    Ended(String),
}

/// The names and addresses of one sandbox, shared by those who answer and those who record.
pub(super) struct Egress {
    addresses: Mutex<Addresses>,
    /// What the kernel did not take, to be tried again. Locked after the addresses.
    unwritten: Mutex<BTreeMap<Network, Option<PortTable>>>,
    networks: Arc<Networks>,
    diag: Mutex<SockDiag>,
    spoken: Mutex<Spoken>,
    enforcing: bool,
    asking: Option<Asking>,
    told: SyncSender<Told>,
}

/// Where somebody can be asked.
pub(super) struct Asking {
    /// Locked before the addresses: what is found open there is asked before anybody decides it.
    pub(super) questions: Mutex<Questions>,
    pub(super) sandbox: u32,
    pub(super) session: String,
    pub(super) agent: String,
}

impl Egress {
    /// What it tells arrives at the other end.
    pub(super) fn new(
        addresses: Addresses,
        networks: Arc<Networks>,
        diag: SockDiag,
        enforcing: bool,
        asking: Option<Asking>,
    ) -> (Arc<Self>, Receiver<Told>) {
        // Who asks faster than is recorded waits: the service asks and tells one after the other.
        let (told, received) = sync_channel(TOLD_MAX);
        let (addresses, diag) = (Mutex::new(addresses), Mutex::new(diag));
        let (unwritten, spoken) = (Mutex::default(), Mutex::default());
        (Arc::new(Self { addresses, unwritten, networks, diag, spoken, enforcing, asking, told }), received)
    }

    /// Forgets addresses that were held for long enough, and tries again what the kernel did not take.
    pub(super) fn expire(&self) {
        let mut addresses = self.addresses();
        let changes = addresses.expire(Instant::now());
        let again: Vec<Change> = self.unwritten().iter().map(|(network, table)| (*network, *table)).collect();
        self.write(again.into_iter().chain(changes).collect());
    }

    /// What names that are denied have for addresses now.
    pub(super) fn set_denied<'a>(&self, found: impl Iterator<Item = (&'a str, &'a [IpAddr])>) {
        let mut addresses = self.addresses();
        let changes = addresses.set_denied(found);
        self.write(changes);
    }

    /// The name of an address: the only one that it has, or the one that the rule names.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<String> {
        let addresses = self.addresses();
        let mut names = addresses.names_of(address);
        names.next().filter(|_| names.next().is_none()).map(str::to_owned)
    }

    /// Whom a connection that has ended said it talks to, if the relay compared that.
    pub(super) fn spoken_to(&self, connection: Connection) -> Option<String> {
        self.spoken().take(connection)
    }

    fn spoken(&self) -> MutexGuard<'_, Spoken> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the addresses, so that the kernel's tables follow them in order. `true`: all are written.
    fn write(&self, changes: Vec<Change>) -> bool {
        let mut all = true;
        for (network, table) in changes {
            let written = match &table {
                Some(table) => self.networks.set_network(network, table),
                None => self.networks.remove_network(network),
            };
            match written {
                Ok(()) => drop(self.unwritten().remove(&network)),
                Err(error) => {
                    tracing::error!(%error, ?network, "an address was not written, and will be tried again");
                    self.unwritten().insert(network, table);
                    all = false;
                }
            }
        }
        all
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<Network, Option<PortTable>>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn original(&self, who: Who) -> Option<(u64, Original)> {
        let protocol = match who.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        let cookie =
            self.diag.lock().unwrap_or_else(PoisonError::into_inner).cookie(protocol, who.peer, who.local);
        match cookie {
            Ok(cookie) => {
                let cookie = cookie?;
                Some((cookie, self.networks.original(cookie)?))
            }
            Err(error) => {
                tracing::error!(%error, ?who, "the kernel does not tell whose socket it is");
                None
            }
        }
    }

    /// Records decisions, once nothing is locked.
    fn tell_decided(&self, decided: Vec<Decided>) {
        for decided in decided {
            let original = self.networks.original(decided.origin.cookie);
            self.tell(Told::Decided(decided, original));
        }
    }

    fn tell(&self, told: Told) {
        // Nobody reads any more: the run is at its end.
        self.told.send(told).ok();
    }
}

impl Asking {
    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self, number: u64, question: &Question, now: Instant, left: Duration) -> Waiting {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (host, port) = match &question.asked {
            Asked::Name(name) => (name.clone(), None),
            Asked::Address(address, port) => (address.to_string(), Some(*port)),
        };
        Waiting {
            id: Id { sandbox: self.sandbox, number },
            session: self.session.clone(),
            agent: self.agent.clone(),
            program: question.about.program.clone(),
            pid: question.about.origin.tgid,
            host,
            port,
            names: question.about.names.clone(),
            waited_ms: ms(now.saturating_duration_since(question.since)),
            left_ms: ms(left),
        }
    }
}

impl Desk for Egress {
    fn waiting(&self) -> Vec<Waiting> {
        let Some(asking) = &self.asking else { return Vec::new() };
        let (questions, now) = (asking.questions(), Instant::now());
        let waiting = |(number, question, left)| asking.waiting(number, question, now, left);
        questions.open(now).map(waiting).collect()
    }

    fn decide(&self, number: u64, decision: Decision, by_uid: u32) -> Option<Waiting> {
        let asking = self.asking.as_ref()?;
        let (mut questions, now) = (asking.questions(), Instant::now());
        let question = questions.decide(number, decision, now)?;
        let mut settled = Vec::new();
        if decision.allow {
            let mut addresses = self.addresses();
            let until = decision.once.then(|| now + ONCE);
            let changes = addresses.consent_to(question.asked.clone(), until);
            self.write(changes);
            // With a name the addresses that it has by the hosts file, which nobody looks up.
            settled = questions.settled(|other| match &other.asked {
                Asked::Name(_) => false,
                Asked::Address(address, port) => {
                    let standing = addresses.standing_of_address(*address, *port, other.about.rule);
                    matches!(standing, Standing::Allowed(_))
                }
            });
        }
        drop(questions);
        let waiting = asking.waiting(number, &question, now, Duration::ZERO);
        let permission = if decision.allow { Permission::Allowed } else { Permission::RefusedByPerson };
        let answer = |question: Question| question.answer(permission, now, Some(decision), Some(by_uid));
        self.tell_decided([question].into_iter().chain(settled).map(answer).collect());
        Some(waiting)
    }

    fn expire(&self) {
        let Some(asking) = &self.asking else { return };
        let now = Instant::now();
        let overdue = asking.questions().overdue(now);
        let refuse = |question: Question| question.answer(Permission::NoAnswer, now, None, None);
        self.tell_decided(overdue.into_iter().map(refuse).collect());
    }
}

impl Broker for Egress {
    fn who(&self, who: Who, respond: Respond<Option<Origin>>) {
        let found = self.original(who).map(|(cookie, original)| {
            let wanted = SocketAddr::new(IpAddr::from(original.address).to_canonical(), original.port);
            // Of a socket that asks several servers each has an address of its own.
            let asked = match who.transport {
                Transport::Udp => self.networks.asked(who.local).unwrap_or(wanted),
                Transport::Tcp => wanted,
            };
            let addresses = self.addresses();
            Origin {
                cookie,
                start_boot_ns: original.start_boot_ns,
                tgid: original.tgid,
                tid: original.tid,
                address: asked.ip(),
                port: asked.port(),
                rule: original.rule,
                compared: !addresses.is_straight(asked.ip(), asked.port()),
                strict: addresses.is_strict(asked.ip(), asked.port()),
            }
        });
        respond.send(found);
    }

    fn permit(&self, permit: Permit, respond: Respond<Permitted>) {
        let Some(asking) = &self.asking else { return respond.send(Permitted::default()) };
        let Permit { origin, name } = permit;
        let mut questions = asking.questions();
        let (standing, asked, names) = {
            let addresses = self.addresses();
            match name {
                Some(name) => (addresses.standing_of_name(&name), Asked::Name(name), Vec::new()),
                None => {
                    let (address, port) = (origin.address.to_canonical(), origin.port);
                    let names =
                        addresses.names_told_of(address).take(NAMES_SHOWN_MAX).map(str::to_owned).collect();
                    let standing = addresses.standing_of_address(address, port, origin.rule);
                    (standing, Asked::Address(address, port), names)
                }
            }
        };
        let rule = match standing {
            Standing::Allowed(rule) => {
                return respond.send(Permitted { permission: Permission::Allowed, rule });
            }
            Standing::Refused(rule) => {
                return respond.send(Permitted { permission: Permission::Refused, rule });
            }
            Standing::Open(rule) => rule,
        };
        let about = || About { origin, rule, program: questions::program(&origin), names };
        let waiter = Box::new(move |permission| respond.send(Permitted { permission, rule }));
        if let Some((waiter, permission)) = questions.ask(Instant::now(), asked, about, waiter) {
            waiter(permission);
        }
    }

    fn answer(&self, answer: Answer, respond: Respond<Entered>) {
        let mut addresses = self.addresses();
        let found = match answer.addresses.is_empty() {
            true => addresses.stand_in(&answer.name),
            false => answer.addresses,
        };
        let (mut entered, changes) = addresses.enter(&answer.name, &found, Instant::now());
        if !self.write(changes) {
            entered = Entered { allowed: Vec::new(), full: true };
        }
        drop(addresses);
        if !self.enforcing {
            entered.allowed = found.iter().map(|(address, _)| *address).collect();
        }
        respond.send(entered);
    }

    fn verify(&self, verify: Verify, respond: Respond<Verdict>) {
        let Verify { origin, name, speech } = verify;
        let verdict = self.addresses().verify(origin.address, origin.port, name.as_deref(), speech);
        // Before the reply: the connection ends after it.
        if let Some(name) = name.filter(|_| verdict.allow)
            && let Some(original) = self.networks.original(origin.cookie)
        {
            self.spoken().add((original.time_boot_ns, original.tgid), name);
        }
        respond.send(verdict);
    }

    fn hosts(&self, text: &str) {
        let mut addresses = self.addresses();
        let changes = addresses.set_hosts(text);
        self.write(changes);
    }

    fn event(&self, event: Event) {
        let origin = match &event {
            Event::Query(query) => Some(query.origin),
            Event::Reset(reset) => Some(reset.origin),
            Event::Elsewhere { origin, .. } => Some(*origin),
            Event::Limited { .. } => None,
            // Somebody else tried the service's port: no matter of this sandbox.
            Event::Stranger(who) => return tracing::info!(?who, "not of the sandbox"),
        };
        let original = origin.and_then(|origin| self.networks.original(origin.cookie));
        self.tell(Told::Event(event, original));
    }

    fn ended(&self, why: &str) {
        self.tell(Told::Ended(why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::{PACKET_BYTES_MAX, Reply};

    #[test]
    fn what_waits_fits_in_a_packet_whatever_the_sandbox_makes_of_it() {
        let mut questions = Questions::new(Duration::from_secs(60));
        let now = Instant::now();
        let origin = Origin {
            cookie: u64::MAX,
            start_boot_ns: u64::MAX,
            tgid: u32::MAX,
            tid: u32::MAX,
            address: IpAddr::V6([0xffff; 8].into()),
            port: u16::MAX,
            rule: u16::MAX,
            compared: true,
            strict: true,
        };
        let about = || About {
            origin,
            rule: u16::MAX,
            program: "\u{10348}".repeat(questions::PROGRAM_CHARACTERS_MAX),
            names: vec!["a".repeat(253); NAMES_SHOWN_MAX],
        };
        for port in 0..2 * questions::OPEN_MAX as u16 {
            let asked = Asked::Address(origin.address, 10_000 + port);
            drop(questions.ask(now, asked, about, Box::new(drop)));
        }
        let asking = Asking {
            questions: Mutex::new(Questions::new(Duration::ZERO)),
            sandbox: u32::MAX,
            session: "S".repeat(26),
            // Of 255 bytes that are no text.
            agent: "\u{fffd}".repeat(255),
        };
        let open = questions.open(now);
        let waiting: Vec<Waiting> =
            open.map(|(_, question, left)| asking.waiting(u64::MAX, question, now, left)).collect();
        assert_eq!(waiting.len(), questions::OPEN_MAX);
        let bytes = serde_json::to_vec(&Reply::Waiting(waiting)).unwrap().len();
        assert!(bytes <= PACKET_BYTES_MAX, "{bytes}");
    }
}
