//! Where git keeps what it runs: the repositories that are in the project before the command starts.
//!
//! Those that the command makes later are its own: `git init` and `git clone` go on working.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Names looked at, at most: some 0.5 s.
const NAMES_MAX: usize = 500_000;
/// Bytes of a `.git` file, and of a config, that are read at most.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Folders of `.git/modules` that are looked into, one below another: a submodule's name may have slashes.
const MODULE_DEPTH_MAX: usize = 8;

/// What was found. All paths are absolute; sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repositories {
    /// `{git}`: folders with a config and hooks: `.git`, bare repositories, submodules' own, wherever they lie.
    pub folders: Vec<PathBuf>,
    /// `{git-hooks}`: `hooks` in each, and what `core.hooksPath` names.
    pub hooks: Vec<PathBuf>,
    /// `{git-files}`: what leads git to other settings: `.git` files and `commondir`, `config.worktree` where it counts,
    /// what configs include.
    pub files: Vec<PathBuf>,
    /// A bound was reached, there may be more.
    pub cut: bool,
}

impl Repositories {
    /// Looks through a project, following no symlinks; `home` is what `~` stands for in a config.
    #[must_use]
    pub fn find(project: &Path, home: &Path) -> Self {
        let mut search = Search { project, home, names: 0, cut: false, found: Found::default() };
        search.folder(project);
        let Found { folders, hooks, files } = search.found;
        Self {
            folders: folders.into_iter().collect(),
            hooks: hooks.into_iter().collect(),
            files: files.into_iter().collect(),
            cut: search.cut,
        }
    }
}

/// The project was not looked through to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error(
    "the project has more than {NAMES_MAX} files: repositories further on are not among those that this rule names"
)]
#[diagnostic(
    code(policy::repositories::cut),
    help("name the project more narrowly (`--project DIR`), or the repositories by their paths")
)]
pub struct TooManyNames;

#[derive(Default)]
struct Found {
    folders: BTreeSet<PathBuf>,
    hooks: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

struct Search<'a> {
    project: &'a Path,
    home: &'a Path,
    names: usize,
    cut: bool,
    found: Found,
}

impl Search<'_> {
    fn folder(&mut self, folder: &Path) {
        if is_git_folder(folder) {
            self.git_folder(folder, folder);
            return;
        }
        // What can't be listed holds nothing that git could use.
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            self.names += 1;
            if self.names > NAMES_MAX {
                self.cut = true;
                return;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if entry.file_name() == ".git" {
                self.dot_git(folder, &entry.path());
            } else if kind.is_dir() {
                self.folder(&entry.path());
            }
        }
    }

    /// `.git` in a work tree: the folder itself, a link to it, or a file that says where it is.
    fn dot_git(&mut self, work_tree: &Path, path: &Path) {
        if path.is_dir() {
            self.git_folder(path, work_tree);
            return;
        }
        self.found.files.insert(path.to_owned());
        if let Some(to) = text_of(path).as_deref().and_then(|text| text.strip_prefix(b"gitdir:")) {
            let folder = work_tree.join(path_of(to.trim_ascii()));
            if is_git_folder(&folder) {
                self.git_folder(&folder, work_tree);
            }
        }
    }

    fn git_folder(&mut self, folder: &Path, work_tree: &Path) {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        // Where this file is, git takes config and hooks from the folder that it names, in a `.git` of any kind.
        if !self.found.files.insert(folder.join("commondir")) {
            return;
        }
        self.config(&folder.join("config.worktree"), work_tree);
        if let Some(common) = text_of(&folder.join("commondir")) {
            let common = folder.join(path_of(common.trim_ascii()));
            if is_git_folder(&common) {
                self.git_folder(&common, work_tree);
            }
            if folder.join("config.worktree").exists() || self.has_worktree_config(&common) {
                self.found.files.insert(folder.join("config.worktree"));
            }
            return;
        }
        if self.has_worktree_config(&folder) {
            self.found.files.insert(folder.join("config.worktree"));
        }
        self.config(&folder.join("config"), work_tree);
        self.found.hooks.insert(folder.join("hooks"));
        self.found.folders.insert(folder.clone());
        for worktree in folders_in(&folder.join("worktrees")) {
            self.git_folder(&worktree, work_tree);
        }
        self.modules(&folder.join("modules"), MODULE_DEPTH_MAX);
    }

    fn modules(&mut self, folder: &Path, depth: usize) {
        for module in folders_in(folder) {
            if is_git_folder(&module) {
                self.git_folder(&module, &module);
            } else if depth > 0 {
                self.modules(&module, depth - 1);
            } else {
                self.cut = true;
            }
        }
    }

    /// What a config makes git run or read. Read loosely: a word too many protects a file too many.
    fn config(&mut self, config: &Path, work_tree: &Path) {
        let Some(text) = text_of(config) else { return };
        for line in text.split(|byte| *byte == b'\n') {
            let Some(at) = line.iter().position(|byte| *byte == b'=') else { continue };
            let (key, value) = line.split_at(at);
            // `[core] hooksPath` may stand on one line.
            let key =
                key.rsplit(|byte| b" \t]".contains(byte)).find(|word| !word.is_empty()).unwrap_or_default();
            let value = value.trim_ascii_start().strip_prefix(b"=").unwrap_or_default().trim_ascii();
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            let value = value.strip_suffix(b"\"").unwrap_or(value);
            let path = match value.strip_prefix(b"~/") {
                Some(below) => self.home.join(path_of(below)),
                None => path_of(value),
            };
            if key.eq_ignore_ascii_case(b"hookspath") {
                self.found.hooks.extend(self.narrow(&work_tree.join(path)));
            } else if key.eq_ignore_ascii_case(b"path") {
                self.found.files.extend(self.narrow(&config.parent().unwrap_or(work_tree).join(path)));
            }
        }
    }

    /// `extensions.worktreeConfig`: then git reads `config.worktree` too.
    fn has_worktree_config(&self, folder: &Path) -> bool {
        let text = text_of(&folder.join("config")).unwrap_or_default();
        text.to_ascii_lowercase().windows(14).any(|bytes| bytes == b"worktreeconfig")
    }

    /// A path as it is, unless it would make the whole project one that can't be changed: a config may say anything.
    fn narrow(&self, path: &Path) -> Option<PathBuf> {
        let path = clean(path);
        let is_wide = [self.project, self.home].iter().any(|folder| folder.starts_with(&path));
        if is_wide { None } else { Some(path) }
    }
}

/// As git tells one (`is_git_directory`, setup.c).
fn is_git_folder(folder: &Path) -> bool {
    let is_main = || folder.join("objects").is_dir() && folder.join("refs").is_dir();
    folder.join("HEAD").symlink_metadata().is_ok() && (folder.join("commondir").is_file() || is_main())
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The content of a file of a sensible size.
fn text_of(path: &Path) -> Option<Vec<u8>> {
    let file = fs::metadata(path).ok()?;
    if file.is_file() && file.len() <= FILE_BYTES_MAX { fs::read(path).ok() } else { None }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Without `.` and `..`, as far as what is there tells what they mean.
fn clean(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => clean(parent).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn git(folder: &Path, words: &[&str]) {
        let ran = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"])
            .args(words)
            .current_dir(folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("this test makes repositories with the real git: install it");
        assert!(ran.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    #[test]
    fn repositories_submodules_worktrees_and_bare_ones_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let project = root.join("project");
        for folder in ["project/deep/nested", "project/fixture.git", "project/.git-like", "other"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        git(&root.join("other"), &["init", "-q"]);
        git(&root.join("other"), &["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&project, &["init", "-q"]);
        git(&project, &["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&project, &["submodule", "--quiet", "add", "../other", "lib/part"]);
        git(&project, &["worktree", "add", "-q", "../beside"]);
        git(&project.join("deep/nested"), &["init", "-q"]);
        git(&project.join("deep/nested"), &["config", "core.hooksPath", "../tools/hooks"]);
        git(&project.join("deep/nested"), &["config", "include.path", "../../shared.config"]);
        git(&project.join("fixture.git"), &["init", "-q", "--bare"]);

        let found = Repositories::find(&project, Path::new("/home/u"));
        let at = |names: &[&str]| names.iter().map(|name| root.join(name)).collect::<Vec<_>>();
        let folders = [
            "project/.git",
            "project/.git/modules/lib/part",
            "project/deep/nested/.git",
            "project/fixture.git",
        ];
        assert_eq!(found.folders, at(&folders));
        assert!(found.hooks.contains(&root.join("project/.git/hooks")));
        assert!(found.hooks.contains(&root.join("project/deep/tools/hooks")), "{:?}", found.hooks);
        let files = [
            "project/.git/commondir",
            "project/.git/modules/lib/part/commondir",
            "project/.git/worktrees/beside/commondir",
            "project/deep/nested/.git/commondir",
            "project/deep/shared.config",
            "project/fixture.git/commondir",
            "project/lib/part/.git",
        ];
        assert_eq!(found.files, at(&files));
        assert!(!found.cut);

        // From within a worktree the repository that it belongs to is found.
        let beside = Repositories::find(&root.join("beside"), Path::new("/home/u"));
        assert_eq!(beside.files[0], root.join("beside/.git"));
        assert_eq!(beside.folders, at(&folders[..2]));
    }
}
