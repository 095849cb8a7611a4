//! `completions` and `man`: made from the definition of the command line itself.

use std::io::{self, Write};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use super::output::CannotWrite;
use crate::diagnostic::Status;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "For bash: govsandbox completions bash > /etc/bash_completion.d/govsandbox")]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Print the manual pages
#[derive(Debug, clap::Args)]
#[command(after_help = "To read them: govsandbox man | man -l -")]
pub struct ManArgs {}

impl CompletionsArgs {
    /// Runs the subcommand. Data goes to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        // The generator has no way to say that writing failed.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "govsandbox", &mut text);
        finish(out.write_all(&text))
    }
}

impl ManArgs {
    /// Runs the subcommand: one page for the command and one for each subcommand, one after the other.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn run(&self, out: &mut dyn Write) -> miette::Result<Status> {
        let mut command = Cli::command();
        command.build();
        finish(write_pages(out, &command))
    }
}

fn write_pages(out: &mut dyn Write, command: &clap::Command) -> io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(out)?;
    let visible = command.get_subcommands().filter(|it| it.get_name() != "help" && !it.is_hide_set());
    visible.into_iter().try_for_each(|subcommand| write_pages(out, subcommand))
}

fn finish(written: io::Result<()>) -> miette::Result<Status> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CannotWrite(error).into()),
        Ok(()) | Err(_) => Ok(Status::Success),
    }
}
