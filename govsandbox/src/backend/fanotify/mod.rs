//! Verdicts by permission events, for kernels that refuse to patch their text.
//!
//! What exists and is named (or matched) by a rule is held by mounts: denied paths are bound over themselves and every
//! open of them is refused, protected ones are bound read-only. What comes later is judged at its first open, by the
//! path that it has then. [`prepare`] turns rules into mounts and tables, [`Verdicts`] is the thread that answers.

mod content;
mod existing;
mod prepare;
mod probe;
mod programs;
mod refusals;
mod rules;
mod special;
mod syscall;
mod verdicts;

pub use self::{
    prepare::{Input, PrepareError, Setup, prepare, prepare_contents},
    probe::{ProbeError, probe},
    programs::Call,
    refusals::{Inbox, Outbox, channel},
    rules::PathRules,
    verdicts::{Counts, Mode, Refusal, Verdicts},
};
pub(super) use verdicts::now_boot_ns;

/// What this backend does not hold whatever the policy, in words for the session's first event.
pub const NOT_HELD: &[&str] = &[
    "an empty file of a denied name: an open that would create it is refused after the kernel has made it",
    "times of files, and flags by ioctl(2): not judged by name",
    "datagrams to own unix sockets by path, with an address at each: refused; connected ones work",
    "watches (inotify) on denied files and folders: what comes and goes in a denied folder has names that can be learned",
    "a program that came into being during the run and that an exec rule denies by a name, when a loader maps it: the \
     process is killed at the end of mmap(2), and mprotect(2) is not judged",
    "another hard link of a program that an exec rule denies, when a loader maps it",
    "files that a process outside renames into a rule's name after they were opened inside, as long as the kernel \
     remembers them",
    "named pipes and devices that a process outside makes during the run where a rule denies or protects, and other hard \
     links of named pipes outside of the write list; those that are protected can't be read either",
    "files in /proc that a pattern for names at any depth matches (`environ`, `**/maps`)",
    "the arguments of a script that an exec rule names by its path, or whose first line has an option",
];
