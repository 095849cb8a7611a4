//! Layered policies → [`Compiled`]: variables replaced, rules numbered by precedence.

use std::path::{Path, PathBuf};

use govsandbox_ebpf::abi::rule::TraceOpens;

use super::{
    AllowLists, AllowedPath, Compiled, EgressLists, EgressRule, GlobRule, Layer, LiteralRule, PathEffect,
    PathPlan, Protocol, RuleInfo,
};
use crate::{
    id::{RuleId, RuleIndex},
    policy::{
        conflict,
        context::Context,
        effective::{self, Effective, EffectiveRule, EffectiveValue, Variable},
        merge::{Entry, Given, Layered, Lists, Origin, Settings},
        problem::Problem,
        rule::{
            egress::EgressPattern,
            path::{ExpandedPath, PathError, PathPattern},
        },
    },
};

/// Rules of one sandbox at most: their numbers are `u16` in the kernel, 0 means none.
const RULES_MAX: usize = u16::MAX as usize;
/// Name of the log unless a policy names it, in `{state}`.
const LOG_NAME: &str = "audit.jsonl";

/// Why policies that make sense one by one don't together, or not here.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CompileError {
    /// More than [`RULES_MAX`].
    #[error("the policies have {count} rules together, and the kernel's tables number {RULES_MAX}")]
    #[diagnostic(
        code(policy::compile::too_many_rules),
        help("name folders or patterns instead of single files")
    )]
    TooManyRules {
        /// How many.
        count: usize,
    },
    /// The digest can't be made.
    #[error("cannot write the effective policy as JSON")]
    #[diagnostic(code(policy::compile::digest))]
    Digest(#[from] serde_json::Error),
    /// Findings that point into the files.
    #[error("{} in the policy", if .0.len() == 1 { "an error" } else { "errors" })]
    Problems(Vec<Problem>),
}

/// What compiling comes to.
#[derive(Debug)]
pub struct Outcome {
    /// For the layers that enforce.
    pub compiled: Compiled,
    /// For people.
    pub effective: Effective,
    /// What is valid and probably not meant.
    pub warnings: Vec<Problem>,
}

/// Compiles the policies of a run; `name` is that of the policy that was chosen.
///
/// # Errors
/// [`CompileError`].
pub fn compile(name: String, layered: &Layered, context: &Context) -> Result<Outcome, CompileError> {
    let Slots { mut slots, path_places, egress_places } = slots(layered);
    // Stable: within a layer the order of the files, within a file the index.
    slots.sort_by_key(|slot| (slot.rank, slot.layer));
    if slots.len() > RULES_MAX {
        return Err(CompileError::TooManyRules { count: slots.len() });
    }
    let mut builder = Builder::new(context, path_places, egress_places);
    for (number, slot) in (1..).zip(&slots) {
        builder.add(RuleIndex(number), slot);
    }
    builder.finish(name, &layered.settings)
}

/// All rules, and how many policies have a place in each plan.
struct Slots<'a> {
    slots: Vec<Slot<'a>>,
    path_places: usize,
    egress_places: usize,
}

/// One rule before it has its number.
struct Slot<'a> {
    rank: Rank,
    layer: Layer,
    what: What<'a>,
}

/// Precedence over all layers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Deny,
    Protect,
    Allow,
}

enum What<'a> {
    /// `filesystem.deny`, `filesystem.protect`.
    Effect(PathEffect, &'a Entry<PathPattern>),
    /// `filesystem.read`, `filesystem.write` of the policy at `place` in [`PathPlan::allow`].
    Allow { place: usize, list: AllowList, entry: &'a Entry<PathPattern> },
    /// The same list, absent: everything.
    AllowAll { place: usize, list: AllowList },
    /// `network.*` of the policy at `place` in [`Compiled::egress`].
    Egress { place: usize, allow: bool, entry: &'a Entry<EgressPattern> },
}

#[derive(Clone, Copy)]
enum AllowList {
    Read,
    Write,
}

impl AllowList {
    fn key(self) -> &'static str {
        match self {
            Self::Read => "filesystem.read",
            Self::Write => "filesystem.write",
        }
    }
}

/// All rules in the order in which they were written. The chosen policy has a place in every plan; of the others those
/// that have an allow-list, because an absent one does not take part.
fn slots(layered: &Layered) -> Slots<'_> {
    let mut slots = Vec::new();
    let (mut path_places, mut egress_places) = (0, 0);
    for (index, lists) in std::iter::once(&layered.chosen).chain(&layered.others).enumerate() {
        let is_chosen = index == 0;
        for (rank, effect, entries) in [
            (Rank::Deny, PathEffect::Deny, &lists.deny),
            (Rank::Protect, PathEffect::Protect, &lists.protect),
        ] {
            slots.extend(entries.iter().map(|entry| slot(rank, &entry.origin, What::Effect(effect, entry))));
        }
        // Denied is denied wherever it stands: all such rules go to the chosen policy's list.
        let deny = |entry| What::Egress { place: 0, allow: false, entry };
        slots.extend(lists.network_deny.iter().map(|entry| slot(Rank::Deny, &entry.origin, deny(entry))));
        if is_chosen || lists.read.is_some() || lists.write.is_some() {
            allow_slots(lists, path_places, is_chosen, &mut slots);
            path_places += 1;
        }
        if is_chosen || lists.network_allow.is_some() {
            let allow = |entry| What::Egress { place: egress_places, allow: true, entry };
            let entries = lists.network_allow.iter().flatten();
            slots.extend(entries.map(|entry| slot(Rank::Allow, &entry.origin, allow(entry))));
            egress_places += 1;
        }
    }
    Slots { slots, path_places, egress_places }
}

fn allow_slots<'a>(lists: &'a Lists, place: usize, is_chosen: bool, slots: &mut Vec<Slot<'a>>) {
    for (list, entries) in [(AllowList::Read, &lists.read), (AllowList::Write, &lists.write)] {
        match entries {
            Some(entries) => {
                let allow = |entry| What::Allow { place, list, entry };
                slots.extend(entries.iter().map(|entry| slot(Rank::Allow, &entry.origin, allow(entry))));
            }
            // By default everything may be read and nothing written.
            None if is_chosen && matches!(list, AllowList::Write) => {}
            None => {
                let what = What::AllowAll { place, list };
                slots.push(Slot { rank: Rank::Allow, layer: Layer::Builtin, what });
            }
        }
    }
}

fn slot<'a>(rank: Rank, origin: &Origin, what: What<'a>) -> Slot<'a> {
    Slot { rank, layer: origin.layer, what }
}

struct Builder<'a> {
    context: &'a Context,
    rules: Vec<RuleInfo>,
    paths: PathPlan,
    egress: Vec<EgressLists>,
    effective: Vec<EffectiveRule>,
    written: Vec<conflict::Written<'a>>,
    errors: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn new(context: &'a Context, path_places: usize, egress_places: usize) -> Self {
        let allow = vec![AllowLists::default(); path_places];
        Self {
            context,
            rules: Vec::new(),
            paths: PathPlan { allow, ..PathPlan::default() },
            egress: vec![EgressLists::default(); egress_places],
            effective: Vec::new(),
            written: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn add(&mut self, rule: RuleIndex, slot: &Slot<'a>) {
        let id = match &slot.what {
            What::Effect(effect, entry) => {
                let expanded = self.expand(entry);
                for path in &expanded {
                    self.add_effect(path, *effect, rule);
                }
                self.tell_path(entry, &expanded);
                self.written.push(conflict::Written { entry, effect: Some(*effect), expanded });
                entry.id.clone()
            }
            What::Allow { place, list, entry } => {
                let expanded = self.expand(entry);
                for path in &expanded {
                    self.add_allowed(*place, *list, path, rule);
                }
                self.tell_path(entry, &expanded);
                self.written.push(conflict::Written { entry, effect: None, expanded });
                entry.id.clone()
            }
            What::AllowAll { place, list } => {
                self.add_allowed(*place, *list, &ExpandedPath::Literal(PathBuf::from("/")), rule);
                let id = RuleId(format!("default/{}", list.key()));
                self.effective.push(EffectiveRule {
                    id: id.clone(),
                    key: list.key(),
                    rule: "/".to_owned(),
                    stands_for: vec!["/".to_owned()],
                    from: None,
                });
                id
            }
            What::Egress { place, allow, entry } => {
                self.add_egress(*place, *allow, entry, rule);
                entry.id.clone()
            }
        };
        self.rules.push(RuleInfo { id, layer: slot.layer });
    }

    fn expand(&mut self, entry: &Entry<PathPattern>) -> Vec<ExpandedPath> {
        match entry.rule.expand(self.context) {
            Ok(expanded) => expanded,
            // Every rule in the project has the same trouble; once is enough.
            Err(PathError::ProjectTooWide { .. }) if !self.errors.is_empty() => Vec::new(),
            Err(error) => {
                self.errors.push(Problem::error(error, &entry.origin.source, entry.span.clone()));
                Vec::new()
            }
        }
    }

    fn add_effect(&mut self, path: &ExpandedPath, effect: PathEffect, rule: RuleIndex) {
        match path {
            ExpandedPath::Literal(path) => {
                self.paths.literals.push(LiteralRule { path: path.clone(), effect, rule });
            }
            ExpandedPath::Glob(pattern) => {
                self.paths.globs.push(GlobRule { pattern: pattern.clone(), effect, rule });
            }
        }
    }

    fn add_allowed(&mut self, place: usize, list: AllowList, path: &ExpandedPath, rule: RuleIndex) {
        // A pattern in an allow-list was refused when the file was checked.
        let ExpandedPath::Literal(path) = path else { return };
        let Some(lists) = self.paths.allow.get_mut(place) else { return };
        let to = match list {
            AllowList::Read => &mut lists.read,
            AllowList::Write => &mut lists.write,
        };
        to.push(AllowedPath { path: path.clone(), rule });
    }

    fn add_egress(&mut self, place: usize, allow: bool, entry: &Entry<EgressPattern>, rule: RuleIndex) {
        let pattern = &entry.rule;
        // A host that can't be enforced was refused when the file was checked.
        let targets = pattern.host().targets().unwrap_or_default();
        let rules = targets.iter().map(|target| EgressRule {
            target: target.clone(),
            ports: pattern.ports().to_vec(),
            protocol: pattern.protocol(),
            allow,
            rule,
        });
        if let Some(lists) = self.egress.get_mut(place) {
            lists.rules.extend(rules);
        }
        self.effective.push(EffectiveRule {
            id: entry.id.clone(),
            key: entry.key,
            rule: pattern.text().to_owned(),
            stands_for: targets.iter().map(|target| egress_text(target, pattern)).collect(),
            from: Some((&*entry.origin).into()),
        });
    }

    fn tell_path(&mut self, entry: &Entry<PathPattern>, expanded: &[ExpandedPath]) {
        self.effective.push(EffectiveRule {
            id: entry.id.clone(),
            key: entry.key,
            rule: entry.rule.text().to_owned(),
            stands_for: expanded.iter().map(path_text).collect(),
            from: Some((&*entry.origin).into()),
        });
    }

    fn finish(mut self, name: String, settings: &Settings) -> Result<Outcome, CompileError> {
        let audit_log = self.audit_log(settings.audit_log.as_ref());
        let found = conflict::find(&self.written);
        let (warnings, errors): (Vec<_>, Vec<_>) = found.into_iter().partition(Problem::is_warning);
        self.errors.extend(errors);
        if !self.errors.is_empty() {
            return Err(CompileError::Problems(self.errors));
        }
        let effective = Effective {
            name: name.clone(),
            variables: variables(self.context),
            values: values(settings, &audit_log),
            rules: self.effective,
        };
        let compiled = Compiled {
            name,
            digest: effective.digest()?,
            mode: settings.mode.value,
            require: settings.require.value,
            root: settings.root.value,
            rules: self.rules,
            paths: self.paths,
            egress: self.egress,
            trace_opens: settings.trace_opens.value,
            trace_args: settings.trace_args.value,
            audit_log,
            audit_required: settings.audit_required.value,
            pids_max: settings.pids_max.as_ref().map(|max| max.value),
            memory_max_bytes: settings.memory_max_bytes.as_ref().map(|max| max.value),
        };
        Ok(Outcome { compiled, effective, warnings })
    }

    fn audit_log(&mut self, given: Option<&Given<PathPattern>>) -> PathBuf {
        let default = || self.context.state.join(LOG_NAME);
        let Some(given) = given else { return default() };
        match given.value.expand(self.context).as_deref() {
            Ok([ExpandedPath::Literal(path)]) => path.clone(),
            Ok(_) => default(),
            Err(error) => {
                if let Some(origin) = &given.origin {
                    self.errors.push(Problem::error(error.clone(), &origin.source, 0..0));
                }
                default()
            }
        }
    }
}

fn variables(context: &Context) -> Vec<Variable> {
    let one = |name, path: &Path| Variable { name, stands_for: vec![effective::text(path)] };
    vec![
        one("home", &context.home),
        one("project", &context.project),
        one("runtime", &context.runtime),
        one("state", &context.state),
        Variable { name: "tmp", stands_for: context.tmp.iter().map(|path| effective::text(path)).collect() },
    ]
}

fn values(settings: &Settings, audit_log: &Path) -> Vec<EffectiveValue> {
    fn from<T>(given: &Given<T>) -> Option<effective::From> {
        given.origin.as_deref().map(Into::into)
    }
    fn value<T>(key: &'static str, given: &Given<T>, value: impl ToString) -> EffectiveValue {
        EffectiveValue { key, value: value.to_string(), from: from(given) }
    }
    fn limit(key: &'static str, given: Option<&Given<u64>>) -> EffectiveValue {
        let value = given.map_or_else(|| "none".to_owned(), |given| given.value.to_string());
        EffectiveValue { key, value, from: given.and_then(from) }
    }
    vec![
        value("mode", &settings.mode, settings.mode.value),
        value("require", &settings.require, settings.require.value),
        value("process.root", &settings.root, settings.root.value),
        value("trace.opens", &settings.trace_opens, opens_text(settings.trace_opens.value)),
        value("trace.args", &settings.trace_args, settings.trace_args.value),
        EffectiveValue {
            key: "audit.log",
            value: effective::text(audit_log),
            from: settings.audit_log.as_ref().and_then(from),
        },
        value("audit.required", &settings.audit_required, settings.audit_required.value),
        limit("limits.pids_max", settings.pids_max.as_ref()),
        limit("limits.memory_max_bytes", settings.memory_max_bytes.as_ref()),
    ]
}

fn opens_text(opens: TraceOpens) -> &'static str {
    match opens {
        TraceOpens::All => "all",
        TraceOpens::First => "first",
        TraceOpens::Writes => "writes",
        TraceOpens::Denied => "denied",
    }
}

fn path_text(path: &ExpandedPath) -> String {
    match path {
        ExpandedPath::Literal(path) => effective::text(path),
        ExpandedPath::Glob(pattern) => String::from_utf8_lossy(pattern).into_owned(),
    }
}

fn egress_text(target: &super::EgressTarget, pattern: &EgressPattern) -> String {
    let ports: Vec<_> = pattern.ports().iter().map(ToString::to_string).collect();
    let protocol = match pattern.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Any => "any",
    };
    format!("{protocol} {target} port {}", ports.join(","))
}
