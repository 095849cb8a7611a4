//! `policy explain`

use std::{
    env, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Format, PolicyCommandError, write_json};
use crate::{
    diagnostic::{self, Status},
    policy::{
        self, Context, Loaded, Sources, User,
        compile::{Layer, Mode},
        effective::{EffectiveRule, text},
        explain::{Act, Answer, Tables, Why},
    },
};

/// Say whether a file may be read, changed or removed, and which rule decides, without running anything
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 allowed, 1 denied, 2 usage, 125 it could not be decided.")]
pub(super) struct ExplainArgs {
    /// Policy by name or path; repeat to join several
    #[arg(short, long = "policy", value_name = "POLICY")]
    policies: Vec<String>,
    /// The project that `{project}` stands for
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// The command that would run: without `-p` it picks the profile
    #[arg(long, value_name = "COMMAND", default_value = "")]
    command: String,
    /// What would be done
    #[arg(long = "op", value_enum, default_value_t)]
    operation: Operation,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The file or folder; it need not exist
    path: PathBuf,
}

/// What would be done
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    /// Open it for reading, list it
    #[default]
    Read,
    /// Make it, change its content or attributes
    Write,
    /// Remove or rename it, or put something else in its place
    Remove,
}

/// All of it, for `--format json`.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    path: String,
    operation: Operation,
    allowed: bool,
    /// `audit`: it would be recorded and not refused.
    mode: String,
    object: String,
    why: &'static str,
    rule: Option<Rule<'a>>,
}

#[derive(Debug, Serialize)]
struct Rule<'a> {
    id: String,
    layer: Layer,
    /// `None` for what is built in.
    written: Option<&'a EffectiveRule>,
}

impl ExplainArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<Status, PolicyCommandError> {
        let context = Context::discover(&User::of_caller()?, self.project.as_deref())?;
        let sources = Sources::new(&self.policies, &self.command, context);
        let loaded = policy::load(&sources)?;
        let mut own_files = loaded.files.clone();
        own_files.push(loaded.compiled.audit_log.clone());
        own_files.push(env::current_exe().map_err(system("where govsandbox itself lies"))?);
        let tables = Tables::new(&loaded.compiled, &loaded.automaton, &own_files);
        let act = match self.operation {
            Operation::Read => Act::Read,
            Operation::Write => Act::Change,
            Operation::Remove => Act::Remove,
        };
        let path = std::path::absolute(&self.path).map_err(system("the working directory"))?;
        let is_above_nothing =
            |at: &Path| at.ends_with("..") && at.parent().is_some_and(|folder| !folder.exists());
        if path.ancestors().any(is_above_nothing) {
            return Err(PolicyCommandError::Nowhere { path: text(&self.path) });
        }
        let answer = tables.ask(&path, act);
        let explained = explained(&loaded, &path, self.operation, &answer);
        match self.format {
            Format::Json => write_json(out, &explained)?,
            Format::Text => write_text(out, &explained)?,
        }
        for warning in loaded.warnings {
            diagnostic::report(&warning.into());
        }
        Ok(if answer.verdict.allowed { Status::Success } else { Status::No })
    }
}

fn explained<'a>(loaded: &'a Loaded, path: &Path, operation: Operation, answer: &Answer) -> Explained<'a> {
    let written = |id: &crate::id::RuleId| {
        let mut rules = loaded.effective.lists.iter().flat_map(|list| &list.rules);
        rules.find(|rule| rule.id == *id)
    };
    let rule = answer.verdict.rule.as_ref().map(|rule| Rule {
        id: rule.id.to_string(),
        layer: rule.layer,
        written: written(&rule.id),
    });
    Explained {
        path: text(path),
        operation,
        allowed: answer.verdict.allowed,
        mode: loaded.compiled.mode.to_string(),
        object: text(&answer.object),
        why: words(answer, operation),
        rule,
    }
}

fn words(answer: &Answer, operation: Operation) -> &'static str {
    match (answer.why, operation) {
        (Why::Path, _) => "the rule matches its path, or that of a folder above it",
        (Why::Object, _) => "the rule names the same object, or a folder above it, by another path",
        (Why::Way, _) => "it leads to what the rule names: without it the rule would hold something else",
        (Why::Own, _) => "it is one of govsandbox's own files, or leads to one",
        (Why::Listed, _) => "the allow-lists have it, and nothing denies or protects it",
        (Why::Unlisted, Operation::Read) => "no entry of `filesystem.read` or `filesystem.write` has it",
        (Why::Unlisted, Operation::Write) => "no entry of `filesystem.write` has it",
        (Why::Unlisted, Operation::Remove) => "no entry of `filesystem.write` has it and its folder",
        (Why::Device, _) => "every sandbox may use this device, unless a rule denies it",
    }
}

fn write_text(out: &mut dyn Write, explained: &Explained<'_>) -> io::Result<()> {
    let verdict = if explained.allowed { "allowed" } else { "denied" };
    let operation = match explained.operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Remove => "remove",
    };
    writeln!(out, "{verdict:8} {operation} {}", explained.path)?;
    if explained.object != explained.path {
        writeln!(out, "object   {}", explained.object)?;
    }
    if let Some(rule) = &explained.rule {
        match rule.written {
            Some(written) => writeln!(out, "rule     {}: `{}`", rule.id, written.rule)?,
            None => writeln!(out, "rule     {}", rule.id)?,
        }
        if let Some(from) = rule.written.and_then(|written| written.from.as_ref()) {
            let line = from.line.map_or_else(String::new, |line| format!(":{line}"));
            writeln!(out, "from     {}{line} ({})", from.file_name(), from.layer)?;
        }
    }
    writeln!(out, "why      {}", explained.why)?;
    if explained.mode == Mode::Audit.to_string() && !explained.allowed {
        writeln!(out, "mode     audit: it is recorded and not refused")?;
    }
    Ok(())
}

fn system(what: &'static str) -> impl Fn(io::Error) -> PolicyCommandError {
    move |source| PolicyCommandError::System { what, source }
}
