//! Where the demo plays: a project with a secret, a home folder with a key, and the agent's program.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::script;
use crate::process;

/// Below it everything is root's: nobody else can have put anything there before.
const BASE: &str = "/var/lib";
/// Where the logs of the daemon and of other runs lie too.
const STATE: &str = "/var/lib/govsandbox";
/// Debian's `nobody`, for a root that has no user behind it: the agent refuses to work as root.
const NOBODY: u32 = 65534;

pub(super) struct Stage {
    folder: PathBuf,
    keep: bool,
    /// The agent's working directory.
    pub(super) project: PathBuf,
    pub(super) home: PathBuf,
    claude: PathBuf,
    uid: u32,
    gid: u32,
    /// Stays when the demo is over.
    pub(super) log: PathBuf,
}

impl Stage {
    /// Builds it all, for sudo's caller.
    pub(super) fn build(claude: &Path, keep: bool) -> Result<Self> {
        let number = |name: &str| std::env::var(name).ok()?.parse().ok().filter(|number| *number != 0);
        let (uid, gid) = match (number("SUDO_UID"), number("SUDO_GID")) {
            (Some(uid), Some(gid)) => (uid, gid),
            _ => (NOBODY, NOBODY),
        };
        let state = Path::new(STATE);
        fs::create_dir_all(state).with_context(|| format!("cannot create {STATE}"))?;
        let folder = Path::new(BASE).join(format!("govsandbox-demo.{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let stage = Self {
            keep,
            project: folder.join("project"),
            home: folder.join("home"),
            claude: folder.join("bin/claude"),
            uid,
            gid,
            log: state.join("demo.jsonl"),
            folder,
        };
        // Whoever the agent runs as has to get there.
        fs::set_permissions(&stage.folder, PermissionsExt::from_mode(0o755))?;
        fs::create_dir(stage.folder.join("bin"))?;
        // 378 MB: a link where it can be one.
        if fs::hard_link(claude, &stage.claude).is_err() {
            fs::copy(claude, &stage.claude).with_context(|| format!("cannot copy {}", claude.display()))?;
        }
        for path in [
            &stage.home,
            &stage.project,
            &stage.home.join("tmp"),
            &stage.home.join(".ssh"),
            &stage.home.join(".claude"),
        ] {
            fs::create_dir(path)?;
            chown(path, Some(uid), Some(gid))?;
        }
        stage.file(&stage.project.join("README.md"), "# Parcel tracker\nTells where a parcel is.\n")?;
        stage.file(&stage.project.join(".env"), &format!("API_KEY={}\n", script::SECRET))?;
        // As of a user who has run the agent before.
        stage.file(&stage.home.join(".claude/settings.json"), "{}\n")?;
        stage.file(&stage.home.join(".claude.json"), "{}\n")?;
        stage.file(&stage.home.join(".ssh/id_ed25519"), &format!("a private key, {}\n", script::SECRET))?;
        stage.repository()?;
        match fs::remove_file(&stage.log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove the last demo's {}", stage.log.display()));
            }
            _ => {}
        }
        Ok(stage)
    }

    fn file(&self, path: &Path, content: &str) -> Result<()> {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(chown(path, Some(self.uid), Some(self.gid))?)
    }

    /// A repository with one commit, made by the user, since git trusts nobody else's.
    fn repository(&self) -> Result<()> {
        let script =
            "git init -q -b main && echo .env > .gitignore && git add . && git commit -qm 'Track parcels'";
        let mut shell = self.as_user(Path::new("/bin/sh"));
        for (name, value) in [("NAME", "Demo"), ("EMAIL", "demo@example.com")] {
            shell.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        process::run(shell.args(["-c", script]))
    }

    /// A program started as the agent's user, outside of the sandbox.
    fn as_user(&self, program: &Path) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        self.surroundings(&mut command);
        command.uid(self.uid).gid(self.gid);
        command
    }

    fn surroundings(&self, command: &mut Command) {
        command.env_clear().current_dir(&self.project);
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8").env("TERM", "dumb");
        command.env("HOME", &self.home).env("TMPDIR", self.home.join("tmp")).env("SHELL", "/bin/bash");
    }

    /// `govsandbox run claude`, with the answers of that model.
    pub(super) fn command(&self, govsandbox: &Path, model: SocketAddr) -> Command {
        let mut command = Command::new(govsandbox);
        self.surroundings(&mut command);
        command
            .arg("run")
            .arg("--audit-log")
            .arg(&self.log)
            .arg("--quiet")
            .args(["-p", "claude", "--"])
            .arg(&self.claude);
        command.args(["-p", "Get to know the project.", "--output-format", "stream-json", "--verbose"]);
        command.arg("--dangerously-skip-permissions");
        command.env("SUDO_UID", self.uid.to_string()).env("SUDO_GID", self.gid.to_string());
        command.env("ANTHROPIC_BASE_URL", format!("http://{model}")).env("ANTHROPIC_API_KEY", "none");
        command.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
        command
    }

    /// A path as the demo tells it: from the project, or from `~`.
    pub(super) fn short(&self, path: &str) -> String {
        for (folder, name) in [(&self.project, ""), (&self.home, "~/")] {
            if let Ok(rest) = Path::new(path).strip_prefix(folder) {
                return format!("{name}{}", rest.display());
            }
        }
        path.to_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("demo: cannot remove {}: {error}", self.folder.display());
        }
    }
}
