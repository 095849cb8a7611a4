//! Patterns and a path, a line each: the automaton says what globset says of the path and of each folder above it.
#![no_main]

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use globset::GlobBuilder;
use govsandbox::{
    id::RuleIndex,
    policy::{
        automaton,
        compile::{GlobRule, PathEffect},
        rule::glob::{self, Part, Segment},
    },
};
use govsandbox_ebpf::decide::automaton::scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let Some(path) = lines.pop().filter(|path| is_path(path)) else { return };
    let mut globs = Vec::new();
    let mut expected = 0;
    for (number, pattern) in (1..4).zip(lines) {
        let Ok(segments) = glob::segments(pattern) else { return };
        // What has no name in it is everything, and no rule that the table is asked about.
        let Some(theirs) = theirs(&segments) else { return };
        let mut glob = GlobBuilder::new(&theirs);
        let glob = glob.literal_separator(true).empty_alternates(true).backslash_escape(true);
        let glob = glob.build().unwrap_or_else(|error| panic!("{theirs:?}: {error}")).compile_matcher();
        let ends = (2..=path.len()).filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'));
        let covers =
            ends.filter_map(|end| path.get(..end)).any(|whole| glob.is_match(OsStr::from_bytes(whole)));
        if covers && expected == 0 {
            expected = number;
        }
        globs.push(GlobRule { pattern: pattern.to_vec(), effect: PathEffect::Deny, rule: RuleIndex(number) });
    }
    let Ok(table) = automaton::build(&globs) else { return };
    assert_eq!(scan(&table, path).deny, expected, "{} under {globs:?}", path.escape_ascii());
});

/// Absolute, without empty names, `.` and `..`: what the kernel composes.
fn is_path(path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    names.next() == Some(b"") && names.all(|name| !matches!(name, b"" | b"." | b"..")) && path.len() > 1
}

/// The pattern as globset writes it. `None`: it can't (bytes that are no text), or no name is in it.
fn theirs(segments: &[Segment]) -> Option<String> {
    let mut out = Vec::new();
    for segment in segments {
        out.push(b'/');
        match segment {
            Segment::AnyDepth => out.extend(b"**"),
            Segment::Name(parts) => write(parts, &mut out),
        }
    }
    let has_name = segments.iter().any(|segment| matches!(segment, Segment::Name(_)));
    String::from_utf8(out).ok().filter(|_| has_name)
}

fn write(parts: &[Part], out: &mut Vec<u8>) {
    let mut after_run = false;
    for part in parts {
        match part {
            Part::Byte(byte) if byte.is_ascii() => out.extend([b'\\', *byte]),
            Part::Byte(byte) => out.push(*byte),
            Part::One => out.push(b'?'),
            // Two in a row, with nothing between, would be another thing.
            Part::Run if after_run => {}
            Part::Run => out.push(b'*'),
            Part::Class { negated, ranges } => set(*negated, ranges, out),
            Part::Either(alternatives) => {
                for (index, alternative) in alternatives.iter().enumerate() {
                    out.push(if index == 0 { b'{' } else { b',' });
                    write(alternative, out);
                }
                out.push(b'}');
            }
        }
        after_run = matches!(part, Part::Run);
    }
}

/// Each byte by itself, `]` first and `-` last; never a slash, which a negated set of globset's would match.
fn set(negated: bool, ranges: &[(u8, u8)], out: &mut Vec<u8>) {
    let listed =
        |byte: &u8| *byte != b'/' && ranges.iter().any(|(first, last)| (*first..=*last).contains(byte));
    let mut bytes: Vec<u8> = (1..0x80).filter(listed).collect();
    if negated {
        bytes.push(b'/');
    }
    bytes.sort_by_key(|byte| match byte {
        b']' => 0,
        b'!' | b'^' => 2,
        b'-' => 3,
        _ => 1,
    });
    out.extend(if negated { &b"[!"[..] } else { b"[" });
    if !matches!(bytes.first(), Some(first) if !b"!^-".contains(first)) {
        // An empty set, or one whose first byte would mean something: with a byte that no path has.
        out.push(0);
    }
    out.extend(bytes);
    out.push(b']');
}
