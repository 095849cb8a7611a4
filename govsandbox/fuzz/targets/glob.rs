//! A path pattern: read, written anew and read again it is the same; its table is built or refused.
#![no_main]

use govsandbox::{
    id::RuleIndex,
    policy::{
        automaton,
        compile::{GlobRule, PathEffect},
        rule::{glob, path::PathPattern},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = PathPattern::parse(text);
    }
    let Ok(segments) = glob::segments(data) else { return };
    let mut again = Vec::new();
    for segment in &segments {
        again.push(b'/');
        segment.write(&mut again);
    }
    assert_eq!(glob::segments(&again).as_ref(), Ok(&segments), "{}", again.escape_ascii());
    let rule =
        |number| GlobRule { pattern: data.to_vec(), effect: PathEffect::Deny, rule: RuleIndex(number) };
    let _ = automaton::build(&[rule(1), rule(2)]);
});
