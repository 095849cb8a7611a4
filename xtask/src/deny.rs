//! `cargo xtask deny`: licences, banned and duplicate dependencies and their sources, by `deny.toml`, in both
//! workspaces. The database of advisories is left out: it lies on a server that a build must not need.

use std::process::Command;

use anyhow::Result;

use crate::{install_tools, process, workspace};

/// Check licences, bans and sources of all dependencies
#[derive(Debug, clap::Args)]
pub(crate) struct DenyArgs {}

/// Runs the task.
pub(crate) fn run(_: &DenyArgs) -> Result<()> {
    let root = workspace::root()?;
    let program = install_tools::cargo_deny()?.join("cargo-deny");
    for manifest in ["Cargo.toml", "govsandbox-ebpf/Cargo.toml"] {
        let mut command = Command::new(&program);
        command.args(["--log-level", "warn", "--locked", "--manifest-path"]).arg(root.join(manifest));
        command.arg("--config").arg(root.join("deny.toml")).args([
            "check",
            "--allow",
            "unmatched-skip",
            "bans",
            "licenses",
            "sources",
        ]);
        process::run(command.current_dir(&root))?;
    }
    println!("deny: dependencies and licences of both workspaces are in order");
    Ok(())
}
