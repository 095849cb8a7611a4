//! Programs: by path, by name, by arguments.
//!
//! A program is judged twice. Before it is loaded by its path alone ([`decide_program`]); what depends on arguments waits
//! until the kernel has copied them, and is then decided for good ([`decide_call`]). The kernel and the host feed the same
//! steps byte by byte: [`Calling`] finds the name that a multi-call binary is called by, [`next`] runs the automata.

use super::Decision;
use crate::abi::exec::{
    ALLOW_LISTS_MAX, ARG_RULES_MAX, EXEC_STATES_MAX, EXEC_TRANSITIONS_MAX, ExecAutomaton, ExecHits,
    ExecTable, TRAIT_DASHED, TRAIT_MULTI_CALL,
};

/// The state before the first byte.
pub const START: u32 = 1;
/// `busybox busybox busybox sh` is looked through so deep.
const WORDS_MAX: u32 = 4;
/// Bytes of `git-`.
const DASHED_BYTES: u32 = 4;

/// The state after one more byte.
#[inline(always)]
#[must_use]
pub fn next(automaton: &ExecAutomaton, state: u32, byte: u8) -> u32 {
    let class = u32::from(automaton.classes[byte as usize]);
    let index = (state << (automaton.class_bits & 15)) + class;
    u32::from(automaton.transitions[index as usize & (EXEC_TRANSITIONS_MAX - 1)])
}

/// What matches a text that ends in this state.
#[inline(always)]
#[must_use]
pub fn hits(automaton: &ExecAutomaton, state: u32) -> ExecHits {
    automaton.hits[state as usize & (EXEC_STATES_MAX - 1)]
}

/// What names the program at an absolute path.
#[must_use]
pub fn scan(automaton: &ExecAutomaton, path: &[u8]) -> ExecHits {
    hits(automaton, path.iter().fold(START, |state, byte| next(automaton, state, *byte)))
}

/// How a program is called: found by reading argv, its words each ended by a NUL, from the beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calling {
    /// What names the applet of a multi-call binary; of others the base name of `argv[0]`.
    pub applet: ExecHits,
    /// Where the base name of `argv[0]` begins.
    pub base: u32,
    /// Where `argv[1]` begins.
    pub rest: u32,
    /// What names the base name of `argv[1]`: of a script that is the script itself.
    pub script: ExecHits,
    /// Where `argv[2]` begins: the arguments of a script; where `argv[3]`: if its first line has an option.
    pub script_rest: [u32; 2],
    /// Where the arguments of the applet begin.
    pub applet_rest: u32,
    /// 1: everything is known, or will not be.
    pub done: u32,
    /// 1: the applet is known.
    found: u32,
    state: u32,
    words: u32,
}

/// How much of argv [`Calling::step`] is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The file is a multi-call binary: its applet is looked for in the words that follow too.
    pub multi_call: bool,
    /// The file is the interpreter of a script: its arguments are wanted.
    pub script: bool,
}

impl Calling {
    /// Takes the byte at `at`.
    #[inline(always)]
    #[must_use]
    pub fn step(mut self, names: &ExecAutomaton, wanted: Wanted, at: u32, byte: u8) -> Self {
        let fresh = names.fresh;
        if at == 0 {
            self.state = fresh;
        }
        if byte == 0 {
            let word = hits(names, self.state);
            if self.found == 0 {
                self.applet = word;
                self.applet_rest = at + 1;
                let is_itself = word.traits & TRAIT_MULTI_CALL != 0;
                self.found = u32::from(!wanted.multi_call || !is_itself);
            }
            match self.words {
                0 => self.rest = at + 1,
                1 => {
                    self.script = word;
                    self.script_rest = [at + 1; 2];
                }
                2 => self.script_rest[1] = at + 1,
                _ => {}
            }
            self.words += 1;
            self.state = fresh;
            let has_script = !wanted.script || self.words > 2;
            self.done = u32::from((self.found != 0 && has_script) || self.words >= WORDS_MAX);
        } else if wanted.multi_call && byte == b'-' && at == 0 {
            // Before the name of a login shell (busybox takes it from any).
        } else if byte == b'/' || byte == b'=' {
            // Of `/bin/wget` and of `--coreutils-prog=wget` the last part is the name.
            self.state = fresh;
            if self.words == 0 && byte == b'/' {
                self.base = at + 1;
            }
        } else {
            self.state = next(names, self.state, byte);
        }
        self
    }

    /// Where the arguments begin if the name says the first of them (`git-push`); `None`: it does not.
    #[inline(always)]
    #[must_use]
    pub fn dashed(&self) -> Option<u32> {
        if self.applet.traits & TRAIT_DASHED != 0 && self.applet_rest == self.rest {
            Some(self.base + DASHED_BYTES)
        } else {
            None
        }
    }
}

/// Rules with arguments whose program and arguments both match, a bit for each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    pub deny: u64,
    pub allow: u64,
}

/// Decides on a program before its arguments are known. [`Decision::ALLOW`] may still become a refusal by
/// [`decide_call`].
#[inline(always)]
#[must_use]
pub fn decide_program(table: &ExecTable, program: ExecHits) -> Decision {
    if program.deny != 0 {
        return Decision::deny(program.deny);
    }
    let possible = program.allow | lists_of(table, program.args);
    let is_open = program.traits & TRAIT_MULTI_CALL != 0;
    if possible & table.required != table.required && !is_open {
        return Decision::DENY_DEFAULT;
    }
    Decision::ALLOW
}

/// Decides for good: `program` is what names the file and, of a multi-call binary, its applet.
#[inline(always)]
#[must_use]
pub fn decide_call(table: &ExecTable, program: ExecHits, fired: Fired) -> Decision {
    let by_args = first_rule(table, fired.deny & table.deny_args);
    let deny = ExecHits { deny: by_args, ..ExecHits::NONE }.or(program).deny;
    if deny != 0 {
        return Decision::deny(deny);
    }
    let allowed = program.allow | lists_of(table, fired.allow);
    if allowed & table.required == table.required { Decision::ALLOW } else { Decision::DENY_DEFAULT }
}

/// Decides on mapping a file's code into a process that is another program: what a loader does. Libraries are no
/// programs, so allow-lists say nothing here; a program that some rule with arguments denies has no other way in.
#[inline(always)]
#[must_use]
pub fn decide_mapping(table: &ExecTable, program: ExecHits) -> Decision {
    let by_args = first_rule(table, program.args & table.deny_args);
    let deny = ExecHits { deny: by_args, ..ExecHits::NONE }.or(program).deny;
    if deny == 0 { Decision::ALLOW } else { Decision::deny(deny) }
}

/// The same, where a loader's own arguments say which of many programs it becomes: none of them where a name is denied.
#[inline(always)]
#[must_use]
pub fn decide_loading(table: &ExecTable, program: ExecHits) -> Decision {
    let decision = decide_mapping(table, program);
    if decision.allow && program.traits & TRAIT_MULTI_CALL != 0 && table.applets != 0 {
        return Decision::deny(table.applets);
    }
    decision
}

/// Decides on a call whose arguments can't be read whole: what a rule with arguments names is refused.
#[inline(always)]
#[must_use]
pub fn decide_unread(table: &ExecTable, program: ExecHits) -> Decision {
    let denied = decide_mapping(table, program);
    if denied.allow { decide_call(table, program, Fired::default()) } else { denied }
}

/// The allow-lists that these rules with arguments belong to.
#[inline(always)]
fn lists_of(table: &ExecTable, args: u64) -> u16 {
    let mut lists = 0;
    let mut list = 0;
    while list < ALLOW_LISTS_MAX {
        lists |= (is_any(args & table.allow_args[list]) as u16) << list;
        list += 1;
    }
    lists
}

/// The number of the best of these rules with arguments: that of the lowest bit.
#[inline(always)]
fn first_rule(table: &ExecTable, args: u64) -> u16 {
    if args == 0 {
        return 0;
    }
    table.arg_rules[lowest_bit(args) & (ARG_RULES_MAX - 1)]
}

/// 1 if any bit is set, else 0, without a branch.
#[inline(always)]
fn is_any(bits: u64) -> u64 {
    (bits | bits.wrapping_neg()) >> 63
}

/// Place of the lowest bit that is set. Not `trailing_zeros`: that becomes a look-up in a table, and the verifier does not
/// know how large its answers are.
#[inline(always)]
fn lowest_bit(bits: u64) -> usize {
    const HALVES: [u64; 6] = [
        0xaaaa_aaaa_aaaa_aaaa,
        0xcccc_cccc_cccc_cccc,
        0xf0f0_f0f0_f0f0_f0f0,
        0xff00_ff00_ff00_ff00,
        0xffff_0000_ffff_0000,
        0xffff_ffff_0000_0000,
    ];
    let lowest = bits & bits.wrapping_neg();
    let mut place = 0;
    let mut half = 0;
    while half < HALVES.len() {
        place |= (is_any(lowest & HALVES[half]) as usize) << half;
        half += 1;
    }
    place
}

/// The whole of it, as the kernel does it in two hooks: whether a program may be called so. `program` is what names the
/// file, by path and by itself; `argv` its words, each ended by a NUL.
#[must_use]
pub fn decide(table: &ExecTable, program: ExecHits, argv: &[u8]) -> Decision {
    let early = decide_program(table, program);
    if !early.allow {
        return early;
    }
    let wanted = Wanted { multi_call: program.traits & TRAIT_MULTI_CALL != 0, script: false };
    let mut calling = Calling::default();
    for (at, byte) in (0..).zip(argv) {
        if calling.done == 0 {
            calling = calling.step(&table.names, wanted, at, *byte);
        }
    }
    let arguments = |from: u32| args_from(&table.args, argv.get(from as usize..).unwrap_or_default());
    let (program, fired) = weigh(program, &calling, arguments);
    decide_call(table, program, fired)
}

/// What fires, given a way to run the arguments from some place of argv on.
#[inline(always)]
#[must_use]
pub fn weigh(
    program: ExecHits,
    calling: &Calling,
    mut arguments: impl FnMut(u32) -> u64,
) -> (ExecHits, Fired) {
    let plain = program.args & arguments(calling.rest);
    let mut fired = Fired { deny: plain, allow: plain };
    if let Some(from) = calling.dashed() {
        let dashed = program.args & arguments(from);
        fired = Fired { deny: plain | dashed, allow: dashed };
    }
    if program.traits & TRAIT_MULTI_CALL == 0 {
        return (program, fired);
    }
    let by_applet = calling.applet.args & arguments(calling.applet_rest);
    let fired = Fired { deny: fired.deny | by_applet, allow: fired.allow | by_applet };
    (program.or(calling.applet), fired)
}

/// What fires of the rules that name a script, likewise. Where its arguments begin depends on the script's first line: to
/// be denied either place will do, to be allowed the usual one has to.
#[inline(always)]
#[must_use]
pub fn weigh_script(script: ExecHits, calling: &Calling, mut arguments: impl FnMut(u32) -> u64) -> Fired {
    let [usual, behind_option] = calling.script_rest;
    let allow = script.args & arguments(usual);
    Fired { deny: allow | (script.args & arguments(behind_option)), allow }
}

/// Rules whose arguments are these words, each ended by a NUL.
#[must_use]
pub fn args_from(args: &ExecAutomaton, words: &[u8]) -> u64 {
    let Some((_, text)) = words.split_last() else { return hits(args, START).args };
    hits(args, text.iter().fold(args.fresh, |state, byte| next(args, state, *byte))).args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_is_found() {
        for place in 0..64 {
            assert_eq!(lowest_bit(1 << place), place);
            assert_eq!(lowest_bit(u64::MAX << place), place);
        }
        assert_eq!((is_any(0), is_any(1), is_any(1 << 63)), (0, 1, 1));
    }
}
