//! All rules of a run before they have their numbers, and where each of them goes.

use super::{EgressEffect, ExecEffect, Layer, PathEffect};
use crate::policy::{
    effective::EffectiveList,
    merge::{Entry, Layered, Origin},
    rule::{egress::EgressPattern, exec::ExecPattern, path::PathPattern, unix::UnixPattern},
};

/// All rules before they have their numbers, and where they go.
pub(super) struct Plan<'a> {
    /// In the order in which they were written.
    pub(super) slots: Vec<Slot<'a>>,
    /// For people; still empty.
    pub(super) lists: Vec<EffectiveList>,
    /// How many policies have a place in [`PathPlan::allow`].
    pub(super) path_places: usize,
    /// How many have an `exec.allow`.
    pub(super) exec_places: usize,
    /// How many have one in [`Compiled::egress`].
    pub(super) egress_places: usize,
    /// How many have one in [`Compiled::listen`].
    pub(super) listen_places: usize,
    /// How many have a list in [`super::UnixPlan`].
    pub(super) unix_places: usize,
}

/// One rule before it has its number.
pub(super) struct Slot<'a> {
    pub(super) rank: Rank,
    pub(super) layer: Layer,
    /// Its place in [`Plan::lists`].
    pub(super) list: usize,
    pub(super) what: What<'a>,
}

/// Precedence over all layers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Deny,
    Protect,
    /// Behind those that let nothing change: see [`PathPlan::keys`].
    ProtectButKeys,
    Allow,
    /// Where nothing allows it.
    Ask,
}

pub(super) enum What<'a> {
    /// `filesystem.deny`, `filesystem.protect`.
    Effect(PathEffect, &'a Entry<PathPattern>),
    /// `filesystem.read`, `filesystem.write` of the policy at `place` in [`PathPlan::allow`].
    Allow { place: usize, access: Access, entry: &'a Entry<PathPattern> },
    /// The same list, absent: everything.
    AllowAll { place: usize, access: Access },
    /// `exec.*`.
    Exec(ExecEffect, &'a Entry<ExecPattern>),
    /// `network.*`, or a rule that asks, of the policy at `place` in [`Compiled::egress`].
    Egress { place: usize, effect: EgressEffect, entry: &'a Entry<EgressPattern> },
    /// `network.listen` of the policy at `place` in [`Compiled::listen`].
    Listen { place: usize, entry: &'a Entry<EgressPattern> },
    /// `network.unix` of the policy at `place` among those that have one.
    Unix { place: usize, entry: &'a Entry<UnixPattern> },
}

/// Which of the two allow-lists.
#[derive(Clone, Copy)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Read => "filesystem.read",
            Self::Write => "filesystem.write",
        }
    }
}

impl<'a> Plan<'a> {
    /// The chosen policy has a place in every plan; of the others those that have an allow-list, because an absent one
    /// does not take part.
    pub(super) fn of(layered: &'a Layered) -> Self {
        let (slots, lists) = (Vec::new(), Vec::new());
        let mut plan = Self {
            slots,
            lists,
            path_places: 0,
            exec_places: 0,
            egress_places: 0,
            listen_places: 0,
            unix_places: 0,
        };
        plan.add_deny_and_protect(layered);
        for (index, (name, lists)) in layered.policies.iter().enumerate() {
            let is_chosen = index == 0;
            if is_chosen || lists.read.is_some() || lists.write.is_some() {
                // By default everything may be read and nothing written.
                let absent_write = if is_chosen { Some(&[][..]) } else { None };
                plan.add_paths(name, Access::Write, lists.write.as_deref().or(absent_write), is_chosen);
                plan.add_paths(name, Access::Read, lists.read.as_deref(), is_chosen);
                plan.path_places += 1;
            }
            if let Some(entries) = &lists.exec_allow {
                let list = plan.list("exec.allow", Some(name));
                for entry in entries {
                    let what = What::Exec(ExecEffect::Allow(plan.exec_places), entry);
                    plan.add(Rank::Allow, &entry.origin, list, what);
                }
                plan.exec_places += 1;
            }
            if is_chosen || lists.network_allow.is_some() || !lists.network_ask.is_empty() {
                let list = plan.list("network.allow", Some(name));
                for entry in lists.network_allow.iter().flatten() {
                    let what = What::Egress { place: plan.egress_places, effect: EgressEffect::Allow, entry };
                    plan.add(Rank::Allow, &entry.origin, list, what);
                }
                let list =
                    if lists.network_ask.is_empty() { usize::MAX } else { plan.list("rule", Some(name)) };
                for entry in &lists.network_ask {
                    let what = What::Egress { place: plan.egress_places, effect: EgressEffect::Ask, entry };
                    plan.add(Rank::Ask, &entry.origin, list, what);
                }
                plan.egress_places += 1;
            }
            if let Some(entries) = &lists.network_listen {
                let list = plan.list("network.listen", Some(name));
                for entry in entries {
                    let what = What::Listen { place: plan.listen_places, entry };
                    plan.add(Rank::Allow, &entry.origin, list, what);
                }
                plan.listen_places += 1;
            }
            if is_chosen || lists.network_unix.is_some() {
                let list = plan.list("network.unix", Some(name));
                for entry in lists.network_unix.iter().flatten() {
                    let what = What::Unix { place: plan.unix_places, entry };
                    plan.add(Rank::Allow, &entry.origin, list, what);
                }
                plan.unix_places += 1;
            }
        }
        plan
    }

    /// What is joined from all policies.
    fn add_deny_and_protect(&mut self, layered: &'a Layered) {
        let deny = self.list("filesystem.deny", None);
        let protect = self.list("filesystem.protect", None);
        let exec_deny = self.list("exec.deny", None);
        let network_deny = self.list("network.deny", None);
        for (_, lists) in &layered.policies {
            for entry in &lists.deny {
                self.add(Rank::Deny, &entry.origin, deny, What::Effect(PathEffect::Deny, entry));
            }
            for entry in &lists.protect {
                let rank = if entry.rule.keys().is_some() { Rank::ProtectButKeys } else { Rank::Protect };
                self.add(rank, &entry.origin, protect, What::Effect(PathEffect::Protect, entry));
            }
            for entry in &lists.exec_deny {
                self.add(Rank::Deny, &entry.origin, exec_deny, What::Exec(ExecEffect::Deny, entry));
            }
            for entry in &lists.network_deny {
                // Denied is denied wherever it stands: all such rules go to the chosen policy's list.
                let what = What::Egress { place: 0, effect: EgressEffect::Deny, entry };
                self.add(Rank::Deny, &entry.origin, network_deny, what);
            }
        }
    }

    fn add_paths(
        &mut self,
        name: &str,
        access: Access,
        entries: Option<&'a [Entry<PathPattern>]>,
        is_chosen: bool,
    ) {
        let place = self.path_places;
        match entries {
            Some(entries) => {
                let list = self.list(access.key(), Some(name));
                for entry in entries {
                    self.add(Rank::Allow, &entry.origin, list, What::Allow { place, access, entry });
                }
            }
            None => {
                // Of the chosen policy this is worth telling; in another one the list is simply not there.
                let list = if is_chosen { self.list(access.key(), Some(name)) } else { usize::MAX };
                let what = What::AllowAll { place, access };
                self.slots.push(Slot { rank: Rank::Allow, layer: Layer::Builtin, list, what });
            }
        }
    }

    fn list(&mut self, key: &'static str, of: Option<&str>) -> usize {
        self.lists.push(EffectiveList { key, of: of.map(ToOwned::to_owned), rules: Vec::new() });
        self.lists.len() - 1
    }

    fn add(&mut self, rank: Rank, origin: &Origin, list: usize, what: What<'a>) {
        self.slots.push(Slot { rank, layer: origin.layer, list, what });
    }
}
