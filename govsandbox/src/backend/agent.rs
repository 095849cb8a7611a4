//! Is the agent installed? Found without running it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::machine::{Check, Level};

/// The agent that the shipped profiles know.
const PROGRAM: &str = "claude";
/// A `package.json` is a few KB.
const PACKAGE_BYTES_MAX: u64 = 1 << 20;
/// Folders above the program in which its package may begin.
const PACKAGE_DEPTH_MAX: usize = 4;

/// Looks for it in the folders of `PATH`.
pub(super) fn check(path: Option<&OsStr>) -> Check {
    let name = "agent";
    let Some(found) = find(path.unwrap_or_default()) else {
        let found = format!("no `{PROGRAM}` in PATH (sudo may have replaced PATH)");
        let mend = "install the agent, or give its path: govsandbox run /path/to/claude".to_owned();
        return Check { name, status: Level::Missing, found, mend: Some(mend) };
    };
    let version = found.canonicalize().ok().and_then(|program| version(&program));
    let version =
        version.map_or_else(|| "version not known".to_owned(), |version| format!("version {version}"));
    Check { name, status: Level::Ok, found: format!("{}, {version}", found.display()), mend: None }
}

fn find(path: &OsStr) -> Option<PathBuf> {
    let programs = std::env::split_paths(path).map(|folder| folder.join(PROGRAM));
    let is_program = |program: &PathBuf| {
        fs::metadata(program).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    programs.filter(|program| program.is_absolute()).find(is_program)
}

/// By the name of the file (`…/versions/2.1.0`), or by the package that it is part of.
fn version(program: &Path) -> Option<String> {
    let is_versioned = program.parent().and_then(Path::file_name) == Some(OsStr::new("versions"));
    if is_versioned {
        return program.file_name()?.to_str().map(str::to_owned);
    }
    let packages =
        program.ancestors().skip(1).take(PACKAGE_DEPTH_MAX).map(|folder| folder.join("package.json"));
    packages.into_iter().find_map(|package| {
        let mut text = String::new();
        File::open(package).ok()?.take(PACKAGE_BYTES_MAX).read_to_string(&mut text).ok()?;
        let package: Value = serde_json::from_str(&text).ok()?;
        let is_agent = package.get("name")?.as_str()?.contains(PROGRAM);
        package.get("version").filter(|_| is_agent)?.as_str().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(at: &Path) {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, "").unwrap();
        fs::set_permissions(at, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_version_is_told_by_its_place_or_by_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let native = folder.path().join("share/claude/versions/2.1.0");
        program(&native);
        fs::create_dir(folder.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(&native, folder.path().join("bin/claude")).unwrap();
        let by_npm = folder.path().join("lib/node_modules/@anthropic-ai/claude-code/bin/claude");
        program(&by_npm);
        fs::write(
            by_npm.ancestors().nth(2).unwrap().join("package.json"),
            r#"{"name":"@anthropic-ai/claude-code","version":"2.1.3"}"#,
        )
        .unwrap();
        let found = check(Some(folder.path().join("bin").as_os_str()));
        assert_eq!(
            (found.status, found.found.ends_with("bin/claude, version 2.1.0")),
            (Level::Ok, true),
            "{found:?}"
        );
        assert!(check(by_npm.parent().map(Path::as_os_str)).found.ends_with("version 2.1.3"));
    }

    #[test]
    fn what_is_not_there_or_not_executable_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("claude"), "").unwrap();
        assert_eq!(check(Some(folder.path().as_os_str())).status, Level::Missing);
        assert_eq!(check(None).status, Level::Missing);
    }
}
