//! `cargo xtask bench`: what the sandbox costs, bare and sandboxed side by side.
//!
//! Every round measures each variant once, in turn, and changes the order from round to round; what is reported are
//! medians over rounds of the ratio within a round, so that a machine that is busy for a while disturbs both sides.
//! In the virtual machine with `--icount` a nanosecond is an instruction, and the numbers come out the same everywhere.

mod egress;
mod spread;
pub(crate) mod worker;

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::install_tools::{self, Need};
use crate::vm::Machine;
use crate::{process, workspace};
use spread::Spread;
use worker::Operation;

/// Measure what the sandbox costs: open, exec, connect and start-up, bare against sandboxed
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Rounds natively; each measures everything once
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: u32,
    /// Only on this machine's kernel
    #[arg(long, conflicts_with = "vm")]
    native: bool,
    /// Only in the virtual machine
    #[arg(long)]
    vm: bool,
    /// Kernel series in the virtual machine
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Of what is measured only this: open, exec, connect, start-up, memory or egress (natively)
    #[arg(long, value_name = "WHAT")]
    only: Option<String>,
    /// Measure here, with what is built already, and call the unit so (what `bench` runs in the machine)
    #[arg(long, value_name = "UNIT", hide = true)]
    here: Option<String>,
}

/// Rounds in the machine: its numbers don't vary, two tell whether that is so.
const GUEST_ROUNDS: u32 = 2;
/// Until what the guest's kernel still does after its boot is done.
const GUEST_SETTLES: Duration = Duration::from_secs(3);
/// Folders between the root of the scratch file system and the file that is opened.
const DEPTH: usize = 8;

/// How a command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    name: &'static str,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No program of ours is loaded.
    Bare,
    /// They are loaded, for others.
    Outside,
    /// In a sandbox.
    Inside(Terms),
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    /// `mode`; `audit` is hooks alone, without Landlock, seccomp and mounts.
    mode: &'static str,
    /// `trace.opens`.
    opens: &'static str,
    /// Rules on files besides those of [`policy`].
    more_rules: u32,
    /// Rules by patterns besides those.
    more_patterns: u32,
}

const VARIANTS: [Variant; 8] = [
    Variant { name: "bare", place: Place::Bare },
    Variant { name: "outside", place: Place::Outside },
    Variant { name: "hooks", place: Place::Inside(HOOKS) },
    Variant { name: "hooks-10k", place: Place::Inside(Terms { more_rules: 9_990, ..HOOKS }) },
    Variant { name: "hooks-globs", place: Place::Inside(Terms { more_patterns: 9_990, ..HOOKS }) },
    Variant { name: "enforced", place: Place::Inside(ENFORCED) },
    Variant { name: "enforced-10k", place: Place::Inside(Terms { more_rules: 9_990, ..ENFORCED }) },
    Variant { name: "traced", place: Place::Inside(Terms { opens: "all", ..ENFORCED }) },
];

const HOOKS: Terms = Terms { mode: "audit", ..ENFORCED };
const ENFORCED: Terms = Terms { mode: "enforce", opens: "denied", more_rules: 0, more_patterns: 0 };

/// What is measured: a worker's operation and how often, natively and where instructions are counted.
const OPERATIONS: [(Operation, u64, u64); 3] =
    [(Operation::Open, 10_000, 2_000), (Operation::Exec, 50, 10), (Operation::Connect, 1_000, 200)];

/// Runs the task.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let only_egress = args.only.as_deref() == Some("egress");
    if let Some(unit) = &args.here {
        return if only_egress { egress::measure(args.rounds) } else { measure(args, args.rounds, unit) };
    }
    if only_egress && args.vm {
        bail!("egress is measured natively: its clients and servers need more than one processor");
    }
    install_tools::ensure(&[Need::Vm])?;
    let mut build = workspace::cargo()?;
    process::run(build.args(["build", "--release", "--quiet", "--locked", "--workspace", "--bins"]))?;
    if !args.vm {
        if !only_egress {
            measure(args, args.rounds, "ns")?;
        }
        if only_egress || args.only.is_none() {
            install_tools::ensure(&[Need::Tests])?;
            egress::run(args.rounds)?;
        }
    }
    if !args.native && !only_egress {
        let mut machine = Machine::new(&args.kernel);
        machine.icount = true;
        machine.timeout = Duration::from_secs(2400);
        let rounds = GUEST_ROUNDS.to_string();
        let program = program("xtask")?.to_string_lossy().into_owned();
        let mut command = vec![program.as_str(), "bench", "--here", "instructions", "--rounds", &rounds];
        command.extend(args.only.iter().flat_map(|what| ["--only", what]));
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        let status = machine.run(&command)?;
        if status != 0 {
            bail!("the measurement in the virtual machine ended with status {status}");
        }
    }
    Ok(())
}

fn measure(args: &BenchArgs, rounds: u32, unit: &str) -> Result<()> {
    let wanted = |what: &str| args.only.as_deref().is_none_or(|only| only == what);
    let bed = Bed::new()?;
    if unit != "ns" {
        thread::sleep(GUEST_SETTLES);
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("kernel {}, {rounds} rounds, {unit}; quartiles in brackets", kernel.trim());
    println!("{:<10} {:<12} {:>12} {:>26} {:>34}", "what", "variant", "each", "× bare", "more than bare");
    for (operation, native_count, counted_count) in OPERATIONS {
        if !wanted(operation.name()) {
            continue;
        }
        let count = if unit == "ns" { native_count } else { counted_count };
        let measured = bed.rounds(rounds, |bed, variant| bed.operation(variant, operation, count))?;
        print(operation.name(), &measured);
    }
    if wanted("start-up") {
        print("start-up", &bed.rounds(rounds, Bed::start_up)?);
    }
    if wanted("memory") {
        for variant in VARIANTS.iter().filter(|variant| matches!(variant.place, Place::Inside(_))) {
            let peak = bed.supervisor_peak_kib(*variant)?;
            println!("memory     {:<12} {peak:>12} KiB at most, after 20,000 opens", variant.name);
        }
    }
    Ok(())
}

/// Numbers of each variant, in the order of [`VARIANTS`], one per round.
type Measured = [Vec<f64>; VARIANTS.len()];

fn print(what: &str, measured: &Measured) {
    let [bare, ..] = measured;
    for (variant, numbers) in VARIANTS.iter().zip(measured) {
        print_row(what, variant.name, numbers, Some(&**bare).filter(|_| variant.place != Place::Bare));
    }
}

/// `bare`: what the numbers are compared with, one for each of them.
fn print_row(what: &str, variant: &str, numbers: &[f64], bare: Option<&[f64]>) {
    let Some(each) = Spread::of(numbers) else { return };
    let ratio = bare.and_then(|bare| Spread::of_ratios(bare, numbers));
    let more = bare.and_then(|bare| Spread::of_differences(bare, numbers));
    let ratio = ratio.map(|s| format!("{:.3} [{:.3}–{:.3}]", s.median, s.low, s.high)).unwrap_or_default();
    let more = more.map(|s| format!("{:+.0} [{:+.0}…{:+.0}]", s.median, s.low, s.high)).unwrap_or_default();
    println!("{what:<10} {variant:<12} {:>12.0} {ratio:>26} {more:>34}", each.median);
}

/// Files and policies of one measurement, in memory, gone with the value.
struct Bed {
    folder: tempfile::TempDir,
    file: PathBuf,
    govsandbox: PathBuf,
    worker: PathBuf,
    /// A static program that does nothing.
    nothing: PathBuf,
    /// Our programs are in the kernel.
    loaded: Cell<bool>,
}

impl Bed {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("govsandbox-bench.").tempdir_in("/dev/shm")?;
        let mut file = folder.path().to_path_buf();
        file.extend((1..DEPTH).map(|level| format!("level{level}")));
        fs::create_dir_all(&file)?;
        file.push("measured.txt");
        fs::write(&file, "measured\n")?;
        let named = folder.path().join("named");
        fs::create_dir(&named)?;
        for variant in VARIANTS {
            let Place::Inside(terms) = variant.place else { continue };
            let more: Vec<PathBuf> =
                (0..terms.more_rules).map(|rule| named.join(format!("{rule}.key"))).collect();
            for file in &more {
                fs::write(file, "")?;
            }
            fs::write(
                folder.path().join(format!("{}.toml", variant.name)),
                policy(variant.name, terms, &more),
            )?;
        }
        // In memory too, so that the machine never waits for its file system; `true` is a static one.
        let copy = |from: PathBuf, name: &str| {
            let to = folder.path().join(name);
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            anyhow::Ok(to)
        };
        let worker = copy(program("xtask")?, "worker")?;
        let govsandbox = copy(program("govsandbox")?, "govsandbox")?;
        let nothing = copy(process::find("busybox").context("busybox is missing")?, "true")?;
        Ok(Self { folder, file, govsandbox, worker, nothing, loaded: Cell::new(true) })
    }

    /// Measures every variant once per round, each round in another order.
    fn rounds(
        &self,
        rounds: u32,
        mut measure: impl FnMut(&Self, Variant) -> Result<f64>,
    ) -> Result<Measured> {
        let mut measured: [Vec<f64>; VARIANTS.len()] = Default::default();
        for round in 0..rounds as usize {
            let mut order: Vec<_> = VARIANTS.iter().zip(&mut measured).collect();
            let turn = round % order.len();
            order.rotate_left(turn);
            for (variant, numbers) in order {
                self.load_for(*variant)?;
                numbers.push(measure(self, *variant).with_context(|| format!("variant `{}`", variant.name))?);
            }
        }
        Ok(measured)
    }

    /// Takes our programs out of the kernel for what is bare, and has them there, pinned, for all else.
    fn load_for(&self, variant: Variant) -> Result<()> {
        let wanted = variant.place != Place::Bare;
        if self.loaded.replace(wanted) != wanted {
            let [.., sandboxed] = VARIANTS;
            let mut command =
                if wanted { self.command(sandboxed, &self.nothing) } else { Command::new(&self.govsandbox) };
            process::read(if wanted { &mut command } else { command.arg("unload") })?;
        }
        Ok(())
    }

    /// Nanoseconds of one repetition inside the loop of a worker.
    #[expect(clippy::cast_precision_loss, reason = "counts and times far below 2^52")]
    fn operation(&self, variant: Variant, operation: Operation, count: u64) -> Result<f64> {
        let mut command = self.command(variant, &self.worker);
        let file = if operation == Operation::Exec { &self.nothing } else { &self.file };
        command.args(["bench-worker", operation.name(), &count.to_string(), "--file"]).arg(file);
        let said = process::read(&mut command)?;
        let took: u64 = said.trim().parse().with_context(|| format!("the worker said `{}`", said.trim()))?;
        Ok(took as f64 / count as f64)
    }

    /// Nanoseconds from the start of a command that does nothing to its end.
    fn start_up(&self, variant: Variant) -> Result<f64> {
        let mut command = self.command(variant, &self.nothing);
        let start = Instant::now();
        process::read(&mut command)?;
        Ok(start.elapsed().as_secs_f64() * 1e9)
    }

    /// Peak resident memory of the supervisor, in KiB, after opens that were recorded if the policy says so. Source: `VmHWM`.
    fn supervisor_peak_kib(&self, variant: Variant) -> Result<u64> {
        self.load_for(variant)?;
        let mut command = self.command(variant, &self.worker);
        command.args(["bench-worker", "open", "5000", "--wait", "--file"]).arg(&self.file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let peak = peak_kib(&mut child);
        drop(child.stdin.take()); // lets the worker end
        child.wait()?;
        peak
    }

    fn command(&self, variant: Variant, program: &Path) -> Command {
        if !matches!(variant.place, Place::Inside(_)) {
            return Command::new(program);
        }
        let mut command = Command::new(&self.govsandbox);
        command
            .args(["run", "--quiet", "--policy"])
            .arg(self.folder.path().join(format!("{}.toml", variant.name)));
        command.arg("--audit-log").arg(self.folder.path().join(format!("{}.jsonl", variant.name)));
        command.arg("--").arg(program);
        command
    }
}

/// Waits for the worker's line, then reads what the process above it needed at most.
fn peak_kib(child: &mut Child) -> Result<u64> {
    let stdout = child.stdout.take().context("no pipe from the worker")?;
    BufReader::new(stdout).read_line(&mut String::new())?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

/// A policy with ten rules that never match what is measured, and one for each of `more`.
fn policy(name: &str, terms: Terms, more: &[PathBuf]) -> String {
    let Terms { mode, opens, more_patterns, .. } = terms;
    // Names at any depth and patterns over two components, which begin as the measured file does.
    let patterns = (0..more_patterns).map(|number| match number % 2 {
        0 => format!("**/measured{number:04}.key"),
        _ => format!("**/level-{number:04}*/x?.{{pem,p12}}"),
    });
    let more = more.iter().map(|file| file.display().to_string()).chain(patterns);
    let more: String = more.map(|rule| format!(", \"{rule}\"")).collect();
    format!(
        "version = 1\nname = \"bench-{name}\"\nrequire = \"root\"\nmode = \"{mode}\"\n\n\
        [filesystem]\nread = [\"/\"]\nwrite = []\n\
        deny = [\"/etc/shadow\", \"/etc/gshadow\", \"**/.env\", \"**/.env.*\", \"**/*.pem\", \"**/secrets/**\"{more}]\n\
        protect = [\"**/.git/hooks\", \"**/.mcp.json\", \"/etc/passwd\", \"/etc/group\"]\n\n\
        [network]\nallow = [\"localhost\"]\nlisten = [\"localhost\"]\n\n\
        [trace]\nopens = \"{opens}\"\n"
    )
}

fn program(name: &str) -> Result<PathBuf> {
    // Inside the machine the variables of cargo may be missing; the programs lie beside each other.
    let beside = std::env::current_exe()?.with_file_name(name);
    let built = workspace::target()?.join("release").join(name);
    [built, beside].into_iter().find(|path| path.is_file()).with_context(|| format!("{name} is not built"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_its_rules_and_ratios_are_taken_to_what_is_bare() {
        let policy = policy("traced", Terms { opens: "all", ..ENFORCED }, &[PathBuf::from("/named/1.key")]);
        assert!(policy.contains("opens = \"all\"") && policy.contains("bench-traced"), "{policy}");
        assert!(policy.contains(", \"/named/1.key\"]"), "{policy}");
        assert_eq!(VARIANTS[0].place, Place::Bare);
    }
}
