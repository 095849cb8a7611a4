//! A supervisor without a kernel: it knows where a test's connections wanted to go because the test says so.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use govsandbox::egress::{
    Broker, Respond,
    channel::{
        Answer, Entered, Event, Origin, Permit, Permitted, Query, Reset, ResetReason, Speech, Verdict,
        Verify, Who,
    },
};

/// Long enough for a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(crate) struct StandIn {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    /// Whereto what comes to each local port wanted; what is not here is a stranger's.
    pub(crate) origins: HashMap<u16, SocketAddr>,
    /// Names of addresses that were answered with.
    pub(crate) names: HashMap<IpAddr, Vec<String>>,
    /// Private addresses that the policy names.
    pub(crate) ranges: Vec<IpAddr>,
    /// Refuses nothing (`mode = "audit"`).
    pub(crate) audit: bool,
    /// An address alone is no reason: one of its names is denied, say.
    pub(crate) by_name_only: bool,
    /// What somebody was asked about, names and addresses, and who waits for that.
    pub(crate) permits: Vec<String>,
    pub(crate) waiting: Vec<Respond<Permitted>>,
    /// What stands for names that resolve to nothing.
    pub(crate) stand_in: Option<IpAddr>,
    /// Who says nobody is let through.
    pub(crate) lenient: bool,
    /// Other addresses of the names that are meant.
    pub(crate) others: Vec<IpAddr>,
    /// There is no room for more addresses.
    pub(crate) full: bool,
    /// What hosts(5) said, each time.
    pub(crate) hosts: Vec<String>,
    /// Questions are not answered.
    pub(crate) mute: bool,
    pub(crate) answers: Vec<Answer>,
    pub(crate) verified: Vec<Verify>,
    pub(crate) events: Vec<Event>,
    pub(crate) ended: Vec<String>,
    /// Responses that are kept back.
    kept: Vec<Respond<Verdict>>,
}

impl StandIn {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let value = change(&mut state);
        self.changed.notify_all();
        value
    }

    /// Waits until there is something.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, mut find: impl FnMut(&State) -> Option<T>) -> T {
        let begin = Instant::now();
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = find(&state) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "never came: {what}; events: {:?}", state.events);
            state = self.changed.wait_timeout(state, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// The event of the last lookup of that name.
    #[track_caller]
    pub(crate) fn query(&self, name: &str) -> Query {
        self.until(name, |state| {
            state.events.iter().rev().find_map(|event| match event {
                Event::Query(query) if query.name == name => Some(query.clone()),
                _ => None,
            })
        })
    }

    /// The event of a connection that was reset for this reason, naming whom.
    #[track_caller]
    pub(crate) fn reset(&self, reason: ResetReason, seen: Option<&str>) -> Reset {
        self.until("a reset", |state| {
            state.events.iter().find_map(|event| match event {
                Event::Reset(it) if it.reason == reason && it.seen.as_deref() == seen => Some(it.clone()),
                _ => None,
            })
        })
    }
}

impl Broker for StandIn {
    fn who(&self, who: Who, respond: Respond<Option<Origin>>) {
        let origin = self.with(|state| {
            state.origins.get(&who.local.port()).map(|wanted| Origin {
                cookie: u64::from(who.peer.port()),
                start_boot_ns: 1,
                tgid: 2,
                tid: 3,
                address: wanted.ip(),
                port: wanted.port(),
                rule: 4,
                compared: true,
                strict: !state.lenient,
            })
        });
        respond.send(origin);
    }

    fn permit(&self, permit: Permit, respond: Respond<Permitted>) {
        self.with(|state| {
            state.permits.push(permit.name.unwrap_or_else(|| permit.origin.address.to_string()));
            state.waiting.push(respond);
        });
    }

    fn answer(&self, answer: Answer, respond: Respond<Entered>) {
        let allowed = self.with(|state| {
            let near = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_loopback(),
                IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
            };
            let passes =
                |address: &IpAddr| !state.full && (!near(*address) || state.ranges.contains(address));
            let found = answer.addresses.iter().map(|it| it.0);
            let stand_in = state.stand_in.filter(|_| answer.addresses.is_empty());
            let allowed: Vec<IpAddr> = found.chain(stand_in).filter(passes).collect();
            for address in &allowed {
                state.names.entry(*address).or_default().push(answer.name.clone());
            }
            state.answers.push(answer);
            allowed
        });
        let full = allowed.is_empty() && self.with(|state| state.full);
        respond.send(Entered { allowed, full });
    }

    fn verify(&self, verify: Verify, respond: Respond<Verdict>) {
        self.with(|state| {
            let names = state.names.get(&verify.origin.address).cloned().unwrap_or_default();
            let is_named = verify.name.as_ref().is_some_and(|name| names.contains(name));
            let by_address = verify.name.is_none() && (verify.speech == Speech::Other || state.lenient);
            let allow = state.audit || is_named || (by_address && !state.by_name_only);
            state.verified.push(verify);
            if state.mute {
                return state.kept.push(respond);
            }
            let meant = names.first().cloned();
            respond.send(Verdict { allow, rule: 5, meant, names, others: state.others.clone() });
        });
    }

    fn hosts(&self, text: &str) {
        self.with(|state| state.hosts.push(text.to_owned()));
    }

    fn event(&self, event: Event) {
        self.with(|state| state.events.push(event));
    }

    fn ended(&self, why: &str) {
        self.with(|state| state.ended.push(why.to_owned()));
    }
}
