//! Puts a command into its world and starts it: cgroup, pid and mount namespace, identity, Landlock, seccomp, exec.
//!
//! [`spawn`] makes everything ready and leaves the command waiting ([`Prepared`]); [`Prepared::release`] lets it exec
//! ([`Running`]); [`Running::wait`] sees it to its end. Three types, so that no other order can be built. Dropping
//! either of the first two kills what there is and removes the cgroup.
//!
//! Processes: the supervisor (this one) → the guardian, which kills the tree when the supervisor is gone; and → the
//! init, pid 1 of the sandbox's pid namespace → the command.

mod channel;
mod child;
mod error;
mod guardian;
mod init;
mod prepared;
mod running;
mod terminal;

pub mod cgroup;
pub mod fd;
pub mod landlock;
pub mod limits;
pub mod mount;
pub mod performer;
pub mod plan;
pub mod privilege;
pub mod seccomp;

pub use self::{
    error::{Failure, LaunchError, Stage},
    plan::LaunchPlan,
    prepared::{Forked, Prepared, spawn},
    running::{Ended, Killer, Running},
};
