//! Entries of `network.*` as rules.

use super::{EgressEffect, EgressRule, tell};
use crate::{
    id::RuleIndex,
    policy::{
        effective::{self, EffectiveRule},
        merge::Entry,
        rule::egress::EgressPattern,
    },
};

/// Whom an entry of `network.*` names, as told and as rules.
pub(super) fn rules(
    effect: EgressEffect,
    entry: &Entry<EgressPattern>,
    rule: RuleIndex,
) -> (EffectiveRule, Vec<EgressRule>) {
    let pattern = &entry.rule;
    let mut targets = pattern.host().targets();
    if effect == EgressEffect::Deny {
        targets.extend(pattern.host().detours());
    }
    let rules = targets.iter().map(|target| EgressRule {
        target: target.clone(),
        ports: pattern.ports().to_vec(),
        protocol: pattern.protocol(),
        effect,
        rule,
    });
    let told = EffectiveRule {
        id: entry.id.clone(),
        rule: pattern.text().to_owned(),
        stands_for: targets.iter().map(|target| tell::egress_text(target, pattern)).collect(),
        from: Some(effective::From::entry(entry)),
    };
    (told, rules.collect())
}
