//! `cargo xtask test`: every check and every test, natively and in virtual machines.
//!
//! One profile and one set of flags throughout, so that nothing is compiled twice; the machines run the test
//! executables that were built for this machine.

mod privileged;
mod tally;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::install_tools::{self, Need};
use crate::{deny, ebpf, fuzz, process, tidy, workspace};
use tally::{Counts, Tally};

/// Each fuzz target's time: the committed corpus is played again, and what it leads to at once is found.
const FUZZ_SECONDS: u64 = 3;

/// Run every check and every test, natively and in the virtual machine
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Installs what it needs and says so. The last line is `N passed, N failed`: tests, and each check as one.\n\
    Exit status: 0 when nothing failed, else 1."
)]
pub(crate) struct TestArgs {
    /// Leave the virtual machine out
    #[arg(long, conflicts_with = "vm")]
    native: bool,
    /// Only the virtual machine
    #[arg(long)]
    vm: bool,
    /// Only tests whose name contains this, and no checks
    filter: Option<String>,
}

/// Runs the task.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let mut report = Report { stages: Vec::new(), filtered: args.filter.is_some() };
    let filter = args.filter.as_deref();
    report.check("tools", || install_tools::ensure(&needs(args)));
    let names = privileged::names()?;
    if !args.vm {
        if filter.is_none() {
            checks(&mut report, &names);
        }
        unit_tests(&mut report, filter);
        if filter.is_none() {
            report
                .check("fuzz targets", || fuzz::run(&fuzz::FuzzArgs { seconds: FUZZ_SECONDS, target: None }));
        }
    }
    privileged_tests(&mut report, args, &names);
    Ok(report.finish())
}

/// Where a single target is to run.
pub(crate) struct Places<'a> {
    pub(crate) native: bool,
    pub(crate) vm: bool,
    /// Part of the name of a guest; none: all.
    pub(crate) kernel: Option<&'a str>,
}

/// Builds and runs one privileged target wherever it runs, and says what came of it.
pub(crate) fn run_target(name: &str, places: &Places<'_>, filter: Option<&str>) -> Result<ExitCode> {
    let mut report = Report { stages: Vec::new(), filtered: filter.is_some() };
    let target = privileged::build(&[name.to_owned()])?.pop().context("cargo built nothing")?;
    if places.native {
        report.tests(&format!("{name}, natively"), || target.run_natively(filter));
    }
    if places.vm {
        for guest in privileged::Guest::wanted(places.kernel) {
            report.tests(&format!("{name}, on {}", guest.name), || target.run_in(guest, filter, true));
        }
    }
    Ok(report.finish())
}

/// The executable of a privileged target.
pub(crate) fn executable(name: &str) -> Result<std::path::PathBuf> {
    let target = privileged::build(&[name.to_owned()])?.pop().context("cargo built nothing")?;
    Ok(target.executable)
}

fn needs(args: &TestArgs) -> Vec<Need> {
    let mut needs = vec![Need::Tests, Need::Claude];
    if !args.native {
        needs.push(Need::Vm);
    }
    if !args.vm && args.filter.is_none() {
        needs.extend([Need::Deny, Need::Ebpf, Need::Fuzz]);
    }
    needs
}

fn checks(report: &mut Report, privileged: &[String]) {
    let folders = [".", "govsandbox-ebpf"];
    report.check("format", || {
        folders
            .iter()
            .try_for_each(|folder| process::run(in_folder(folder)?.args(["fmt", "--all", "--check"])))
    });
    report.check("tidy", || tidy::run(&tidy::TidyArgs {}));
    report.check("deny", || deny::run(&deny::DenyArgs {}));
    report.check("kernel object", || ebpf::run(&ebpf::EbpfArgs { check: true }));
    let lints =
        |command: &mut Command| process::run(command.args(["--quiet", "--locked", "--", "-D", "warnings"]));
    report.check("clippy", || {
        lints(workspace::cargo()?.args(["clippy", "--workspace", "--all-targets"]))?;
        lints(in_folder("govsandbox-ebpf")?.args(["clippy", "--all-targets", "--features", "host"]))?;
        // `--all-targets` leaves out what has `test = false`.
        let mut command = workspace::cargo()?;
        command.args(["clippy", "--workspace"]);
        for name in privileged {
            command.args(["--test", name]);
        }
        lints(&mut command)
    });
    report.check("documentation", || {
        let build = ["doc", "--no-deps", "--locked", "--quiet"];
        process::run(workspace::cargo()?.args(build).arg("--workspace").env("RUSTDOCFLAGS", "-D warnings"))?;
        let mut command = in_folder("govsandbox-ebpf")?;
        process::run(
            command.args(build).args(["--lib", "--features", "host"]).env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
}

fn unit_tests(report: &mut Report, filter: Option<&str>) {
    let flags = ["test", "--quiet", "--locked", "--no-fail-fast"];
    report.tests("unit tests", || count(workspace::cargo()?.args(flags).arg("--workspace").args(filter)));
    report.tests("unit tests of the decision core", || {
        count(in_folder("govsandbox-ebpf")?.args(flags).args(["--features", "host"]).args(filter))
    });
}

fn privileged_tests(report: &mut Report, args: &TestArgs, names: &[String]) {
    let filter = args.filter.as_deref();
    let mut built = Vec::new();
    report.check("build of the privileged tests", || {
        if !install_tools::is_root()? {
            bail!("the privileged tests need root: call `cargo xtask test` as root");
        }
        if names.is_empty() {
            bail!("there is no privileged test");
        }
        for target in privileged::build(names)? {
            if filter.is_none() || target.has(filter)? {
                built.push(target);
            }
        }
        Ok(())
    });
    if !args.vm {
        for target in &built {
            report.tests(&format!("{}, natively", target.name), || target.run_natively(filter));
        }
    }
    if !args.native {
        for guest in &privileged::GUESTS {
            for target in built.iter().filter(|target| guest.takes(&target.name, args.vm)) {
                report.tests(&format!("{}, on {}", target.name, guest.name), || {
                    target.run_in(guest, filter, args.vm)
                });
            }
        }
    }
}

/// Cargo in one of the two workspaces; the kernel side's own builds go below the same target folder.
fn in_folder(folder: &str) -> Result<Command> {
    let mut command = workspace::cargo()?;
    if folder != "." {
        command.current_dir(workspace::root()?.join(folder));
        command.env("CARGO_TARGET_DIR", workspace::target()?.join("host"));
    }
    Ok(command)
}

/// Runs a command that prints as the test harness does, and counts.
fn count(command: &mut Command) -> Result<Counts> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).env("INSTA_UPDATE", "no");
    let mut child =
        command.spawn().with_context(|| format!("cannot start `{}`", process::describe(command)))?;
    let (mut tally, counter) = Tally::new(std::io::stdout());
    if let Some(mut stdout) = child.stdout.take() {
        std::io::copy(&mut stdout, &mut tally)?;
    }
    let status = child.wait()?;
    Ok(judge(counter.counts(), status.success(), &format!("`{}`: {status}", process::describe(command))))
}

/// A harness that failed without a failed test (it did not compile, it crashed) counts as one failure.
fn judge(mut counts: Counts, success: bool, how: &str) -> Counts {
    if !success && counts.failed == 0 {
        eprintln!("xtask: {how}");
        counts += Counts::failure(how);
    }
    counts
}

/// What the stages came to.
struct Report {
    stages: Vec<Stage>,
    /// Whether a stage may come out empty, because the tests were filtered.
    filtered: bool,
}

struct Stage {
    name: String,
    is_check: bool,
    counts: Counts,
    took: Duration,
}

impl Report {
    /// A stage that holds or not.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        self.stage(name, true, || check().map(|()| Counts { passed: 1, ..Counts::default() }));
    }

    /// A stage of tests: none at all is a failure, an ignored one too.
    fn tests(&mut self, name: &str, tests: impl FnOnce() -> Result<Counts>) {
        let filtered = self.filtered;
        self.stage(name, false, || {
            let mut counts = tests()?;
            if counts.passed + counts.failed == 0 && !filtered {
                bail!("ran no test");
            }
            if counts.ignored > 0 {
                let reason = format!("{} tests were ignored; none may be", counts.ignored);
                eprintln!("xtask: {reason}");
                counts.failed += counts.ignored;
                counts.said.push(reason);
            }
            Ok(counts)
        });
    }

    fn stage(&mut self, name: &str, is_check: bool, run: impl FnOnce() -> Result<Counts>) {
        println!("\n==> {name}");
        let start = Instant::now();
        let counts = run().unwrap_or_else(|error| {
            let reason = format!("{error:#}");
            eprintln!("xtask: {reason}");
            Counts::failure(&reason)
        });
        self.stages.push(Stage { name: name.to_owned(), is_check, counts, took: start.elapsed() });
    }

    /// Prints what failed once more, each stage with its time and, as the very last line, the sum.
    fn finish(&self) -> ExitCode {
        for Stage { name, counts, .. } in self.stages.iter().filter(|stage| stage.counts.failed > 0) {
            println!("\n{name} failed:\n{}", counts.said.join("\n"));
        }
        println!();
        let mut sum = Counts::default();
        for Stage { name, counts, took, .. } in &self.stages {
            let verdict = if counts.failed == 0 { "ok    " } else { "FAILED" };
            let (passed, failed) = (counts.passed, counts.failed);
            println!("{verdict} {:7.1} s {passed:5} passed {failed:3} failed  {name}", took.as_secs_f64());
            sum += counts.clone();
        }
        let tested = self.stages.iter().any(|stage| !stage.is_check && stage.counts != Counts::default());
        if !tested {
            eprintln!("xtask: no test ran at all");
        }
        println!("{} passed, {} failed", sum.passed, sum.failed);
        if sum.failed == 0 && tested { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report { stages: Vec::new(), filtered: false }
    }

    fn counts_of(report: &Report) -> (usize, usize) {
        report
            .stages
            .iter()
            .fold((0, 0), |sum, stage| (sum.0 + stage.counts.passed, sum.1 + stage.counts.failed))
    }

    #[test]
    fn checks_count_as_one_and_tests_as_they_are() {
        let mut report = report();
        report.check("good", || Ok(()));
        report.check("bad", || bail!("no"));
        report.tests("tests", || Ok(Counts { passed: 5, failed: 2, ..Counts::default() }));
        assert_eq!(counts_of(&report), (6, 3));
    }

    #[test]
    fn a_stage_without_a_test_fails_and_so_does_an_ignored_test() {
        let mut report = report();
        report.tests("empty", || Ok(Counts::default()));
        report.tests("lazy", || Ok(Counts { passed: 1, ignored: 1, ..Counts::default() }));
        assert_eq!(counts_of(&report), (1, 2));
    }

    #[test]
    fn a_harness_that_crashes_is_a_failure() {
        let crashed = count(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap();
        assert_eq!((crashed.passed, crashed.failed, crashed.ignored), (0, 1, 0));
        assert!(crashed.said[0].contains("signal: 9"), "{crashed:?}");
    }
}
