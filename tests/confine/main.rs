//! What confines the command, through the library alone: no eBPF. Needs root. Each test is a process of its own, so
//! that the supervisor in it has one thread and may be killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test target without the standard harness"
)]

mod bed;
mod end;
mod fanotify;
mod performed;
mod privilege;
mod start;
mod work;

use std::process::{Command, ExitCode};

type Test = (&'static str, fn());

fn tests() -> Vec<Test> {
    [privilege::TESTS, end::TESTS, start::TESTS, fanotify::TESTS, performed::TESTS, work::TESTS].concat()
}

/// Leaves out what tests the performer, which a backend with hooks in the kernel has no use for.
const WITH_HOOKS: &str = "--with-hooks";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = arguments.as_slice()
        && flag == "--one"
    {
        let (_, run) = *tests().iter().find(|(found, _)| found == name).expect("a test of that name");
        run();
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|one| !one.starts_with("--")).collect();
    let with_hooks = arguments.iter().any(|one| one == WITH_HOOKS);
    let is_left_out = |name: &str| with_hooks && performed::TESTS.iter().any(|(own, _)| *own == name);
    let chosen: Vec<Test> = tests()
        .into_iter()
        .filter(|(name, _)| !is_left_out(name))
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(*part)))
        .collect();
    if arguments.iter().any(|one| one == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "the tests of `confine` need root");
    let mut failed = Vec::new();
    for (name, _) in &chosen {
        let output = Command::new(std::env::current_exe().unwrap()).args(["--one", name]).output().unwrap();
        println!("test {name} ... {}", if output.status.success() { "ok" } else { "FAILED" });
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter(|line| line.starts_with("measured:")).for_each(|line| println!("     {line}"));
        if !output.status.success() {
            println!("{text}{}", String::from_utf8_lossy(&output.stderr));
            failed.push(*name);
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {} failed", chosen.len() - failed.len(), failed.len());
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
