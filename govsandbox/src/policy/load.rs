//! Finds the files of a run and puts them together.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::NamedSource;

use super::{
    automaton, check,
    compile::{self, CompileError, Compiled, Layer, LiteralRule, Mode, PathTable},
    context::Context,
    effective::Effective,
    error::PolicyError,
    explain,
    extends::Reader,
    layers,
    merge::{self, Given, Layered, Lists, Origin, Unit},
    problem::Problem,
    profile,
    repositories::{Repositories, TooManyNames},
    spelling,
};
use crate::sys;

/// Where the machine's own policies lie.
pub const SYSTEM_DIR: &str = "/etc/govsandbox";
/// The project's own policy, in `{project}`.
pub const PROJECT_FILE: &str = ".govsandbox.toml";

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

impl Sources {
    /// Of a run without `--mode`.
    #[must_use]
    pub fn new(policies: &[String], command_name: &str, context: Context) -> Self {
        let (policies, command_name) = (policies.to_vec(), command_name.to_owned());
        Self { policies, command_name, context, mode_override: None }
    }
}

/// The policy of a run.
#[derive(Debug)]
pub struct Loaded {
    /// For the layers that enforce.
    pub compiled: Compiled,
    /// The patterns of [`Compiled::paths`], built.
    pub automaton: PathTable,
    /// For people: what holds, and where it was written.
    pub effective: Effective,
    /// The rules as they were written.
    pub layered: Layered,
    /// Every policy file that was read, absolute. Not to be changed from inside.
    pub files: Vec<PathBuf>,
    /// What is valid and probably not meant; for the caller to print.
    pub warnings: Vec<Problem>,
}

/// Loads the policy of a run.
///
/// # Errors
/// [`PolicyError`].
pub fn load(sources: &Sources) -> Result<Loaded, PolicyError> {
    let context = &sources.context;
    let mut reader = Reader::new(context);
    let named = if sources.policies.is_empty() {
        vec![profile_of_command(&sources.command_name, context)]
    } else {
        sources.policies.clone()
    };
    let mut chosen = reader.chosen(&named)?;
    if let Some(mode) = sources.mode_override {
        chosen.scalars.mode = Some(Given { value: mode, origin: Some(Arc::new(command_line())) });
    }
    let mut others = Vec::new();
    for path in system_files(context)? {
        others.push(reader.beside(&path, Layer::System)?);
    }
    let project_file = context.project.join(PROJECT_FILE);
    if project_file.symlink_metadata().is_ok() {
        others.push(reader.beside(&project_file, Layer::Project)?);
    }
    finish(reader, context, chosen, others)
}

/// Loads one policy, by name or path, without what holds beside it on this machine and in this project.
///
/// # Errors
/// [`PolicyError`].
pub fn load_alone(policy: &str, context: &Context) -> Result<Loaded, PolicyError> {
    let mut reader = Reader::new(context);
    let chosen = reader.chosen(&[policy.to_owned()])?;
    finish(reader, context, chosen, Vec::new())
}

fn finish(
    reader: Reader<'_>,
    context: &Context,
    chosen: Unit,
    others: Vec<Unit>,
) -> Result<Loaded, PolicyError> {
    let layered = merge::layer(chosen, others);
    let mut warnings = reader.warnings;
    let mut context = context.clone();
    let lists = layered.policies.iter().map(|(_, lists)| lists);
    if let Some(entry) = lists.flat_map(Lists::paths).find(|entry| entry.rule.names_repositories())
        && let Ok(project) = context.project()
    {
        context.repositories = Repositories::find(project, &context.home);
        if context.repositories.cut {
            warnings.push(Problem::warning(TooManyNames, &entry.origin.source, entry.span.clone()));
        }
    }
    let compiled = compile::compile(&layered, &context);
    let compile::Outcome { compiled, effective, warnings: of_all } =
        compiled.map_err(|error| match error {
            CompileError::Problems(problems) => PolicyError::invalid(problems),
            other => PolicyError::Compile(other),
        })?;
    let stacked = sys::layers::find().map_err(PolicyError::Mounts)?;
    let mut compiled = with_dangling_links(compiled);
    layers::beneath(&mut compiled.paths, &stacked);
    let places = sys::spelling::find().map_err(PolicyError::Mounts)?;
    let compiled = spelling::widened(compiled, &places);
    let automaton = automaton::build(&compiled.paths.globs)?;
    warnings.extend(of_all);
    Ok(Loaded { compiled, automaton, effective, layered, files: reader.files, warnings })
}

/// A rule on a symlink whose target does not exist yet holds the target's place too: who makes it makes what is named.
fn with_dangling_links(mut compiled: Compiled) -> Compiled {
    let literals = &mut compiled.paths.literals;
    let dangling = literals.iter().filter(|literal| fs::metadata(&literal.path).is_err());
    let targets: Vec<_> = dangling
        .filter(|literal| fs::symlink_metadata(&literal.path).is_ok())
        .filter_map(|literal| {
            Some(LiteralRule { path: explain::real_path(&literal.path)?, ..literal.clone() })
        })
        .collect();
    literals.extend(targets);
    compiled
}

/// The profile with the command's name, else `default`.
fn profile_of_command(command: &str, context: &Context) -> String {
    let name = Path::new(command).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let known = check::is_name(name) && profile::find(name, context).is_some();
    if known { name.to_owned() } else { profile::DEFAULT.to_owned() }
}

/// `policy.toml`, then `policy.d/*.toml` by name; all of them, and their folder, root's own.
fn system_files(context: &Context) -> Result<Vec<PathBuf>, PolicyError> {
    let main = context.etc.join("policy.toml");
    let mut files: Vec<_> = main.symlink_metadata().is_ok().then_some(main).into_iter().collect();
    let folder = context.etc.join("policy.d");
    let unlistable = |source| PolicyError::Unlistable { path: folder.clone(), source };
    match fs::read_dir(&folder) {
        Ok(entries) => {
            check_owner(&folder)?;
            let parts = entries.map(|entry| entry.map(|entry| entry.path()));
            let mut parts: Vec<_> = parts.collect::<io::Result<_>>().map_err(unlistable)?;
            parts.retain(|path| path.extension().is_some_and(|end| end == "toml"));
            parts.sort();
            files.extend(parts);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unlistable(error)),
    }
    for file in &files {
        check_owner(file)?;
    }
    Ok(files)
}

/// The machine's policies bind every user, so only root (or, in tests, whoever runs this) may write them.
fn check_owner(path: &Path) -> Result<(), PolicyError> {
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
