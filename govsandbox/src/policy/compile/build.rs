//! Layered policies → [`Compiled`]: variables replaced, rules numbered by precedence.

use std::path::PathBuf;

use super::{
    AllowLists, AllowedPath, Compiled, EgressEffect, EgressLists, ExecEffect, ExecPlan, ExecProgram,
    GlobRule, Layer, Limit, LiteralRule, PathEffect, PathPlan, RuleInfo, UnixPlan, egress, exec,
    plan::{Access, Plan, Slot, What},
    tell, unix,
};
use crate::{
    id::{RuleId, RuleIndex},
    policy::{
        conflict,
        context::Context,
        effective::{self, Effective, EffectiveList, EffectiveRule},
        git_config::Keys,
        lockout,
        merge::{Entry, Given, Layered, Settings},
        problem::Problem,
        procfs,
        rule::{
            exec::ExecPattern,
            path::{ExpandedPath, PathError, PathPattern},
        },
    },
};

/// Rules of one sandbox at most: their numbers are `u16` in the kernel, 0 means none, and the last ones are
/// what is built in.
const RULES_MAX: usize = u16::MAX as usize - 8;
/// Name of the log unless a policy names it, in `{state}`.
const LOG_NAME: &str = "audit.jsonl";

/// In which order lists are told: what decides first comes first.
const LIST_ORDER: [&str; 11] = [
    "filesystem.deny",
    "filesystem.protect",
    "filesystem.write",
    "filesystem.read",
    "exec.deny",
    "exec.allow",
    "network.deny",
    "network.allow",
    "rule",
    "network.listen",
    "network.unix",
];

/// Why policies that make sense one by one don't together, or not here.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CompileError {
    /// More rules than there are numbers.
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

/// Compiles the policies of a run.
///
/// # Errors
/// [`CompileError`].
pub fn compile(layered: &Layered, context: &Context) -> Result<Outcome, CompileError> {
    let mut plan = Plan::of(layered);
    // Stable: within a layer the order of the files, within a file the index.
    plan.slots.sort_by_key(|slot| (slot.rank, slot.layer));
    if plan.slots.len() > RULES_MAX {
        return Err(CompileError::TooManyRules { count: plan.slots.len() });
    }
    let slots = std::mem::take(&mut plan.slots);
    let mut builder = Builder::new(context, plan);
    for (number, slot) in (govsandbox_ebpf::abi::rule::RULE_OWN + 1..).zip(&slots) {
        builder.add(RuleIndex(number), slot);
    }
    let name = layered.policies.first().map(|(name, _)| name.clone()).unwrap_or_default();
    builder.finish(name, &layered.settings)
}

struct Builder<'a> {
    context: &'a Context,
    rules: Vec<RuleInfo>,
    paths: PathPlan,
    exec: ExecPlan,
    egress: Vec<EgressLists>,
    listen: Vec<EgressLists>,
    unix: UnixPlan,
    lists: Vec<EffectiveList>,
    written: Vec<conflict::Written<'a>>,
    programs: Vec<(RuleIndex, &'a Entry<ExecPattern>)>,
    errors: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn new(context: &'a Context, plan: Plan<'a>) -> Self {
        let allow = vec![AllowLists::default(); plan.path_places];
        Self {
            context,
            rules: vec![RuleInfo { id: RuleId("builtin/own-files".to_owned()), layer: Layer::Builtin }],
            paths: PathPlan { allow, ..PathPlan::default() },
            exec: ExecPlan { rules: Vec::new(), allow_lists: plan.exec_places },
            egress: vec![EgressLists::default(); plan.egress_places],
            listen: vec![EgressLists::default(); plan.listen_places],
            unix: UnixPlan { rules: Vec::new(), lists: plan.unix_places },
            lists: plan.lists,
            written: Vec::new(),
            programs: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn add(&mut self, rule: RuleIndex, slot: &Slot<'a>) {
        let told = match &slot.what {
            What::Effect(effect, entry) => {
                let expanded = self.expand(entry).into_iter().flat_map(procfs::of_every_process);
                let expanded: Vec<_> = expanded.collect();
                for path in &expanded {
                    self.add_effect(path, *effect, rule);
                }
                if let Some(keys) = entry.rule.keys() {
                    self.add_keys(rule, keys);
                }
                let told = tell::path(entry, &expanded);
                self.written.push(conflict::Written { entry, effect: Some(*effect), expanded });
                told
            }
            What::Allow { place, access, entry } => {
                let expanded = self.expand(entry);
                for path in &expanded {
                    self.add_allowed(*place, *access, path, rule);
                }
                let told = tell::path(entry, &expanded);
                self.written.push(conflict::Written { entry, effect: None, expanded });
                told
            }
            What::AllowAll { place, access } => {
                match (access, self.paths.allow.get_mut(*place)) {
                    (Access::Write, Some(lists)) => lists.any_write = Some(rule),
                    _ => self.add_allowed(*place, *access, &ExpandedPath::Literal(PathBuf::from("/")), rule),
                }
                let id = RuleId(format!("default/{}", access.key()));
                EffectiveRule { id, rule: "/".to_owned(), stands_for: vec!["/".to_owned()], from: None }
            }
            What::Exec(effect, entry) => self.add_exec(*effect, entry, rule),
            What::Egress { place, effect, entry } => {
                let (told, rules) = egress::rules(*effect, entry, rule);
                if let Some(lists) = self.egress.get_mut(*place) {
                    lists.rules.extend(rules);
                }
                told
            }
            What::Listen { place, entry } => {
                let (told, rules) = egress::rules(EgressEffect::Allow, entry, rule);
                if let Some(lists) = self.listen.get_mut(*place) {
                    lists.rules.extend(rules);
                }
                told
            }
            What::Unix { place, entry } => match unix::rule(*place, entry, rule, self.context) {
                Ok((told, rule)) => {
                    self.unix.rules.push(rule);
                    told
                }
                Err(error) => {
                    self.wrong(entry, error);
                    unix::told(entry, Vec::new())
                }
            },
        };
        self.rules.push(RuleInfo { id: told.id.clone(), layer: slot.layer });
        if let Some(list) = self.lists.get_mut(slot.list) {
            list.rules.push(told);
        }
    }

    fn expand(&mut self, entry: &Entry<PathPattern>) -> Vec<ExpandedPath> {
        match entry.rule.expand(self.context) {
            Ok(expanded) => expanded,
            Err(error) => {
                self.wrong(entry, error);
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

    /// Rules with keys that name the same config hold together: what one lets change, the other has to as well.
    fn add_keys(&mut self, rule: RuleIndex, keys: &Keys) {
        let PathPlan { literals, keys: all, .. } = &mut self.paths;
        let paths_of = |rule| literals.iter().filter(move |literal| literal.rule == rule);
        let mut together = keys.clone();
        for (other, keys_of_other) in all.iter_mut() {
            let same = |literal: &LiteralRule| paths_of(*other).any(|other| other.path == literal.path);
            if paths_of(rule).any(same) {
                together = together.and(keys_of_other);
                *keys_of_other = keys_of_other.and(keys);
            }
        }
        all.push((rule, together));
    }

    fn add_allowed(&mut self, place: usize, access: Access, path: &ExpandedPath, rule: RuleIndex) {
        // A pattern in an allow-list was refused when the file was checked.
        let ExpandedPath::Literal(path) = path else { return };
        let Some(lists) = self.paths.allow.get_mut(place) else { return };
        let to = match access {
            Access::Read => &mut lists.read,
            Access::Write => &mut lists.write,
        };
        to.push(AllowedPath { path: path.clone(), rule });
    }

    fn add_exec(
        &mut self,
        effect: ExecEffect,
        entry: &'a Entry<ExecPattern>,
        rule: RuleIndex,
    ) -> EffectiveRule {
        self.programs.push((rule, entry));
        let mut stands_for = Vec::new();
        match exec::rule(&entry.rule, effect, rule, self.context) {
            Ok(rule) => {
                if let ExecProgram::Paths(paths) = &rule.program {
                    stands_for.extend(paths.iter().map(tell::path_text));
                }
                self.exec.rules.push(rule);
            }
            Err(error) => self.wrong(entry, error),
        }
        let text = effective::readable(entry.rule.text().as_bytes());
        EffectiveRule {
            id: entry.id.clone(),
            rule: text,
            stands_for,
            from: Some(effective::From::entry(entry)),
        }
    }

    fn wrong<T>(&mut self, entry: &Entry<T>, error: PathError) {
        // Every rule in the project has the same trouble; once is enough.
        if !matches!(error, PathError::ProjectTooWide { .. }) || self.errors.is_empty() {
            self.errors.push(Problem::error(error, &entry.origin.source, entry.span.clone()));
        }
    }

    fn finish(mut self, name: String, settings: &Settings) -> Result<Outcome, CompileError> {
        let audit_log = self.audit_log(settings.audit_log.as_ref());
        let mut found = conflict::find(&self.written);
        found.extend(lockout::find(&self.exec, &self.programs));
        let (warnings, errors): (Vec<_>, Vec<_>) = found.into_iter().partition(Problem::is_warning);
        self.errors.extend(errors);
        if !self.errors.is_empty() {
            return Err(CompileError::Problems(self.errors));
        }
        let place = |list: &EffectiveList| LIST_ORDER.iter().position(|key| *key == list.key);
        self.lists.sort_by_key(place);
        let effective = Effective {
            name: name.clone(),
            variables: tell::variables(self.context),
            values: tell::values(settings, &audit_log),
            lists: self.lists,
        };
        let compiled = Compiled {
            name,
            digest: effective.digest()?,
            mode: settings.mode.value,
            require: settings.require.value,
            root: settings.root.value,
            userfaultfd: settings.userfaultfd.value,
            namespaces: settings.namespaces.value,
            rules: self.rules,
            paths: self.paths,
            exec: self.exec,
            egress: self.egress,
            verify: settings.verify.value,
            network_namespace: settings.network_namespace.value,
            icmp: settings.icmp.value,
            dns_refusal: settings.dns_refusal.value,
            ask_timeout: settings.ask_timeout.value,
            proxy: settings.proxy.as_ref().map(|proxy| proxy.value.clone()),
            listen: self.listen,
            unix: self.unix,
            trace_opens: settings.trace_opens.value,
            trace_args: settings.trace_args.value,
            audit_log,
            audit_required: settings.audit_required.value,
            pids_max: limit("limits.pids_max", settings.pids_max.as_ref()),
            memory_max_bytes: limit("limits.memory_max_bytes", settings.memory_max_bytes.as_ref()),
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

/// A bound without an index: a key has one value.
fn limit(key: &str, given: Option<&Given<u64>>) -> Option<Limit> {
    let given = given?;
    let (policy, layer) = match &given.origin {
        Some(origin) => (origin.name.as_str(), origin.layer),
        None => ("default", Layer::Builtin),
    };
    Some(Limit { max: given.value, rule: RuleInfo { id: RuleId(format!("{policy}/{key}")), layer } })
}
