//! Addresses that stand for names which only a proxy knows.

use std::{collections::HashMap, net::Ipv4Addr};

/// Where they lie: 198.18.0.0/15, for tests of networks (RFC 2544, RFC 6815), so nobody's.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const MAX: u32 = 1 << 17;

/// The names, each with its address.
#[derive(Debug, Default)]
pub(super) struct StandIns(HashMap<String, Ipv4Addr>);

impl StandIns {
    /// The same each time; `None`: it has none and gets none, by the rules or because there are no more.
    pub(super) fn of(&mut self, name: &str, may_have: impl FnOnce() -> bool) -> Option<Ipv4Addr> {
        if let Some(address) = self.0.get(name) {
            return Some(*address);
        }
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX).saturating_add(1);
        if next >= MAX || !may_have() {
            return None;
        }
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + next);
        self.0.insert(name.to_owned(), address);
        Some(address)
    }
}
