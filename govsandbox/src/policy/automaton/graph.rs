//! From positions to states: all sets of positions that some text comes to, and of these the smallest automaton.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    rc::Rc,
};

use super::{
    AutomatonError,
    positions::{Mark, Position, Positions, START},
};

/// States before they are merged at most. What needs more fits no table.
const UNMERGED_STATES_MAX: usize = 1 << 18;
/// Positions in all of their sets, and successors other than usual ones: each 32 MiB at most.
const MEMBERS_MAX: usize = 8 << 20;
const EXCEPTIONS_MAX: usize = 4 << 20;

/// A deterministic automaton, states numbered from 0; 0 is dead, 1 is the start.
#[derive(Debug)]
pub(super) struct Graph<H> {
    /// Class of each byte.
    pub(super) classes: [u8; 256],
    pub(super) class_count: usize,
    /// For each state what matches if a component ends there.
    pub(super) hits: Vec<H>,
    rows: Rows,
}

/// For each state its successors: the usual one, which is that of class 0, and those of the classes that differ.
#[derive(Debug, Default)]
struct Rows {
    usual: Vec<u32>,
    /// Where a state's exceptions end; they begin where those of the state before it end.
    ends: Vec<usize>,
    /// Class and successor, by class.
    exceptions: Vec<(u8, u32)>,
}

impl Rows {
    fn push(&mut self, usual: u32, exceptions: impl Iterator<Item = (u8, u32)>) {
        self.exceptions.extend(exceptions.filter(|(_, next)| *next != usual));
        self.usual.push(usual);
        self.ends.push(self.exceptions.len());
    }

    fn usual(&self, state: u32) -> u32 {
        self.usual.get(state as usize).copied().unwrap_or(0)
    }

    fn exceptions(&self, state: u32) -> &[(u8, u32)] {
        let end = |state: Option<usize>| state.and_then(|state| self.ends.get(state)).copied().unwrap_or(0);
        let (state, before) = (state as usize, (state as usize).checked_sub(1));
        self.exceptions.get(end(before)..end(Some(state))).unwrap_or_default()
    }
}

impl<H: Mark> Graph<H> {
    /// All sets of positions that some text comes to.
    pub(super) fn of(mut positions: Positions<H>) -> Result<Self, AutomatonError> {
        positions.forget_prefixes();
        let classes = positions.classes();
        let mut graph =
            Self { classes: classes.of, class_count: classes.count, hits: Vec::new(), rows: Rows::default() };
        let mut by_class = vec![Vec::new(); classes.count];
        let mut numbers: HashMap<Rc<[Position]>, u32> = HashMap::new();
        let mut waiting: VecDeque<Rc<[Position]>> = VecDeque::new();
        let mut members = 0;
        let mut number = |set: &[Position], graph: &mut Self, waiting: &mut VecDeque<_>| {
            if let Some(number) = numbers.get(set) {
                return Ok(*number);
            }
            let states = graph.hits.len();
            members += set.len();
            let too_many = members > MEMBERS_MAX || graph.rows.exceptions.len() > EXCEPTIONS_MAX;
            if states >= UNMERGED_STATES_MAX || too_many {
                return Err(AutomatonError::too_large(states, classes.count));
            }
            let set: Rc<[Position]> = set.into();
            graph.hits.push(positions.hits(&set));
            numbers.insert(Rc::clone(&set), states as u32);
            waiting.push_back(set);
            Ok(states as u32)
        };
        number(&[], &mut graph, &mut waiting)?;
        number(&[START], &mut graph, &mut waiting)?;
        let mut exceptions = Vec::new();
        while let Some(set) = waiting.pop_front() {
            positions.after(&set, &classes, &mut by_class);
            let Some((first, others)) = by_class.split_first() else { break };
            let usual = number(first, &mut graph, &mut waiting)?;
            exceptions.clear();
            for (class, set) in (1..=u8::MAX).zip(others).filter(|(_, set)| *set != first) {
                exceptions.push((class, number(set, &mut graph, &mut waiting)?));
            }
            graph.rows.push(usual, exceptions.iter().copied());
        }
        Ok(graph)
    }

    /// The smallest automaton that does the same: states are merged unless some text tells them apart (Moore, 1956).
    pub(super) fn merged(&self) -> Self {
        let mut distinct = HashMap::new();
        let mut block_of: Vec<u32> = Vec::with_capacity(self.hits.len());
        for hits in &self.hits {
            let fresh = distinct.len() as u32;
            block_of.push(*distinct.entry(hits.key()).or_insert(fresh));
        }
        let mut count = distinct.len() as u32;
        // A state alone in its block can't be told apart from another any more.
        let mut open: Vec<u32> = (0..self.hits.len() as u32).collect();
        loop {
            let mut sizes = vec![0_u32; count as usize];
            open.iter().for_each(|state| count_up(&mut sizes, at(&block_of, *state)));
            open.retain(|state| sizes.get(at(&block_of, *state) as usize).is_some_and(|size| *size > 1));
            let before = count;
            let (mut known, mut kept) = (HashMap::<Box<[u32]>, u32>::new(), HashSet::new());
            let mut key = Vec::new();
            let mut moved = Vec::new();
            for state in &open {
                let block = at(&block_of, *state);
                let usual = at(&block_of, self.rows.usual(*state));
                key.clear();
                key.extend([block, usual]);
                for (class, next) in self.rows.exceptions(*state) {
                    let next = at(&block_of, *next);
                    if next != usual {
                        key.extend([u32::from(*class), next]);
                    }
                }
                let number = known.get(&*key).copied().unwrap_or_else(|| {
                    // The first of a block keeps its number.
                    let number = if kept.insert(block) { block } else { count };
                    count = count.max(number + 1);
                    known.insert(key.as_slice().into(), number);
                    number
                });
                if number != block {
                    moved.push((*state, number));
                }
            }
            for (state, number) in moved {
                if let Some(block) = block_of.get_mut(state as usize) {
                    *block = number;
                }
            }
            if count == before {
                return self.with_states_joined(&block_of, count);
            }
        }
    }

    /// Blocks are numbered as their first states are, so the dead state stays 0, and the start is 1 or, if nothing can
    /// match, dead too.
    fn with_states_joined(&self, block_of: &[u32], count: u32) -> Self {
        let mut numbers: Vec<Option<u32>> = vec![None; count as usize];
        let mut firsts = Vec::new();
        for (state, block) in (0_u32..).zip(block_of) {
            if let Some(number @ None) = numbers.get_mut(*block as usize) {
                *number = Some(firsts.len() as u32);
                firsts.push(state);
            }
        }
        let joined = |state: u32| numbers.get(at(block_of, state) as usize).copied().flatten().unwrap_or(0);
        let mut rows = Rows::default();
        for state in &firsts {
            let exceptions = self.rows.exceptions(*state).iter();
            rows.push(
                joined(self.rows.usual(*state)),
                exceptions.map(|(class, next)| (*class, joined(*next))),
            );
        }
        let hits = firsts.iter().filter_map(|state| self.hits.get(*state as usize)).copied().collect();
        Self { classes: self.classes, class_count: self.class_count, hits, rows }
    }
}

impl<H> Graph<H> {
    pub(super) fn states(&self) -> usize {
        self.hits.len()
    }

    /// The start; the dead state, if nothing can match.
    pub(super) fn start(&self) -> u32 {
        u32::from(self.hits.len() > 1)
    }

    /// The successor that a state has for most classes.
    pub(super) fn usual(&self, state: u32) -> u32 {
        self.rows.usual(state)
    }

    /// The classes that have another, sorted.
    pub(super) fn exceptions(&self, state: u32) -> &[(u8, u32)] {
        self.rows.exceptions(state)
    }
}

fn at(numbers: &[u32], index: u32) -> u32 {
    numbers.get(index as usize).copied().unwrap_or(0)
}

fn count_up(counts: &mut [u32], index: u32) {
    if let Some(count) = counts.get_mut(index as usize) {
        *count += 1;
    }
}
