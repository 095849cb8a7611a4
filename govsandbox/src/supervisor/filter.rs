//! What the seccomp filter of a run refuses, told to the decoder of events.

use super::namespaces;
use crate::{
    event::privilege::{Attempt, CallName, Filter, Refused},
    launch::{
        fd, landlock,
        seccomp::{self, Foreground, GroupSignals, Reason, SeccompPlan},
    },
    policy::compile::{Compiled, Icmp, Userfaultfd},
};

/// Asks the program that the command was started with.
pub(super) fn of(plan: &SeccompPlan) -> Filter {
    let program = seccomp::program(plan);
    Filter(Box::new(move |attempt: &Attempt| {
        let Attempt { number, arguments, foreign, errno } = *attempt;
        let refusal = seccomp::refusal(&program, &seccomp::Attempt { number, arguments, foreign, errno })?;
        let call = CallName::parse(refusal.call).unwrap_or(CallName::UNKNOWN);
        Some(Refused { call, rule: rule(refusal.reason), detail: refusal.detail })
    }))
}

/// Signals to the own process group reach the supervisor and the shell's job where Landlock does not keep them inside.
pub(super) fn group_signals() -> GroupSignals {
    if landlock::strength().abi >= landlock::SCOPE_ABI_MIN { GroupSignals::Allow } else { GroupSignals::Deny }
}

/// A backend's filter, as the policy wants it. The terminal stays with a job that has others in it.
pub(super) fn for_policy(plan: SeccompPlan, compiled: &Compiled) -> SeccompPlan {
    let foreground = if fd::is_in_pipeline() { Foreground::Deny } else { Foreground::Allow };
    let userfaultfd = compiled.userfaultfd == Userfaultfd::Allow;
    let icmp = compiled.icmp == Icmp::Allow;
    SeccompPlan { userfaultfd, icmp, foreground, namespaces: namespaces::filtered(compiled), ..plan }
}

fn rule(reason: Reason) -> &'static str {
    match reason {
        Reason::Machine => "builtin/privileges",
        Reason::Namespaces => "default/process.namespaces",
        Reason::Userfaultfd => "default/process.userfaultfd",
        Reason::Sockets => "builtin/sockets",
        Reason::Terminal => "builtin/terminal",
        Reason::Processes => "builtin/processes",
        Reason::Architecture => "builtin/architecture",
    }
}
