//! Why there is no policy, told so that it can be mended.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::{automaton::AutomatonError, compile::CompileError, effective, file::FileError, problem::Problem};

/// Files that one policy builds on, one on the other, at most.
pub(super) const EXTENDS_DEPTH_MAX: usize = 16;
/// Files of one run at most.
pub(super) const FILES_MAX: usize = 256;

/// Why there is no policy.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PolicyError {
    /// A name that is nowhere.
    #[error("there is no policy `{name}`")]
    #[diagnostic(code(policy::load::unknown))]
    Unknown {
        /// As given.
        name: String,
        /// The nearest name, or all.
        #[help]
        help: String,
    },
    /// A file that can't be read.
    #[error("cannot read the policy {}", shown(path))]
    #[diagnostic(code(policy::load::unreadable))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
        /// What to do about it.
        #[help]
        help: Option<String>,
    },
    /// The folder of the machine's policies can't be listed.
    #[error("cannot list the policies in {}", path.display())]
    #[diagnostic(code(policy::load::unlistable))]
    Unlistable {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the machine that others may write.
    #[error("the policy {} can be changed by others than root", path.display())]
    #[diagnostic(
        code(policy::load::writable),
        help("what holds for the whole machine must be root's: chown root, chmod go-w")
    )]
    WritableByOthers {
        /// The file.
        path: PathBuf,
    },
    /// Which file systems there are can't be told.
    #[error("cannot read /proc/self/mountinfo")]
    #[diagnostic(code(policy::load::mounts), help("mount -t proc proc /proc"))]
    Mounts(#[source] io::Error),
    /// Too many files.
    #[error("more than {FILES_MAX} policy files")]
    #[diagnostic(code(policy::load::too_many))]
    TooManyFiles,
    /// An error that points into a file.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(Problem),
    /// Several, from the top of the file down.
    #[error("{}", count(.0))]
    #[diagnostic(code(policy::invalid))]
    ManyInvalid(#[related] Vec<Problem>),
    /// The policies don't fit together.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Compile(CompileError),
    /// The path patterns don't fit into the kernel's table.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Automaton(#[from] AutomatonError),
}

impl PolicyError {
    /// What is wrong at which place; empty for what has no place in a file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problem) => std::slice::from_ref(problem),
            Self::ManyInvalid(problems) => problems,
            _ => &[],
        }
    }

    pub(super) fn unreadable(path: &Path, source: FileError) -> Self {
        let help = unreadable_help(path, &source);
        Self::Unreadable { path: path.to_owned(), source, help }
    }

    /// What is wrong with the content, in one.
    #[must_use]
    pub fn invalid(mut problems: Vec<Problem>) -> Self {
        match problems.pop() {
            Some(only) if problems.is_empty() => Self::Invalid(only),
            last => {
                problems.extend(last);
                Self::ManyInvalid(problems)
            }
        }
    }

    /// `true`: the policy says something wrong; `false`: what it says could not be found out.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Unreadable { source: FileError::Io(_), .. } | Self::Unlistable { .. } | Self::Mounts(_) => {
                false
            }
            Self::Unknown { .. }
            | Self::Unreadable { .. }
            | Self::WritableByOthers { .. }
            | Self::TooManyFiles
            | Self::Invalid(_)
            | Self::ManyInvalid(_)
            | Self::Compile(_)
            | Self::Automaton(_) => true,
        }
    }
}

/// What is wrong with `extends`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum ExtendsError {
    /// A name that is nowhere.
    #[error("there is no policy `{name}`")]
    #[diagnostic(code(policy::extends::unknown))]
    Unknown {
        /// As written.
        name: String,
        /// The nearest name, or all.
        #[help]
        help: String,
    },
    /// A file that builds on itself.
    #[error("this policy builds on itself: {chain}")]
    #[diagnostic(code(policy::extends::cycle), help("take one of them out of `extends`"))]
    Cycle {
        /// From the file to itself.
        chain: String,
    },
    /// Too long a chain.
    #[error("policies build on one another more than {EXTENDS_DEPTH_MAX} deep")]
    #[diagnostic(code(policy::extends::too_deep), help("join some of them"))]
    TooDeep,
    /// A path in the project's own file.
    #[error("a project's own file can't build on other files")]
    #[diagnostic(code(policy::extends::path_of_project), help("it may name profiles: `base`, `ci`"))]
    PathOfProject,
    /// A file that can't be read.
    #[error("cannot read {path}: {reason}")]
    #[diagnostic(code(policy::extends::unreadable))]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

fn unreadable_help(path: &Path, error: &FileError) -> Option<String> {
    if let Some(help) = miette::Diagnostic::help(error) {
        return Some(help.to_string());
    }
    match error {
        FileError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            let stem = path.file_stem()?.to_string_lossy().into_owned();
            Some(format!("a policy by name is given without a slash: `{stem}`"))
        }
        FileError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Some("govsandbox reads its policies as the user who started it".to_owned())
        }
        _ => None,
    }
}

fn count(problems: &[Problem]) -> String {
    let file = problems.first().map_or("the policy", Problem::file);
    format!("{} errors in {file}", problems.len())
}

/// A file for people: as seen from the working directory, if it lies there.
pub(super) fn shown(path: &Path) -> String {
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let working_dir = std::env::current_dir().unwrap_or_default();
    let relative = path.strip_prefix(working_dir).ok().filter(|relative| *relative != Path::new(""));
    effective::text(relative.unwrap_or(&path))
}

/// A file that bears the name of a policy that is compiled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("{file} is not used: `{name}` is compiled in")]
#[diagnostic(
    code(policy::shadowed),
    help(
        "give it another name, with `extends = [\"{name}\"]`, and choose it with `-p`; what binds everyone belongs into /etc/govsandbox/policy.toml"
    )
)]
pub(super) struct Shadowed {
    pub(super) name: String,
    pub(super) file: String,
}
