//! `cargo xtask vm`: a command on a real Debian kernel of its own, over this machine's file system.
//!
//! QEMU emulates the processor in software, so it runs where there is no hardware to help, and every BPF program
//! type loads there. The guest sees the file system read-only, with a throw-away layer on top.

mod guest;
mod initramfs;
mod kernel;

pub(crate) use self::guest::NotBooted;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::install_tools::{self, Need};

/// Run a command on a Debian kernel in a virtual machine
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The working directory and PATH, HOME, USER, TERM, LANG, CI, CARGO*, RUST*, GOV*, INSTA*, PROPTEST* come along; \
    standard input is empty, there is no terminal. The command runs as root; what it writes is thrown away, \
    except below /out. Neither bpffs nor tracefs is mounted.\n\
    Exit status: the command's own, 124 after the time limit, 125 when the machine itself fails."
)]
pub(crate) struct VmArgs {
    /// Series of Debian's cloud kernel
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Kernel arguments to add, such as `lsm=landlock,lockdown,yama,apparmor` for a kernel without BPF LSM
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Memory, in MiB
    #[arg(long, value_name = "M", default_value_t = 3072)]
    memory_mib: u32,
    /// Stop after this many seconds
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
    /// Count instructions: one processor whose clock advances 1 ns for each, so that a time is a count
    #[arg(long)]
    icount: bool,
    /// A folder of this machine that the guest sees read-write as /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Set a variable for the command; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A machine to be started: what [`VmArgs`] says, for other tasks too.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Series of Debian's cloud kernel.
    pub(crate) series: String,
    /// Kernel arguments to add.
    pub(crate) append: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) timeout: Duration,
    /// The guest's nanoseconds are instructions.
    pub(crate) icount: bool,
    /// Seen read-write as /out.
    pub(crate) out: Option<PathBuf>,
    /// Set for the command, beside what comes along.
    pub(crate) environment: Vec<(String, String)>,
    /// Where the command starts; the caller's working directory if none.
    pub(crate) folder: Option<PathBuf>,
}

impl Machine {
    /// A machine with that kernel and the ordinary sizes.
    pub(crate) fn new(series: &str) -> Self {
        Self {
            series: series.to_owned(),
            append: String::new(),
            cpus: 2,
            memory_mib: 3072,
            timeout: Duration::from_secs(300),
            icount: false,
            out: None,
            environment: Vec::new(),
            folder: None,
        }
    }

    /// Runs the command there with its output on ours, and gives its exit status.
    pub(crate) fn run(&self, command: &[String]) -> Result<u8> {
        self.run_with(command, Box::new(std::io::stdout()), Box::new(std::io::stderr()))
    }

    /// As [`Machine::run`], with the two outputs copied to where the caller says.
    pub(crate) fn run_with(
        &self,
        command: &[String],
        stdout: guest::Sink,
        stderr: guest::Sink,
    ) -> Result<u8> {
        install_tools::ensure(&[Need::Vm])?;
        if !install_tools::is_root()? {
            bail!("the machine's file system can only be shared by root: call this as root");
        }
        let kernel = kernel::find(&self.series)?;
        guest::run(self, &kernel, command, stdout, stderr)
    }
}

/// Runs the task.
pub(crate) fn run(args: VmArgs) -> Result<ExitCode> {
    let mut machine = Machine {
        append: args.append,
        cpus: args.cpus,
        memory_mib: args.memory_mib,
        timeout: Duration::from_secs(args.timeout),
        icount: args.icount,
        out: args.out,
        ..Machine::new(&args.kernel)
    };
    for variable in &args.env {
        let Some((name, value)) = variable.split_once('=') else {
            bail!("--env wants NAME=VALUE, not `{variable}`")
        };
        machine.environment.push((name.to_owned(), value.to_owned()));
    }
    Ok(machine.run(&args.command).map_or_else(
        |error| {
            eprintln!("vm: {error:#}");
            ExitCode::from(guest::FAILED)
        },
        ExitCode::from,
    ))
}
