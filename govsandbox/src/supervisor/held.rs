//! Which names have which addresses at the moment, and until when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use super::hosts::Filed;

/// Addresses at a time; the kernel's table has room for as many sandboxes that are full.
pub(super) const ADDRESSES_MAX: usize = 16_384;
/// Names that one address has at a time: for new ones some go that have not been told for longest.
const NAMES_OF_ADDRESS_MAX: usize = 1024;
/// Where all addresses together have so many, an address has only a few: names can be made up, and each may have many
/// addresses.
const NAMES_MAX: usize = 131_072;
const NAMES_OF_ADDRESS_FEW: usize = 16;
/// The how manieth part of those of an address goes at a time, for what the rules of the others come to is told the kernel
/// then.
const FORGOTTEN_PART: usize = 8;

/// Names and their addresses, both ways. Addresses come in their canonical form.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_address: HashMap<IpAddr, BTreeMap<Arc<str>, Tenure>>,
    by_name: HashMap<Arc<str>, BTreeSet<IpAddr>>,
    /// Names of all addresses.
    names: usize,
    told: u64,
}

/// Why a name has an address.
#[derive(Debug, Default)]
struct Tenure {
    /// By an answer, until then.
    until: Option<Instant>,
    /// By hosts(5), for as long as it stands there.
    filed: bool,
    /// The how manieth of all that were told.
    told: u64,
}

/// What became of a name and an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Known,
    New,
    /// The same, and others have no longer the address.
    InPlaceOfOthers,
    NoRoom,
}

impl Held {
    /// Does any name have it?
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Does this name have it?
    pub(super) fn has_name(&self, address: IpAddr, name: &str) -> bool {
        self.by_address.get(&address).is_some_and(|names| names.contains_key(name))
    }

    /// The names that have this address.
    pub(super) fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.by_address.get(&address).into_iter().flatten().map(|(name, _)| &**name)
    }

    /// The addresses that this name has.
    pub(super) fn addresses_of(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.by_name.get(name).into_iter().flatten().copied()
    }

    /// By an answer the name has the address until then; what stands in hosts(5) has it by that alone.
    pub(super) fn put(&mut self, address: IpAddr, name: &str, until: Instant) -> Put {
        self.tenure(address, name, |tenure| {
            if !tenure.filed {
                tenure.until = tenure.until.max(Some(until));
            }
        })
    }

    /// What hosts(5) says now: of which addresses names came or went, and whether there was room for all.
    pub(super) fn file(&mut self, wanted: &Filed) -> (BTreeSet<IpAddr>, bool) {
        let mut gone = Vec::new();
        for (address, names) in &mut self.by_address {
            for (name, tenure) in names {
                if tenure.filed && !wanted.contains(&(*address, Arc::clone(name))) {
                    tenure.filed = false;
                    if tenure.until.is_none() {
                        gone.push((*address, Arc::clone(name)));
                    }
                }
            }
        }
        let mut changed: BTreeSet<IpAddr> = gone.iter().map(|(address, _)| *address).collect();
        gone.into_iter().for_each(|(address, name)| self.forget(address, &name));
        let mut all = true;
        for (address, name) in wanted {
            match self.tenure(*address, name, |tenure| tenure.filed = true) {
                Put::Known => {}
                Put::New | Put::InPlaceOfOthers => drop(changed.insert(*address)),
                Put::NoRoom => all = false,
            }
        }
        (changed, all)
    }

    /// Forgets what has been held for long enough or no longer stands, and says of which addresses.
    pub(super) fn expire(&mut self, now: Instant, stands: impl Fn(&str) -> bool) -> BTreeSet<IpAddr> {
        let mut gone = Vec::new();
        for (address, names) in &self.by_address {
            let is_over = |name: &str, tenure: &Tenure| {
                !tenure.filed && tenure.until.is_none_or(|until| until <= now) || !stands(name)
            };
            let over = names.iter().filter(|(name, tenure)| is_over(name, tenure));
            gone.extend(over.map(|(name, _)| (*address, Arc::clone(name))));
        }
        let changed = gone.iter().map(|(address, _)| *address).collect();
        gone.into_iter().for_each(|(address, name)| self.forget(address, &name));
        changed
    }

    /// Makes room at an address: so many names go that have not been told for longest, and stand in no file. `false`: there
    /// is none.
    pub(super) fn forget_oldest(&mut self, address: IpAddr, count: usize) -> bool {
        let names = self.by_address.get(&address).into_iter().flatten();
        let mut old: Vec<(u64, Arc<str>)> = names
            .filter(|(_, tenure)| !tenure.filed)
            .map(|(name, tenure)| (tenure.told, Arc::clone(name)))
            .collect();
        old.sort_unstable();
        old.truncate(count);
        old.iter().for_each(|(_, name)| self.forget(address, name));
        !old.is_empty()
    }

    fn tenure(&mut self, address: IpAddr, name: &str, change: impl FnOnce(&mut Tenure)) -> Put {
        self.told += 1;
        let known = self.by_address.get_mut(&address).and_then(|names| names.get_mut(name));
        if let Some(tenure) = known {
            tenure.told = self.told;
            change(tenure);
            return Put::Known;
        }
        let most = if self.names < NAMES_MAX { NAMES_OF_ADDRESS_MAX } else { NAMES_OF_ADDRESS_FEW };
        let put = match self.by_address.get(&address).map(BTreeMap::len) {
            Some(names) if names < most => Put::New,
            None if self.by_address.len() < ADDRESSES_MAX => Put::New,
            Some(names) if self.forget_oldest(address, names.div_ceil(FORGOTTEN_PART)) => {
                Put::InPlaceOfOthers
            }
            Some(_) | None => return Put::NoRoom,
        };
        self.names += 1;
        let name: Arc<str> = name.into();
        let mut tenure = Tenure { told: self.told, ..Tenure::default() };
        change(&mut tenure);
        self.by_address.entry(address).or_default().insert(Arc::clone(&name), tenure);
        self.by_name.entry(name).or_default().insert(address);
        put
    }

    fn forget(&mut self, address: IpAddr, name: &str) {
        if let Some(names) = self.by_address.get_mut(&address) {
            self.names -= usize::from(names.remove(name).is_some());
            if names.is_empty() {
                self.by_address.remove(&address);
            }
        }
        if let Some(addresses) = self.by_name.get_mut(name) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn names_that_somebody_makes_up_take_a_bounded_room() {
        let (mut held, now) = (Held::default(), Instant::now());
        let address = |it: usize| IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + u32::try_from(it).unwrap()));
        let mut number = 0;
        let mut name = || {
            number += 1;
            format!("n{number}.example")
        };
        for _ in 0..NAMES_MAX / 128 {
            let name = name();
            assert!((0..128).all(|it| held.put(address(it), &name, now) == Put::New));
        }
        assert_eq!(held.names, NAMES_MAX);
        for _ in 0..50 {
            let name = name();
            (0..256).for_each(|it| assert_ne!(held.put(address(it), &name, now), Put::NoRoom));
            assert!((0..256).all(|it| held.has_name(address(it), &name)), "who was told last has a place");
        }
        assert!(held.names <= NAMES_MAX + 256 * NAMES_OF_ADDRESS_FEW, "{}", held.names);
        let counted: usize = held.by_address.values().map(BTreeMap::len).sum();
        assert_eq!((held.names, held.by_name.values().map(BTreeSet::len).sum::<usize>()), (counted, counted));
        held.expire(now, |_| true);
        assert!(held.names == 0 && held.by_address.is_empty() && held.by_name.is_empty());
    }
}
