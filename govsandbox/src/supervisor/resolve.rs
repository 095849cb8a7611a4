//! Exact names of the policy, held by the addresses they have at the moment.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, ToSocketAddrs as _},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use govsandbox_ebpf::abi::egress::PortTable;

use crate::{
    bpf::egress::{self, Network, Resolved, TooManyPorts},
    id::RuleIndex,
    policy::compile::{EgressLists, EgressRule, EgressTarget, PortRange, Protocol},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// Names that are looked up at a time; a server that does not answer holds one of them up for seconds.
const WORKERS_MAX: usize = 16;

/// Resolves names and makes the kernel's tables of them.
#[derive(Debug)]
pub(super) struct Resolver {
    lists: Vec<EgressLists>,
    names: Vec<String>,
    resolved: Resolved,
    answers: Option<Receiver<(String, Vec<IpAddr>)>>,
}

impl Resolver {
    /// Adds resolv.conf's servers to every list when there are names to look up: the command resolves them itself.
    pub(super) fn new(lists: &[EgressLists], dns_rule: RuleIndex) -> Self {
        let mut lists = lists.to_vec();
        let mut names: Vec<String> = lists
            .iter()
            .flat_map(|list| &list.rules)
            .filter_map(|rule| match &rule.target {
                EgressTarget::Name(name) => Some(name.clone()),
                EgressTarget::Network { .. } => None,
            })
            .collect();
        names.sort();
        names.dedup();
        if !names.is_empty() {
            let servers = servers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
            for list in &mut lists {
                list.rules.extend(servers.iter().flat_map(|server| dns_rules(*server, dns_rule)));
            }
        }
        Self { lists, names, resolved: Resolved::new(), answers: None }
    }

    /// Are there names that may change their addresses?
    pub(super) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Begins to look all names up, on threads that nobody waits for.
    pub(super) fn begin(&mut self) {
        let (answer, answers) = channel();
        let waiting = Arc::new(Mutex::new(self.names.clone()));
        for _ in 0..self.names.len().min(WORKERS_MAX) {
            let (answer, waiting) = (answer.clone(), Arc::clone(&waiting));
            let work = move || {
                while let Some(name) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop() {
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

    /// The kernel's tables with the addresses of now.
    pub(super) fn tables(&self) -> Result<BTreeMap<Network, PortTable>, TooManyPorts> {
        egress::tables(&self.lists, &self.resolved)
    }
}

fn dns_rules(server: IpAddr, rule: RuleIndex) -> impl Iterator<Item = EgressRule> {
    let prefix_bits = if server.is_ipv4() { 32 } else { 128 };
    [Protocol::Udp, Protocol::Tcp].into_iter().map(move |protocol| EgressRule {
        target: EgressTarget::Network { address: server, prefix_bits },
        ports: vec![PortRange { first: DNS_PORT, last: DNS_PORT }],
        protocol,
        allow: true,
        rule,
    })
}

/// `nameserver` lines of resolv.conf(5); without any it is the local host. A zone (`%eth0`) is left away.
fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let addresses = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let value = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        value.split('%').next()?.parse().ok()
    });
    let found: Vec<IpAddr> = addresses.collect();
    if found.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_as_the_resolver_reads_them() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\n nameserver 2001:db8::1 # x\nnameserver bad\n";
        let expected: Vec<IpAddr> =
            ["192.0.2.1", "fe80::1", "2001:db8::1"].iter().map(|it| it.parse().unwrap()).collect();
        assert_eq!(servers(text), expected);
        assert_eq!(servers(""), [IpAddr::from([127, 0, 0, 1])]);
    }
}
