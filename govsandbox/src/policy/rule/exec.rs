//! `exec.*`: programs by name, path, arguments or content.

use super::{
    glob::{self, GlobError, Segment},
    path::{PathError, PathPattern},
};
use crate::policy::raw::{RawExecMatch, RawExecRule};

/// Options of git that take the next word for their value (git(1), `handle_options` in git.c).
const GIT_OPTIONS: &[&str] = &[
    "-C",
    "-c",
    "--git-dir",
    "--work-tree",
    "--namespace",
    "--config-env",
    "--attr-source",
    "--super-prefix",
    "--shallow-file",
];

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// By the base name of its file; the segment is a name.
    Name(Segment),
    /// By its path, or by that of a folder that it lies in.
    Path(PathPattern),
}

/// Its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// One for each, [`Segment::AnyDepth`] for any number.
    pub words: Vec<Segment>,
    /// The program's leading options that have a value: they are skipped, as are its others. `None`: none is.
    pub valued_options: Option<&'static [&'static str]>,
}

/// One entry of `exec.allow` or `exec.deny` that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecPattern {
    text: String,
    program: Program,
    arguments: Option<Arguments>,
    by_content: bool,
}

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
    /// `{ command = "x*", match = "content" }`
    #[error("`{command}` names no single file, and `match = \"content\"` holds the digest of one")]
    #[diagnostic(code(policy::exec::content), help("write the file's path, or its name without a wildcard"))]
    ContentOfMany {
        /// As written.
        command: String,
    },
    /// `{ command = "x", match = "content" }` in an allow-list.
    #[error("`match = \"content\"` has no place in `exec.allow`")]
    #[diagnostic(
        code(policy::exec::content_allowed),
        help("name the programs that may run by their paths, in folders that the command can't write")
    )]
    ContentAllowed,
    /// A path pattern that is none.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Path(#[from] PathError),
    /// A glob on an argument that is none.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Argument(#[from] GlobError),
}

impl ExecPattern {
    /// Checks one entry.
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn check(raw: &RawExecRule, is_allow: bool) -> Result<Self, ExecError> {
        let (command, args, matches) = match raw {
            RawExecRule::Text(command) => (command, None, None),
            RawExecRule::Table(table) => (&table.command.value, table.args.as_ref(), table.matches),
        };
        let program = program(command)?;
        let arguments = args.map(|args| arguments(command, args.iter().map(|arg| &arg.value))).transpose()?;
        let by_content = matches!(matches, Some(RawExecMatch::Content));
        if by_content && is_allow {
            return Err(ExecError::ContentAllowed);
        }
        let is_one_file = match &program {
            Program::Name(name) => name.literal().is_some(),
            Program::Path(path) => path.is_one_path(),
        };
        if by_content && !is_one_file {
            return Err(ExecError::ContentOfMany { command: command.clone() });
        }
        let words = args.into_iter().flatten().map(|arg| format!(" {}", arg.value));
        let mut text = std::iter::once(command.clone()).chain(words).collect::<String>();
        if by_content {
            text.push_str(" (by content)");
        }
        Ok(Self { text, program, arguments, by_content })
    }

    /// As written: the command, and its arguments with a space between.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Which program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// With which arguments; `None`: whatever they are.
    #[must_use]
    pub fn arguments(&self) -> Option<&Arguments> {
        self.arguments.as_ref()
    }

    /// `true`: a file with the same content is meant too.
    #[must_use]
    pub fn by_content(&self) -> bool {
        self.by_content
    }
}

fn program(command: &str) -> Result<Program, ExecError> {
    if command.is_empty() {
        return Err(ExecError::Empty);
    }
    let mut words = command.split_whitespace();
    if let (Some(program), Some(_), false) = (words.next(), words.next(), command.contains('/')) {
        let args: Vec<_> = command.split_whitespace().skip(1).map(|word| format!("\"{word}\"")).collect();
        let (command, program) = (command.to_owned(), program.to_owned());
        return Err(ExecError::CommandLine { command, program, args: args.join(", ") });
    }
    let pattern = PathPattern::parse(command)?;
    if pattern.is_name() && !command.contains('/') {
        // `**` alone is everything, as `/` is.
        if let [name @ Segment::Name(_)] = glob::segments(command.as_bytes())?.as_slice() {
            return Ok(Program::Name(name.clone()));
        }
    }
    Ok(Program::Path(pattern))
}

fn arguments<'a>(command: &str, words: impl Iterator<Item = &'a String>) -> Result<Arguments, GlobError> {
    let words = words.map(|word| glob::argument(word.as_bytes())).collect::<Result<_, _>>()?;
    let name = command.rsplit('/').next().unwrap_or(command);
    Ok(Arguments { words, valued_options: (name == "git").then_some(GIT_OPTIONS) })
}
