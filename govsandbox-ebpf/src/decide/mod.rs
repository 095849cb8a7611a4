//! Whether something is allowed: pure functions over facts and rules.

pub mod automaton;
pub mod egress;
pub mod exec;
pub mod name;
pub mod path;
pub mod privilege;
pub mod unix;

/// What was decided and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May it happen?
    pub allow: bool,
    /// The rule that decided, from 1; 0: the default.
    pub rule: u16,
}

impl Decision {
    /// Allowed because nothing forbids it.
    pub const ALLOW: Self = Self { allow: true, rule: 0 };
    /// Denied because nothing allows it.
    pub const DENY_DEFAULT: Self = Self { allow: false, rule: 0 };

    /// Denied by `rule`.
    #[inline(always)]
    #[must_use]
    pub const fn deny(rule: u16) -> Self {
        Self { allow: false, rule }
    }
}
