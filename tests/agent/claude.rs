//! Where the agent's program is, and how it is started offline.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::bed::{TestBed, args};

const INSTALLED: &str = "claude/node_modules/@anthropic-ai/claude-code-linux-x64/claude";

/// The pinned program.
///
/// # Panics
/// When it is not installed: says what to run.
fn installed() -> PathBuf {
    if let Some(path) = std::env::var_os("GOVSANDBOX_TEST_CLAUDE") {
        let path = PathBuf::from(path);
        assert!(path.exists(), "GOVSANDBOX_TEST_CLAUDE names {}, and there is no such file", path.display());
        return path;
    }
    // …/target/debug/deps/agent-… → …/target
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().map(|folder| folder.join(INSTALLED)).find(|path| path.exists());
    found.expect("Claude Code is not installed: run `cargo xtask install-tools`")
}

/// The program under a name in the bed that the test's user can reach, called as a user calls it: `claude`.
pub(crate) fn program(bed: &TestBed) -> PathBuf {
    let (source, folder) = (installed(), bed.root().join("bin"));
    let path = folder.join("claude");
    if !path.exists() {
        fs::create_dir_all(&folder).unwrap();
        // 378 MB: a link where it can be one.
        if fs::hard_link(&source, &path).is_err() {
            bed.program(&source, &path);
        }
    }
    path
}

/// `claude -p`, without questions.
pub(crate) fn command(program: &Path) -> Vec<OsString> {
    args![
        program,
        "-p",
        "Look around.",
        "--output-format",
        "stream-json",
        "--verbose",
        "--dangerously-skip-permissions"
    ]
}

/// What keeps it offline but for the model.
pub(crate) fn surroundings(process: &mut Command, model: SocketAddr) {
    process
        .env("ANTHROPIC_BASE_URL", format!("http://{model}"))
        .env("ANTHROPIC_API_KEY", "dummy")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("SHELL", "/bin/bash");
}
