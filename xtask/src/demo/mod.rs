//! `cargo xtask demo`: a real agent in the sandbox, without an account and without a network.
//!
//! The task builds the command and installs the pinned Claude Code; then it starts itself again in a network namespace
//! of its own, where the agent meets a model that follows [`script`], and shows what came of it.

mod script;
mod show;
mod stage;

#[path = "../../../tests/bed/model.rs"]
mod model;

use std::{
    io::IsTerminal,
    net::TcpListener,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{install_tools, process, workspace};
use model::Model;
use stage::Stage;

/// Run the pinned Claude Code in the sandbox against a scripted model, and show what it did
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs root, for the sandbox and for a network namespace with no way out; npm, once, for Claude Code."
)]
pub(crate) struct DemoArgs {
    /// Leave the demo's project and home folder in place
    #[arg(long)]
    keep: bool,
    /// Started by the task itself, in a network of its own: the command and the agent
    #[arg(long, hide = true, num_args = 2, value_names = ["GOVSANDBOX", "CLAUDE"])]
    inside: Option<Vec<PathBuf>>,
}

/// Runs the task. The status is 0 when all that had to be refused was refused, and the rest went through.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    match args.inside.as_deref() {
        Some([govsandbox, claude]) => play(govsandbox.clone(), claude.clone(), args.keep),
        _ => prepare(args.keep),
    }
}

/// What needs the machine's own network: the build and npm.
fn prepare(keep: bool) -> Result<ExitCode> {
    if !install_tools::is_root()? {
        bail!("the sandbox needs root; type:\n  sudo -E env PATH=\"$PATH\" cargo xtask demo");
    }
    println!("Building govsandbox …");
    let root = workspace::root()?;
    process::run(
        Command::new("cargo").args(["build", "--quiet", "--package", "govsandbox"]).current_dir(&root),
    )?;
    let claude = install_tools::claude()?;
    let mut inside = Command::new("unshare");
    inside.arg("--net").arg(std::env::current_exe()?).args(["demo", "--inside"]);
    inside.arg(workspace::target()?.join("debug/govsandbox")).arg(claude);
    if keep {
        inside.arg("--keep");
    }
    let status = inside.status().context("cannot start `unshare`: install util-linux")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1).into())
}

/// The play itself, in a network that has nothing but its own loopback.
fn play(govsandbox: PathBuf, claude: PathBuf, keep: bool) -> Result<ExitCode> {
    process::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let stage = Stage::build(&claude, keep)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let model = Model::serve(listener, script::turns(&stage)).context("cannot start the model")?;
    let style = show::Style::new(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    show::opening(style);
    let output = stage
        .command(&govsandbox, model.address)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", govsandbox.display()))?;
    let told = model.told();
    if told.len() != script::STEPS.len() {
        bail!(
            "the agent made {} of {} calls and ended with {}\n{}{}",
            told.len(),
            script::STEPS.len(),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
        );
    }
    let leaked = model.heard(script::SECRET);
    let log = show::Log::read(&stage.log)?;
    show::calls(style, &told, &stage);
    show::refusals(style, &log, &stage);
    show::ending(style, &log, &stage, leaked);
    let as_meant = told.iter().zip(script::STEPS).all(|(told, step)| told.is_error == step.refused);
    Ok(if as_meant && !leaked && output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
