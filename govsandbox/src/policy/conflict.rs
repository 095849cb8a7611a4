//! Rules that contradict each other, or that another rule leaves without effect.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use super::{
    compile::PathEffect,
    merge::Entry,
    problem::Problem,
    rule::path::{ExpandedPath, PathPattern},
};
use crate::id::RuleId;

/// A path rule as it stands for this run.
#[derive(Debug)]
pub struct Written<'a> {
    /// The rule.
    pub entry: &'a Entry<PathPattern>,
    /// `None`: an entry of an allow-list.
    pub effect: Option<PathEffect>,
    /// What it stands for.
    pub expanded: Vec<ExpandedPath>,
}

/// Two rules of one file that can't both be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("contradictory: `{allowed}` is in `{list}` and in `filesystem.deny`")]
#[diagnostic(code(policy::contradictory), help("deny always wins; remove one of the two"))]
pub struct Contradictory {
    allowed: String,
    list: &'static str,
}

/// An allow entry that allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{allowed}` in `{list}` has no effect: `{by}` {does} all of it")]
#[diagnostic(
    code(policy::no_effect),
    help("deny and protect always win; remove this entry if that is what you want")
)]
pub struct NoEffect {
    allowed: String,
    list: &'static str,
    by: RuleId,
    does: &'static str,
}

/// A rule that says what one before it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` is in `{list}` twice")]
#[diagnostic(code(policy::duplicate), help("remove one of the two; `{first}` is the one that events name"))]
pub struct Duplicate {
    rule: String,
    list: &'static str,
    first: RuleId,
}

/// What of the allow-lists is denied or protected as a whole by a literal rule, and what a file says twice.
#[must_use]
pub fn find(written: &[Written<'_>]) -> Vec<Problem> {
    // By path, so that ten thousand rules are not compared each with each.
    let mut rules: HashMap<&Path, Vec<usize>> = HashMap::new();
    for (place, rule) in written.iter().enumerate().filter(|(_, rule)| rule.effect.is_some()) {
        for path in rule.expanded.iter().filter_map(literal) {
            rules.entry(path).or_default().push(place);
        }
    }
    let worst = |allowed: &Written<'_>| {
        let path = allowed.expanded.iter().find_map(literal)?;
        let mut places: Vec<_> =
            path.ancestors().filter_map(|above| rules.get(above)).flatten().copied().collect();
        places.sort_unstable();
        let found = places.into_iter().filter_map(|place| conflict(allowed, written.get(place)?));
        // Of several the error, whatever another policy denies besides; else the first.
        found.min_by_key(Problem::is_warning)
    };
    let allowed = written.iter().filter(|written| written.effect.is_none());
    allowed.filter_map(worst).chain(duplicates(written)).collect()
}

fn duplicates(written: &[Written<'_>]) -> Vec<Problem> {
    let mut known = BTreeMap::new();
    let mut found = Vec::new();
    for Written { entry, expanded, .. } in written.iter().filter(|written| !written.expanded.is_empty()) {
        let key = (Arc::as_ptr(&entry.origin), entry.key, expanded);
        let first = known.entry(key).or_insert(&entry.id);
        if **first != entry.id {
            let rule = entry.rule.text().to_owned();
            let duplicate = Duplicate { rule, list: entry.key, first: (*first).clone() };
            found.push(Problem::warning(duplicate, &entry.origin.source, entry.span.clone()));
        }
    }
    found
}

fn conflict(allowed: &Written<'_>, other: &Written<'_>) -> Option<Problem> {
    let does = match other.effect? {
        PathEffect::Deny => "denies",
        PathEffect::Protect if allowed.entry.key == "filesystem.write" => "protects",
        PathEffect::Protect => return None,
    };
    let paths: Vec<_> = allowed.expanded.iter().filter_map(literal).collect();
    let covered = |path: &&Path| other.expanded.iter().filter_map(literal).any(|rule| path.starts_with(rule));
    if paths.is_empty() || !paths.iter().all(covered) {
        return None;
    }
    let Entry { key: list, rule, origin, span, .. } = allowed.entry;
    let text = rule.text().to_owned();
    let same_file = Arc::ptr_eq(origin, &other.entry.origin);
    if same_file && other.effect == Some(PathEffect::Deny) && allowed.expanded == other.expanded {
        let contradictory = Contradictory { allowed: text, list };
        return Some(Problem::error(contradictory, &origin.source, span.clone()));
    }
    let no_effect = NoEffect { allowed: text, list, by: other.entry.id.clone(), does };
    Some(Problem::warning(no_effect, &origin.source, span.clone()))
}

fn literal(expanded: &ExpandedPath) -> Option<&Path> {
    match expanded {
        ExpandedPath::Literal(path) => Some(path),
        ExpandedPath::Glob(_) => None,
    }
}
