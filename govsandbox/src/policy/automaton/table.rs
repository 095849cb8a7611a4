//! The kernel's form of a graph: states that lie interleaved, and rows that many of them share ([`Automaton`]).

use std::collections::HashMap;

use govsandbox_ebpf::abi::rule::{
    AUTOMATON_CELL, AUTOMATON_END, AUTOMATON_INDEX_BITS, AUTOMATON_LENGTHS, AUTOMATON_OWN,
    AUTOMATON_ROW_ALIGN, AUTOMATON_ROWS, AUTOMATON_STATES, AUTOMATON_WORDS, Automaton, Hits,
};
use zerocopy::FromZeros;

use super::{AutomatonError, graph::Graph};

/// Words behind a head that may be its state's: one for each class of bytes, and that of the component's end.
const REACH: usize = AUTOMATON_END as usize + 2;
/// How often a state has to be a successor for its row to be tried for others.
const HUB_EDGES_MIN: u32 = 4;
/// Of the most frequent successors those whose rows are tried for every state.
const HUBS_FOR_ALL: usize = 16;

/// Puts the states into a table.
pub(super) fn pack(graph: &Graph<Hits>) -> Result<Box<Automaton>, AutomatonError> {
    let mut table = Automaton::new_box_zeroed().map_err(|_| AutomatonError::Memory)?;
    for (word, class) in table.words.iter_mut().zip(graph.classes) {
        *word = mark(u32::from(class)) | (u32::from(class) + 1);
    }
    let rows = Rows::of(graph);
    let too_large = || AutomatonError::too_large(graph.states(), graph.class_count);
    let states = graph.states() as u32;
    // The start comes first, for its place is known; then the large ones, which fit into fewer gaps.
    let mut cells: Vec<(u32, Cells)> =
        (0..states).map(|state| (state, Cells::of(graph, &rows, state))).collect();
    let start = graph.start();
    cells.sort_by_key(|(state, cells)| (*state != start, usize::MAX - cells.own.len()));
    let mut room = Room::new();
    let mut place_of = vec![0; graph.states()];
    let mut end = AUTOMATON_STATES;
    for (state, cells) in &cells {
        let place = room.take(cells.offsets(graph, *state)).ok_or_else(too_large)?;
        if let Some(of_state) = place_of.get_mut(*state as usize) {
            *of_state = (AUTOMATON_STATES + place) as u32;
        }
        end = end.max(AUTOMATON_STATES + place + REACH);
    }
    let place = |state: u32| place_of.get(state as usize).copied().unwrap_or(0);
    let mut put = |index: usize, word: u32| table.words.get_mut(index).map(|to| *to = word);
    let mut hits_at: HashMap<u32, u32> = HashMap::new();
    for (state, cells) in &cells {
        let (at, row) = (place(*state) as usize, cells.row * rows.width / AUTOMATON_ROW_ALIGN);
        let row = (AUTOMATON_ROWS / AUTOMATON_ROW_ALIGN + row) as u32;
        put(at, row << AUTOMATON_INDEX_BITS | place(graph.usual(*state))).ok_or_else(too_large)?;
        for (class, next) in &cells.own {
            put(at + usize::from(*class) + 1, mark(u32::from(*class)) | place(*next))
                .ok_or_else(too_large)?;
        }
        if let Some(hits) = hits_of(graph, *state) {
            let hits = u32::from(hits.protect) << 16 | u32::from(hits.deny);
            let fresh = end as u32;
            let hits_at = *hits_at.entry(hits).or_insert_with(|| {
                end += 1;
                fresh
            });
            put(hits_at as usize, hits).ok_or_else(too_large)?;
            put(at + AUTOMATON_END as usize + 1, mark(AUTOMATON_END) | hits_at).ok_or_else(too_large)?;
        }
    }
    for (number, hub) in rows.hubs.iter().enumerate() {
        let at = AUTOMATON_ROWS + number * rows.width;
        for class in 0..graph.class_count {
            put(at + class + 1, AUTOMATON_OWN).ok_or_else(too_large)?;
        }
        for (class, next) in hub.iter().flat_map(|state| graph.exceptions(*state)) {
            put(at + usize::from(*class) + 1, place(*next)).ok_or_else(too_large)?;
        }
    }
    let rows_end = AUTOMATON_ROWS + rows.hubs.len() * rows.width;
    for (index, length) in (AUTOMATON_LENGTHS..).zip([rows_end, end]) {
        put(index, length as u32).ok_or_else(too_large)?;
    }
    Ok(table)
}

/// What marks the word of a class.
fn mark(class: u32) -> u32 {
    (AUTOMATON_CELL | class) << AUTOMATON_INDEX_BITS
}

fn hits_of(graph: &Graph<Hits>, state: u32) -> Option<Hits> {
    graph.hits.get(state as usize).copied().filter(|hits| !hits.is_none())
}

/// The rows that states share: each is that of one state, its usual successor left open.
struct Rows {
    /// Words of each.
    width: usize,
    /// Whose; the first is nobody's and says nothing.
    hubs: Vec<Option<u32>>,
    /// The row of each hub.
    row_of: HashMap<u32, usize>,
}

impl Rows {
    /// Those of the states that are most often successors: where a text goes on when it has left a pattern, all states
    /// that lead there do as these do.
    fn of(graph: &Graph<Hits>) -> Self {
        let width = (graph.class_count + 1).next_multiple_of(AUTOMATON_ROW_ALIGN);
        let mut edges = vec![0_u32; graph.states()];
        for state in 0..graph.states() as u32 {
            let others = graph.exceptions(state).iter().map(|(_, next)| *next);
            for next in others.chain([graph.usual(state)]) {
                if let Some(edges) = edges.get_mut(next as usize) {
                    *edges += 1;
                }
            }
        }
        let mut hubs: Vec<(u32, u32)> = (0..).zip(edges).collect();
        hubs.retain(|(state, edges)| *edges >= HUB_EDGES_MIN && !graph.exceptions(*state).is_empty());
        hubs.sort_by_key(|(_, edges)| u32::MAX - edges);
        hubs.truncate((AUTOMATON_STATES - AUTOMATON_ROWS) / width - 1);
        let row_of = hubs.iter().zip(1..).map(|((state, _), row)| (*state, row)).collect();
        let hubs = [None].into_iter().chain(hubs.iter().map(|(state, _)| Some(*state))).collect();
        Self { width, hubs, row_of }
    }
}

/// What a state needs beside its row.
struct Cells {
    row: usize,
    /// Class and successor, by class.
    own: Vec<(u8, u32)>,
}

impl Cells {
    /// With the row that leaves the fewest.
    fn of(graph: &Graph<Hits>, rows: &Rows, state: u32) -> Self {
        let near = [state, graph.usual(state)];
        let near = near.iter().filter_map(|hub| rows.row_of.get(hub).copied());
        let tried = near.chain(0..rows.hubs.len().min(HUBS_FOR_ALL));
        let differing = tried.map(|row| {
            let hub = rows.hubs.get(row).copied().flatten();
            let own = differing(graph, state, hub.map_or(&[][..], |hub| graph.exceptions(hub)));
            Self { row, own }
        });
        differing.min_by_key(|cells| cells.own.len()).unwrap_or(Self { row: 0, own: Vec::new() })
    }

    /// Places of its words behind its head, the head's own among them.
    fn offsets(&self, graph: &Graph<Hits>, state: u32) -> Vec<usize> {
        let end = hits_of(graph, state).map(|_| AUTOMATON_END as usize + 1);
        let own = self.own.iter().map(|(class, _)| usize::from(*class) + 1);
        [0].into_iter().chain(own).chain(end).collect()
    }
}

/// What the state's row has and a shared one has not, or has otherwise; both are sorted.
fn differing(graph: &Graph<Hits>, state: u32, shared: &[(u8, u32)]) -> Vec<(u8, u32)> {
    let mut own = Vec::new();
    let mut shared = shared.iter().peekable();
    let usual = graph.usual(state);
    for (class, next) in graph.exceptions(state) {
        while let Some((before, other)) = shared.next_if(|(other, _)| other < class) {
            if *other != usual {
                own.push((*before, usual));
            }
        }
        if shared.next_if(|(other, _)| other == class).is_none_or(|(_, other)| other != next) {
            own.push((*class, *next));
        }
    }
    own.extend(shared.filter(|(_, other)| *other != usual).map(|(class, _)| (*class, usual)));
    own
}

/// Words of the states that are taken, a bit for each.
struct Room {
    taken: Vec<u64>,
    /// Where the search for words in a given arrangement ended last: nothing before it has become free since.
    searched: HashMap<Vec<usize>, usize>,
    /// Before this word of bits everything is taken.
    full: usize,
}

impl Room {
    fn new() -> Self {
        // What is behind the last state's words is nobody's.
        let words = AUTOMATON_WORDS - AUTOMATON_STATES - REACH;
        Self { taken: vec![0; words / 64], searched: HashMap::new(), full: 0 }
    }

    /// Takes the first place at which all words of a state are free.
    fn take(&mut self, offsets: Vec<usize>) -> Option<usize> {
        while self.taken.get(self.full) == Some(&u64::MAX) {
            self.full += 1;
        }
        let from = self.searched.get(&offsets).copied().unwrap_or(0).max(self.full);
        let (at, free) = (from..self.taken.len()).find_map(|at| {
            let taken = offsets.iter().fold(0, |taken, offset| taken | self.taken_behind(at, *offset));
            (taken != u64::MAX).then_some((at, !taken))
        })?;
        let place = at * 64 + free.trailing_zeros() as usize;
        for offset in &offsets {
            if let Some(word) = self.taken.get_mut((place + offset) / 64) {
                *word |= 1 << ((place + offset) % 64);
            }
        }
        self.searched.insert(offsets, at);
        Some(place)
    }

    /// The 64 bits that stand `offset` behind those of a word; there is nothing behind the last one.
    fn taken_behind(&self, at: usize, offset: usize) -> u64 {
        let word = |at: usize| self.taken.get(at).copied().unwrap_or(u64::MAX);
        let (at, shift) = (at + offset / 64, offset % 64);
        match shift {
            0 => word(at),
            _ => word(at) >> shift | word(at + 1) << (64 - shift),
        }
    }
}
