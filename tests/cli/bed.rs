//! A folder of its own for each test, and the program run in it without any of the caller's surroundings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A home with a project `app` in it; commands run in the project.
pub(crate) struct Bed {
    root: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    /// Data.
    pub(crate) out: String,
    /// Diagnostics.
    pub(crate) err: String,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("home/app/.git")).unwrap();
        Self { root }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("home")
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.home().join("app")
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.project().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_in(&self.project(), arguments)
    }

    pub(crate) fn run_in(&self, working_dir: &Path, arguments: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_govsandbox"))
            .args(arguments)
            .current_dir(working_dir)
            .env_clear()
            .env("HOME", self.home())
            // What is drawn must not depend on whose terminal it is.
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        // Snapshots must not depend on where the folder lies.
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.replace(self.home().to_str().unwrap(), "HOME")
        };
        Ran { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Checks a file with this content and gives what is said about it, without status and file name repeated.
    pub(crate) fn complaint(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.write(name, content);
        let ran = self.run(&["policy", "check", name]);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert_eq!(ran.out, format!("invalid  {name}\n"));
        ran.err
    }
}
