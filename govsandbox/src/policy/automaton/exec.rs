//! Exec rules → the tables that [`govsandbox_ebpf::decide::exec`] runs.

use govsandbox_ebpf::{
    abi::exec::{
        ALLOW_LISTS_MAX, ARG_RULES_MAX, EXEC_STATES_MAX, EXEC_TRANSITIONS_MAX, ExecAutomaton, ExecHits,
        ExecTable, TRAIT_DASHED, TRAIT_MULTI_CALL,
    },
    decide::exec::{START, next, scan},
};
use zerocopy::FromZeros;

use super::{AutomatonError, graph::Graph, positions::Positions};
use crate::policy::{
    compile::{ExecEffect, ExecPlan, ExecProgram, ExecRule},
    rule::{
        glob::{self, GlobError, Part, Segment},
        path::ExpandedPath,
    },
};

/// Before the name that a multi-call binary is called by: no path begins so.
const CALLED: u8 = 0;
/// Binaries that are many programs in one file, by their own names.
const MULTI_CALL: &[&str] = &["busybox*", "toybox*", "coreutils", "uutils*", "sbase-box", "ubase-box"];

/// Why exec rules can't become a table.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExecTableError {
    /// The automata.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Automaton(#[from] AutomatonError),
    /// A table has no room.
    #[error("the exec rules of this policy need more than {states} states of {classes} byte classes")]
    #[diagnostic(
        code(policy::exec::too_large),
        help("use fewer patterns with `**` or `*` in their middle, or name folders")
    )]
    TooLarge {
        /// States it has so far.
        states: usize,
        /// Byte classes that the patterns tell apart.
        classes: usize,
    },
    /// More rules with arguments than a word has bits.
    #[error("{count} exec rules have arguments, and the kernel's table holds {ARG_RULES_MAX}")]
    #[diagnostic(
        code(policy::exec::too_many_args),
        help("join them: `{{push,fetch}}` is either of both, `*` is any argument")
    )]
    TooManyArgRules {
        /// How many.
        count: usize,
    },
    /// More allow-lists than a half-word has bits.
    #[error("{count} policies have an `exec.allow`, and the kernel's table holds {ALLOW_LISTS_MAX}")]
    #[diagnostic(code(policy::exec::too_many_lists), help("join the machine's policies into fewer files"))]
    TooManyLists {
        /// How many.
        count: usize,
    },
}

/// What was found on this machine beside the rules themselves.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Files that a rule's path leads to: absolute, without symlinks, with the place of the rule in the plan.
    pub resolved: Vec<(Vec<u8>, usize)>,
    /// Files that are called by other names than their own, by way of symlinks in `PATH`.
    pub called_otherwise: Vec<Vec<u8>>,
    /// A rule that refuses what can't be asked for its content; 0: none.
    pub unseen: u16,
}

/// Builds the table.
///
/// # Errors
/// [`ExecTableError`]: it does not fit.
pub fn build(plan: &ExecPlan, found: &Found) -> Result<Box<ExecTable>, ExecTableError> {
    let with_args = plan.rules.iter().filter(|rule| rule.arguments.is_some()).count();
    if with_args > ARG_RULES_MAX {
        return Err(ExecTableError::TooManyArgRules { count: with_args });
    }
    if plan.allow_lists > ALLOW_LISTS_MAX {
        return Err(ExecTableError::TooManyLists { count: plan.allow_lists });
    }
    let mut table = ExecTable::new_box_zeroed().map_err(|_| AutomatonError::Memory)?;
    table.required = u16::try_from((1_u32 << plan.allow_lists) - 1).unwrap_or(u16::MAX);
    table.unseen = found.unseen;
    let denies_a_name = |rule: &&ExecRule| {
        rule.effect == ExecEffect::Deny && matches!(rule.program, ExecProgram::Name(Segment::Name(_)))
    };
    table.applets = plan.rules.iter().find(denies_a_name).map_or(0, |rule| rule.rule.0);
    let (mut names, mut args) = (Positions::new(b'/'), Positions::new(0));
    for (place, (rule, hits)) in plan.rules.iter().zip(&meanings(plan)).enumerate() {
        if let Some(arguments) = &rule.arguments {
            args.add_after(arguments.valued_options, &arguments.words, *hits);
            add_arguments(&mut table, rule, *hits);
        }
        let resolved = found.resolved.iter().filter(|(_, of)| *of == place).map(|(path, _)| &**path);
        add_program(&mut names, rule, *hits, resolved)?;
    }
    let multi_call = ExecHits { traits: TRAIT_MULTI_CALL, ..ExecHits::NONE };
    for pattern in MULTI_CALL {
        add_name(&mut names, &name_of(pattern.as_bytes())?, multi_call);
    }
    for path in &found.called_otherwise {
        names.add(&literal(path), multi_call);
    }
    fill(&mut table.names, &Graph::of(names)?.merged())?;
    fill(&mut table.args, &Graph::of(args)?.merged())?;
    Ok(table)
}

/// What each rule means for the program that it names, in the order of the plan. Rules with arguments have a bit each.
#[must_use]
pub fn meanings(plan: &ExecPlan) -> Vec<ExecHits> {
    let mut bit = 0;
    let mut meaning = |rule: &ExecRule| {
        if rule.arguments.is_some() {
            bit += 1;
            return ExecHits { args: 1_u64.checked_shl(bit - 1).unwrap_or(0), ..ExecHits::NONE };
        }
        match rule.effect {
            ExecEffect::Deny => ExecHits { deny: rule.rule.0, ..ExecHits::NONE },
            ExecEffect::Allow(list) => ExecHits { allow: 1 << list, ..ExecHits::NONE },
        }
    };
    plan.rules.iter().map(&mut meaning).collect()
}

/// Enters whose bit it is.
fn add_arguments(table: &mut ExecTable, rule: &ExecRule, hits: ExecHits) {
    if let Some(number) = table.arg_rules.get_mut(hits.args.trailing_zeros() as usize) {
        *number = rule.rule.0;
    }
    match rule.effect {
        ExecEffect::Deny => table.deny_args |= hits.args,
        ExecEffect::Allow(list) => {
            if let Some(of_list) = table.allow_args.get_mut(list) {
                *of_list |= hits.args;
            }
        }
    }
}

/// The automaton of one name alone, for [`matches_name`].
///
/// # Errors
/// [`ExecTableError`]: it does not fit.
pub fn one_name(name: &Segment) -> Result<Box<ExecAutomaton>, ExecTableError> {
    let mut positions = Positions::new(b'/');
    positions.add(std::slice::from_ref(name), ExecHits { deny: 1, ..ExecHits::NONE });
    let mut automaton = ExecAutomaton::new_box_zeroed().map_err(|_| AutomatonError::Memory)?;
    fill(&mut automaton, &Graph::of(positions)?.merged())?;
    Ok(automaton)
}

/// Is this base name one that the pattern of [`one_name`] matches?
#[must_use]
pub fn matches_name(name: &ExecAutomaton, base: &[u8]) -> bool {
    scan(name, &[b"/", base].concat()).deny != 0
}

fn add_program<'a>(
    names: &mut Positions<ExecHits>,
    rule: &ExecRule,
    hits: ExecHits,
    resolved: impl Iterator<Item = &'a [u8]>,
) -> Result<(), ExecTableError> {
    let is_git = rule.arguments.as_ref().is_some_and(|arguments| arguments.valued_options.is_some());
    match &rule.program {
        ExecProgram::Name(Segment::Name(parts)) => add_name(names, parts, hits),
        ExecProgram::Name(Segment::AnyDepth) => {}
        ExecProgram::Paths(paths) => {
            for path in paths {
                let segments = match path {
                    ExpandedPath::Literal(path) => literal(path.as_os_str().as_encoded_bytes()),
                    ExpandedPath::Glob(pattern) => segments(pattern)?,
                };
                add_path(names, segments, hits);
            }
        }
    }
    for path in resolved {
        add_path(names, literal(path), hits);
    }
    if is_git {
        // `git-push` is the same program, as another file or by another `argv[0]`.
        let dashed = name_of(b"git-*")?;
        add_name(names, &dashed, ExecHits { traits: TRAIT_DASHED, ..hits });
    }
    Ok(())
}

/// A base name, or the name that a multi-call binary is called by.
fn add_name(names: &mut Positions<ExecHits>, parts: &[Part], hits: ExecHits) {
    names.add(&[Segment::AnyDepth, Segment::Name(parts.to_vec())], hits);
    names.add_marked(CALLED, parts, hits);
}

/// A path, and what lies below it.
pub(super) fn add_path(names: &mut Positions<ExecHits>, mut segments: Vec<Segment>, hits: ExecHits) {
    segments.push(Segment::AnyDepth);
    names.add(&segments, hits);
}

pub(super) fn literal(path: &[u8]) -> Vec<Segment> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.map(|name| Segment::Name(name.iter().map(|byte| Part::Byte(*byte)).collect())).collect()
}

pub(super) fn segments(pattern: &[u8]) -> Result<Vec<Segment>, ExecTableError> {
    glob::segments(pattern).map_err(|source| wrong(pattern, source))
}

fn name_of(pattern: &[u8]) -> Result<Vec<Part>, ExecTableError> {
    match glob::argument(pattern).map_err(|source| wrong(pattern, source))? {
        Segment::Name(parts) => Ok(parts),
        Segment::AnyDepth => Ok(vec![Part::Run]),
    }
}

fn wrong(pattern: &[u8], source: GlobError) -> ExecTableError {
    let pattern = String::from_utf8_lossy(pattern).into_owned();
    AutomatonError::Pattern { pattern, source }.into()
}

pub(super) fn fill(automaton: &mut ExecAutomaton, graph: &Graph<ExecHits>) -> Result<(), ExecTableError> {
    let (states, classes) = (graph.states(), graph.class_count);
    let class_bits = classes.next_power_of_two().trailing_zeros();
    if states > EXEC_STATES_MAX || states << class_bits > EXEC_TRANSITIONS_MAX {
        return Err(ExecTableError::TooLarge { states, classes });
    }
    automaton.classes = graph.classes;
    automaton.class_bits = class_bits;
    for (to, from) in automaton.hits.iter_mut().zip(&graph.hits) {
        *to = *from;
    }
    // No state has a number above `EXEC_STATES_MAX`.
    let short = |state: u32| u16::try_from(state).unwrap_or(0);
    for (row, state) in automaton.transitions.chunks_exact_mut(1 << class_bits).zip(0..states as u32) {
        row.fill(short(graph.usual(state)));
        for (class, next) in graph.exceptions(state) {
            if let Some(to) = row.get_mut(usize::from(*class)) {
                *to = short(*next);
            }
        }
    }
    automaton.fresh = next(automaton, START, 0);
    Ok(())
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
