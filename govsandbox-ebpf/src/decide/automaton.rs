//! Runs a path automaton over the bytes of an absolute path.

use super::Decision;
use crate::abi::rule::{
    AUTOMATON_CELL, AUTOMATON_END, AUTOMATON_INDEX_BITS, AUTOMATON_ROW_ALIGN, AUTOMATON_STATES,
    AUTOMATON_WORDS, Automaton, Hits, RULE_MOVED, RULE_SYMLINK,
};

/// The state before the first byte.
pub const START: u32 = AUTOMATON_STATES as u32;

const INDEX_MASK: u32 = (1 << AUTOMATON_INDEX_BITS) - 1;
/// The class of a component's end, as `words` has those of bytes.
const END: u32 = (AUTOMATON_CELL | AUTOMATON_END) << AUTOMATON_INDEX_BITS | (AUTOMATON_END + 1);

/// The state after one more byte.
#[inline(always)]
#[must_use]
pub fn next(automaton: &Automaton, state: u32, byte: u8) -> u32 {
    let class = automaton.words[byte as usize];
    let own = word(automaton, state.wrapping_add(class));
    let head = word(automaton, state);
    let row = (head >> AUTOMATON_INDEX_BITS) * AUTOMATON_ROW_ALIGN as u32;
    let shared = word(automaton, row.wrapping_add(class));
    // `AUTOMATON_OWN` has no other bit, and is the only word of a row with its bit.
    let usual = shared | (head & ((shared as i32) >> 31) as u32);
    (if is_marked(own, class) { own } else { usual }) & INDEX_MASK
}

/// The rules that match when a component ends in this state; they cover everything below it.
#[inline(always)]
#[must_use]
pub fn hits(automaton: &Automaton, state: u32) -> Hits {
    let end = word(automaton, state.wrapping_add(END));
    if !is_marked(end, END) {
        return Hits::NONE;
    }
    let hits = word(automaton, end);
    Hits { deny: hits as u16, protect: (hits >> 16) as u16 }
}

/// What is above the index bits plays no part.
#[inline(always)]
fn word(automaton: &Automaton, index: u32) -> u32 {
    automaton.words[index as usize & (AUTOMATON_WORDS - 1)]
}

#[inline(always)]
const fn is_marked(word: u32, class: u32) -> bool {
    (word ^ class) >> AUTOMATON_INDEX_BITS == 0
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

    /// Goes on by these bytes.
    #[must_use]
    pub fn through(self, automaton: &Automaton, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |scan, byte| scan.step(automaton, *byte))
    }

    /// Behind an absolute path, the slash of what lies below it not yet read: behind `/` nothing is read.
    #[must_use]
    pub fn behind(automaton: &Automaton, path: &[u8]) -> Self {
        Self::START.through(automaton, if path == b"/" { &[] } else { path })
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
    Scan::START.through(automaton, path).end(automaton)
}
