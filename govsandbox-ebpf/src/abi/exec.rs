//! Exec rules as tables: what a program is called, and with what arguments.

/// States of one automaton at most.
pub const EXEC_STATES_MAX: usize = 4096;
/// Transitions of one automaton at most: states × classes, classes rounded up to a power of two.
pub const EXEC_TRANSITIONS_MAX: usize = 1 << 16;
/// Rules with arguments of one sandbox at most: each is a bit of a word.
pub const ARG_RULES_MAX: usize = 64;
/// Policies with an `exec.allow` of one sandbox at most: each is a bit of a half-word.
pub const ALLOW_LISTS_MAX: usize = 16;
/// Bytes of argv that are looked at for rules with arguments; a longer one is refused to commands that have such a rule.
pub const ARGS_JUDGED_BYTES_MAX: usize = 1 << 17;

/// One file under many names, which does what it is called (busybox): the base name of `argv[0]` counts as well.
pub const TRAIT_MULTI_CALL: u16 = 1;
/// A name of the form `git-push`: what follows the dash is the first argument.
pub const TRAIT_DASHED: u16 = 2;

/// What the exec rules of one sandbox say of a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "host",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct ExecHits {
    /// Rules with arguments that name it, a bit for each; in the table of arguments: those whose arguments match.
    pub args: u64,
    /// Best `exec.deny` rule without arguments; 0: none.
    pub deny: u16,
    /// Allow-lists that have it, a bit for each.
    pub allow: u16,
    /// Bits `TRAIT_*`.
    pub traits: u16,
    pub _pad: u16,
}
const _: () = assert!(size_of::<ExecHits>() == 16);

impl ExecHits {
    /// Nothing matches.
    pub const NONE: Self = Self { args: 0, deny: 0, allow: 0, traits: 0, _pad: 0 };

    /// What both say.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        let deny = if self.deny == 0 || (other.deny != 0 && other.deny < self.deny) {
            other.deny
        } else {
            self.deny
        };
        Self {
            args: self.args | other.args,
            deny,
            allow: self.allow | other.allow,
            traits: self.traits | other.traits,
            _pad: 0,
        }
    }
}

/// One automaton over bytes, run by [`crate::decide::exec`]; laid out as [`super::rule::Automaton`].
#[repr(C)]
#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "host",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct ExecAutomaton {
    /// Class of each byte; below `1 << class_bits`.
    pub classes: [u8; 256],
    pub class_bits: u32,
    /// The state after a NUL: a name that a multi-call binary is called by, or the first argument.
    pub fresh: u32,
    /// What matches when the text ends in that state.
    pub hits: [ExecHits; EXEC_STATES_MAX],
    pub transitions: [u16; EXEC_TRANSITIONS_MAX],
}

/// The exec rules of one sandbox.
#[repr(C)]
#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "host",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct ExecTable {
    /// Over the absolute path of a program, or over a NUL and the name that a multi-call binary is called by.
    pub names: ExecAutomaton,
    /// Over the arguments from `argv[1]` on, a NUL before each.
    pub args: ExecAutomaton,
    /// Rules with arguments that deny.
    pub deny_args: u64,
    /// Rules with arguments of each allow-list.
    pub allow_args: [u64; ALLOW_LISTS_MAX],
    /// Number of each rule with arguments; by precedence.
    pub arg_rules: [u16; ARG_RULES_MAX],
    /// Allow-lists that there are: a program needs all of them.
    pub required: u16,
    /// Rule that refuses what can't be asked for its content (a file in memory alone); 0: none.
    pub unseen: u16,
    /// A rule that denies programs by their names, as multi-call binaries have many; 0: none.
    pub applets: u16,
    pub _pad: u16,
}
const _: () = assert!(size_of::<ExecTable>().is_multiple_of(8));
