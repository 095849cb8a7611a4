//! Which names have which addresses at the moment, and until when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

/// Addresses at a time; the kernel's table has room for as many sandboxes that are full.
pub(super) const ADDRESSES_MAX: usize = 16_384;
/// Names that one address has at a time.
const NAMES_OF_ADDRESS_MAX: usize = 256;

/// Names and their addresses, both ways. Addresses come in their canonical form.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_address: HashMap<IpAddr, BTreeMap<Arc<str>, Instant>>,
    by_name: HashMap<Arc<str>, BTreeSet<IpAddr>>,
}

impl Held {
    /// Does any name have it?
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// The names that have this address.
    pub(super) fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.by_address.get(&address).into_iter().flatten().map(|(name, _)| &**name)
    }

    /// The addresses that this name has.
    pub(super) fn addresses_of(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.by_name.get(name).into_iter().flatten().copied()
    }

    /// The name has the address until then. `None`: there is no room; else whether that is new.
    pub(super) fn put(&mut self, address: IpAddr, name: &str, until: Instant) -> Option<bool> {
        if !self.has(address) && self.by_address.len() >= ADDRESSES_MAX {
            return None;
        }
        let names = self.by_address.entry(address).or_default();
        if let Some(known) = names.get_mut(name) {
            *known = (*known).max(until);
            return Some(false);
        }
        if names.len() >= NAMES_OF_ADDRESS_MAX {
            return None;
        }
        let name: Arc<str> = name.into();
        names.insert(Arc::clone(&name), until);
        self.by_name.entry(name).or_default().insert(address);
        Some(true)
    }

    /// Keeps what passes, and says which addresses have fewer names now.
    pub(super) fn retain(&mut self, keep: impl Fn(&str, Instant) -> bool) -> BTreeSet<IpAddr> {
        let mut changed = BTreeSet::new();
        let by_name = &mut self.by_name;
        for (address, names) in &mut self.by_address {
            names.retain(|name, until| {
                let keeps = keep(name, *until);
                if !keeps {
                    changed.insert(*address);
                    take(by_name, name, *address);
                }
                keeps
            });
        }
        self.by_address.retain(|_, names| !names.is_empty());
        changed
    }
}

fn take(by_name: &mut HashMap<Arc<str>, BTreeSet<IpAddr>>, name: &str, address: IpAddr) {
    if let Some(addresses) = by_name.get_mut(name) {
        addresses.remove(&address);
        if addresses.is_empty() {
            by_name.remove(name);
        }
    }
}
