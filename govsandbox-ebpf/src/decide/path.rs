//! Files and folders: opens and changes.

use super::Decision;
use crate::abi::rule::Hits;

/// What a subject wants to do to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Open for reading, for listing, for execution, or map it.
    Read,
    /// Anything that changes content, name or attributes of the object itself.
    Change,
}

/// Decides by the rules that match the object or any folder above it.
///
/// Deny wins over protect; a protected object can be read. What the write and read allow-lists say is Landlock's.
#[inline(always)]
#[must_use]
pub const fn decide_path(hits: Hits, operation: Operation) -> Decision {
    if hits.deny != 0 {
        return Decision::deny(hits.deny);
    }
    match operation {
        Operation::Change if hits.protect != 0 => Decision::deny(hits.protect),
        Operation::Change | Operation::Read => Decision::ALLOW,
    }
}

/// Decides by govsandbox's own files: readable, never changed. Holds in every mode.
#[inline(always)]
#[must_use]
pub const fn decide_own(own: u16, operation: Operation) -> Decision {
    match operation {
        Operation::Change if own != 0 => Decision::deny(own),
        Operation::Change | Operation::Read => Decision::ALLOW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_over_protect_and_holds_for_reading() {
        let both = Hits { deny: 7, protect: 2 };
        assert_eq!(decide_path(both, Operation::Read), Decision::deny(7));
        assert_eq!(decide_path(both, Operation::Change), Decision::deny(7));
    }

    #[test]
    fn protected_is_readable_and_not_changeable() {
        let protected = Hits { deny: 0, protect: 3 };
        assert_eq!(decide_path(protected, Operation::Read), Decision::ALLOW);
        assert_eq!(decide_path(protected, Operation::Change), Decision::deny(3));
    }
}
