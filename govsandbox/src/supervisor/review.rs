//! What a run leaves that other programs will run, or take settings from, outside the sandbox: to be looked at first.
//!
//! Told by the files themselves when the run has ended: a change sets `ctime`, which nobody inside can set back. So it
//! hangs neither on what was traced nor on how a file came about.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use govsandbox_ebpf::{
    abi::rule::{Automaton, Hits},
    decide::automaton::Scan,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    event::text::Text,
    id::RuleIndex,
    policy::{
        automaton::{self, AutomatonError},
        compile::{GlobRule, PathEffect},
    },
};

/// Names looked at, at most: some 0.5 s.
const NAMES_MAX: usize = 500_000;
/// Files that are told, at most; a cloned repository with a hundred of them is one that is looked at anyway.
const FILES_MAX: usize = 64;
/// Of these on stderr.
const LINES_MAX: usize = 10;

/// In the project, in the grammar of path patterns: what git, editors, shells, package managers and agents run, or read
/// commands from, when they are used in it. Not what a build runs: that is the project's work itself.
const IN_PROJECT: [&str; 32] = [
    // git: hooks, and settings that name programs.
    "/**/.git/config",
    "/**/.git/config.worktree",
    "/**/.git/commondir",
    "/**/.git/hooks/*",
    "/**/.git/modules/**/{config,commondir}",
    "/**/.git/modules/**/hooks/*",
    "/**/.git/worktrees/*/config.worktree",
    "/**/.git/rebase-merge/git-rebase-todo",
    "/**/.husky",
    "/**/.githooks",
    "/**/.pre-commit-config.yaml",
    "/**/lefthook.{yml,yaml}",
    // Editors.
    "/**/.vscode/{tasks,settings,launch,mcp}.json",
    "/**/.idea",
    "/**/.devcontainer",
    "/**/.devcontainer.json",
    "/**/.exrc",
    "/**/.nvim.lua",
    "/**/.dir-locals.el",
    "/**/.gdbinit",
    // Shells and package managers, on entering the folder or at the next command.
    "/**/.envrc",
    "/**/{.mise,mise}.toml",
    "/**/.npmrc",
    "/**/.yarnrc.yml",
    "/**/.pnpmfile.cjs",
    "/**/.cargo/config{,.toml}",
    // Agents.
    "/**/.claude/settings*.json",
    "/**/.claude/{hooks,commands}",
    "/**/.mcp.json",
    "/**/.cursor",
    "/**/.gemini",
    "/**/.codex",
];

/// In the home: start-up files of shells and sessions, and what is in `PATH`. Of a folder the files in it.
const IN_HOME: [&str; 26] = [
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".config/fish/config.fish",
    ".config/fish/conf.d",
    ".xprofile",
    ".xsessionrc",
    ".pam_environment",
    ".config/environment.d",
    ".config/autostart",
    ".config/systemd/user",
    ".gitconfig",
    ".config/git",
    ".ssh",
    ".npmrc",
    ".cargo/config.toml",
    ".cargo/bin",
    ".local/bin",
    "bin",
    "go/bin",
];

/// Looks from the start of a run on.
#[derive(Debug)]
pub(super) struct Review {
    /// `None`: a whole home or `/`, which nobody named as the project.
    project: Option<PathBuf>,
    home: PathBuf,
    since: (i64, i64),
}

/// Files to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Sorted, [`FILES_MAX`] at most.
    pub(super) files: Vec<PathBuf>,
    /// There are more, or not everything was looked at.
    pub(super) more: bool,
}

impl Review {
    /// Remembers when the run began.
    pub(super) fn begin(project: Option<&Path>, home: &Path) -> Self {
        // The clock of `ctime` is the coarse one too.
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let project = project.filter(|project| *project != Path::new("/")).map(Path::to_owned);
        Self { project, home: home.to_owned(), since: (now.tv_sec, now.tv_nsec) }
    }

    /// What came into being or changed since then.
    ///
    /// # Errors
    /// [`AutomatonError`]: the patterns are fixed, so out of memory.
    pub(super) fn end(&self) -> Result<Found, AutomatonError> {
        let globs = IN_PROJECT.map(|pattern| GlobRule {
            pattern: pattern.as_bytes().to_vec(),
            effect: PathEffect::Protect,
            rule: RuleIndex(1),
        });
        let automaton = automaton::build(&globs)?;
        let mut search = Search { review: self, automaton: &automaton, names: 0, found: Found::default() };
        if let Some(project) = &self.project {
            let path = project.as_os_str().as_bytes();
            let start = Scan::START.through(&automaton, path);
            search.folder(project, start, Inside::default());
        }
        for name in IN_HOME {
            let path = self.home.join(name);
            match fs::symlink_metadata(&path) {
                Ok(file) if file.is_dir() => search.files_in(&path, self.is_moved(&file)),
                Ok(file) => search.file(&path, &file, false),
                Err(_) => {} // nothing there
            }
        }
        let mut found = search.found;
        found.files.sort();
        found.files.dedup();
        found.more |= found.files.len() > FILES_MAX;
        found.files.truncate(FILES_MAX);
        Ok(found)
    }

    fn is_new(&self, file: &Metadata) -> bool {
        (file.ctime(), file.ctime_nsec()) >= self.since
    }

    /// A folder that was renamed, or whose attributes changed, and nothing came into it or went since.
    fn is_moved(&self, folder: &Metadata) -> bool {
        self.is_new(folder) && (folder.mtime(), folder.mtime_nsec()) != (folder.ctime(), folder.ctime_nsec())
    }
}

impl Found {
    /// For the log; `None`: there is nothing to look at.
    pub(super) fn texts(&self) -> Option<Vec<Text>> {
        let text = |path: &PathBuf| Text(path.as_os_str().as_bytes().to_vec());
        (!self.files.is_empty()).then(|| self.files.iter().map(text).collect())
    }

    /// For stderr, safe for a terminal; `session` and `log` say where all of them stand.
    pub(super) fn lines(&self, session: &str, log: &Path) -> Vec<String> {
        let Some(texts) = self.texts() else { return Vec::new() };
        let more = if self.more { " or more" } else { "" };
        let (noun, them) = if texts.len() == 1 && !self.more { ("file", "it") } else { ("files", "them") };
        let mut lines = vec![format!(
            "{}{more} {noun} that other programs run or take commands from came or changed; look at {them} before use:",
            texts.len()
        )];
        lines.extend(texts.iter().take(LINES_MAX).map(|path| format!("  {}", path.for_terminal())));
        if texts.len() > LINES_MAX {
            let left = texts.len() - LINES_MAX;
            lines.push(format!(
                "  and {left}{more}; see: govsandbox audit show {session} --kind session.end --details --log {}",
                log.display()
            ));
        }
        lines
    }
}

/// What is known of a folder that is looked at.
#[derive(Clone, Copy, Default)]
struct Inside {
    /// It lies in a folder called `.git`, where only patterns count.
    git: bool,
    /// It came here in the run, with files that may be older.
    moved: bool,
}

struct Search<'a> {
    review: &'a Review,
    automaton: &'a Automaton,
    names: usize,
    found: Found,
}

impl Search<'_> {
    fn folder(&mut self, folder: &Path, scan: Scan, inside: Inside) {
        let automaton = self.automaton;
        let Ok(entries) = fs::read_dir(folder) else { return };
        let below = scan.step(automaton, b'/');
        let mut bare = (false, false);
        for entry in entries.flatten() {
            self.names += 1;
            if self.names > NAMES_MAX {
                self.found.more = true;
                return;
            }
            let (name, Ok(kind)) = (entry.file_name(), entry.file_type()) else { continue };
            let scan = below.through(automaton, name.as_bytes());
            bare = (bare.0 || name == "HEAD", bare.1 || name == "objects");
            if kind.is_dir() {
                // Objects are many, and never looked at.
                if !(inside.git && (name == "objects" || name == "refs" || name == "logs")) {
                    let moved = inside.moved || entry.metadata().is_ok_and(|found| self.came(&found, scan));
                    self.folder(&entry.path(), scan, Inside { git: inside.git || name == ".git", moved });
                }
                continue;
            }
            let leads_git = name == ".git"; // a worktree's or a submodule's
            if (leads_git || scan.end(automaton) != Hits::NONE)
                && let Ok(file) = entry.metadata()
            {
                self.file(&entry.path(), &file, inside.moved);
            }
        }
        // A bare repository: git takes one for its own wherever it stands in it.
        if !inside.git && bare == (true, true) {
            let config = folder.join("config");
            if let Ok(file) = fs::symlink_metadata(&config) {
                self.file(&config, &file, inside.moved);
            }
            let hooks = folder.join("hooks");
            let moved = fs::symlink_metadata(&hooks).is_ok_and(|found| self.review.is_new(&found));
            self.files_in(&hooks, inside.moved || moved);
        }
    }

    /// Did a folder come to its place in the run? Where a pattern means the folder itself, or whatever lies in it, a change
    /// of what it holds counts too.
    fn came(&self, found: &Metadata, scan: Scan) -> bool {
        // A name that no pattern has.
        let any = scan.step(self.automaton, b'/').through(self.automaton, &[0; 32]);
        self.review.is_moved(found) || (any.end(self.automaton) != Hits::NONE && self.review.is_new(found))
    }

    fn files_in(&mut self, folder: &Path, moved: bool) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            self.names += 1;
            if let Ok(file) = entry.metadata()
                && !file.is_dir()
                && self.names <= NAMES_MAX
            {
                self.file(&entry.path(), &file, moved);
            }
        }
    }

    fn file(&mut self, path: &Path, file: &Metadata, moved: bool) {
        // git puts samples of hooks into each new repository; they are never run.
        let is_sample = path.extension() == Some(OsStr::new("sample"));
        if !is_sample && (moved || self.review.is_new(file)) && self.found.files.len() <= FILES_MAX {
            self.found.files.push(path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, thread::sleep, time::Duration};

    use super::*;

    fn write(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn what_came_or_changed_and_others_run_is_found_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        write(
            &root,
            &["p/.git/config", "p/.git/hooks/pre-commit", "p/.envrc", "p/x", "h/.bashrc", "h/.profile"],
        );
        fs::create_dir_all(root.join("p/old")).unwrap();
        write(&root, &["p/old/.envrc"]);
        sleep(Duration::from_millis(20));
        let review = Review::begin(Some(&root.join("p")), &root.join("h"));
        assert_eq!(review.end().unwrap(), Found::default());
        sleep(Duration::from_millis(20));
        let new = [
            "p/new/.git/config",
            "p/new/.git/hooks/post-checkout",
            "p/.git/modules/a/b/config",
            "p/work/.git",
            "p/.vscode/tasks.json",
            "p/bare/HEAD",
            "p/bare/objects/x",
            "p/bare/config",
            "p/bare/hooks/update",
            "h/.config/autostart/x.desktop",
            "h/.bashrc",
        ];
        write(&root, &new);
        write(
            &root,
            &["p/new/.git/hooks/pre-commit.sample", "p/new/.git/objects/.envrc", "p/src/main.rs", "h/other"],
        );
        symlink("/bin/sh", root.join("p/old/.npmrc")).unwrap();
        fs::rename(root.join("p/.envrc"), root.join("p/.mise.toml")).unwrap();
        let mut expected: Vec<_> = new.iter().map(|name| root.join(name)).collect();
        expected.retain(|path| !path.ends_with("bare/HEAD") && !path.ends_with("objects/x"));
        expected.extend([root.join("p/old/.npmrc"), root.join("p/.mise.toml")]);
        expected.sort();
        assert_eq!(review.end().unwrap(), Found { files: expected, more: false });
    }

    #[test]
    fn what_came_along_with_a_folder_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let old = [
            "p/tpl/pre-commit",
            "p/tpl/_/husky.sh",
            "p/a/.vscode/tasks.json",
            "p/b/pre-push",
            "p/b/x.sample",
            "p/stays/.husky/pre-commit",
            "p/stays/.vscode/tasks.json",
            "h/kit/tool",
            "h/bin/stays",
        ];
        write(&root, &old);
        fs::create_dir_all(root.join("p/.git")).unwrap();
        fs::create_dir_all(root.join("h/.local")).unwrap();
        sleep(Duration::from_millis(20));
        let review = Review::begin(Some(&root.join("p")), &root.join("h"));
        let moves =
            [("p/tpl", "p/.husky"), ("p/a", "p/c"), ("p/b", "p/.git/hooks"), ("h/kit", "h/.local/bin")];
        for (from, to) in moves {
            fs::rename(root.join(from), root.join(to)).unwrap();
        }
        // Hides nothing: the folder is meant as a whole.
        write(&root, &["p/.husky/later"]);
        let expected = [
            "h/.local/bin/tool",
            "p/.git/hooks/pre-push",
            "p/.husky/_/husky.sh",
            "p/.husky/later",
            "p/.husky/pre-commit",
            "p/c/.vscode/tasks.json",
        ];
        let files = expected.map(|name| root.join(name)).to_vec();
        assert_eq!(review.end().unwrap(), Found { files, more: false });
    }

    #[test]
    fn lines_are_few_and_safe_for_a_terminal() {
        let log = Path::new("/l");
        assert!(Found::default().lines("S", log).is_empty());
        let one = Found { files: vec!["/p/\u{1b}[2J\n.envrc".into()], more: false };
        insta::assert_snapshot!(one.lines("S", log).join("\n"), @r"
        1 file that other programs run or take commands from came or changed; look at it before use:
          /p/\x1b[2J\n.envrc
        ");
        let many = Found { files: (0..13).map(|n| format!("/p/{n:02}/.envrc").into()).collect(), more: true };
        let lines = many.lines("S", log);
        assert_eq!(lines.len(), 12);
        insta::assert_snapshot!(format!("{}\n{}", lines[0], lines[11]), @r"
        13 or more files that other programs run or take commands from came or changed; look at them before use:
          and 3 or more; see: govsandbox audit show S --kind session.end --details --log /l
        ");
    }
}
