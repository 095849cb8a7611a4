//! Tasks of the project's developers: `cargo xtask TASK`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod demo;
mod deny;
mod ebpf;
mod escape;
mod fuzz;
mod install_tools;
mod process;
mod test;
mod tidy;
mod vm;
mod workspace;

/// Tasks of govsandbox's developers
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::BenchArgs),
    #[command(hide = true)]
    BenchWorker(bench::worker::WorkerArgs),
    Demo(demo::DemoArgs),
    Deny(deny::DenyArgs),
    Ebpf(ebpf::EbpfArgs),
    Escape(escape::EscapeArgs),
    Fuzz(fuzz::FuzzArgs),
    InstallTools(install_tools::InstallToolsArgs),
    Test(test::TestArgs),
    Tidy(tidy::TidyArgs),
    Vm(vm::VmArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Task::BenchWorker(args) => bench::worker::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Demo(args) => demo::run(&args),
        Task::Deny(args) => deny::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Ebpf(args) => ebpf::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Escape(args) => escape::run(&args),
        Task::Fuzz(args) => fuzz::run(&args).map(|()| ExitCode::SUCCESS),
        Task::InstallTools(args) => install_tools::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Test(args) => test::run(&args),
        Task::Tidy(args) => tidy::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Vm(args) => vm::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
