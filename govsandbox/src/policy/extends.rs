//! Reads policies and, through `extends`, what they build on.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::NamedSource;

use super::{
    check::{self, Found, Policy},
    compile::Layer,
    context::Context,
    error::{EXTENDS_DEPTH_MAX, ExtendsError, FILES_MAX, PolicyError, Shadowed, shown},
    file::{self, FileError, Links},
    load::PROJECT_FILE,
    merge::{Origin, Unit},
    parse::{self, Format, Spanned},
    problem::Problem,
    profile::{self, Profile},
    suggest,
};

/// Reads the files of one run.
pub(super) struct Reader<'a> {
    context: &'a Context,
    /// What was read, absolute.
    pub(super) files: Vec<PathBuf>,
    /// What is valid and probably not meant.
    pub(super) warnings: Vec<Problem>,
}

/// One policy that was asked for, on the way through what it builds on.
struct Walk {
    /// From the policy that was asked for down to the one that is being read.
    chain: Vec<Step>,
    /// Read so far, each after what it builds on.
    policies: Vec<Policy>,
}

/// A policy on the way down.
struct Step {
    identity: Identity,
    shown: String,
}

/// What a policy is known by, so that one that is reached twice is taken once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    Builtin(String),
    File(PathBuf),
}

impl<'a> Reader<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, files: Vec::new(), warnings: Vec::new() }
    }

    /// The policies of `-p` as one.
    pub(super) fn chosen(&mut self, named: &[String]) -> Result<Unit, PolicyError> {
        let mut walk = Walk { chain: Vec::new(), policies: Vec::new() };
        let mut names = Vec::new();
        for name in named {
            let known = walk.policies.len();
            self.named(name, &mut walk)?;
            // The policy itself is the last one; one that was there before adds nothing.
            let added = walk.policies.get(known..).and_then(<[Policy]>::last);
            names.extend(added.map(|policy| policy.origin.name.clone()));
        }
        Ok(Unit::join(names.join("+"), walk.policies))
    }

    /// A policy that holds beside the chosen one.
    pub(super) fn beside(&mut self, path: &Path, layer: Layer) -> Result<Unit, PolicyError> {
        let mut walk = Walk { chain: Vec::new(), policies: Vec::new() };
        self.path(path, layer, &mut walk)?;
        let name = walk.policies.last().map(|policy| policy.origin.name.clone()).unwrap_or_default();
        Ok(Unit::join(name, walk.policies))
    }

    /// A `-p`: a name, or a path if it has a slash.
    fn named(&mut self, name: &str, walk: &mut Walk) -> Result<(), PolicyError> {
        if name.contains('/') {
            let path = Path::new(name);
            let of_project = path.file_name().is_some_and(|name| name == PROJECT_FILE);
            let layer = if of_project { Layer::Project } else { Layer::Session };
            return self.path(path, layer, walk);
        }
        match profile::find(name, self.context) {
            Some(Profile::Builtin(text)) => self.add_builtin(name, text, walk),
            Some(Profile::File(layer, path)) => self.path(&path, layer, walk),
            None => {
                let is_file = Path::new(name).symlink_metadata().is_ok();
                let by_slash = || format!("a file is named with a slash: `./{name}`");
                let help = if is_file { by_slash() } else { self.nearest(name) };
                Err(PolicyError::Unknown { name: name.to_owned(), help })
            }
        }
    }

    fn nearest(&self, name: &str) -> String {
        let names = profile::names(self.context);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        suggest::among("the policies", name, &names)
    }

    fn path(&mut self, path: &Path, layer: Layer, walk: &mut Walk) -> Result<(), PolicyError> {
        let text = read(path, layer).map_err(|source| PolicyError::unreadable(path, source))?;
        self.add_file(path, layer, text, walk)
    }

    fn add_builtin(&mut self, name: &str, text: &str, walk: &mut Walk) -> Result<(), PolicyError> {
        let step = Step { identity: Identity::Builtin(name.to_owned()), shown: name.to_owned() };
        let source = Arc::new(NamedSource::new(format!("built-in policy {name}"), text.to_owned()));
        if let Some(file) = profile::shadowed(name, self.context) {
            let shadowed = Shadowed { name: name.to_owned(), file: shown(&file) };
            self.warnings.push(Problem::warning(shadowed, &source, 0..0));
        }
        let found = Found { layer: Layer::Builtin, file: None, stem: name.to_owned(), source };
        self.add(found, Format::Toml, step, walk)
    }

    fn add_file(
        &mut self,
        path: &Path,
        layer: Layer,
        text: String,
        walk: &mut Walk,
    ) -> Result<(), PolicyError> {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !self.files.contains(&real) {
            if self.files.len() >= FILES_MAX {
                return Err(PolicyError::TooManyFiles);
            }
            self.files.push(real.clone());
        }
        let shown = shown(path);
        let step = Step { identity: Identity::File(real), shown: shown.clone() };
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let source = Arc::new(NamedSource::new(shown, text));
        let file = Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        self.add(Found { layer, file, stem, source }, Format::of(path), step, walk)
    }

    /// Checks a policy, then what it builds on, and puts them down in this order: what it builds on, itself.
    fn add(&mut self, found: Found, format: Format, step: Step, walk: &mut Walk) -> Result<(), PolicyError> {
        if walk
            .policies
            .iter()
            .any(|policy| policy.origin.layer == found.layer && policy.origin.is_at(&found))
        {
            return Ok(());
        }
        let raw = parse::parse(&found.source, format).map_err(PolicyError::Invalid)?;
        let (policy, warnings) = check::check(&raw, found).map_err(PolicyError::invalid)?;
        self.warnings.extend(warnings);
        walk.chain.push(step);
        for name in &policy.extends {
            self.extend(name, &policy.origin, walk)?;
        }
        walk.chain.pop();
        walk.policies.push(policy);
        Ok(())
    }

    /// Adds what `by` builds on under `name`.
    fn extend(&mut self, name: &Spanned<String>, by: &Origin, walk: &mut Walk) -> Result<(), PolicyError> {
        let wrong = |error| PolicyError::Invalid(Problem::error(error, &by.source, name.span.clone()));
        if walk.chain.len() > EXTENDS_DEPTH_MAX {
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
        if let Some(start) = walk.chain.iter().position(|step| step.identity == identity) {
            let mut shown: Vec<_> = walk.chain.iter().skip(start).map(|step| step.shown.as_str()).collect();
            shown.extend(shown.first().copied());
            return Err(wrong(ExtendsError::Cycle { chain: shown.join(" → ") }));
        }
        match profile {
            Profile::Builtin(text) => self.add_builtin(&name.value, text, walk),
            Profile::File(layer, path) => {
                let text = read(&path, layer).map_err(|error| {
                    wrong(ExtendsError::Unreadable { path: shown(&path), reason: error.to_string() })
                })?;
                self.add_file(&path, layer, text, walk)
            }
        }
    }
}

impl Origin {
    /// Is this where that text was found?
    fn is_at(&self, found: &Found) -> bool {
        self.file == found.file && self.source.name() == found.source.name()
    }
}

/// As root govsandbox can read more than whoever wrote a project's file: no link is followed from there.
fn read(path: &Path, layer: Layer) -> Result<String, FileError> {
    let links = if layer == Layer::Project { Links::Refuse } else { Links::Follow };
    file::read(path, links)
}
