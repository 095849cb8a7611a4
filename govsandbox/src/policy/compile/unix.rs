//! Entries of `network.unix` of all policies.

use super::{ExpandedPath, tell};
use crate::{
    id::RuleIndex,
    policy::{
        context::Context,
        effective::{self, EffectiveRule},
        merge::Entry,
        rule::{path::PathError, unix::UnixPattern},
    },
};

/// Which unix sockets of others may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixPlan {
    /// By precedence.
    pub rules: Vec<UnixRule>,
    /// Policies that take part: a socket needs an entry of each.
    pub lists: usize,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixRule {
    /// The policy that it stands in, by its place among those that take part.
    pub list: usize,
    /// What it names.
    pub sockets: UnixSockets,
    /// The rule.
    pub rule: RuleIndex,
}

/// Sockets that an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixSockets {
    /// By paths or patterns, what lies below included.
    Paths(Vec<ExpandedPath>),
    /// By an abstract name, without the `@`.
    Abstract(Vec<u8>),
}

/// Replaces the variables of an entry: as told, and as a rule.
pub(super) fn rule(
    list: usize,
    entry: &Entry<UnixPattern>,
    rule: RuleIndex,
    context: &Context,
) -> Result<(EffectiveRule, UnixRule), PathError> {
    let (stands_for, sockets) = match &entry.rule {
        UnixPattern::Path(path) => {
            let expanded = path.expand(context)?;
            (expanded.iter().map(tell::path_text).collect(), UnixSockets::Paths(expanded))
        }
        UnixPattern::Abstract(name) => {
            let bytes = name.strip_prefix('@').unwrap_or(name).as_bytes();
            (vec![effective::readable(name.as_bytes())], UnixSockets::Abstract(bytes.to_vec()))
        }
    };
    Ok((told(entry, stands_for), UnixRule { list, sockets, rule }))
}

/// The entry for people.
pub(super) fn told(entry: &Entry<UnixPattern>, stands_for: Vec<String>) -> EffectiveRule {
    EffectiveRule {
        id: entry.id.clone(),
        rule: effective::readable(entry.rule.text().as_bytes()),
        stands_for,
        from: Some(effective::From::entry(entry)),
    }
}
