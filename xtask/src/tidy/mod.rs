//! `cargo xtask tidy`: the house rules that a program can check.

mod imports;
mod rules;
mod source;

use std::fmt;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{process, workspace};
use source::Source;

/// Check the house rules: imports, file length, names, unsafe code, paths and hosts in the text
#[derive(Debug, clap::Args)]
pub(crate) struct TidyArgs {}

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the project's folder.
    path: String,
    /// From 1.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Runs the task.
pub(crate) fn run(_: &TidyArgs) -> Result<()> {
    let root = workspace::root()?;
    let listed = process::read(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root),
    )?;
    let mut findings = Vec::new();
    let mut count = 0;
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        // Listed but deleted, a folder behind a link, or no text: nothing to say about it.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        count += 1;
        findings.extend(check(path, &text));
    }
    if count == 0 {
        bail!("git lists no file in {}", root.display());
    }
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {count} files are in order"),
        found => bail!("{found} breaches of the house rules"),
    }
    Ok(())
}

/// Everything that is wrong with one file.
fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut found = rules::check_text(path, text);
    if path.ends_with(".rs") {
        let source = Source::parse(text);
        found.extend(rules::check_source(path, &source));
        found.extend(imports::check(path, &source));
    }
    let finding = |(line, message)| Finding { path: path.to_owned(), line, message };
    found.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_like_a_compiler_error() {
        let found = check("govsandbox/src/policy/util.rs", "use crate::cli::run;\n");
        let said: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|line| line.starts_with("govsandbox/src/policy/util.rs:1: ")), "{said:?}");
    }

    #[test]
    fn an_orderly_file_has_no_findings() {
        assert_eq!(check("govsandbox/src/policy/load.rs", "use crate::id::RuleId;\n"), []);
    }
}
