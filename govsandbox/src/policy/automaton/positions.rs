//! The bytes that patterns ask for, and which may follow which (Glushkov, 1961).

use std::collections::HashMap;

use govsandbox_ebpf::abi::{exec::ExecHits, rule::Hits};

use crate::policy::rule::glob::{Part, Segment};

/// What the match of a pattern means.
pub(super) trait Mark: Copy + Default {
    /// What the matches of two patterns mean together.
    fn or(self, other: Self) -> Self;

    /// Equal for equal meanings, and for these only.
    fn key(self) -> [u64; 2];
}

impl Mark for Hits {
    fn or(self, other: Self) -> Self {
        Self::or(self, other)
    }

    fn key(self) -> [u64; 2] {
        [self.deny.into(), self.protect.into()]
    }
}

impl Mark for ExecHits {
    fn or(self, other: Self) -> Self {
        Self::or(self, other)
    }

    fn key(self) -> [u64; 2] {
        let [deny, allow, traits] = [self.deny, self.allow, self.traits].map(u64::from);
        [self.args, deny << 32 | allow << 16 | traits]
    }
}

/// A byte that patterns ask for, by its number. [`START`] is none.
pub(super) type Position = u32;

/// Before the first byte.
pub(super) const START: Position = 0;

/// Bytes that a position takes, one bit for each.
type Bytes = [u64; 4];

/// All positions of all patterns. Patterns that begin alike share the positions of what they have in common, or a state
/// would have one for each of them.
#[derive(Debug)]
pub(super) struct Positions<H> {
    /// What stands before each component: a slash before names of a path, a NUL before arguments. Of the latter a component
    /// may be empty.
    separator: u8,
    /// For each position which of `distinct` it takes.
    takes: Vec<usize>,
    distinct: Vec<Bytes>,
    follow: Vec<Vec<Position>>,
    /// What matches if a component ends with this position.
    hits: Vec<H>,
    /// Beginnings of patterns.
    prefixes: Vec<Prefix>,
    /// How they go on.
    longer: HashMap<(usize, Piece), usize>,
    /// Leading options that many patterns for arguments begin with.
    options: Vec<(&'static [&'static str], usize)>,
}

/// A beginning of patterns: the positions that it may end with.
#[derive(Debug)]
struct Prefix {
    last: Vec<Position>,
    /// The separator of a component that may have no byte yet.
    fresh: Option<Position>,
}

/// What patterns are made of.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Piece {
    AnyDepth,
    Separator,
    Mark(u8),
    Part(Part),
}

/// A part of a pattern: where it may begin and end, and whether it may be left out.
#[derive(Clone, Debug, Default)]
struct Fragment {
    first: Vec<Position>,
    last: Vec<Position>,
    optional: bool,
}

/// Bytes that no position tells apart are one class; the first is that of NUL alone.
#[derive(Debug)]
pub(super) struct Classes {
    /// Of each byte.
    pub(super) of: [u8; 256],
    pub(super) count: usize,
    /// Those that each of [`Positions::distinct`] takes.
    of_distinct: Vec<Vec<u8>>,
}

impl<H: Mark> Positions<H> {
    /// None, for texts whose components begin with this byte.
    pub(super) fn new(separator: u8) -> Self {
        let root = Prefix { last: vec![START], fresh: None };
        Self {
            separator,
            takes: vec![0],
            distinct: vec![[0; 4]],
            follow: vec![Vec::new()],
            hits: vec![H::default()],
            prefixes: vec![root],
            longer: HashMap::new(),
            options: Vec::new(),
        }
    }

    /// Adds a pattern for whole paths; `hits` is what its match means.
    pub(super) fn add(&mut self, segments: &[Segment], hits: H) {
        self.add_behind(0, segments, hits);
    }

    /// Adds a pattern for what follows leading options; `valued` are those that take the next word for their value.
    pub(super) fn add_after(
        &mut self,
        valued: Option<&'static [&'static str]>,
        segments: &[Segment],
        hits: H,
    ) {
        let begin = valued.map_or(0, |valued| self.leading_options(valued));
        self.add_behind(begin, segments, hits);
    }

    /// Adds a name that begins with `mark` instead of the separator: no path is meant.
    pub(super) fn add_marked(&mut self, mark: u8, name: &[Part], hits: H) {
        let marked = self.go_on(0, Piece::Mark(mark));
        let whole = name.iter().fold(marked, |prefix, part| self.go_on(prefix, Piece::Part(part.clone())));
        self.end(whole, hits);
    }

    fn add_behind(&mut self, begin: usize, segments: &[Segment], hits: H) {
        let mut prefix = begin;
        for segment in segments {
            match segment {
                Segment::AnyDepth => prefix = self.go_on(prefix, Piece::AnyDepth),
                Segment::Name(parts) => {
                    prefix = self.go_on(prefix, Piece::Separator);
                    for part in parts {
                        prefix = self.go_on(prefix, Piece::Part(part.clone()));
                    }
                }
            }
        }
        self.end(prefix, hits);
    }

    /// The prefix with one piece more.
    fn go_on(&mut self, prefix: usize, piece: Piece) -> usize {
        let key = (prefix, piece);
        if let Some(known) = self.longer.get(&key) {
            return *known;
        }
        let fragment = match &key.1 {
            Piece::AnyDepth => self.any_depth(),
            Piece::Separator => self.position(only(self.separator)),
            Piece::Mark(byte) => self.position(only(*byte)),
            Piece::Part(part) => self.part(part),
        };
        let within = matches!(key.1, Piece::Part(_));
        let (mut last, mut fresh) = match self.prefixes.get(prefix) {
            Some(before) if within => (before.last.clone(), before.fresh),
            _ => (self.ends(prefix), None),
        };
        self.link(&last, &fragment.first);
        if !fragment.optional {
            last.clear();
            fresh = None;
        }
        last.extend(&fragment.last);
        if key.1 == Piece::Separator {
            fresh = fragment.last.first().copied();
        }
        self.prefixes.push(Prefix { last, fresh });
        let number = self.prefixes.len() - 1;
        self.longer.insert(key, number);
        number
    }

    /// The positions that a whole component may end with: `*` alone is any name, and no name is empty.
    fn ends(&self, prefix: usize) -> Vec<Position> {
        let Some(Prefix { last, fresh }) = self.prefixes.get(prefix) else { return Vec::new() };
        let fresh = fresh.filter(|_| !self.may_be_empty());
        last.iter().copied().filter(|position| Some(*position) != fresh).collect()
    }

    fn end(&mut self, whole: usize, hits: H) {
        for position in self.ends(whole) {
            if let Some(known) = self.hits.get_mut(position as usize) {
                *known = known.or(hits);
            }
        }
    }

    /// Any number of options: one of `valued` with the word that follows, or another word that begins with a dash.
    fn leading_options(&mut self, valued: &'static [&'static str]) -> usize {
        if let Some((_, known)) = self.options.iter().find(|(known, _)| *known == valued) {
            return *known;
        }
        let bytes = |text: &str| text.bytes().map(Part::Byte).collect::<Vec<_>>();
        let mut either = Fragment::default();
        for option in valued {
            let option = self.name(&bytes(option));
            let value = self.name(&[Part::Run]);
            let both = self.then(option, value);
            either.first.extend(both.first);
            either.last.extend(both.last);
        }
        let mut prefixes: Vec<&str> =
            valued.iter().flat_map(|option| (1..=option.len()).filter_map(|end| option.get(..end))).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        for prefix in prefixes {
            // What differs from every valued option in the next byte, or ends here without being one.
            let further = valued.iter().filter_map(|option| option.strip_prefix(prefix)?.bytes().next());
            let ranges: Vec<_> = further.map(|byte| (byte, byte)).collect();
            let other = if ranges.is_empty() { Part::One } else { Part::Class { negated: true, ranges } };
            let mut longer = bytes(prefix);
            longer.extend([other, Part::Run]);
            let longer = self.name(&longer);
            either.first.extend(longer.first);
            either.last.extend(longer.last);
            if !valued.contains(&prefix) {
                let short = self.name(&bytes(prefix));
                either.first.extend(short.first);
                either.last.extend(short.last);
            }
        }
        let options = self.repeated(either);
        self.link(&[START], &options.first);
        let mut last = options.last;
        last.push(START);
        self.prefixes.push(Prefix { last, fresh: None });
        let number = self.prefixes.len() - 1;
        self.options.push((valued, number));
        number
    }

    /// Frees what only adding patterns needs.
    pub(super) fn forget_prefixes(&mut self) {
        (self.prefixes, self.longer, self.options) = (Vec::new(), HashMap::new(), Vec::new());
    }

    /// The classes of bytes.
    pub(super) fn classes(&self) -> Classes {
        let mut of = [0; 256];
        let mut of_distinct = vec![Vec::new(); self.distinct.len()];
        let mut known = HashMap::new();
        for (byte, class) in (0..=u8::MAX).zip(&mut of) {
            let takes: Vec<bool> = self.distinct.iter().map(|bytes| has(bytes, byte)).collect();
            let fresh = known.len();
            let number = *known.entry((byte == 0, takes)).or_insert(fresh);
            // 256 bytes have at most 256 classes.
            *class = u8::try_from(number).unwrap_or(u8::MAX);
            if number == fresh {
                let taking = self.distinct.iter().zip(&mut of_distinct).filter(|(bytes, _)| has(bytes, byte));
                taking.for_each(|(_, classes)| classes.push(*class));
            }
        }
        Classes { of, count: known.len(), of_distinct }
    }

    /// For each class the positions that may follow those of the set and take its bytes, sorted.
    pub(super) fn after(&self, set: &[Position], classes: &Classes, by_class: &mut [Vec<Position>]) {
        by_class.iter_mut().for_each(Vec::clear);
        let mut after: Vec<Position> = Vec::new();
        for position in set {
            after.extend(self.follow.get(*position as usize).into_iter().flatten());
        }
        after.sort_unstable();
        after.dedup();
        for position in after {
            let takes = self.takes.get(position as usize).and_then(|takes| classes.of_distinct.get(*takes));
            for class in takes.into_iter().flatten() {
                if let Some(positions) = by_class.get_mut(usize::from(*class)) {
                    positions.push(position);
                }
            }
        }
    }

    /// What matches if a component ends with a position of the set.
    pub(super) fn hits(&self, set: &[Position]) -> H {
        let hits = set.iter().filter_map(|position| self.hits.get(*position as usize));
        hits.fold(H::default(), |hits, more| hits.or(*more))
    }

    fn position(&mut self, takes: Bytes) -> Fragment {
        // No more than memory has room for: the numbers of rules and of bytes in them are bounded.
        let position = Position::try_from(self.takes.len()).unwrap_or(Position::MAX);
        let known = self.distinct.iter().position(|known| *known == takes);
        let takes = known.unwrap_or_else(|| {
            self.distinct.push(takes);
            self.distinct.len() - 1
        });
        self.takes.push(takes);
        self.follow.push(Vec::new());
        self.hits.push(H::default());
        Fragment { first: vec![position], last: vec![position], optional: false }
    }

    /// Any number of components.
    fn any_depth(&mut self) -> Fragment {
        let slash = self.position(only(self.separator));
        let run = self.run();
        let component = self.then(slash, Fragment { optional: self.may_be_empty(), ..run });
        self.repeated(component)
    }

    /// A slash and a name.
    fn name(&mut self, parts: &[Part]) -> Fragment {
        let slash = self.position(only(self.separator));
        let mut name = self.sequence(parts);
        // `*` alone is any name, and none is empty.
        name.optional &= self.may_be_empty();
        self.then(slash, name)
    }

    fn sequence(&mut self, parts: &[Part]) -> Fragment {
        let mut whole = Fragment { optional: true, ..Fragment::default() };
        for part in parts {
            let fragment = self.part(part);
            whole = self.then(whole, fragment);
        }
        whole
    }

    fn part(&mut self, part: &Part) -> Fragment {
        match part {
            Part::Byte(byte) => self.position(only(*byte)),
            Part::One => self.position(self.any()),
            Part::Run => self.run(),
            Part::Class { negated, ranges } => self.position(class(self.separator, *negated, ranges)),
            Part::Either(alternatives) => {
                let mut either = Fragment::default();
                for alternative in alternatives {
                    let fragment = self.sequence(alternative);
                    either.first.extend(fragment.first);
                    either.last.extend(fragment.last);
                    either.optional |= fragment.optional;
                }
                either
            }
        }
    }

    /// Arguments may be empty, names never are.
    fn may_be_empty(&self) -> bool {
        self.separator == 0
    }

    /// Every byte but the separator.
    fn any(&self) -> Bytes {
        class_of(|byte| byte != self.separator)
    }

    fn run(&mut self) -> Fragment {
        let one = self.position(self.any());
        self.repeated(one)
    }

    /// One after the other.
    fn then(&mut self, one: Fragment, other: Fragment) -> Fragment {
        self.link(&one.last, &other.first);
        let mut both = Fragment { optional: one.optional && other.optional, ..one };
        if one.optional {
            both.first.extend(&other.first);
        }
        if other.optional {
            both.last.extend(other.last);
        } else {
            both.last = other.last;
        }
        both
    }

    /// Any number of times, none included.
    fn repeated(&mut self, one: Fragment) -> Fragment {
        self.link(&one.last, &one.first);
        Fragment { optional: true, ..one }
    }

    fn link(&mut self, from: &[Position], to: &[Position]) {
        for position in from {
            if let Some(follow) = self.follow.get_mut(*position as usize) {
                follow.extend(to);
            }
        }
    }
}

fn only(byte: u8) -> Bytes {
    class_of(|other| other == byte)
}

fn class(separator: u8, negated: bool, ranges: &[(u8, u8)]) -> Bytes {
    class_of(|byte| {
        let listed = ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte));
        byte != separator && listed != negated
    })
}

fn class_of(takes: impl Fn(u8) -> bool) -> Bytes {
    let mut bytes = [0; 4];
    for byte in (0..=u8::MAX).filter(|byte| takes(*byte)) {
        insert(&mut bytes, usize::from(byte));
    }
    bytes
}

fn has(bytes: &Bytes, byte: u8) -> bool {
    bytes.get(usize::from(byte) / 64).is_some_and(|word| word >> (byte % 64) & 1 == 1)
}

fn insert(set: &mut [u64], member: usize) {
    if let Some(word) = set.get_mut(member / 64) {
        *word |= 1 << (member % 64);
    }
}
