//! `govsandbox run`.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use crate::{
    policy::compile::Mode,
    supervisor::{self, RunOptions},
};

/// Run a command inside limits that the kernel enforces, and record what it does
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: the command's own; 128+n when signal n ended it; 125 when govsandbox failed (usage, \
                  bad policy, missing layer; the command was not started), 126 when the command can't be executed or \
                  was denied, 127 when there is no such command.",
    override_usage = "govsandbox run [OPTIONS] [--] COMMAND [ARGS]..."
)]
pub struct RunArgs {
    /// Policy: a profile's name, or a file's path (with a slash); repeat to join several. Default: the profile of the
    /// command's name, else `default`
    #[arg(short, long = "policy", value_name = "POLICY")]
    policies: Vec<String>,
    /// The project, `{project}` in policies. Default: the nearest folder above with `.git`, else this one
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// `audit` refuses nothing and records what would have been refused
    #[arg(long)]
    mode: Option<ModeArg>,
    /// The record; the policy's `audit.log` otherwise
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Put this into every event; repeat for more
    #[arg(long = "tag", value_name = "K=V", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
    /// Run the command as this user (name or uid). Default: whoever called sudo
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments; options end here
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ModeArg {
    Enforce,
    Audit,
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is KEY=VALUE".to_owned()),
    }
}

impl RunArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When the sandbox can't be set up: the command was not started.
    pub fn run(&self) -> miette::Result<u8> {
        supervisor::run(&RunOptions {
            policies: self.policies.clone(),
            project: self.project.clone(),
            mode: self.mode.map(|mode| match mode {
                ModeArg::Enforce => Mode::Enforce,
                ModeArg::Audit => Mode::Audit,
            }),
            audit_log: self.audit_log.clone(),
            tags: self.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
            user: self.user.clone(),
            quiet: self.quiet,
            command: self.command.clone(),
        })
    }
}
