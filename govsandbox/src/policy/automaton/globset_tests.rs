//! The automaton against `globset`, for patterns of the whole grammar and paths that nearly match them.
//!
//! A pattern is made as a tree and written twice: in this project's grammar and in globset's, which differ in how sets
//! are quoted and in that globset's sets may match a slash. Names are bytes; those that are no text stand for control
//! characters on globset's side, since it takes patterns as text.

use globset::GlobBuilder;
use govsandbox_ebpf::{abi::rule::Hits, decide::automaton::scan};
use proptest::{prelude::*, test_runner::TestRng};

use super::build;
use crate::{
    id::RuleIndex,
    policy::{
        compile::{GlobRule, PathEffect},
        rule::glob,
    },
};

/// What names are made of: few, so that chance makes matches; the last are no text.
const NAME_BYTES: [u8; 9] = *b"ab.-]\n\x80\xc3\xff";
/// What a set lists.
const SET_BYTES: [u8; 8] = *b"ab.-]!^\\";

#[derive(Clone, Debug)]
pub(super) enum Component {
    AnyDepth,
    Name(Vec<Node>),
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Byte(u8),
    One,
    Run,
    Set { negated: bool, ranges: Vec<(u8, u8)> },
    Either(Vec<Vec<Node>>),
}

fn node() -> impl Strategy<Value = Node> {
    let byte = prop::sample::select(&NAME_BYTES[..]).prop_map(Node::Byte);
    let special = prop::sample::select(&b"*?[]{},\\!"[..]).prop_map(Node::Byte);
    let one = prop::sample::select(&SET_BYTES[..]).prop_map(|byte| (byte, byte));
    // The last goes over the slash.
    let range = prop::sample::select(vec![(b'a', b'b'), (b'!', b'~'), (b'\\', b'a'), (b'-', b'0')]);
    let set = (any::<bool>(), prop::collection::vec(prop_oneof![3 => one, 2 => range], 1..4))
        .prop_map(|(negated, ranges)| Node::Set { negated, ranges });
    let leaf = prop_oneof![8 => byte, 1 => special, 2 => Just(Node::One), 3 => Just(Node::Run), 2 => set];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let alternative = prop::collection::vec(inner, 0..3);
        prop::collection::vec(alternative, 2..4).prop_map(Node::Either)
    })
}

fn pattern() -> impl Strategy<Value = Vec<Component>> {
    let name = prop::collection::vec(node(), 1..4).prop_map(Component::Name);
    let component = prop_oneof![1 => Just(Component::AnyDepth), 3 => name];
    prop::collection::vec(component, 1..5).prop_filter("has a meaning", |components| {
        let named = components.iter().any(|component| matches!(component, Component::Name(_)));
        // A component `.` is dropped; globset would look for that name. `..` and `{,a}` as a whole name are refused.
        let dot = components.iter().any(
            |component| matches!(component, Component::Name(nodes) if matches!(nodes[..], [Node::Byte(b'.')])),
        );
        named && !dot && glob::segments(&ours(components)).is_ok()
    })
}

/// In the grammar of policies.
pub(super) fn ours(components: &[Component]) -> Vec<u8> {
    fn write(nodes: &[Node], out: &mut Vec<u8>) {
        for node in nodes {
            match node {
                Node::Byte(byte) => {
                    if b"*?[]{},\\!".contains(byte) {
                        out.push(b'\\');
                    }
                    out.push(*byte);
                }
                Node::One => out.push(b'?'),
                // Two in a row are another thing.
                Node::Run if out.last() == Some(&b'*') && !out.ends_with(b"\\*") => {}
                Node::Run => out.push(b'*'),
                Node::Set { negated, ranges } => {
                    out.extend(if *negated { &b"[!"[..] } else { b"[" });
                    for (first, last) in ranges {
                        out.extend([b'\\', *first]);
                        if first != last {
                            out.extend([b'-', b'\\', *last]);
                        }
                    }
                    out.push(b']');
                }
                Node::Either(alternatives) => {
                    for (index, alternative) in alternatives.iter().enumerate() {
                        out.push(if index == 0 { b'{' } else { b',' });
                        write(alternative, out);
                    }
                    out.push(b'}');
                }
            }
        }
    }
    written(components, write)
}

/// In globset's.
fn theirs(components: &[Component]) -> String {
    fn write(nodes: &[Node], out: &mut Vec<u8>) {
        for node in nodes {
            match node {
                Node::Byte(byte) => out.extend([b'\\', as_text(*byte)]),
                Node::One => out.push(b'?'),
                Node::Run if out.last() == Some(&b'*') && !out.ends_with(b"\\*") => {}
                Node::Run => out.push(b'*'),
                Node::Set { negated, ranges } => {
                    let listed =
                        |byte: u8| ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte));
                    // All that is listed, and in a negated set the slash besides. `]` comes first, `-` last.
                    let mut bytes: Vec<u8> =
                        (1..0x80).filter(|byte| listed(*byte) && *byte != b'/').collect();
                    if *negated {
                        bytes.push(b'/');
                    }
                    bytes.sort_by_key(|byte| match byte {
                        b']' => 0,
                        b'!' | b'^' => 2,
                        b'-' => 3,
                        _ => 1,
                    });
                    if bytes.is_empty() {
                        bytes.push(UNUSED);
                    } else if matches!(bytes.first(), Some(b'!' | b'^' | b'-')) {
                        bytes.insert(0, UNUSED);
                    }
                    out.extend(if *negated { &b"[!"[..] } else { b"[" });
                    out.extend(bytes);
                    out.push(b']');
                }
                Node::Either(alternatives) => {
                    for (index, alternative) in alternatives.iter().enumerate() {
                        out.push(if index == 0 { b'{' } else { b',' });
                        write(alternative, out);
                    }
                    out.push(b'}');
                }
            }
        }
    }
    String::from_utf8(written(components, write)).unwrap()
}

fn written(components: &[Component], write: fn(&[Node], &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    for component in components {
        out.push(b'/');
        match component {
            Component::AnyDepth => out.extend(b"**"),
            Component::Name(nodes) => write(nodes, &mut out),
        }
    }
    out
}

/// A byte that no name has.
const UNUSED: u8 = 0x07;

fn as_text(byte: u8) -> u8 {
    match byte {
        0x80 => 0x01,
        0xc3 => 0x02,
        0xff => 0x03,
        ascii => ascii,
    }
}

/// A path that the pattern matches, but for up to three small changes.
fn near(components: &[Component], rng: &mut TestRng) -> Vec<u8> {
    let mut names = Vec::new();
    for component in components {
        match component {
            Component::AnyDepth => names.extend((0..rng.next_u32() % 3).map(|_| any_name(rng))),
            Component::Name(nodes) => {
                let mut name = Vec::new();
                fill(nodes, &mut name, rng);
                names.push(name);
            }
        }
    }
    for _ in 0..rng.next_u32() % 4 {
        let place = rng.next_u32() as usize % (names.len() + 1);
        match rng.next_u32() % 6 {
            0 => names.insert(place, any_name(rng)),
            1 => names.extend([any_name(rng)]),
            2 if place < names.len() => drop(names.remove(place)),
            3 if place > 0 && place < names.len() => names.swap(place, place - 1),
            _ => {
                if let Some(name) = names.get_mut(place) {
                    let at = rng.next_u32() as usize % (name.len() + 1);
                    match rng.next_u32() % 3 {
                        0 => name.insert(at, any_byte(rng)),
                        1 if at < name.len() => drop(name.remove(at)),
                        _ if at < name.len() => name[at] = any_byte(rng),
                        _ => name.truncate(at / 2),
                    }
                }
            }
        }
    }
    // No path of the kernel has an empty name, `.` or `..` in it.
    names.retain(|name| !name.is_empty() && name != b"." && name != b"..");
    names.iter().take(8).flat_map(|name| [b"/", name.as_slice()].concat()).collect()
}

fn fill(nodes: &[Node], name: &mut Vec<u8>, rng: &mut TestRng) {
    for node in nodes {
        match node {
            Node::Byte(byte) => name.push(*byte),
            Node::One => name.push(any_byte(rng)),
            Node::Run => name.extend((0..rng.next_u32() % 3).map(|_| any_byte(rng))),
            Node::Set { negated: true, .. } => name.push(any_byte(rng)),
            Node::Set { ranges, .. } => {
                let (first, last) = ranges[rng.next_u32() as usize % ranges.len()];
                let byte = first + (rng.next_u32() % u32::from(last - first + 1)) as u8;
                name.push(if byte == b'/' { b'a' } else { byte });
            }
            Node::Either(alternatives) => {
                fill(&alternatives[rng.next_u32() as usize % alternatives.len()], name, rng);
            }
        }
    }
}

fn any_name(rng: &mut TestRng) -> Vec<u8> {
    (0..=rng.next_u32() % 2).map(|_| any_byte(rng)).collect()
}

fn any_byte(rng: &mut TestRng) -> u8 {
    NAME_BYTES[rng.next_u32() as usize % NAME_BYTES.len()]
}

/// What globset says of the path and of each folder above it.
pub(super) struct Oracle(globset::GlobMatcher);

impl Oracle {
    pub(super) fn of(components: &[Component]) -> Self {
        let meant = components.iter().rposition(|component| matches!(component, Component::Name(_)));
        let text = theirs(&components[..=meant.unwrap()]);
        let mut glob = GlobBuilder::new(&text);
        glob.literal_separator(true).empty_alternates(true).backslash_escape(true);
        Self(glob.build().unwrap_or_else(|error| panic!("{text:?}: {error}")).compile_matcher())
    }

    pub(super) fn covers(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        let text: Vec<u8> = path.iter().map(|byte| as_text(*byte)).collect();
        // A pattern with a name in it says nothing of the root, which is a folder above all.
        let ends = (2..=text.len()).filter(|end| *end == text.len() || text[*end] == b'/');
        ends.map(|end| std::ffi::OsStr::from_bytes(&text[..end])).any(|whole| self.0.is_match(whole))
    }
}

/// Patterns with paths near to them.
pub(super) fn case() -> impl Strategy<Value = (Vec<Vec<Component>>, Vec<Vec<u8>>)> {
    prop::collection::vec(pattern(), 1..5).prop_perturb(|patterns, mut rng| {
        let mut paths: Vec<_> =
            (0..24).map(|turn| near(&patterns[turn % patterns.len()], &mut rng)).collect();
        paths.push(b"/".to_vec());
        (patterns, paths)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_automaton_matches_what_globset_matches((patterns, paths) in case()) {
        // Denying and protecting rules in turn, numbered backwards: the best of each is not the first one built.
        let effect = |place: usize| if place.is_multiple_of(2) { PathEffect::Deny } else { PathEffect::Protect };
        let rule = |place: usize| RuleIndex((patterns.len() - place) as u16);
        let rules: Vec<_> = (0..patterns.len())
            .map(|place| GlobRule { pattern: ours(&patterns[place]), effect: effect(place), rule: rule(place) })
            .collect();
        // Alternatives in alternatives multiply; what is too large is refused as such, and counted by the test below.
        let Ok(table) = build(&rules) else { return Ok(()) };
        let oracles: Vec<_> = patterns.iter().map(|pattern| Oracle::of(pattern)).collect();
        for path in paths.iter().filter(|path| !path.is_empty()) {
            let best = |wanted: PathEffect| {
                let places = (0..patterns.len()).filter(|place| effect(*place) == wanted);
                places.filter(|place| oracles[*place].covers(path)).map(|place| rule(place).0).min().unwrap_or(0)
            };
            let expected = Hits { deny: best(PathEffect::Deny), protect: best(PathEffect::Protect) };
            prop_assert_eq!(
                scan(&table, path), expected,
                "{:?} under {:?}", path.escape_ascii().to_string(),
                rules.iter().map(|rule| rule.pattern.escape_ascii().to_string()).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_pattern_means_the_same_after_it_was_written_anew((patterns, paths) in case()) {
        let table = |pattern: Vec<u8>| build(&[GlobRule { pattern, effect: PathEffect::Deny, rule: RuleIndex(1) }]);
        for pattern in &patterns {
            let mut again = Vec::new();
            for segment in glob::segments(&ours(pattern)).unwrap() {
                again.push(b'/');
                segment.write(&mut again);
            }
            let (Ok(one), Ok(other)) = (table(ours(pattern)), table(again)) else { return Ok(()) };
            for path in &paths {
                prop_assert_eq!(scan(&one, path), scan(&other, path));
            }
        }
    }
}

/// The tests above prove nothing if they seldom match, if they always do, or if most tables are refused.
#[test]
fn the_cases_match_about_as_often_as_not_and_have_all_of_the_grammar() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut built, mut matched, mut missed) = (0, 0, 0);
    let mut text = Vec::new();
    for _ in 0..400 {
        let (patterns, paths) = case().new_tree(&mut runner).unwrap().current();
        let rules = patterns.iter().map(|pattern| GlobRule {
            pattern: ours(pattern),
            effect: PathEffect::Deny,
            rule: RuleIndex(1),
        });
        let Ok(table) = build(&rules.collect::<Vec<_>>()) else { continue };
        built += 1;
        text.extend(patterns.iter().map(|pattern| ours(pattern)));
        for path in &paths {
            if scan(&table, path).is_none() { missed += 1 } else { matched += 1 }
        }
    }
    assert!(built > 380, "only {built} of 400 tables were built");
    assert!(matched > 2000 && missed > 2000, "{matched} matched, {missed} did not");
    let has = |part: &[u8]| text.iter().filter(|text| text.windows(part.len()).any(|at| at == part)).count();
    for part in [&b"/**/"[..], b"[!", b"-\\0", b"{,", b",}", b"{{", b"?", b"\\*", b"\xff", b"/."] {
        assert!(has(part) >= 3, "{} is in {} patterns", part.escape_ascii(), has(part));
    }
}
