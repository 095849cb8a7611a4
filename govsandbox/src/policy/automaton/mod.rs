//! All path patterns of a sandbox → one table that [`govsandbox_ebpf::decide::automaton`] runs over a path's bytes.
//!
//! Each byte that a pattern asks for is a position; `Positions` has for each what may follow it (Glushkov's
//! construction). A state is the set of positions that a path may have come to (`Graph`). What a state then keeps is only
//! its best deny and its best protect rule, so that states that differ in nothing else are merged. In the table most
//! states are two or three words, whatever the number of patterns (`table`).

pub mod exec;
#[cfg(test)]
mod globset_tests;
mod graph;
#[cfg(test)]
mod many_tests;
mod positions;
#[cfg(test)]
mod symlink_tests;
mod table;
pub mod unix;

use govsandbox_ebpf::abi::rule::Hits;
use graph::Graph;
use positions::Positions;

use super::{
    compile::{GlobRule, PathTable},
    effective,
    rule::glob::{self, GlobError},
};

/// Why patterns can't become a table.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum AutomatonError {
    /// The table has no room.
    #[error(
        "the {patterns} patterns of this policy are too many or too wild: the kernel's table is full at {states} \
         states of {classes} byte classes; `{largest}` needs most by itself, {largest_states}"
    )]
    #[diagnostic(
        code(policy::automaton::too_large),
        help(
            "use fewer patterns with `**` or `*` in their middle, which multiply with all others, or name folders"
        )
    )]
    TooLarge {
        /// How many there are.
        patterns: usize,
        /// States that it has so far.
        states: usize,
        /// Byte classes that the patterns tell apart.
        classes: usize,
        /// The path pattern that needs most by itself.
        largest: String,
        /// States that it needs.
        largest_states: String,
    },
    /// A pattern that is none: the caller didn't check it.
    #[error("`{pattern}` is not a path pattern")]
    #[diagnostic(code(policy::automaton::pattern))]
    Pattern {
        /// As given, bytes that are not UTF-8 replaced.
        pattern: String,
        /// Why.
        #[source]
        source: GlobError,
    },
    /// The machine has no memory left.
    #[error("out of memory for the table of path patterns")]
    #[diagnostic(code(policy::automaton::memory))]
    Memory,
}

impl AutomatonError {
    /// Of whom, is told by who knows the patterns.
    fn too_large(states: usize, classes: usize) -> Self {
        Self::TooLarge { patterns: 0, states, classes, largest: String::new(), largest_states: String::new() }
    }
}

/// Builds the table for `globs`. Without any, nothing matches.
///
/// # Errors
/// [`AutomatonError`]; [`AutomatonError::Pattern`] never for patterns of a [`super::compile::Compiled`].
pub fn build(globs: &[GlobRule]) -> Result<PathTable, AutomatonError> {
    let table = graph_of(globs).and_then(|graph| table::pack(&graph));
    table.map(PathTable::from).map_err(|error| match error {
        AutomatonError::TooLarge { states, classes, .. } => {
            let (largest, largest_states) = largest(globs);
            AutomatonError::TooLarge { patterns: globs.len(), states, classes, largest, largest_states }
        }
        other => other,
    })
}

/// The pattern that needs most states by itself, and how many.
fn largest(globs: &[GlobRule]) -> (String, String) {
    let mut largest = (0, "");
    let mut text = String::new();
    for glob in globs {
        let (states, more) = match graph_of(std::slice::from_ref(glob)) {
            Ok(graph) => (graph.states(), ""),
            Err(AutomatonError::TooLarge { states, .. }) => (states, "more than "),
            Err(_) => (0, ""),
        };
        if states > largest.0 {
            largest = (states, more);
            text = effective::readable(&glob.pattern);
        }
        if !more.is_empty() {
            break; // as much as any, and each such one takes its time
        }
    }
    (text, format!("{}{}", largest.1, largest.0))
}

fn graph_of(globs: &[GlobRule]) -> Result<Graph<Hits>, AutomatonError> {
    let mut positions = Positions::new(b'/');
    for glob in globs {
        let segments = glob::segments(&glob.pattern).map_err(|source| AutomatonError::Pattern {
            pattern: String::from_utf8_lossy(&glob.pattern).into_owned(),
            source,
        })?;
        positions.add(&segments, glob.effect.hits(glob.rule));
    }
    Ok(Graph::of(positions)?.merged())
}

#[cfg(test)]
mod tests {
    use govsandbox_ebpf::decide::automaton::{below, decide_moved, scan};

    use super::*;
    use crate::{id::RuleIndex, policy::compile::PathEffect};

    fn deny(rule: u16, pattern: &str) -> GlobRule {
        GlobRule { pattern: pattern.into(), effect: PathEffect::Deny, rule: RuleIndex(rule) }
    }

    fn protect(rule: u16, pattern: &str) -> GlobRule {
        GlobRule { effect: PathEffect::Protect, ..deny(rule, pattern) }
    }

    fn denied_by(globs: &[GlobRule], path: &str) -> u16 {
        scan(&build(globs).unwrap(), path.as_bytes()).deny
    }

    #[test]
    fn a_folder_moves_freely_unless_its_name_counts_for_what_is_below() {
        let table = build(&[
            deny(1, "/**/.env"),
            protect(2, "/**/.claude/settings*.json"),
            deny(3, "/p/conf/**/*.key"),
            deny(4, "/p/.git/hooks"),
        ])
        .unwrap();
        let moved = |old: &str, new: &str| {
            decide_moved(below(&table, old.as_bytes()), below(&table, new.as_bytes())).allow
        };
        for (old, new) in
            [("/p/a", "/p/b"), ("/p/a", "/tmp/x/y"), ("/p/.en", "/.en"), ("/p/conf/a", "/p/conf/b/c")]
        {
            assert!(moved(old, new), "{old} {new}");
        }
        for (old, new) in [
            ("/p/.claude", "/p/x"),
            ("/p/x", "/p/sub/.claude"),
            ("/p/conf", "/p/x"),
            ("/p/conf/a", "/p/a"),
            ("/tmp/a", "/p/conf/a"),
            ("/p/x", "/p/.git"),
            ("/p", "/q"),
        ] {
            assert!(!moved(old, new), "{old} {new}");
        }
    }

    #[test]
    fn without_patterns_nothing_matches() {
        assert_eq!(scan(&build(&[]).unwrap(), b"/home/user/.env"), Hits::NONE);
        assert_eq!(scan(&build(&[]).unwrap(), b"/"), Hits::NONE);
    }

    #[test]
    fn a_match_covers_everything_below() {
        let globs = [deny(1, "/**/private")];
        for path in ["/private", "/a/private", "/a/private/b/c", "/private/private"] {
            assert_eq!(denied_by(&globs, path), 1, "{path}");
        }
        for path in ["/", "/privately", "/a/not-private", "/a/private.txt/b"] {
            assert_eq!(denied_by(&globs, path), 0, "{path}");
        }
    }

    #[test]
    fn a_star_is_each_child_and_not_the_folder() {
        let globs = [deny(1, "/a/*")];
        assert_eq!(
            (denied_by(&globs, "/a"), denied_by(&globs, "/a/b"), denied_by(&globs, "/a/b/c")),
            (0, 1, 1)
        );
        assert_eq!(denied_by(&[deny(1, "/*")], "/"), 0);
    }

    #[test]
    fn of_several_matches_the_best_of_each_effect_is_kept() {
        let globs = [protect(7, "/**/x"), deny(3, "/**/*.pem"), deny(2, "/a/**/k.pem"), protect(5, "/a/*")];
        let table = build(&globs).unwrap();
        assert_eq!(scan(&table, b"/a/x/k.pem"), Hits { deny: 2, protect: 5 });
        assert_eq!(scan(&table, b"/b/x/k.pem"), Hits { deny: 3, protect: 7 });
        assert_eq!(scan(&table, b"/b/y"), Hits::NONE);
    }

    #[test]
    fn names_are_bytes() {
        let globs = [deny(1, "/**/?.key"), deny(2, "/**/[!a-z].txt")];
        let table = build(&globs).unwrap();
        assert_eq!(scan(&table, b"/\xff.key").deny, 1);
        assert_eq!(scan(&table, b"/\n.txt").deny, 2);
        // Two bytes are not one.
        assert_eq!(scan(&table, "/é.key".as_bytes()).deny, 0);
        // A set never matches the slash, negated or not.
        assert_eq!(scan(&build(&[deny(1, "/a[!-~]b")]).unwrap(), b"/a/b").deny, 0);
    }

    #[test]
    fn too_wild_patterns_are_an_error_that_names_the_limit() {
        // The n-th byte from the end: a deterministic automaton must remember the last n.
        let globs = [deny(2, "/**/.env"), deny(1, &format!("/**/*a{}", "?".repeat(20)))];
        let error = build(&globs).unwrap_err();
        assert!(matches!(error, AutomatonError::TooLarge { .. }), "{error}");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains("use fewer patterns"), "{help}");
        assert!(error.to_string().contains("`/**/*a????????????????????` needs most by itself, "), "{error}");
    }
}
