//! Names of hosts: which patterns hold for a name.
//!
//! A name is compared in one form: lower case, A-labels, no dot at the end. What is not in it matches nothing, not even
//! `*`, so that no byte which a resolver or a server may read otherwise gets past a rule.

/// Octets of a name at most (RFC 1035, 2.3.4), as written.
pub const NAME_BYTES_MAX: usize = 253;
/// Octets between two dots at most (RFC 1035, 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// Whom a rule about names means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamePattern<'a> {
    /// This name.
    Exact(&'a [u8]),
    /// `*.` and this name: one or more labels below it, itself not.
    Below(&'a [u8]),
    /// `*`.
    Any,
}

/// Does the pattern hold for the name?
#[must_use]
pub fn matches(pattern: NamePattern<'_>, name: &[u8]) -> bool {
    patterns_of(name).any(|held| held == pattern)
}

/// Every pattern that holds for a name, the narrowest first: so many as it has labels, and one. Rules are found by
/// looking these up, however many rules there are.
#[must_use]
pub fn patterns_of(name: &[u8]) -> Patterns<'_> {
    Patterns { next: is_name(name).then_some(NamePattern::Exact(name)) }
}

/// See [`patterns_of`].
#[derive(Clone, Debug)]
pub struct Patterns<'a> {
    next: Option<NamePattern<'a>>,
}

impl<'a> Iterator for Patterns<'a> {
    type Item = NamePattern<'a>;

    fn next(&mut self) -> Option<NamePattern<'a>> {
        let held = self.next?;
        self.next = match held {
            NamePattern::Exact(name) | NamePattern::Below(name) => Some(match parent(name) {
                Some(parent) => NamePattern::Below(parent),
                None => NamePattern::Any,
            }),
            NamePattern::Any => None,
        };
        Some(held)
    }
}

/// Is it a name in the form that is compared?
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return false;
    }
    let mut label_bytes = 0;
    for byte in name {
        match byte {
            b'.' if label_bytes == 0 => return false,
            b'.' => label_bytes = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if label_bytes < LABEL_BYTES_MAX => label_bytes += 1,
            _ => return false,
        }
    }
    label_bytes > 0
}

/// What stands behind the first dot.
fn parent(name: &[u8]) -> Option<&[u8]> {
    let dot = name.iter().position(|byte| *byte == b'.')?;
    name.get(dot + 1..)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{string::String, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    /// Written from the rule's words, by labels from the right.
    fn oracle(pattern: &str, name: &str) -> bool {
        let labels = |text: &str| -> Vec<String> { text.split('.').rev().map(String::from).collect() };
        let valid = name.len() <= 253
            && labels(name).iter().all(|label| {
                (1..=63).contains(&label.len())
                    && label.chars().all(|c| "abcdefghijklmnopqrstuvwxyz0123456789-_".contains(c))
            });
        valid
            && match pattern.strip_prefix("*.") {
                Some(base) => {
                    labels(name).len() > labels(base).len() && labels(name).starts_with(&labels(base))
                }
                None => pattern == "*" || labels(pattern) == labels(name),
            }
    }

    fn read(pattern: &str) -> NamePattern<'_> {
        match pattern.strip_prefix("*.") {
            Some(base) => NamePattern::Below(base.as_bytes()),
            None if pattern == "*" => NamePattern::Any,
            None => NamePattern::Exact(pattern.as_bytes()),
        }
    }

    #[test]
    fn a_wildcard_covers_labels_below_and_not_the_apex() {
        let crates = NamePattern::Below(b"crates.io");
        for (name, holds) in [
            ("index.crates.io", true),
            ("a.b.crates.io", true),
            ("crates.io", false),
            (".crates.io", false),
            ("evilcrates.io", false),
            ("crates.io.evil", false),
            ("io", false),
        ] {
            assert_eq!(matches(crates, name.as_bytes()), holds, "{name}");
        }
    }

    #[test]
    fn what_is_no_name_matches_nothing() {
        let long_label = [b'a'; 64];
        let mut long_name = [b'a'; 254];
        for at in (0..254).step_by(60).skip(1) {
            long_name[at] = b'.';
        }
        let odd: [&[u8]; 12] = [
            b"",
            b".",
            b"a.",
            b"a..b",
            b"A.example",
            b"a b",
            b"a\0b",
            b"a/b",
            b"*",
            b"\xc3\xbc",
            &long_label,
            &long_name,
        ];
        for name in odd {
            assert_eq!(patterns_of(name).count(), 0, "{name:?}");
        }
        assert!(matches(NamePattern::Any, &long_label[..63]) && matches(NamePattern::Any, &long_name[..253]));
    }

    #[test]
    fn the_narrowest_pattern_comes_first() {
        let found: Vec<_> = patterns_of(b"a.b.c").collect();
        let expected = [
            NamePattern::Exact(b"a.b.c"),
            NamePattern::Below(b"b.c"),
            NamePattern::Below(b"c"),
            NamePattern::Any,
        ];
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn one_function_agrees_with_the_words_of_the_rule(
            pattern in "(\\*\\.)?[ab-]{1,2}(\\.[ab]{1,2}){0,3}|\\*",
            name in "[abA-]{0,2}(\\.[ab]{0,2}){0,4}",
        ) {
            prop_assert_eq!(matches(read(&pattern), name.as_bytes()), oracle(&pattern, &name));
        }

        #[test]
        fn any_bytes_are_judged_without_a_fault(name in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(text) = str::from_utf8(&name) {
                prop_assert_eq!(matches(NamePattern::Any, &name), oracle("*", text));
            } else {
                prop_assert_eq!(patterns_of(&name).count(), 0);
            }
        }
    }
}
