//! Files and folders: opens and changes.

use super::Decision;
use crate::abi::{
    ground::Lists,
    rule::{Hits, RULE_OWN, RULE_READ, RULE_WRITE},
};

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
/// govsandbox's own files come first: readable, never changed. Then deny wins over protect; a protected object can be read. What the write and read allow-lists say is Landlock's, or
/// [`decide_lists`]'s.
#[inline(always)]
#[must_use]
pub const fn decide_path(hits: Hits, operation: Operation) -> Decision {
    if let (Operation::Change, RULE_OWN) = (operation, hits.protect) {
        return Decision::deny(RULE_OWN);
    }
    if hits.deny != 0 {
        return Decision::deny(hits.deny);
    }
    match operation {
        Operation::Change if hits.protect != 0 => Decision::deny(hits.protect),
        Operation::Change | Operation::Read => Decision::ALLOW,
    }
}

/// Decides by the allow-lists that have an object, where Landlock does not: an access needs all that there are of its kind.
#[inline(always)]
#[must_use]
pub const fn decide_lists(granted: Lists, required: Lists, operation: Operation) -> Decision {
    match operation {
        Operation::Read if required.read & !granted.read != 0 => Decision::deny(RULE_READ),
        Operation::Change if required.write & !granted.write != 0 => Decision::deny(RULE_WRITE),
        Operation::Read | Operation::Change => Decision::ALLOW,
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
    fn an_access_needs_every_list_of_its_kind() {
        let required = Lists { read: 0b11, write: 0b10 };
        assert_eq!(decide_lists(Lists::NONE, Lists::NONE, Operation::Change), Decision::ALLOW);
        assert_eq!(decide_lists(Lists::ALL, required, Operation::Change), Decision::ALLOW);
        let one = Lists { read: 0b10, write: 0b10 };
        assert_eq!(decide_lists(one, required, Operation::Read), Decision::deny(RULE_READ));
        assert_eq!(decide_lists(one, required, Operation::Change), Decision::ALLOW);
        let other = Lists { read: 0b11, write: 0b01 };
        assert_eq!(decide_lists(other, required, Operation::Read), Decision::ALLOW);
        assert_eq!(decide_lists(other, required, Operation::Change), Decision::deny(RULE_WRITE));
    }

    #[test]
    fn an_own_file_is_one_whatever_else_holds_it() {
        let own = Hits { deny: 0, protect: RULE_OWN }.or(Hits { deny: 7, protect: 2 });
        assert_eq!(decide_path(own, Operation::Change), Decision::deny(RULE_OWN));
        assert_eq!(decide_path(own, Operation::Read), Decision::deny(7));
    }

    #[test]
    fn protected_is_readable_and_not_changeable() {
        let protected = Hits { deny: 0, protect: 3 };
        assert_eq!(decide_path(protected, Operation::Read), Decision::ALLOW);
        assert_eq!(decide_path(protected, Operation::Change), Decision::deny(3));
    }
}
