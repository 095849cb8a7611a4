//! Verdicts by permission events, for kernels that refuse to patch their text.
//!
//! What exists and is named (or matched) by a rule is held by mounts: denied paths are bound over themselves and every
//! open of them is refused, protected ones are bound read-only. What comes later is judged at its first open, by the
//! path that it has then. [`prepare`] turns rules into mounts and tables, [`Verdicts`] is the thread that answers.

mod existing;
mod prepare;
mod probe;
mod rules;
mod syscall;
mod verdicts;

pub use self::{
    prepare::{Input, Setup, prepare},
    probe::{ProbeError, probe},
    rules::PathRules,
    verdicts::{Counts, Mode, Refusal, Verdicts},
};

/// What this backend does not hold whatever the policy, in words for the session's first event.
pub const NOT_HELD: &[&str] = &[
    "renaming, linking, unlinking or changing the attributes of files that came into being during the run and match a \
     rule only by a name",
    "a file that was opened under a name that no rule matches and is renamed to one that a rule matches, until the \
     kernel forgets it",
    "symlinks on the way to a named path: the target is held, the link may be replaced where its folder is writable",
    "exec rules by argument",
];
