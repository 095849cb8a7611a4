//! Runs a path automaton over the bytes of an absolute path.

use crate::abi::rule::{AUTOMATON_STATES_MAX, AUTOMATON_TRANSITIONS_MAX, Automaton, Hits};

/// The state before the first byte.
pub const START: u32 = 1;

/// The state after one more byte.
#[inline(always)]
#[must_use]
pub fn next(automaton: &Automaton, state: u32, byte: u8) -> u32 {
    let class = u32::from(automaton.classes[byte as usize]);
    let index = (state << (automaton.class_bits & 15)) + class;
    u32::from(automaton.transitions[index as usize & (AUTOMATON_TRANSITIONS_MAX - 1)])
}

/// The rules that match when a component ends in this state; they cover everything below it.
#[inline(always)]
#[must_use]
pub fn hits(automaton: &Automaton, state: u32) -> Hits {
    automaton.hits[state as usize & (AUTOMATON_STATES_MAX - 1)]
}

/// The rules that match an absolute path (`/a/b`, no slash at the end) or a folder above it.
#[must_use]
pub fn scan(automaton: &Automaton, path: &[u8]) -> Hits {
    let mut state = START;
    let mut found = Hits::NONE;
    for byte in path {
        if *byte == b'/' {
            found = found.or(hits(automaton, state));
        }
        state = next(automaton, state, *byte);
    }
    found.or(hits(automaton, state))
}
