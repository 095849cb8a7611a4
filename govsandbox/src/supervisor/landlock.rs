//! What Landlock is to hold.

use super::namespaces;
use crate::{
    backend::Kind,
    launch::landlock::{LandlockLayer, LandlockPlan},
    policy::compile::{AllowLists, AllowedPath, Compiled, Mode},
};

/// The domain of a run.
pub(super) fn plan(compiled: &Compiled, kind: Kind) -> LandlockPlan {
    let layers = match compiled.mode {
        Mode::Audit => Vec::new(),
        Mode::Enforce => compiled.paths.allow.iter().map(layer).collect(),
    };
    LandlockPlan {
        layers,
        by_hooks: namespaces::are_allowed(compiled),
        // The hook knows which may be reached.
        open_abstract: kind == Kind::Lsm,
    }
}

fn layer(lists: &AllowLists) -> LandlockLayer {
    let paths = |entries: &[AllowedPath]| entries.iter().map(|entry| entry.path.clone()).collect();
    LandlockLayer {
        read: paths(&lists.read),
        write: paths(&lists.write),
        any_write: lists.any_write.is_some(),
    }
}
