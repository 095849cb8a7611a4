//! What the supervisor does for the egress service: whose socket it is, which addresses a name leads to, and the record.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

use govsandbox_ebpf::abi::egress::Original;

use super::addresses::{Addresses, Change};
use crate::{
    bpf::networks::Networks,
    egress::{
        Broker, Respond,
        channel::{Answer, Entered, Event, Origin, Permit, Permitted, Verdict, Verify, Who},
        names::Transport,
    },
    sys::sock_diag::{Protocol, SockDiag},
};

/// Events that wait to be recorded.
const TOLD_MAX: usize = 1024;

/// One of the service's events, and whose socket it is about as far as that is known.
#[derive(Debug)]
pub(super) enum Told {
    /// By the service.
    Event(Event, Option<Original>),
    /// It has ended and is started again.
    Ended(String),
}

/// The names and addresses of one sandbox, shared by those who answer and those who record.
pub(super) struct Egress {
    addresses: Mutex<Addresses>,
    networks: Arc<Networks>,
    diag: Mutex<SockDiag>,
    enforcing: bool,
    told: SyncSender<Told>,
}

impl Egress {
    /// What it tells arrives at the other end.
    pub(super) fn new(
        addresses: Addresses,
        networks: Arc<Networks>,
        diag: SockDiag,
        enforcing: bool,
    ) -> (Arc<Self>, Receiver<Told>) {
        // Who asks faster than is recorded waits: the service asks and tells one after the other.
        let (told, received) = sync_channel(TOLD_MAX);
        let (addresses, diag) = (Mutex::new(addresses), Mutex::new(diag));
        (Arc::new(Self { addresses, networks, diag, enforcing, told }), received)
    }

    /// Forgets addresses that were held for long enough.
    pub(super) fn expire(&self) {
        let mut addresses = self.addresses();
        let changes = addresses.expire(Instant::now());
        self.write(changes);
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

    /// Under the lock of the addresses, so that the kernel's tables follow them in order. `true`: all are written.
    fn write(&self, changes: Vec<Change>) -> bool {
        let mut all = true;
        for (network, table) in changes {
            let written = match &table {
                Some(table) => self.networks.set_network(network, table),
                None => self.networks.remove_network(network),
            };
            if let Err(error) = written {
                tracing::error!(%error, ?network, "an address was not written");
                all = false;
            }
        }
        all
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

    fn tell(&self, told: Told) {
        // Nobody reads any more: the run is at its end.
        self.told.send(told).ok();
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
            Origin {
                cookie,
                start_boot_ns: original.start_boot_ns,
                tgid: original.tgid,
                tid: original.tid,
                address: asked.ip(),
                port: asked.port(),
                rule: original.rule,
                compared: !self.addresses().is_straight(asked.ip(), asked.port()),
            }
        });
        respond.send(found);
    }

    fn permit(&self, _permit: Permit, respond: Respond<Permitted>) {
        respond.send(Permitted::default());
    }

    fn answer(&self, answer: Answer, respond: Respond<Entered>) {
        let mut addresses = self.addresses();
        let (mut allowed, changes) = addresses.enter(&answer.name, &answer.addresses, Instant::now());
        if !self.write(changes) {
            allowed.clear();
        }
        drop(addresses);
        if !self.enforcing {
            allowed = answer.addresses.iter().map(|(address, _)| *address).collect();
        }
        respond.send(Entered { allowed });
    }

    fn verify(&self, verify: Verify, respond: Respond<Verdict>) {
        let Verify { origin, name, speech } = verify;
        respond.send(self.addresses().verify(origin.address, origin.port, name.as_deref(), speech));
    }

    fn event(&self, event: Event) {
        let origin = match &event {
            Event::Query(query) => Some(query.origin),
            Event::Reset(reset) => Some(reset.origin),
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
