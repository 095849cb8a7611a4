//! Runs a path automaton over the bytes of an absolute path.

use crate::abi::rule::{AUTOMATON_STATES_MAX, AUTOMATON_TRANSITIONS_MAX, Automaton, Hits};

/// Where a scan stands: after some bytes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    state: u32,
    hits: Hits,
}

impl Scan {
    /// Before the first byte.
    pub const START: Self = Self { state: 1, hits: Hits::NONE };

    /// Goes on by one byte. A slash ends a component: what matches there covers everything below.
    #[inline(always)]
    #[must_use]
    pub fn step(self, automaton: &Automaton, byte: u8) -> Self {
        let hits = if byte == b'/' { self.hits.or(hits_of(automaton, self.state)) } else { self.hits };
        let class = u32::from(automaton.classes[byte as usize]);
        let index = (self.state << (automaton.class_bits & 15)) + class;
        Self { state: u32::from(automaton.transitions[index as usize & (AUTOMATON_TRANSITIONS_MAX - 1)]), hits }
    }

    /// The rules that match the path read so far or a folder above it.
    #[inline(always)]
    #[must_use]
    pub fn end(self, automaton: &Automaton) -> Hits {
        self.hits.or(hits_of(automaton, self.state))
    }
}

#[inline(always)]
fn hits_of(automaton: &Automaton, state: u32) -> Hits {
    automaton.hits[state as usize & (AUTOMATON_STATES_MAX - 1)]
}

/// The rules that match an absolute path (`/a/b`, no slash at the end) or a folder above it.
#[must_use]
pub fn scan(automaton: &Automaton, path: &[u8]) -> Hits {
    path.iter().fold(Scan::START, |scan, byte| scan.step(automaton, *byte)).end(automaton)
}
