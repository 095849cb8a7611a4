//! Where things lie: the project's folders, and the cache outside it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The project's top folder.
pub(crate) fn root() -> Result<PathBuf> {
    // cargo sets the variable for `cargo run`; the compiled-in value serves a binary that is called by hand.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&manifest).parent().map(Path::to_path_buf).context("xtask lies in no folder")?;
    if !root.join("govsandbox-ebpf").is_dir() {
        bail!("{} is not the project's folder: call this as `cargo xtask`", root.display());
    }
    Ok(root)
}

/// The build folder that all tasks share: `CARGO_TARGET_DIR`, else `target`.
pub(crate) fn target() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => Ok(env::current_dir()?.join(folder)),
        None => Ok(root()?.join("target")),
    }
}

/// Cargo in the project's folder, without what the cargo that started us says of *our* package.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours = |name: &str| {
        name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name == "CARGO_BIN_NAME"
            || name == "CARGO"
    };
    for (name, _) in env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.current_dir(root()?);
    Ok(command)
}

/// The cache for what is downloaded or built once per machine: `${XDG_CACHE_HOME:-~/.cache}/govsandbox/PART`, created.
pub(crate) fn cache(part: &str) -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
        Some(folder) if folder.is_absolute() => folder,
        _ => home()?.join(".cache"),
    };
    let folder = base.join("govsandbox").join(part);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The caller's home folder.
pub(crate) fn home() -> Result<PathBuf> {
    env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()).context("HOME is not set")
}

/// SHA-256 of the bytes, in lower-case hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below `folder` whose name ends in `suffix`, sorted by path.
pub(crate) fn files_below(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(suffix) {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nothing_is_the_known_one() {
        assert!(sha256(b"").starts_with("e3b0c44298fc1c149afbf4c8996fb924"), "{}", sha256(b""));
    }

    #[test]
    fn files_are_found_in_folders_too_and_sorted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["c.rs", "b/x.rs", "b/x.txt", "a.rs"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = files_below(folder.path(), ".rs").unwrap();
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(names, ["a.rs", "b/x.rs", "c.rs"].map(Path::new));
    }
}
