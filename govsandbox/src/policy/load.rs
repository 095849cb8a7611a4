//! Finds and reads the files of a run and puts them together.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use govsandbox_ebpf::abi::rule::Automaton;
use miette::NamedSource;

use super::{
    automaton::{self, AutomatonError},
    check::{self, Found, Policy},
    compile::{self, CompileError, Compiled, Layer, Mode},
    context::Context,
    effective::{self, Effective},
    file::{self, FileError, Links},
    merge::{self, Given, Origin, Unit},
    parse::{self, Format, Spanned},
    problem::{Problem, Source},
    profile::{self, Profile},
    suggest,
};

/// Where the machine's own policies lie.
pub const SYSTEM_DIR: &str = "/etc/govsandbox";
/// The project's own policy, in `{project}`.
pub const PROJECT_FILE: &str = ".govsandbox.toml";
/// Files that one policy builds on, one on the other, at most.
const EXTENDS_DEPTH_MAX: usize = 16;
/// Files of one run at most.
const FILES_MAX: usize = 256;

/// What a run says about its policy.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `-p`, in order: names or paths. Empty: the profile of the command, else `default`.
    pub policies: Vec<String>,
    /// The command, by name or path: picks the profile.
    pub command_name: String,
    /// Where the variables lie.
    pub context: Context,
    /// `--mode`.
    pub mode_override: Option<Mode>,
}

/// The policy of a run.
#[derive(Debug)]
pub struct Loaded {
    /// For the layers that enforce.
    pub compiled: Compiled,
    /// The patterns of [`Compiled::paths`], built.
    pub automaton: Box<Automaton>,
    /// For people: what holds, and where it was written.
    pub effective: Effective,
    /// Every policy file that was read, absolute. Not to be changed from inside.
    pub files: Vec<PathBuf>,
    /// What is valid and probably not meant; for the caller to print.
    pub warnings: Vec<Problem>,
}

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
    /// More than [`FILES_MAX`] files.
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

    fn invalid(mut problems: Vec<Problem>) -> Self {
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
            Self::Unreadable { source: FileError::Io(_), .. } | Self::Unlistable { .. } => false,
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

/// Loads the policy of a run.
///
/// # Errors
/// [`PolicyError`].
pub fn load(sources: &Sources) -> Result<Loaded, PolicyError> {
    let context = &sources.context;
    let mut loader = Loader { context, files: Vec::new(), warnings: Vec::new() };
    let named = if sources.policies.is_empty() {
        vec![profile_of_command(&sources.command_name, context)]
    } else {
        sources.policies.clone()
    };
    let mut chosen = loader.chosen(&named)?;
    if let Some(mode) = sources.mode_override {
        chosen.scalars.mode = Some(Given { value: mode, origin: Some(Arc::new(command_line())) });
    }
    let mut others = Vec::new();
    for path in system_files(context)? {
        check_owner(&path)?;
        others.push(loader.beside(&path, Layer::System)?);
    }
    let project_file = context.project.join(PROJECT_FILE);
    if project_file.symlink_metadata().is_ok() {
        others.push(loader.beside(&project_file, Layer::Project)?);
    }
    loader.finish(chosen, others)
}

/// Loads one policy, by name or path, without what holds beside it on this machine and in this project.
///
/// # Errors
/// [`PolicyError`].
pub fn load_alone(policy: &str, context: &Context) -> Result<Loaded, PolicyError> {
    let mut loader = Loader { context, files: Vec::new(), warnings: Vec::new() };
    let chosen = loader.chosen(&[policy.to_owned()])?;
    loader.finish(chosen, Vec::new())
}

/// The profile with the command's name, else `default`.
fn profile_of_command(command: &str, context: &Context) -> String {
    let name = Path::new(command).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let known = check::is_name(name) && profile::find(name, context).is_some();
    if known { name.to_owned() } else { profile::DEFAULT.to_owned() }
}

/// `policy.toml`, then `policy.d/*.toml` by name.
fn system_files(context: &Context) -> Result<Vec<PathBuf>, PolicyError> {
    let mut files = Vec::new();
    let main = context.etc.join("policy.toml");
    if main.symlink_metadata().is_ok() {
        files.push(main);
    }
    let folder = context.etc.join("policy.d");
    let unlistable = |source| PolicyError::Unlistable { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(unlistable(error)),
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry.map_err(unlistable)?.path();
        if path.extension().is_some_and(|end| end == "toml") {
            parts.push(path);
        }
    }
    parts.sort();
    files.extend(parts);
    Ok(files)
}

/// The machine's policies bind every user, so only root (or, in tests, whoever runs this) may write them.
fn check_owner(path: &Path) -> Result<(), PolicyError> {
    use std::os::unix::fs::MetadataExt;
    // What can't be looked at is told when it is read.
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    let by_others = file.mode() & 0o022 != 0;
    let owned = file.uid() == 0 || file.uid() == rustix::process::geteuid().as_raw();
    if by_others || !owned { Err(PolicyError::WritableByOthers { path: path.to_owned() }) } else { Ok(()) }
}

fn command_line() -> Origin {
    let source = Arc::new(NamedSource::new("command line", String::new()));
    Origin { name: "command-line".to_owned(), layer: Layer::Session, file: None, source }
}

/// What a file is known by, so that one that is reached twice is taken once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    Builtin(String),
    File(PathBuf),
}

/// A file on the way down through `extends`.
struct Step {
    identity: Identity,
    shown: String,
}

struct Loader<'a> {
    context: &'a Context,
    files: Vec<PathBuf>,
    warnings: Vec<Problem>,
}

impl Loader<'_> {
    /// The policies of `-p` as one.
    fn chosen(&mut self, named: &[String]) -> Result<Unit, PolicyError> {
        let mut policies = Vec::new();
        let mut names = Vec::new();
        for name in named {
            let more = self.named(name, &policies)?;
            names.extend(more.last().map(|policy| policy.origin.name.clone()));
            policies.extend(more);
        }
        Ok(Unit::join(names.join("+"), policies))
    }

    /// A policy that holds beside the chosen one.
    fn beside(&mut self, path: &Path, layer: Layer) -> Result<Unit, PolicyError> {
        let policies = self.path(path, layer, &[])?;
        let name = policies.last().map(|policy| policy.origin.name.clone()).unwrap_or_default();
        Ok(Unit::join(name, policies))
    }

    fn finish(mut self, chosen: Unit, others: Vec<Unit>) -> Result<Loaded, PolicyError> {
        let layered = merge::layer(chosen, others);
        let compiled = compile::compile(&layered, self.context);
        let compile::Outcome { compiled, effective, warnings } = compiled.map_err(|error| match error {
            CompileError::Problems(problems) => PolicyError::invalid(problems),
            other => PolicyError::Compile(other),
        })?;
        self.warnings.extend(warnings);
        let automaton = automaton::build(&compiled.paths.globs)?;
        Ok(Loaded { compiled, automaton, effective, files: self.files, warnings: self.warnings })
    }

    /// A `-p`: a name, or a path if it has a slash.
    fn named(&mut self, name: &str, before: &[Policy]) -> Result<Vec<Policy>, PolicyError> {
        if name.contains('/') {
            let path = Path::new(name);
            let of_project = path.file_name().is_some_and(|name| name == PROJECT_FILE);
            let layer = if of_project { Layer::Project } else { Layer::Session };
            return self.path(path, layer, before);
        }
        match profile::find(name, self.context) {
            Some(Profile::Builtin(text)) => self.builtin(name, text, before),
            Some(Profile::File(layer, path)) => self.path(&path, layer, before),
            None => {
                let mut help = self.nearest(name);
                if Path::new(name).symlink_metadata().is_ok() {
                    help = format!("a file is named with a slash: `./{name}`");
                }
                Err(PolicyError::Unknown { name: name.to_owned(), help })
            }
        }
    }

    fn nearest(&self, name: &str) -> String {
        let names = profile::names(self.context);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        suggest::among("the policies", name, &names)
    }

    fn builtin(&mut self, name: &str, text: &str, before: &[Policy]) -> Result<Vec<Policy>, PolicyError> {
        let mut policies = Vec::new();
        self.add_builtin(name, text, &mut Vec::new(), before, &mut policies)?;
        Ok(policies)
    }

    /// A file and what it builds on, but for what is there before.
    fn path(&mut self, path: &Path, layer: Layer, before: &[Policy]) -> Result<Vec<Policy>, PolicyError> {
        let text = self.read(path, layer).map_err(|source| {
            let help = unreadable_help(path, &source);
            PolicyError::Unreadable { path: path.to_owned(), source, help }
        })?;
        let mut policies = Vec::new();
        self.add_file(path, layer, text, &mut Vec::new(), before, &mut policies)?;
        Ok(policies)
    }

    fn read(&mut self, path: &Path, layer: Layer) -> Result<String, FileError> {
        let links = if layer == Layer::Project { Links::Refuse } else { Links::Follow };
        file::read(path, links)
    }

    fn add_builtin(
        &mut self,
        name: &str,
        text: &str,
        chain: &mut Vec<Step>,
        before: &[Policy],
        policies: &mut Vec<Policy>,
    ) -> Result<(), PolicyError> {
        let step = Step { identity: Identity::Builtin(name.to_owned()), shown: name.to_owned() };
        let shown = format!("built-in policy {name}");
        let source = Arc::new(NamedSource::new(shown, text.to_owned()));
        let found = Found { layer: Layer::Builtin, file: None, stem: name.to_owned(), source };
        self.add(found, Format::Toml, step, chain, before, policies)
    }

    fn add_file(
        &mut self,
        path: &Path,
        layer: Layer,
        text: String,
        chain: &mut Vec<Step>,
        before: &[Policy],
        policies: &mut Vec<Policy>,
    ) -> Result<(), PolicyError> {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.files.len() >= FILES_MAX {
            return Err(PolicyError::TooManyFiles);
        }
        if !self.files.contains(&real) {
            self.files.push(real.clone());
        }
        let shown = shown(path);
        let step = Step { identity: Identity::File(real), shown: shown.clone() };
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let source = Arc::new(NamedSource::new(shown, text));
        let file = Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        self.add(Found { layer, file, stem, source }, Format::of(path), step, chain, before, policies)
    }

    /// Checks a file, then what it builds on, and puts them down in this order: what it builds on, itself.
    fn add(
        &mut self,
        found: Found,
        format: Format,
        step: Step,
        chain: &mut Vec<Step>,
        before: &[Policy],
        policies: &mut Vec<Policy>,
    ) -> Result<(), PolicyError> {
        let source = Arc::clone(&found.source);
        let is_same = |policy: &Policy| same_text(&policy.origin, &found);
        if before.iter().chain(policies.iter()).any(is_same) {
            return Ok(());
        }
        let raw = parse::parse(&source, format).map_err(PolicyError::Invalid)?;
        let (policy, warnings) = check::check(&raw, found).map_err(PolicyError::invalid)?;
        self.warnings.extend(warnings);
        chain.push(step);
        for name in &policy.extends {
            self.extend(name, &policy.origin, chain, before, policies)?;
        }
        chain.pop();
        policies.push(policy);
        Ok(())
    }

    fn extend(
        &mut self,
        name: &Spanned<String>,
        by: &Arc<Origin>,
        chain: &mut Vec<Step>,
        before: &[Policy],
        policies: &mut Vec<Policy>,
    ) -> Result<(), PolicyError> {
        let wrong = |error| invalid(error, &by.source, name);
        if chain.len() > EXTENDS_DEPTH_MAX {
            return Err(wrong(ExtendsError::TooDeep));
        }
        let profile = if !name.value.contains('/') {
            profile::find(&name.value, self.context)
        } else if by.layer == Layer::Project {
            return Err(wrong(ExtendsError::PathOfProject));
        } else {
            let folder = by.file.as_deref().and_then(Path::parent).unwrap_or(Path::new("/"));
            Some(Profile::File(by.layer, folder.join(&name.value)))
        };
        let Some(profile) = profile else {
            let help = self.nearest(&name.value);
            return Err(wrong(ExtendsError::Unknown { name: name.value.clone(), help }));
        };
        let identity = match &profile {
            Profile::Builtin(_) => Identity::Builtin(name.value.clone()),
            Profile::File(_, path) => Identity::File(fs::canonicalize(path).unwrap_or_else(|_| path.clone())),
        };
        if let Some(start) = chain.iter().position(|step| step.identity == identity) {
            let shown = chain.iter().skip(start).map(|step| step.shown.as_str());
            let mut shown: Vec<_> = shown.collect();
            shown.extend(shown.first().copied());
            return Err(wrong(ExtendsError::Cycle { chain: shown.join(" → ") }));
        }
        match profile {
            Profile::Builtin(text) => self.add_builtin(&name.value, text, chain, before, policies),
            Profile::File(layer, path) => {
                let text = self.read(&path, layer).map_err(|error| {
                    wrong(ExtendsError::Unreadable { path: shown(&path), reason: error.to_string() })
                })?;
                self.add_file(&path, layer, text, chain, before, policies)
            }
        }
    }
}

/// Is this the file that was read before?
fn same_text(origin: &Origin, found: &Found) -> bool {
    origin.layer == found.layer && origin.file == found.file && origin.source.name() == found.source.name()
}

fn invalid(error: ExtendsError, source: &Source, at: &Spanned<String>) -> PolicyError {
    PolicyError::Invalid(Problem::error(error, source, at.span.clone()))
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
fn shown(path: &Path) -> String {
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let working_dir = std::env::current_dir().unwrap_or_default();
    effective::text(path.strip_prefix(working_dir).unwrap_or(&path))
}
