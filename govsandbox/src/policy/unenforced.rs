//! What the grammar has and this version does not hold. Saying so is an error: a limit is never silently absent.

use super::{
    merge::Lists,
    parse::{Span, Spanned},
    raw::{RawEffect, RawEgressRule, RawPolicy, RawRule, RawRuleMatch},
};

/// A key or value that is right and not enforced yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("{what} is not enforced by this version")]
#[diagnostic(code(policy::not_enforced))]
pub struct NotEnforced {
    what: String,
    #[help]
    instead: &'static str,
}

/// Everything in a file that is not enforced, with its place. A value that is the default changes nothing and is none.
#[must_use]
pub fn findings(raw: &RawPolicy, lists: &Lists) -> Vec<Spanned<NotEnforced>> {
    let mut found = Vec::new();
    let mut add = |span: &Span, what: &str, instead| {
        found.push(Spanned { value: NotEnforced { what: what.to_owned(), instead }, span: span.clone() });
    };
    paths(lists, &mut add);
    network(raw, &mut add);
    audit(raw, &mut add);
    for rule in raw.rule.iter().filter(|rule| asked_about(&rule.value).is_none()) {
        let instead = "what can be asked about is a host: `match = { network = \"*\" }` with `effect = \"ask\"` and no \
                       `group`; what has no condition is written under `[filesystem]` or `[network]`";
        add(&rule.span, "such a `[[rule]]`", instead);
    }
    found
}

/// The hosts that a rule asks about, if that is all it does.
#[must_use]
pub fn asked_about(rule: &RawRule) -> Option<&Spanned<RawEgressRule>> {
    let RawRuleMatch { exec: None, read: None, write: None, network } = &rule.matches.value else {
        return None;
    };
    network.as_ref().filter(|_| matches!(rule.effect, RawEffect::Ask) && rule.group.is_empty())
}

fn paths(lists: &Lists, add: &mut impl FnMut(&Span, &str, &'static str)) {
    let allowed = lists.read.iter().chain(&lists.write).flatten();
    for entry in allowed.filter(|entry| !entry.rule.is_literal()) {
        let instead = "name the folder; a wildcard works in `deny` and `protect`";
        add(&entry.span, &format!("a wildcard in `{}`", entry.key), instead);
    }
}

fn network(raw: &RawPolicy, add: &mut impl FnMut(&Span, &str, &'static str)) {
    let network = &raw.network;
    // What arrives over loopback is let through.
    if network.listen.as_ref().is_some_and(Vec::is_empty) {
        add(&(0..0), "an empty `network.listen`", "leave it out: nothing but this machine is let in then");
    }
    for address in network.listen.iter().flatten().filter(|address| address.value.starts_with("localhost:")) {
        add(&address.span, "`network.listen` with ports of `localhost`", "write `localhost`");
    }
}

fn audit(raw: &RawPolicy, add: &mut impl FnMut(&Span, &str, &'static str)) {
    for sink in &raw.audit.sinks {
        add(&sink.span, "`audit.sinks`", "copy the log with a tool of your own");
    }
    if let Some(retention) = &raw.audit.retention {
        add(&retention.span, "`audit.retention`", "rotate the log with a tool of your own");
    }
    for expression in &raw.audit.redact {
        add(&expression.span, "`audit.redact`", "`trace.args = false` keeps arguments out of the log");
    }
}
