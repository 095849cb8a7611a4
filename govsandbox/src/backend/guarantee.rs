//! Which layer holds what, for each backend.

use serde::Serialize;

use super::{Kind, fanotify};

/// First Landlock ABI that refuses truncate(2).
const TRUNCATE_ABI: i32 = 3;
/// First Landlock ABI with scopes for signals and abstract unix sockets.
const SCOPE_ABI: i32 = 6;

/// What neither backend holds in this version.
const NOT_HELD: &[&str] = &[
    "a record of what Landlock alone refuses and no path names: signals and traces of processes outside; they fail, and the \
     log does not tell",
    "what allowed hosts are told: nothing is decrypted, and of a datagram the address alone counts",
    "names below an allowed wildcard: what their servers are asked for can carry data out; events mark such names",
];

/// Without programs at the cgroup that see unix sockets (Linux 6.7), on `fanotify`.
const UNIX_NOT_HELD: &str = "unix sockets of processes outside, for a thread that swaps descriptor or address while connect(2) \
    waits, and for datagrams with an address: needs a kernel from 6.7 on";
/// Without scopes of Landlock, on `fanotify`.
const ABSTRACT_NOT_HELD: &str =
    "abstract unix sockets of processes outside: needs Landlock ABI 6, a kernel from 6.12 on";
/// Without a tracepoint where data is handed to TCP (Linux 6.16), on `fanotify`.
const PASSED_NOT_HELD: &str = "connections of TCP that a process outside made and hands in over a unix socket: needs a kernel \
    from 6.16 on";

/// What this kernel has beside the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Of Landlock.
    pub landlock_abi: i32,
    /// Programs at the cgroup see unix sockets.
    pub unix_at_cgroup: bool,
    /// A tracepoint tells who sends by a connection of TCP.
    pub sees_streams: bool,
}

/// One promise.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Guarantee {
    /// What is promised; stable.
    pub name: &'static str,
    /// The layers that hold it; none: it is not held.
    pub held_by: Vec<&'static str>,
    /// What should be known about it.
    pub note: Option<&'static str>,
}

/// What holds on a machine with that backend and that Landlock.
pub(super) fn table(backend: Option<Kind>, kernel: Kernel) -> Vec<Guarantee> {
    let landlock_abi = kernel.landlock_abi;
    let by_hooks = backend == Some(Kind::Lsm);
    let is_scoped = landlock_abi >= SCOPE_ABI;
    let verdicts = if by_hooks { "BPF LSM hooks" } else { "fanotify verdicts" };
    let whole_tree =
        if by_hooks { "mark in task storage (task_alloc)" } else { "mark in task storage, for the trace" };
    let mut rows = vec![
        row(
            "the limit covers the whole process tree",
            &[whole_tree, "pid and mount namespace", "cgroup", "Landlock", "seccomp"],
            None,
        ),
        row(
            "denied paths can't be opened, by any name",
            if by_hooks { &["BPF LSM hooks"] } else { &["fanotify verdicts", "mounts"] },
            None,
        ),
        row(
            "protected paths can't be changed",
            if by_hooks {
                &["BPF LSM hooks"]
            } else {
                &["read-only mounts", "fanotify verdicts", "performed calls"]
            },
            (!by_hooks).then_some("an empty file of a protected name can be made"),
        ),
        row(
            "denied programs can't be executed, by any name",
            if by_hooks {
                &["BPF LSM hooks", "sched_process_exec tracepoint"]
            } else {
                &["fanotify verdicts", "mounts", "sched_process_exec tracepoint"]
            },
            (!by_hooks).then_some("but for some ways of a loader to programs that come during the run"),
        ),
        row(
            "files outside the allow-lists can't be written or read",
            &["Landlock"],
            (landlock_abi < TRUNCATE_ABI)
                .then_some("but truncate(2), which needs Landlock ABI 3: a kernel from 6.2 on"),
        ),
        row(
            "connections go only where the policy allows",
            &["cgroup programs", "seccomp"],
            (!by_hooks && !kernel.sees_streams).then_some(
                "but for those that a process outside made and hands in: a kernel from 6.16 on holds them",
            ),
        ),
        row(
            "processes outside can't be traced or signalled",
            match (by_hooks, is_scoped) {
                (true, true) => &["pid namespace", "Landlock", "BPF LSM hooks"],
                (true, false) => &["pid namespace", "BPF LSM hooks"],
                (false, true) => &["pid namespace", "Landlock"],
                (false, false) => &["pid namespace", "seccomp"],
            },
            (!by_hooks && !is_scoped)
                .then_some("kill(0, …) is refused, even if only processes inside are in the group"),
        ),
        row(
            "unix sockets of processes outside can't be reached unless the policy names them",
            match (by_hooks, kernel.unix_at_cgroup && is_scoped) {
                (true, _) => &["BPF LSM hooks"],
                (false, true) => &["performed calls", "cgroup programs", "Landlock"],
                (false, false) => &[],
            },
            (!(by_hooks || kernel.unix_at_cgroup && is_scoped))
                .then_some("in part: see what is not held; a kernel from 6.12 on holds them"),
        ),
        row(
            "no new privileges",
            if by_hooks {
                &["no_new_privs", "empty capability sets", "seccomp", "BPF LSM hooks"]
            } else {
                &["no_new_privs", "empty capability sets", "seccomp"]
            },
            None,
        ),
        row(
            "control file systems and the machine's settings can't be changed",
            &["read-only mounts", "file modes"],
            None,
        ),
        row(
            "everything ends when the supervisor is killed",
            if by_hooks {
                &["two guardians", "pid namespace", "pinned programs"]
            } else {
                &["two guardians", "pid namespace"]
            },
            None,
        ),
        row(
            "every refusal by a rule is recorded",
            &[verdicts, "cgroup programs", "sys_exit tracepoint", "ring buffer of its own"],
            Some("but for signals and traces that Landlock refuses"),
        ),
        row(
            "the trace: exec, exit, opens, connections",
            if by_hooks {
                &["tracepoints", "BPF LSM hooks", "cgroup programs"]
            } else {
                &["tracepoints", "cgroup programs"]
            },
            None,
        ),
    ];
    if backend.is_none() {
        for row in &mut rows {
            row.held_by.clear();
            row.note = Some("nothing is started without a backend");
        }
    }
    rows
}

/// What is not held, whatever the policy.
#[must_use]
pub fn not_held(backend: Option<Kind>, kernel: Kernel) -> Vec<&'static str> {
    let Some(backend) = backend else { return Vec::new() };
    let mut not_held = Vec::new();
    if backend == Kind::Fanotify {
        not_held.extend(fanotify::NOT_HELD);
        not_held.extend((!kernel.unix_at_cgroup).then_some(UNIX_NOT_HELD));
        not_held.extend((!kernel.sees_streams).then_some(PASSED_NOT_HELD));
        not_held.extend((kernel.landlock_abi < SCOPE_ABI).then_some(ABSTRACT_NOT_HELD));
    }
    not_held.extend(NOT_HELD);
    not_held
}

fn row(name: &'static str, held_by: &[&'static str], note: Option<&'static str>) -> Guarantee {
    Guarantee { name, held_by: held_by.to_vec(), note }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Kernel = Kernel { landlock_abi: SCOPE_ABI, unix_at_cgroup: true, sees_streams: true };

    #[test]
    fn every_guarantee_is_held_on_both_backends_with_todays_landlock() {
        for backend in [Kind::Lsm, Kind::Fanotify] {
            assert!(table(Some(backend), TODAY).iter().all(|row| !row.held_by.is_empty()), "{backend}");
        }
    }

    #[test]
    fn what_an_old_kernel_does_not_hold_is_said() {
        for (kernel, said) in [
            (Kernel { landlock_abi: SCOPE_ABI - 1, ..TODAY }, ABSTRACT_NOT_HELD),
            (Kernel { unix_at_cgroup: false, ..TODAY }, UNIX_NOT_HELD),
        ] {
            let rows = table(Some(Kind::Fanotify), kernel);
            let lacking: Vec<_> = rows.iter().filter(|row| row.held_by.is_empty()).collect();
            assert_eq!(lacking.len(), 1, "{lacking:?}");
            assert!(lacking[0].note.unwrap().contains("from 6.12 on"));
            assert!(not_held(Some(Kind::Fanotify), kernel).contains(&said));
            assert!(table(Some(Kind::Lsm), kernel).iter().all(|row| !row.held_by.is_empty()));
        }
        let blind = Kernel { sees_streams: false, ..TODAY };
        assert!(not_held(Some(Kind::Fanotify), blind).contains(&PASSED_NOT_HELD));
        assert!(!not_held(Some(Kind::Lsm), blind).contains(&PASSED_NOT_HELD));
        assert_eq!(not_held(Some(Kind::Fanotify), TODAY).len(), fanotify::NOT_HELD.len() + NOT_HELD.len());
    }

    #[test]
    fn without_a_backend_nothing_is_promised() {
        assert!(table(None, TODAY).iter().all(|row| row.held_by.is_empty()));
        assert!(not_held(None, TODAY).is_empty());
    }
}
