//! What the supervisor wants: plain values, decided before anything is created.

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use super::{
    landlock::LandlockPlan, limits::Bound, mount::MountPlan, performer::Performer, privilege::Identity,
    seccomp::SeccompPlan,
};

/// Everything about one launch.
#[derive(Clone, Debug)]
pub struct LaunchPlan {
    /// The command and its arguments, at least one; a name without a slash is searched for in `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whom it runs as.
    pub identity: Identity,
    /// Its cgroup.
    pub cgroup: CgroupPlan,
    /// The network namespace that it is in. `None`: the caller's.
    pub network: Option<Arc<OwnedFd>>,
    /// Its mounts.
    pub mounts: MountPlan,
    /// Its Landlock domain.
    pub landlock: LandlockPlan,
    /// Its seccomp filter.
    pub seccomp: SeccompPlan,
    /// Backend `fanotify`: what asks for verdicts. `None` on other backends.
    pub fanotify: Option<FanotifyPlan>,
    /// Who does the calls that `seccomp` hands over. `None`: it hands over none.
    pub performer: Option<Arc<dyn Performer>>,
}

/// The cgroup of one sandbox.
#[derive(Clone, Debug, Default)]
pub struct CgroupPlan {
    /// Name of its folder, of letters, digits and `-`; the supervisor's pid is added.
    pub name: String,
    /// What it may use.
    pub bounds: Vec<Bound>,
}

/// Which opens ask the verdict thread.
#[derive(Clone, Debug, Default)]
pub struct FanotifyPlan {
    /// `true`: there are globs, so every mount that can hold such names is marked; `false`: only the denied paths.
    pub all_mounts: bool,
    /// Where patterns and names that are not there yet begin: what is mounted there is marked, though it may hold nobody's
    /// files.
    pub beginnings: Vec<PathBuf>,
    /// `true`: there are exec rules, so every mount is marked for what is executed from it.
    pub programs: bool,
}
