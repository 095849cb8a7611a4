//! Runs a path automaton over the bytes of an absolute path.

use super::Decision;
use crate::abi::rule::{AUTOMATON_STATES_MAX, AUTOMATON_TRANSITIONS_MAX, Automaton, Hits, RULE_MOVED, RULE_SYMLINK};

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

/// Where a scan stands: after some bytes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    state: u32,
    hits: Hits,
}

impl Scan {
    /// Before the first byte.
    pub const START: Self = Self { state: START, hits: Hits::NONE };

    /// Goes on by one byte. A slash ends a component: what matches there covers everything below.
    #[must_use]
    pub fn step(self, automaton: &Automaton, byte: u8) -> Self {
        let hits = if byte == b'/' { self.hits.or(hits(automaton, self.state)) } else { self.hits };
        Self { state: next(automaton, self.state, byte), hits }
    }

    /// The rules that match the path read so far or a folder above it.
    #[must_use]
    pub fn end(self, automaton: &Automaton) -> Hits {
        self.hits.or(hits(automaton, self.state))
    }
}

/// The state behind an absolute path and a slash: what can match below it, and nothing else, hangs on it.
#[must_use]
pub fn below(automaton: &Automaton, path: &[u8]) -> u32 {
    let end = path.iter().fold(START, |state, byte| next(automaton, state, *byte));
    next(automaton, end, b'/')
}

/// Decides whether a folder may be renamed, by the states behind its old and its new path ([`below`]): rules have to mean
/// the same things below both, or a file would slip out of a rule with its folder, or into one. The table has no two
/// states for one meaning, so equal states are what it takes. Which of the rules it would be is not known here.
#[inline(always)]
#[must_use]
pub const fn decide_moved(old: u32, new: u32) -> Decision {
    if old == new { Decision::ALLOW } else { Decision::deny(RULE_MOVED) }
}

/// Bytes of the name that stands for all which no rule is about. They are zeros, which are in no name and in no pattern, and
/// so many that hardly a pattern asks for just that length with `?`.
const OTHER_NAME_BYTES: u32 = 32;

/// The state behind a folder whose name no rule is about, in the folder behind which the automaton is in `state`.
#[inline(always)]
#[must_use]
pub fn below_other(automaton: &Automaton, mut state: u32) -> u32 {
    let mut taken = 0;
    while taken < OTHER_NAME_BYTES {
        state = next(automaton, state, 0);
        taken += 1;
    }
    next(automaton, state, b'/')
}

/// Decides whether a symlink may stand at a path, by the states behind its folder (`folder`) and behind the path itself
/// (`place`), as [`below`] has them. Where it leads is judged by another path than the one that rules name. So rules must
/// mean the same below the path as below a folder beside it that no rule is about, and as below such a folder in it: then
/// the name counts for nothing, and what holds there holds by `**`, wherever the symlink leads.
#[inline(always)]
#[must_use]
pub fn decide_symlink(automaton: &Automaton, folder: u32, place: u32) -> Decision {
    if place == below_other(automaton, folder) && place == below_other(automaton, place) {
        Decision::ALLOW
    } else {
        Decision::deny(RULE_SYMLINK)
    }
}

/// The rules that match an absolute path (`/a/b`, no slash at the end) or a folder above it.
#[must_use]
pub fn scan(automaton: &Automaton, path: &[u8]) -> Hits {
    path.iter().fold(Scan::START, |scan, byte| scan.step(automaton, *byte)).end(automaton)
}
