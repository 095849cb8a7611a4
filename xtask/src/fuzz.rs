//! `cargo xtask fuzz`: the fuzz targets of `govsandbox/fuzz`, each for a bounded time, two at a time.
//!
//! The stable compiler that builds everything else instruments them (LLVM's own pass, no sanitizer), and libFuzzer is
//! linked in. Inputs that found something new stay in `target/fuzz/corpus` for the next run; what is worth keeping for
//! good is committed in `govsandbox/fuzz/corpus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::install_tools::{self, Need};
use crate::{process, workspace};

/// Coverage at each edge, and what comparisons compare: libFuzzer goes by both.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// One input may take so long, and so much memory.
const INPUT_SECONDS_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 2048;
/// Loading a corpus and ending, beside the fuzzing itself.
const OVERHEAD_SECONDS_MAX: u64 = 120;
const AT_ONCE: usize = 2;
/// What is printed of a target that failed.
const LAST_LINES: usize = 40;

/// Fuzz what reads bytes that others wrote, each target for a bounded time
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 when no input broke a target, else 1; the input and how to play it again are printed."
)]
pub(crate) struct FuzzArgs {
    /// For each target
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Only this one
    pub(crate) target: Option<String>,
}

/// Runs the task.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    install_tools::ensure(&[Need::Fuzz])?;
    let sources = workspace::root()?.join("govsandbox/fuzz");
    let mut names = names(&sources)?;
    if let Some(wanted) = &args.target {
        if !names.contains(wanted) {
            bail!("there is no fuzz target `{wanted}`; there are: {}", names.join(", "));
        }
        names.retain(|name| name == wanted);
    }
    let place = Place { executables: build(&sources)?, sources, work: workspace::target()?.join("fuzz") };
    let (waiting, failures) = (Mutex::new(names.clone()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(name) = next() {
                    if let Err(error) = place.fuzz(&name, args.seconds) {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failures.is_empty() {
        bail!("{} of {} targets failed\n{}", failures.len(), names.len(), failures.join("\n"));
    }
    Ok(())
}

/// Every file in `targets` is one.
fn names(sources: &Path) -> Result<Vec<String>> {
    let files = workspace::files_below(&sources.join("targets"), ".rs")?;
    let name = |file: &PathBuf| file.file_stem().map(|name| name.to_string_lossy().into_owned());
    Ok(files.iter().filter_map(name).collect())
}

/// Builds all of them; the folder that they lie in.
fn build(sources: &Path) -> Result<PathBuf> {
    // Named, so that the flags are not those of build scripts and macros.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = workspace::target()?.join("fuzz");
    let mut command = workspace::cargo()?;
    command
        .args(["build", "--release", "--locked", "--quiet", "--bins", "--target", &platform])
        .current_dir(sources)
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    process::run(&mut command)?;
    Ok(folder.join(platform).join("release"))
}

struct Place {
    executables: PathBuf,
    sources: PathBuf,
    /// Everything that fuzzing writes.
    work: PathBuf,
}

impl Place {
    /// Runs one target for that long.
    fn fuzz(&self, name: &str, seconds: u64) -> Result<()> {
        let folder = |part: &str| {
            let folder = self.work.join(part).join(name);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            Ok::<_, anyhow::Error>(folder)
        };
        let (corpus, artifacts) = (folder("corpus")?, folder("artifacts")?);
        let executable = self.executables.join(name);
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", &(seconds + OVERHEAD_SECONDS_MAX).to_string()])
            .arg(&executable)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1");
        let dictionary = self.sources.join(format!("dictionaries/{name}.dict"));
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        // What is found goes to the first, the others are only read.
        command.arg(&corpus).arg(self.sources.join("corpus").join(name)).stdin(Stdio::null());
        let output = command.output().context("cannot start timeout(1)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{}: {}", output.status, verdict(&said, &executable));
        }
        let runs = said
            .lines()
            .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
            .with_context(|| format!("it ran nothing: {}", last_lines(&said)))?;
        println!("fuzz: {name}: {} inputs in {seconds} s", runs.trim());
        Ok(())
    }
}

/// What broke the target, and how it is played again.
fn verdict(said: &str, executable: &Path) -> String {
    let artifact =
        said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path);
    let how = match artifact {
        Some(path) => format!("{path} breaks it; play it again: {} {path}", executable.display()),
        None => "no input of its own is to blame".to_owned(),
    };
    format!("{how}\n{}", last_lines(said))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_input_and_how_to_play_it_again() {
        let said = "panicked\nartifact_prefix='/t/'; Test unit written to /t/crash-1\nBase64: AA==\n";
        let verdict = verdict(said, Path::new("/t/policy"));
        assert!(
            verdict.starts_with("/t/crash-1 breaks it; play it again: /t/policy /t/crash-1\n"),
            "{verdict}"
        );
    }

    #[test]
    fn every_target_has_seeds_and_is_built() {
        let sources = workspace::root().unwrap().join("govsandbox/fuzz");
        let manifest = fs::read_to_string(sources.join("Cargo.toml")).unwrap();
        for name in names(&sources).unwrap() {
            assert!(fs::read_dir(sources.join("corpus").join(&name)).unwrap().next().is_some(), "{name}");
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
        }
    }
}
