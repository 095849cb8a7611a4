//! Exec rules of all policies.

use crate::{
    id::RuleIndex,
    policy::{
        context::Context,
        rule::{
            exec::{Arguments, ExecPattern, Program},
            glob::Segment,
            path::{ExpandedPath, PathError},
        },
    },
};

/// Everything about programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecPlan {
    /// By precedence.
    pub rules: Vec<ExecRule>,
    /// Policies that have an `exec.allow`: a program needs an entry in each.
    pub allow_lists: usize,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRule {
    /// Which program.
    pub program: ExecProgram,
    /// With which arguments; `None`: whatever they are.
    pub arguments: Option<Arguments>,
    /// What is done with it.
    pub effect: ExecEffect,
    /// Files with the same content are meant too.
    pub by_content: bool,
    /// The rule.
    pub rule: RuleIndex,
}

/// Which program a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecProgram {
    /// By the base name of its file.
    Name(Segment),
    /// By paths or patterns, what lies below included; several where a variable stands for several folders.
    Paths(Vec<ExpandedPath>),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecEffect {
    /// `exec.deny`.
    Deny,
    /// `exec.allow` of the policy at that place among those that have one.
    Allow(usize),
}

impl ExecPlan {
    /// No rule, no list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.allow_lists == 0
    }
}

/// Replaces the variables of one entry.
pub(super) fn rule(
    pattern: &ExecPattern,
    effect: ExecEffect,
    rule: RuleIndex,
    context: &Context,
) -> Result<ExecRule, PathError> {
    let program = match pattern.program() {
        Program::Name(name) => ExecProgram::Name(name.clone()),
        Program::Path(path) => ExecProgram::Paths(path.expand(context)?),
    };
    let (arguments, by_content) = (pattern.arguments().cloned(), pattern.by_content());
    Ok(ExecRule { program, arguments, effect, by_content, rule })
}
