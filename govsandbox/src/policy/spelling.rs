//! Rules by name where a file system finds a name by other spellings too.
//!
//! Where such a file system is mounted, patterns match whatever folds to what they match, and a name with a character
//! that folds to nothing or to ASCII is denied there, since it is another spelling of one without. What knows still other
//! forms of a name (FAT's short ones) is denied as a whole. Both only if the policy has patterns.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::{
    compile::{Compiled, GlobRule, Layer, LiteralRule, PathEffect, RuleInfo},
    rule::glob::{self, Part, Segment},
};
use crate::{
    id::{RuleId, RuleIndex},
    sys::spelling::Spelling,
};

/// Characters that Unicode's case folding (NFDICF) drops, or turns into ASCII: ignorable ones, the long s, the Kelvin
/// sign, ligatures, and two marks.
const VANISHING: [(char, char); 23] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{17f}', '\u{17f}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{37e}', '\u{37e}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{1fef}', '\u{1fef}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{212a}', '\u{212a}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fb00}', '\u{fb06}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fff8}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{1e9e}', '\u{1e9e}'),
    ('\u{df}', '\u{df}'),
];
/// What all of U+E0000 to U+E0FFF begin with.
const TAGS: &[u8] = b"\xf3\xa0";

/// Has the rules hold under other spellings too; `places` are where there are any.
pub(super) fn widened(mut compiled: Compiled, places: &[(PathBuf, Spelling)]) -> Compiled {
    if compiled.paths.globs.is_empty() || places.is_empty() {
        return compiled;
    }
    let id = RuleId("builtin/other-spellings".to_owned());
    compiled.rules.push(RuleInfo { id, layer: Layer::Builtin });
    let own = RuleIndex(u16::try_from(compiled.rules.len()).unwrap_or(u16::MAX));
    let paths = &mut compiled.paths;
    let of = |wanted| places.iter().filter(move |(_, spelling)| *spelling == wanted).map(|(point, _)| point);
    if of(Spelling::Folded).next().is_some() {
        // A name that does not exist yet is a pattern too.
        let named = paths.literals.iter().map(|literal| GlobRule {
            pattern: glob::quote(literal.path.as_os_str().as_bytes()),
            effect: literal.effect,
            rule: literal.rule,
        });
        let folded = paths
            .globs
            .iter()
            .cloned()
            .chain(named)
            .map(|rule| GlobRule { pattern: folded(&rule.pattern), ..rule });
        paths.globs = folded.collect();
    }
    for point in of(Spelling::Folded) {
        let mut pattern = glob::quote(point.as_os_str().as_bytes());
        pattern.extend(b"/**/*{");
        pattern.extend(TAGS);
        for character in VANISHING.iter().flat_map(|(first, last)| *first..=*last) {
            pattern.push(b',');
            pattern.extend(character.to_string().bytes());
        }
        pattern.extend(b"}*");
        paths.globs.push(GlobRule { pattern, effect: PathEffect::Deny, rule: own });
    }
    let whole = |point: &PathBuf| LiteralRule { path: point.clone(), effect: PathEffect::Deny, rule: own };
    paths.literals.extend(of(Spelling::Others).map(whole));
    compiled
}

/// A pattern for everything that folds to what the pattern matches.
fn folded(pattern: &[u8]) -> Vec<u8> {
    // What is in a compiled policy is a pattern.
    let Ok(segments) = glob::segments(pattern) else { return pattern.to_vec() };
    let mut out = Vec::new();
    for segment in segments {
        out.push(b'/');
        match segment {
            Segment::AnyDepth => out.extend(b"**"),
            Segment::Name(parts) => Segment::Name(parts_folded(&parts)).write(&mut out),
        }
    }
    out
}

fn parts_folded(parts: &[Part]) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::with_capacity(parts.len());
    let mut is_wide = false;
    for part in parts {
        let was_wide = std::mem::replace(&mut is_wide, matches!(part, Part::Byte(byte) if !byte.is_ascii()));
        match part {
            // One stands for all in a row.
            Part::Byte(_) if is_wide && was_wide => {}
            Part::Byte(_) if is_wide => out.push(any_wide()),
            Part::Byte(byte) if byte.is_ascii_alphabetic() => out.push(Part::Class {
                negated: false,
                ranges: [byte.to_ascii_lowercase(), byte.to_ascii_uppercase()]
                    .map(|byte| (byte, byte))
                    .to_vec(),
            }),
            Part::Class { negated: false, ranges } => {
                let other = ranges.iter().flat_map(|range| other_case(*range));
                out.push(Part::Class {
                    negated: false,
                    ranges: ranges.iter().copied().chain(other).collect(),
                });
            }
            Part::Either(alternatives) => {
                out.push(Part::Either(alternatives.iter().map(|parts| parts_folded(parts)).collect()));
            }
            Part::Byte(_) | Part::One | Part::Run | Part::Class { negated: true, .. } => {
                out.push(part.clone())
            }
        }
    }
    out
}

/// What characters that are not ASCII may come to: one such and anything behind, with a letter before that it was part of.
fn any_wide() -> Part {
    let wide = Part::Class { negated: true, ranges: vec![(1, 0x7f)] };
    let letter = Part::Class { negated: false, ranges: vec![(b'A', b'Z'), (b'a', b'z')] };
    Part::Either(vec![vec![wide.clone(), Part::Run], vec![letter, wide, Part::Run]])
}

/// The letters of a range in the other case.
fn other_case((first, last): (u8, u8)) -> impl Iterator<Item = (u8, u8)> {
    let within = move |from: u8, to: u8| (first.max(from), last.min(to));
    let swap = |(first, last): (u8, u8)| (first ^ 0x20, last ^ 0x20);
    [within(b'a', b'z'), within(b'A', b'Z')].into_iter().filter(|(first, last)| first <= last).map(swap)
}

#[cfg(test)]
mod tests {
    use govsandbox_ebpf::decide::automaton::scan;

    use super::*;
    use crate::policy::automaton;

    fn denies(pattern: &str, path: &str) -> bool {
        let rule =
            GlobRule { pattern: folded(pattern.as_bytes()), effect: PathEffect::Deny, rule: RuleIndex(1) };
        scan(&automaton::build(&[rule]).unwrap(), path.as_bytes()).deny == 1
    }

    #[test]
    fn a_folded_pattern_matches_in_any_case() {
        for (pattern, path) in [
            ("/**/.env", "/a/.ENV"),
            ("/**/.env", "/.env"),
            ("/**/.git/hooks", "/p/.GIT/Hooks/pre-commit"),
            ("/x/[a-c]?.{pem,KEY}", "/X/Bé.Pem"),
            ("/x/[a-c]?.{pem,KEY}", "/x/Bx.Pem"),
            ("/x/é.txt", "/x/É.TXT"),
            ("/x/é.txt", "/x/e\u{301}.txt"),
        ] {
            let expected = path != "/X/Bé.Pem"; // `?` is one byte
            assert_eq!(denies(pattern, path), expected, "{pattern} {path}");
        }
        for (pattern, path) in
            [("/**/.env", "/.envx"), ("/**/.env", "/.en"), ("/x/é", "/x/plain"), ("/x/[1-3]", "/x/a")]
        {
            assert!(!denies(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn what_a_pattern_matched_it_matches_folded_too() {
        for pattern in ["/**/*.p?m", "/a/{b,c{d,}}e", "/**/[!a]x", "/ü/*/ß", "/a\\*b"] {
            let again = glob::segments(&folded(pattern.as_bytes()));
            assert!(again.is_ok(), "{pattern}: {again:?}");
        }
        assert!(
            denies("/**/*.p?m", "/a/b.pem")
                && denies("/a/{b,c{d,}}e", "/a/cde")
                && denies("/ü/*/ß", "/ü/x/ß")
        );
    }
}
