//! Names that are denied by their full name, and the addresses they have at the moment: they are never answered, yet the
//! command may know where they lead.

use std::{
    collections::HashMap,
    net::{IpAddr, ToSocketAddrs as _},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Names that are looked up at a time; a server that does not answer holds one of them up for seconds.
const WORKERS_MAX: usize = 16;

/// Resolves names as the host does.
#[derive(Debug)]
pub(super) struct Resolver {
    names: Vec<String>,
    resolved: HashMap<String, Vec<IpAddr>>,
    answers: Option<Receiver<(String, Vec<IpAddr>)>>,
}

impl Resolver {
    pub(super) fn new(mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        Self { names, resolved: HashMap::new(), answers: None }
    }

    /// Are there names that may change their addresses?
    pub(super) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Begins to look all names up, on threads that nobody waits for.
    pub(super) fn begin(&mut self) {
        if self.answers.is_some() {
            return; // the round before is not at its end
        }
        let (answer, answers) = channel();
        let waiting = Arc::new(Mutex::new(self.names.clone()));
        for _ in 0..self.names.len().min(WORKERS_MAX) {
            let (answer, waiting) = (answer.clone(), Arc::clone(&waiting));
            let work = move || {
                // The lock is given back before a server is waited for.
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(name) = next() {
                    let found = (name.as_str(), 0).to_socket_addrs();
                    let found = found.map(|found| found.map(|it| it.ip()).collect()).unwrap_or_default();
                    if answer.send((name, found)).is_err() {
                        return; // nobody asks any more
                    }
                }
            };
            if let Err(error) = thread::Builder::new().name("resolver".to_owned()).spawn(work) {
                tracing::error!(%error, "cannot start a thread that looks up names");
            }
        }
        self.answers = Some(answers);
    }

    /// Takes answers for at most that long, less when there are all. `true`: addresses have changed. A name without an
    /// address keeps those it had.
    pub(super) fn collect(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut changed = false;
        while let Some(answers) = &self.answers {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((name, mut found)) if !found.is_empty() => {
                    found.sort();
                    found.dedup();
                    changed |= self.resolved.get(&name) != Some(&found);
                    self.resolved.insert(name, found);
                }
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => self.answers = None,
            }
        }
        changed
    }

    /// Each name with what it has.
    pub(super) fn resolved(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        self.resolved.iter().map(|(name, addresses)| (name.as_str(), addresses.as_slice()))
    }
}
