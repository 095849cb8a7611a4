//! `cargo xtask escape`: the project's own corpus of attempts to escape, on every backend and kernel.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::install_tools::{self, Need};
use crate::test::{self, Places};
use crate::{process, workspace};

/// The test target that holds the corpus.
const TARGET: &str = "escape";
/// What stands around the table in docs/security.md.
const MARKS: (&str, &str) = ("<!-- escape: begin -->\n", "<!-- escape: end -->");

/// Try to get out: each attempt outside (where it must succeed) and inside (where it must not), counted by class
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints a table for each kernel. Exit status: 0 when every attempt came out as docs/security.md says, else 1."
)]
pub(crate) struct EscapeArgs {
    /// Only on this machine's kernel
    #[arg(long, conflicts_with_all = ["vm", "kernel"])]
    native: bool,
    /// Only in the virtual machines
    #[arg(long)]
    vm: bool,
    /// Only in the machine of this name, or whose name contains it: `6.1`, `6.12`, `without`
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Run nothing: write the table of the corpus into docs/security.md
    #[arg(long)]
    table: bool,
    /// Only attempts whose name contains this
    filter: Option<String>,
}

/// Runs the task.
pub(crate) fn run(args: &EscapeArgs) -> Result<ExitCode> {
    if args.table {
        return write_table().map(|()| ExitCode::SUCCESS);
    }
    let vm = !args.native;
    let needs = if vm { vec![Need::Tests, Need::Vm] } else { vec![Need::Tests] };
    install_tools::ensure(&needs)?;
    let places = Places { native: !args.vm && args.kernel.is_none(), vm, kernel: args.kernel.as_deref() };
    test::run_target(TARGET, &places, args.filter.as_deref())
}

fn write_table() -> Result<()> {
    let table = process::read(Command::new(test::executable(TARGET)?).arg("--table"))?;
    let path = workspace::root()?.join("docs/security.md");
    let text = std::fs::read_to_string(&path)?;
    let parts =
        text.split_once(MARKS.0).and_then(|(before, rest)| Some((before, rest.split_once(MARKS.1)?.1)));
    let (before, after) = parts.with_context(|| format!("{} has lost its marks", path.display()))?;
    let (begin, end) = MARKS;
    std::fs::write(&path, format!("{before}{begin}{table}{end}{after}"))?;
    println!("escape: the table in docs/security.md is that of the corpus");
    Ok(())
}
