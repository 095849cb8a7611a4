//! What the caller's shell opened for the command.

use govsandbox_ebpf::{abi::rule::Automaton, decide::path::Operation};

use super::RunError;
use crate::{
    launch::fd::RedirectedFile,
    policy::{
        self,
        compile::{Compiled, Mode},
    },
};

/// A file that was opened outside, and that the policy would not have let the command open.
pub(super) fn check(
    compiled: &Compiled,
    automaton: &Automaton,
    files: &[RedirectedFile],
) -> Result<(), RunError> {
    let followed = policy::explain::with_links_followed(compiled);
    for file in files.iter().filter(|_| compiled.mode == Mode::Enforce) {
        // What the caller's shell opened for writing is the caller's own choice; what is denied or protected is not.
        let operation = if file.write { Operation::Change } else { Operation::Read };
        let path = file.path.as_os_str().as_encoded_bytes();
        let verdict = policy::explain::path(&followed, automaton, path, operation);
        let by_default = verdict.rule.as_ref().is_some_and(|rule| rule.id.0.starts_with("default/"));
        if !verdict.allowed && !by_default {
            let verb = if file.write { "write" } else { "read" };
            return Err(RunError::Redirected {
                number: file.number,
                path: file.path.display().to_string(),
                verb,
            });
        }
    }
    Ok(())
}
