//! `exec.*`: programs by name, path, arguments or content.

use super::{
    glob::{self, GlobError},
    path::{PathError, PathPattern},
};
use crate::policy::raw::RawExecRule;

/// Why a program is not named rightly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum ExecError {
    /// `""`
    #[error("the program's name is empty")]
    #[diagnostic(code(policy::exec::empty), help("write a name, `git`, or a path, `/usr/bin/git`"))]
    Empty,
    /// `"git push"`
    #[error("`{command}` looks like a command line, and a rule names a program")]
    #[diagnostic(
        code(policy::exec::command_line),
        help("arguments have a key of their own: `{{ command = \"{program}\", args = [{args}] }}`")
    )]
    CommandLine {
        /// As written.
        command: String,
        /// Its first word.
        program: String,
        /// The other words, quoted.
        args: String,
    },
    /// A path pattern that is none.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Path(#[from] PathError),
    /// A glob on an argument that is none.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Argument(#[from] GlobError),
}

/// Checks one entry. This version enforces none, so there is no checked form yet.
///
/// # Errors
/// [`ExecError`].
pub fn check(raw: &RawExecRule) -> Result<(), ExecError> {
    let (command, args) = match raw {
        RawExecRule::Text(command) => (command, None),
        RawExecRule::Table(table) => (&table.command.value, table.args.as_ref()),
    };
    if command.is_empty() {
        return Err(ExecError::Empty);
    }
    let mut words = command.split_whitespace();
    if let (Some(program), Some(_), false) = (words.next(), words.next(), command.contains('/')) {
        let args: Vec<_> = command.split_whitespace().skip(1).map(|word| format!("\"{word}\"")).collect();
        let (command, program) = (command.clone(), program.to_owned());
        return Err(ExecError::CommandLine { command, program, args: args.join(", ") });
    }
    PathPattern::parse(command)?;
    for arg in args.into_iter().flatten() {
        // An argument may have slashes and dots as it likes; only its wildcards must make sense.
        for part in arg.value.split('/').filter(|part| *part != "..") {
            glob::segments(part.as_bytes())?;
        }
    }
    Ok(())
}
