//! `cargo xtask ebpf`: the kernel object that the repository carries, and the proof that it is what its sources say.
//!
//! The object comes out the same, byte for byte, in any folder on any machine with the same tools, because
//! - paths of the workspace and of the registry are remapped,
//! - `/usr/src/rustc-*` is hidden during the build (LLVM copies source lines into `.BTF.ext` where it finds them),
//! - nothing of the caller's environment or of the host's dependencies takes part.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::install_tools::{self, Need};
use crate::{process, workspace};

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "govsandbox-bpf";
const COMPILER: &str = "/usr/bin/rustc";
const STRIP: &str = "llvm-strip-22";
/// Where Debian puts the source of `core` that its compiler refers to.
const COMPILER_SOURCES: &str = "/usr/src";
const OBJECT: &str = "prebuilt/govsandbox.bpf.o";
const RECORD: &str = "prebuilt/govsandbox.bpf.json";

/// Build the kernel object and its record
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Commit both files of govsandbox-ebpf/prebuilt together with the sources that changed them."
)]
pub(crate) struct EbpfArgs {
    /// Change nothing: rebuild and compare with what is committed, byte for byte
    #[arg(long)]
    pub(crate) check: bool,
}

/// What is said of an object beside it, in `govsandbox.bpf.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// SHA-256 of the object.
    object_sha256: String,
    /// SHA-256 over the names and contents of everything that the object is made of. Tells a stale object without
    /// a compiler.
    sources_sha256: String,
    /// First line of what each tool prints as its version.
    tools: BTreeMap<String, String>,
}

/// Runs the task.
pub(crate) fn run(args: &EbpfArgs) -> Result<()> {
    let crate_folder = workspace::root()?.join("govsandbox-ebpf");
    let built = build(&crate_folder)?;
    if args.check {
        return check(&crate_folder, &built);
    }
    fs::create_dir_all(crate_folder.join("prebuilt"))?;
    let record = format!("{}\n", serde_json::to_string_pretty(&built.record)?);
    write(&crate_folder.join(OBJECT), &built.object)?;
    write(&crate_folder.join(RECORD), record.as_bytes())?;
    println!("govsandbox-ebpf/{OBJECT}: {} bytes, sha256 {}", built.object.len(), built.record.object_sha256);
    Ok(())
}

struct Built {
    object: Vec<u8>,
    record: Record,
}

fn check(crate_folder: &Path, built: &Built) -> Result<()> {
    let committed = read(&crate_folder.join(OBJECT))?;
    let record_path = crate_folder.join(RECORD);
    let record: Record = serde_json::from_slice(&read(&record_path)?)
        .with_context(|| format!("{} is not a record of an object", record_path.display()))?;
    let found = differences(&committed, &record, built);
    if found.is_empty() {
        println!("govsandbox-ebpf/{OBJECT} is what its sources say: sha256 {}", record.object_sha256);
        return Ok(());
    }
    bail!(
        "the committed kernel object does not fit:\n  {}\ncall `cargo xtask ebpf` and commit what it writes",
        found.join("\n  ")
    );
}

/// Everything in which the committed object and record differ from what was built now, in words.
fn differences(committed: &[u8], record: &Record, built: &Built) -> Vec<String> {
    let mut found = Vec::new();
    if committed != built.object {
        let at = committed.iter().zip(&built.object).position(|(old, new)| old != new);
        let at = at.unwrap_or_else(|| committed.len().min(built.object.len()));
        let (old, new) = (committed.len(), built.object.len());
        found.push(format!("{OBJECT}: {old} bytes committed, {new} built, different from byte {at} on"));
    }
    if record.object_sha256 != workspace::sha256(committed) {
        found.push(format!("{RECORD}: object_sha256 is of another object than the one beside it"));
    }
    if record.sources_sha256 != built.record.sources_sha256 {
        found.push(format!("{RECORD}: the sources changed after the object was built"));
    }
    // Another tool that makes the same object is no fault; if the object differs it is the likely cause.
    if committed != built.object {
        for (tool, version) in &built.record.tools {
            let recorded = record.tools.get(tool).map_or("nothing", String::as_str);
            if recorded != version {
                found.push(format!("{tool}: the object was made by `{recorded}`, here is `{version}`"));
            }
        }
    }
    found
}

/// Builds the object in `target/bpf` and strips it.
fn build(crate_folder: &Path) -> Result<Built> {
    install_tools::ensure(&[Need::Ebpf])?;
    let linker_folder = install_tools::bpf_linker()?;
    let target = workspace::target()?.join("bpf");
    process::run(&mut cargo_build(crate_folder, &linker_folder, &target)?)?;

    let linked = target.join(TARGET).join("release").join(BINARY);
    let stripped = target.join("govsandbox.bpf.o");
    process::run(Command::new(STRIP).arg("-g").arg(&linked).arg("-o").arg(&stripped))?;
    let object = read(&stripped)?;
    let record = Record {
        object_sha256: workspace::sha256(&object),
        sources_sha256: sources_sha256(crate_folder)?,
        tools: tools(&linker_folder)?,
    };
    Ok(Built { object, record })
}

fn cargo_build(crate_folder: &Path, linker_folder: &Path, target: &Path) -> Result<Command> {
    // Hidden in a mount namespace of the build's own; `sh` gets the rest of the line as its arguments.
    let mut command = match compiler_sources()?.as_slice() {
        [] => Command::new("cargo"),
        hidden => {
            let mut command = Command::new("unshare");
            command.arg("--mount");
            if !install_tools::is_root()? {
                command.arg("--map-root-user");
            }
            let mounts = hidden.iter().map(|folder| {
                format!("mount -t tmpfs none {} && ", process::quote(&folder.to_string_lossy()))
            });
            command.args(["sh", "-c", &format!("{}exec \"$@\"", mounts.collect::<String>()), "sh", "cargo"]);
            command
        }
    };
    command.args(["build", "--quiet", "--release", "--locked", "--bin", BINARY, "--features", "kernel"]);
    command.args(["--target", TARGET]).current_dir(crate_folder);

    // What the caller's environment says of compilers and profiles is not part of the recipe.
    let foreign = |name: &str| {
        name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_BUILD_")
            || name.starts_with("CARGO_TARGET_")
    };
    for (name, _) in env::vars_os().filter(|(name, _)| foreign(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    let registry = cargo_home()?.join("registry/src");
    let flags = [
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--remap-path-prefix={}=/src", crate_folder.display()),
        format!("--remap-path-prefix={}=/cargo", registry.display()),
    ];
    let mut path = linker_folder.as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env("CARGO_TARGET_DIR", target);
    command.env("PATH", path).env("RUSTC", COMPILER).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// The folders that must not be seen by the build.
fn compiler_sources() -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(COMPILER_SOURCES) else { return Ok(Vec::new()) };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("rustc-") && entry.path().is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn cargo_home() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(folder) => Ok(env::current_dir()?.join(folder)),
        None => Ok(workspace::home()?.join(".cargo")),
    }
}

fn tools(linker_folder: &Path) -> Result<BTreeMap<String, String>> {
    let versions = [
        ("rustc", process::read(Command::new(COMPILER).arg("--version"))?),
        ("bpf-linker", process::read(Command::new(linker_folder.join("bpf-linker")).arg("--version"))?),
        ("llvm-strip", process::read(Command::new(STRIP).arg("--version"))?),
    ];
    let mut tools = BTreeMap::new();
    for (tool, said) in versions {
        // llvm-strip's first line is about being compatible with GNU strip; the version is on a later one.
        let line = said.lines().map(str::trim).find(|line| line.contains(|c: char| c.is_ascii_digit()));
        let line = line.with_context(|| format!("{tool} did not print its version"))?;
        tools.insert(tool.to_owned(), line.to_owned());
    }
    Ok(tools)
}

fn sources_sha256(crate_folder: &Path) -> Result<String> {
    let mut files = vec![crate_folder.join("Cargo.toml"), crate_folder.join("Cargo.lock")];
    files.extend(workspace::files_below(&crate_folder.join("src"), ".rs")?);
    let mut listing = String::new();
    for file in files {
        let name = file.strip_prefix(crate_folder)?.display();
        listing.push_str(&format!("{} {name}\n", workspace::sha256(&read(&file)?)));
    }
    Ok(workspace::sha256(listing.as_bytes()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn write(file: &Path, content: &[u8]) -> Result<()> {
    fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(object: &[u8], rustc: &str) -> Built {
        let record = Record {
            object_sha256: workspace::sha256(object),
            sources_sha256: "s".to_owned(),
            tools: BTreeMap::from([("rustc".to_owned(), rustc.to_owned())]),
        };
        Built { object: object.to_vec(), record }
    }

    #[test]
    fn the_same_object_and_record_have_no_differences() {
        assert_eq!(differences(b"abc", &built(b"abc", "1").record, &built(b"abc", "1")), [""; 0]);
    }

    #[test]
    fn another_compiler_that_makes_the_same_object_is_no_difference() {
        assert_eq!(differences(b"abc", &built(b"abc", "1").record, &built(b"abc", "2")), [""; 0]);
    }

    #[test]
    fn another_object_is_told_with_its_place_and_the_tools_that_differ() {
        let found = differences(b"abc", &built(b"abc", "1").record, &built(b"abX", "2")).join("\n");
        assert!(found.contains("different from byte 2 on"), "{found}");
        assert!(found.contains("rustc: the object was made by `1`, here is `2`"), "{found}");
    }

    #[test]
    fn a_record_of_another_object_and_changed_sources_are_told() {
        let mut record = built(b"other", "1").record;
        record.sources_sha256 = "t".to_owned();
        let found = differences(b"abc", &record, &built(b"abc", "1")).join("\n");
        assert!(found.contains("another object") && found.contains("sources changed"), "{found}");
    }
}
