//! `policy show`

use std::{
    io::{self, Write},
    path::PathBuf,
};

use serde::Serialize;

use super::{Format, PolicyCommandError, write_json};
use crate::{
    diagnostic::{self, Status},
    policy::{
        self, Context, Sources, User,
        effective::{Effective, EffectiveRule, From},
    },
};

/// Show what holds after all layers, and where each rule was written
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 shown, 1 the policy is invalid, 2 usage, 125 it could not be read.")]
pub(super) struct ShowArgs {
    /// Policy by name or path; repeat to join several
    #[arg(short, long = "policy", value_name = "POLICY")]
    policies: Vec<String>,
    /// The project that `{project}` stands for
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The command that would run: without `-p` it picks the profile
    #[arg(default_value = "")]
    command: String,
}

/// All of it, for `--format json`.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    digest: &'a str,
    files: &'a [PathBuf],
    #[serde(flatten)]
    effective: &'a Effective,
}

impl ShowArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<Status, PolicyCommandError> {
        let context = Context::discover(&User::of_caller()?, self.project.as_deref())?;
        let sources = Sources::new(&self.policies, &self.command, context);
        let loaded = match policy::load(&sources) {
            Ok(loaded) => loaded,
            Err(error) if error.is_about_content() => {
                diagnostic::report(&error.into());
                return Ok(Status::No);
            }
            Err(error) => return Err(error.into()),
        };
        let digest = &loaded.compiled.digest;
        match self.format {
            Format::Json => {
                write_json(out, &Shown { digest, files: &loaded.files, effective: &loaded.effective })?
            }
            Format::Text => write_text(out, &loaded.effective, digest)?,
        }
        for warning in loaded.warnings {
            diagnostic::report(&warning.into());
        }
        Ok(Status::Success)
    }
}

fn write_text(out: &mut dyn Write, effective: &Effective, digest: &str) -> io::Result<()> {
    writeln!(out, "policy  {}\ndigest  {digest}\n", effective.name)?;
    let variables = effective.variables.iter().map(|variable| {
        let name = format!("{{{}}}", variable.name);
        vec![name, variable.stands_for.join(", ")]
    });
    write_table(out, "variables", &variables.collect::<Vec<_>>())?;
    let values = effective.values.iter().map(|value| {
        let (by, file) = written(value.from.as_ref());
        vec![value.key.to_owned(), value.value.clone(), by, file]
    });
    write_table(out, "values", &values.collect::<Vec<_>>())?;
    for list in &effective.lists {
        let is_one_of_several = effective.lists.iter().filter(|other| other.key == list.key).count() > 1;
        let heading = match &list.of {
            Some(policy) if is_one_of_several => {
                format!("{}, of {policy} (each of these lists must allow)", list.key)
            }
            _ => list.key.to_owned(),
        };
        write_table(out, &heading, &list.rules.iter().flat_map(rule_lines).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The rule, then what it stands for; where that is several, a line for each.
fn rule_lines(rule: &EffectiveRule) -> Vec<Vec<String>> {
    let (layer, file) = match &rule.from {
        Some(from) => (from.layer.to_string(), from.file_name()),
        None => ("default".to_owned(), String::new()),
    };
    let mut stands_for = rule.stands_for.iter().cloned();
    let first = stands_for.next().unwrap_or_else(|| "nothing".to_owned());
    let mut lines = vec![vec![rule.rule.clone(), first, rule.id.to_string(), layer, file]];
    lines.extend(stands_for.map(|more| vec![String::new(), more]));
    lines
}

fn written(from: Option<&From>) -> (String, String) {
    match from {
        Some(from) => (format!("{} ({})", from.policy, from.layer), from.file_name()),
        None => ("default".to_owned(), String::new()),
    }
}

/// A heading, and rows with aligned columns.
fn write_table(out: &mut dyn Write, heading: &str, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    writeln!(out, "{heading}")?;
    if rows.is_empty() {
        writeln!(out, "  nothing")?;
    }
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    writeln!(out)
}
