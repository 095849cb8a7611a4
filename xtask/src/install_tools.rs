//! `cargo xtask install-tools`: what building the object, the virtual machine and the tests need.
//!
//! Each task asks for its own [`Need`]s by [`ensure`], so nobody has to call this one first. What is there
//! already costs a look at the file system and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Built against Debian's LLVM 22, the one that `rustc-web` uses.
const BPF_LINKER_VERSION: &str = "0.13.0";
const CARGO_DENY_VERSION: &str = "0.20.2";
const CLAUDE_VERSION: &str = "2.1.329";
/// SHA-256 of the `claude` executable for x86-64 Linux with glibc, of [`CLAUDE_VERSION`].
const CLAUDE_LINUX_X64_SHA256: &str = "30e2724e2aecb1bf5dc9f3130901afb71c5fa229051c190a6d7ad9aff6378d6d";

/// Install what building the kernel object, the virtual machine and the tests need
#[derive(Debug, clap::Args)]
#[command(after_help = "Debian packages need root; without it the command to type is printed.\n\
    Programs from crates.io go to ${XDG_CACHE_HOME:-~/.cache}/govsandbox/tools, Claude Code to target/claude.")]
pub(crate) struct InstallToolsArgs {
    /// Only these
    #[arg(value_enum, value_name = "NEED")]
    needs: Vec<Need>,
}

/// A task's reason to have something installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// Building the kernel object: a compiler for BPF, LLVM, bpf-linker
    Ebpf,
    /// Running a command on a kernel of its own: QEMU, virtiofsd
    Vm,
    /// Checking licences and dependencies: cargo-deny
    Deny,
    /// Fuzzing: libFuzzer is C++
    Fuzz,
    /// The pinned Claude Code
    Claude,
    /// What the integration tests start
    Tests,
}

impl Need {
    const ALL: [Self; 6] = [Self::Ebpf, Self::Vm, Self::Deny, Self::Fuzz, Self::Claude, Self::Tests];

    /// Debian's packages for it. One of the paths (or a program of the name in PATH) tells that it is there.
    fn packages(self) -> &'static [Package] {
        match self {
            Self::Ebpf => &[
                Package { name: "rustc-web", proof: &["/usr/bin/rustc"] },
                Package {
                    name: "libstd-rust-web-dev-bpf",
                    proof: &["/usr/lib/rustlib/bpfel-unknown-none/lib"],
                },
                Package { name: "llvm-22-dev", proof: &["/usr/lib/llvm-22/include/llvm-c/Core.h"] },
                Package { name: "llvm-22", proof: &["llvm-strip-22"] },
                Package { name: "g++", proof: &["g++"] },
            ],
            Self::Vm => &[
                Package { name: "qemu-system-x86", proof: &["qemu-system-x86_64"] },
                Package { name: VIRTIOFSD_PACKAGE, proof: &VIRTIOFSD },
                Package { name: "busybox-static", proof: &["busybox"] },
                Package { name: "kmod", proof: &["depmod"] },
                Package { name: "xz-utils", proof: &["xz"] },
                Package { name: "iproute2", proof: &["ip"] },
            ],
            Self::Tests => &[
                Package { name: "bindfs", proof: &["bindfs"] },
                Package { name: "btrfs-progs", proof: &["mkfs.btrfs"] },
                Package { name: "bubblewrap", proof: &["bwrap"] },
                Package { name: "curl", proof: &["curl"] },
                Package { name: "e2fsprogs", proof: &["mkfs.ext4"] },
                Package { name: "git", proof: &["git"] },
                Package { name: "iproute2", proof: &["ip"] },
                Package { name: "knot", proof: &["/usr/sbin/knotd"] },
                Package { name: "nginx-light", proof: &["/usr/sbin/nginx"] },
                Package { name: "openssl", proof: &["openssl"] },
                Package { name: "procps", proof: &["ps"] },
                Package { name: "python3-venv", proof: &["/usr/share/doc/python3-venv"] },
                Package { name: "squashfs-tools", proof: &["mksquashfs"] },
                Package { name: "vim-tiny", proof: &["vim", "vim.tiny"] },
                Package { name: "xfsprogs", proof: &["mkfs.xfs"] },
            ],
            Self::Fuzz => &[Package { name: "g++", proof: &["g++"] }],
            Self::Deny | Self::Claude => &[],
        }
    }
}

/// A Debian package and what shows that its content is there, whoever installed it.
struct Package {
    name: &'static str,
    proof: &'static [&'static str],
}

impl Package {
    fn is_there(&self) -> bool {
        self.proof.iter().any(|proof| match proof.starts_with('/') {
            true => Path::new(proof).exists(),
            false => process::find(proof).is_some(),
        })
    }
}

/// Where Debian has put virtiofsd: its own package from 13 on, QEMU's before that.
const VIRTIOFSD: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
/// Stands for `virtiofsd` where Debian has it, else for `qemu-system-common`.
const VIRTIOFSD_PACKAGE: &str = "virtiofsd";

/// Runs the task.
pub(crate) fn run(args: &InstallToolsArgs) -> Result<()> {
    let needs = if args.needs.is_empty() { Need::ALL.to_vec() } else { args.needs.clone() };
    ensure(&needs)?;
    println!("install-tools: all there");
    Ok(())
}

/// Installs what is missing for these needs, and says so.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    ensure_packages(needs)?;
    for need in needs {
        match need {
            Need::Ebpf => drop(bpf_linker()?),
            Need::Deny => drop(cargo_deny()?),
            Need::Claude => drop(claude()?),
            Need::Vm | Need::Fuzz | Need::Tests => {}
        }
    }
    Ok(())
}

/// The virtiofsd of this machine.
pub(crate) fn virtiofsd() -> Result<PathBuf> {
    VIRTIOFSD.map(PathBuf::from).into_iter().find(|path| path.is_file()).context("virtiofsd is not installed")
}

/// The folder with `bpf-linker` in it, installed if need be (about a minute on two cores).
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let flags = ["--no-default-features", "--features", "llvm-22"];
    cargo_install("bpf-linker", BPF_LINKER_VERSION, &flags, &[("LLVM_PREFIX", "/usr/lib/llvm-22")])
}

/// The folder with `cargo-deny` in it, installed if need be. Unoptimised: it runs for a second, and that way it
/// compiles in one minute instead of five.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_install("cargo-deny", CARGO_DENY_VERSION, &["--debug", "--config", "profile.dev.debug=false"], &[])
}

/// The pinned Claude Code's executable in `target/claude`, installed by npm if need be and checked by its hash.
pub(crate) fn claude() -> Result<PathBuf> {
    let folder = workspace::root()?.join("target/claude");
    let binary = folder.join("node_modules/@anthropic-ai/claude-code-linux-x64/claude");
    // Written only after the hash was checked, so that 400 MB are not read at every start of a task.
    let checked = folder.join("checked");
    if fs::read_to_string(&checked).is_ok_and(|hash| hash == CLAUDE_LINUX_X64_SHA256) && binary.is_file() {
        return Ok(binary);
    }
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the pinned Claude Code is for x86-64 only");
    }
    if process::find("npm").is_none() {
        bail!("npm is missing: install Node.js with npm, then call this again");
    }
    println!("install-tools: Claude Code {CLAUDE_VERSION} from npm into target/claude");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let package = format!("@anthropic-ai/claude-code@{CLAUDE_VERSION}");
    process::run(
        Command::new("npm")
            .args([
                "install",
                "--no-save",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--silent",
                "--prefix",
            ])
            .arg(&folder)
            .arg(&package),
    )?;
    let hash = file_sha256(&binary)?;
    if hash != CLAUDE_LINUX_X64_SHA256 {
        bail!("{} has SHA-256 {hash}, not the pinned {CLAUDE_LINUX_X64_SHA256}: not used", binary.display());
    }
    fs::write(&checked, hash).with_context(|| format!("cannot write {}", checked.display()))?;
    Ok(binary)
}

/// SHA-256 of a file that may be large. Source: coreutils' `sha256sum`, which is several times faster than an
/// unoptimised build of our own.
fn file_sha256(file: &Path) -> Result<String> {
    let line = process::read(Command::new("sha256sum").arg("--").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

/// Installs a program from crates.io into the cache and gives the folder that holds it.
fn cargo_install(name: &str, version: &str, flags: &[&str], environment: &[(&str, &str)]) -> Result<PathBuf> {
    let root = workspace::cache("tools")?;
    let folder = root.join("bin");
    let is_there = process::read(Command::new(folder.join(name)).arg("--version"))
        .is_ok_and(|said| said.trim() == format!("{name} {version}"));
    if is_there {
        return Ok(folder);
    }
    println!("install-tools: {name} {version} from crates.io into {}", root.display());
    let mut command = Command::new("cargo");
    command.args(["install", "--quiet", "--locked", "--force", "--root"]).arg(&root).args(flags);
    command.arg(format!("{name}@{version}"));
    for variable in ["RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_BOOTSTRAP"] {
        command.env_remove(variable);
    }
    process::run(command.envs(environment.iter().copied()).current_dir(&root))?;
    Ok(folder)
}

/// Installs the Debian packages that these needs miss, in one call of `apt-get`.
fn ensure_packages(needs: &[Need]) -> Result<()> {
    let packages = needs.iter().flat_map(|need| need.packages());
    let mut missing: Vec<&str> =
        packages.filter(|package| !package.is_there()).map(|package| package.name).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if process::find("apt-get").is_none() {
        bail!("this machine has no apt-get; missing are the equivalents of Debian's: {}", missing.join(" "));
    }
    if !is_root()? {
        let missing = missing.join(" ");
        bail!(
            "Debian packages are missing; type:\n  sudo apt-get update && sudo apt-get install --no-install-recommends {missing}"
        );
    }
    println!("install-tools: {} from Debian", missing.join(" "));
    process::run(apt_get().arg("update"))?;
    let known = |package: &str| process::read(Command::new("apt-cache").args(["show", package])).is_ok();
    for name in &mut missing {
        if *name == VIRTIOFSD_PACKAGE && !known(VIRTIOFSD_PACKAGE) {
            *name = "qemu-system-common";
        }
    }
    process::run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))
}

/// `apt-get` that asks nothing, says little and waits for another one to finish.
pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"]);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(process::read(Command::new("id").arg("-u"))?.trim() == "0")
}
