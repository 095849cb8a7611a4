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

/// A set of positions, one bit for each.
pub(super) type Set = Vec<u64>;

/// Bytes that a position takes, one bit for each.
type Bytes = [u64; 4];

/// All positions of all patterns.
#[derive(Debug)]
pub(super) struct Positions<H> {
    /// What stands before each component: a slash before names of a path, a NUL before arguments. Of the latter a component
    /// may be empty.
    separator: u8,
    takes: Vec<Bytes>,
    follow: Vec<Vec<usize>>,
    /// What matches if a component ends with this position.
    hits: Vec<H>,
    /// Where a path may begin.
    first: Vec<usize>,
    /// What matches every path.
    everywhere: H,
    /// The `**` that many patterns begin with: one for all, or each state would have a position for every pattern.
    leading: Option<Fragment>,
    /// Leading options that many patterns for arguments begin with, likewise.
    options: Vec<(&'static [&'static str], Fragment)>,
}

/// A part of a pattern: where it may begin and end, and whether it may be left out.
#[derive(Clone, Debug, Default)]
struct Fragment {
    first: Vec<usize>,
    last: Vec<usize>,
    optional: bool,
}

impl<H: Mark> Positions<H> {
    /// None, for texts whose components begin with this byte.
    pub(super) fn new(separator: u8) -> Self {
        Self {
            separator,
            takes: Vec::new(),
            follow: Vec::new(),
            hits: Vec::new(),
            first: Vec::new(),
            everywhere: H::default(),
            leading: None,
            options: Vec::new(),
        }
    }

    /// Adds a pattern for whole paths; `hits` is what its match means.
    pub(super) fn add(&mut self, segments: &[Segment], hits: H) {
        self.add_after(None, segments, hits);
    }

    /// Adds a pattern for what follows leading options; `valued` are those that take the next word for their value.
    pub(super) fn add_after(
        &mut self,
        valued: Option<&'static [&'static str]>,
        segments: &[Segment],
        hits: H,
    ) {
        let mut whole = match valued {
            Some(valued) => self.leading_options(valued),
            None => Fragment { optional: true, ..Fragment::default() },
        };
        for (index, segment) in segments.iter().enumerate() {
            let fragment = match (segment, &self.leading) {
                (Segment::AnyDepth, Some(leading)) if index == 0 => leading.clone(),
                (Segment::AnyDepth, _) => self.any_depth(),
                (Segment::Name(parts), _) => self.name(parts),
            };
            if index == 0 && *segment == Segment::AnyDepth {
                self.leading = Some(fragment.clone());
            }
            whole = self.then(whole, fragment);
        }
        self.end(whole, hits);
    }

    /// Adds a name that begins with `mark` instead of the separator: no path is meant.
    pub(super) fn add_marked(&mut self, mark: u8, name: &[Part], hits: H) {
        let marked = self.position(only(mark));
        let name = self.sequence(name);
        let whole = self.then(marked, name);
        self.end(whole, hits);
    }

    fn end(&mut self, whole: Fragment, hits: H) {
        for position in &whole.last {
            if let Some(known) = self.hits.get_mut(*position) {
                *known = known.or(hits);
            }
        }
        if whole.optional {
            self.everywhere = self.everywhere.or(hits);
        }
        self.first.extend(whole.first);
    }

    /// Any number of options: one of `valued` with the word that follows, or another word that begins with a dash.
    fn leading_options(&mut self, valued: &'static [&'static str]) -> Fragment {
        if let Some((_, known)) = self.options.iter().find(|(known, _)| *known == valued) {
            return known.clone();
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
        self.options.push((valued, options.clone()));
        options
    }

    /// The classes of bytes that no position tells apart: the class of each byte, and for each class the positions that
    /// take its bytes.
    pub(super) fn classes(&self) -> ([u8; 256], Vec<Set>) {
        let mut distinct = self.takes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut classes = [0; 256];
        let mut members = Vec::new();
        let mut known = HashMap::new();
        for (byte, class) in (0..=u8::MAX).zip(&mut classes) {
            let signature: Vec<bool> = distinct.iter().map(|bytes| has(bytes, byte)).collect();
            *class = *known.entry(signature).or_insert_with(|| {
                members.push(self.taking(byte));
                // 256 bytes have at most 256 classes.
                u8::try_from(members.len() - 1).unwrap_or(u8::MAX)
            });
        }
        (classes, members)
    }

    /// The positions at which a path may begin.
    pub(super) fn after_start(&self) -> Set {
        let mut set = self.empty();
        self.first.iter().for_each(|position| insert(&mut set, *position));
        set
    }

    /// The positions that may follow those of the set.
    pub(super) fn after(&self, set: &Set) -> Set {
        let mut after = self.empty();
        for position in members(set) {
            self.follow.get(position).into_iter().flatten().for_each(|next| insert(&mut after, *next));
        }
        after
    }

    /// What matches if a component ends with a position of the set.
    pub(super) fn hits(&self, set: &Set) -> H {
        members(set)
            .filter_map(|position| self.hits.get(position))
            .fold(H::default(), |hits, more| hits.or(*more))
    }

    /// What matches the empty path, and so every path.
    pub(super) fn hits_at_start(&self) -> H {
        self.everywhere
    }

    /// No position.
    pub(super) fn empty(&self) -> Set {
        vec![0; self.takes.len().div_ceil(64)]
    }

    fn taking(&self, byte: u8) -> Set {
        let mut set = self.empty();
        for (position, _) in self.takes.iter().enumerate().filter(|(_, bytes)| has(bytes, byte)) {
            insert(&mut set, position);
        }
        set
    }

    fn position(&mut self, takes: Bytes) -> Fragment {
        let position = self.takes.len();
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
            let fragment = match part {
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
            };
            whole = self.then(whole, fragment);
        }
        whole
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

    fn link(&mut self, from: &[usize], to: &[usize]) {
        for position in from {
            if let Some(follow) = self.follow.get_mut(*position) {
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

fn members(set: &Set) -> impl Iterator<Item = usize> {
    set.iter().enumerate().flat_map(|(index, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(index * 64 + bit)
        })
    })
}

/// What is in both sets.
pub(super) fn both(one: &Set, other: &Set) -> Set {
    one.iter().zip(other).map(|(one, other)| one & other).collect()
}
