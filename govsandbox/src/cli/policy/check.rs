//! `policy check`

use std::{io::Write, path::PathBuf};

use miette::Diagnostic;
use serde::Serialize;

use super::{Format, PolicyCommandError, write_json};
use crate::{
    diagnostic::{self, Status},
    policy::{self, Context, Loaded, PolicyError, Sources, User, problem::Problem},
};

/// Say whether policies are valid, and what is wrong with them
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 valid, 1 invalid, 2 usage, 125 could not be read.")]
pub(super) struct CheckArgs {
    /// Policies by name or, with a slash or an ending, by path; without any, what `run` would use here
    #[arg(value_name = "POLICY")]
    policies: Vec<String>,
    /// The project that `{project}` stands for
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// One policy's result, for `--format json`.
#[derive(Debug, Serialize)]
struct Checked {
    policy: String,
    valid: bool,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

/// One error or warning.
#[derive(Debug, Serialize)]
struct Finding {
    message: String,
    help: Option<String>,
    code: Option<String>,
    /// Where in a file; `None` for what is about the policy as a whole.
    place: Option<Place>,
}

#[derive(Debug, Serialize)]
struct Place {
    file: String,
    line: usize,
    column: usize,
}

impl CheckArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<Status, PolicyCommandError> {
        let context = Context::discover(&User::of_caller()?, self.project.as_deref())?;
        let mut results = Vec::new();
        if self.policies.is_empty() {
            let command_name = String::new();
            let sources = Sources::new(&[], &command_name, context);
            let loaded = policy::load(&sources).and_then(|loaded| with_pitfalls(loaded, &sources.context));
            results.push(("default".to_owned(), loaded));
        } else {
            // Whether a policy is valid is not a matter of the folder one stands in.
            let context = Context { project_given: true, ..context };
            for policy in &self.policies {
                let loaded = policy::load_alone(&as_path(policy), &context);
                results.push((policy.clone(), loaded.and_then(|loaded| with_pitfalls(loaded, &context))));
            }
        }
        let status = results.iter().map(|(_, result)| status(result)).max_by_key(|status| *status as u8);
        match self.format {
            Format::Json => write_json(out, &results.iter().map(checked).collect::<Vec<_>>())?,
            Format::Text => {
                for (policy, result) in results {
                    write_result(out, &policy, result)?;
                }
            }
        }
        Ok(status.unwrap_or(Status::Success))
    }
}

/// `check p.toml` in a folder with that file means the file, though a name has no slash.
fn as_path(policy: &str) -> String {
    let is_file_name = policy.ends_with(".toml") || policy.ends_with(".json");
    if is_file_name && !policy.contains('/') { format!("./{policy}") } else { policy.to_owned() }
}

/// With what is wrong only on this machine.
fn with_pitfalls(mut loaded: Loaded, context: &Context) -> Result<Loaded, PolicyError> {
    // A profile is used for the command of its name.
    let found = policy::pitfalls::find(&loaded, context, &loaded.compiled.name);
    let (warnings, errors): (Vec<_>, Vec<_>) = found.into_iter().partition(Problem::is_warning);
    loaded.warnings.extend(warnings);
    if errors.is_empty() { Ok(loaded) } else { Err(PolicyError::invalid(errors)) }
}

fn status(result: &Result<Loaded, PolicyError>) -> Status {
    match result {
        Ok(_) => Status::Success,
        Err(error) if error.is_about_content() => Status::No,
        Err(_) => Status::Failure,
    }
}

fn write_result(
    out: &mut dyn Write,
    policy: &str,
    result: Result<Loaded, PolicyError>,
) -> Result<(), PolicyCommandError> {
    match result {
        Ok(loaded) => {
            // The first is not the policy's.
            let (rules, warnings) = (loaded.compiled.rules.len().saturating_sub(1), loaded.warnings.len());
            write!(out, "ok       {policy}: {rules} {}", plural(rules, "rule"))?;
            if warnings > 0 {
                write!(out, ", {warnings} {}", plural(warnings, "warning"))?;
            }
            writeln!(out)?;
            // In the order in which things are said, should both go to one terminal.
            out.flush()?;
            for warning in loaded.warnings {
                diagnostic::report(&warning.into());
            }
        }
        Err(error) => {
            writeln!(out, "invalid  {policy}")?;
            out.flush()?;
            diagnostic::report(&error.into());
        }
    }
    Ok(())
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn checked((policy, result): &(String, Result<Loaded, PolicyError>)) -> Checked {
    let (errors, warnings) = match result {
        Ok(loaded) => (Vec::new(), loaded.warnings.iter().map(finding_at).collect()),
        Err(error) if error.problems().is_empty() => (vec![finding(error)], Vec::new()),
        Err(error) => (error.problems().iter().map(finding_at).collect(), Vec::new()),
    };
    Checked { policy: policy.clone(), valid: result.is_ok(), errors, warnings }
}

fn finding(diagnostic: &dyn Diagnostic) -> Finding {
    Finding {
        message: diagnostic.to_string(),
        help: diagnostic.help().map(|help| help.to_string()),
        code: diagnostic.code().map(|code| code.to_string()),
        place: None,
    }
}

fn finding_at(problem: &Problem) -> Finding {
    let (line, column) = problem.line_and_column();
    let place = Place { file: problem.file().to_owned(), line, column };
    Finding { place: Some(place), ..finding(problem) }
}
