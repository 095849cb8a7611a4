//! Exec rules that take away what everything else is started by.

use govsandbox_ebpf::decide::exec::{decide_program, scan};

use super::{
    automaton::exec::{self, Found},
    compile::{ExecEffect, ExecPlan},
    merge::Entry,
    problem::Problem,
    rule::exec::ExecPattern,
};
use crate::id::{RuleId, RuleIndex};

/// What a machine can hardly be used without, where it lies on most, and what is gone with it.
const ESSENTIAL: [(&str, &str); 6] = [
    ("/usr/bin/sh", "no script, no `sh -c` and no build starts"),
    ("/usr/bin/dash", "where it is /bin/sh, no script, no `sh -c` and no build starts"),
    ("/usr/bin/bash", "no script of bash starts, nor the commands of most agents"),
    ("/usr/bin/env", "no script that begins with `#!/usr/bin/env` starts"),
    ("/usr/lib64/ld-linux-x86-64.so.2", "no dynamically linked program starts"),
    ("/usr/lib/ld-linux-aarch64.so.1", "no dynamically linked program starts"),
];
/// Of these one at least, or nothing that an allow-list names is started by anything but the command itself.
const SHELLS: [&str; 4] = ["/usr/bin/sh", "/usr/bin/dash", "/usr/bin/bash", "/usr/bin/env"];

/// A deny rule that locks the command out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` denies `{program}`: {gone}")]
#[diagnostic(
    code(policy::exec::lockout),
    help(
        "name what is meant more narrowly, or deny some arguments only: `{{ command = \"…\", args = [\"…\"] }}`"
    )
)]
pub struct Denied {
    rule: RuleId,
    program: &'static str,
    gone: &'static str,
}

/// An allow-list without a shell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error(
    "`exec.allow` has no shell: no script, no `sh -c` and no build starts, only programs that the command starts itself"
)]
#[diagnostic(code(policy::exec::no_shell), help("add \"sh\" and what scripts need, if that is not meant"))]
pub struct NoShell;

/// What of the exec rules is probably not meant. `written` has each rule's entry, in the order of the plan.
#[must_use]
pub fn find(plan: &ExecPlan, written: &[(RuleIndex, &Entry<ExecPattern>)]) -> Vec<Problem> {
    let mut found = Vec::new();
    // What does not fit is told when it is built for the run.
    let Ok(table) = exec::build(&ExecPlan { allow_lists: 0, ..plan.clone() }, &Found::default()) else {
        return found;
    };
    let mut told = Vec::new();
    for (program, gone) in ESSENTIAL {
        let decision = decide_program(&table, scan(&table.names, program.as_bytes()));
        let entry = written.iter().find(|(rule, _)| rule.0 == decision.rule && !decision.allow);
        let Some((rule, entry)) = entry.filter(|(rule, _)| !told.contains(rule)) else { continue };
        told.push(*rule);
        let denied = Denied { rule: entry.id.clone(), program, gone };
        found.push(Problem::warning(denied, &entry.origin.source, entry.span.clone()));
    }
    found.extend((0..plan.allow_lists).filter_map(|list| without_shell(plan, list, written)));
    found
}

fn without_shell(
    plan: &ExecPlan,
    list: usize,
    written: &[(RuleIndex, &Entry<ExecPattern>)],
) -> Option<Problem> {
    let of_list = |effect| effect == ExecEffect::Allow(list);
    let rules = plan.rules.iter().filter(|rule| of_list(rule.effect)).cloned();
    let rules = rules.map(|rule| super::compile::ExecRule { effect: ExecEffect::Allow(0), ..rule }).collect();
    let table = exec::build(&ExecPlan { rules, allow_lists: 1 }, &Found::default()).ok()?;
    if SHELLS.iter().any(|shell| decide_program(&table, scan(&table.names, shell.as_bytes())).allow) {
        return None;
    }
    let first = plan.rules.iter().find(|rule| of_list(rule.effect))?.rule;
    let (_, entry) = written.iter().find(|(rule, _)| *rule == first)?;
    Some(Problem::warning(NoShell, &entry.origin.source, entry.span.clone()))
}
