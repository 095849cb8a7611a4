//! What a run says that it does not hold.

use super::limits;
use crate::{
    backend::{Kind, guarantee},
    bpf::load::Loaded,
    launch::{Prepared, landlock},
};

/// What holds in no run of this backend on this kernel, then what this policy adds, then what this start could not do.
pub(super) fn not_held(
    kind: Kind,
    loaded: &Loaded,
    of_policy: Vec<String>,
    prepared: &Prepared,
) -> Vec<String> {
    let kernel = guarantee::Kernel {
        landlock_abi: landlock::strength().abi,
        unix_at_cgroup: loaded.holds_unix_sockets(),
        sees_streams: loaded.sees_streams(),
    };
    let mut not_held: Vec<String> =
        guarantee::not_held(Some(kind), kernel).into_iter().map(str::to_owned).collect();
    for text in of_policy {
        if !not_held.contains(&text) {
            not_held.push(text);
        }
    }
    not_held.extend(limits::not_held(prepared));
    not_held
}
