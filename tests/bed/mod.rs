//! What the privileged tests share: a place of their own on the disk, a user of their own, and one way to run a command
//! bare (the positive control) and in the sandbox.
#![allow(dead_code, unused_imports, reason = "each test target uses its part")]

pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod model;
pub(crate) mod net;
pub(crate) mod procs;
pub(crate) mod programs;
pub(crate) mod pty;
pub(crate) mod sending;
pub(crate) mod service;
pub(crate) mod sys;
pub(crate) mod unix;
pub(crate) mod wire;
pub(crate) mod worker;

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub(crate) use log::{Event, Log};

/// The words of a command line, whatever they are made of.
macro_rules! args {
    ($($word:expr),* $(,)?) => { vec![$(::std::ffi::OsString::from($word)),*] };
}
pub(crate) use args;

/// Beds live here and not in `/tmp`: what is below `{tmp}` may be written by many policies, and the log may not.
const BEDS: &str = "/var/lib/govsandbox-test";
/// The first of the test users. Each bed takes the next, so that "nothing is left of it" can be told from the uid.
const FIRST_UID: u32 = 0x2000_0000;
/// Sandboxed commands that take longer hang; emulated processors share a machine that does other things too.
const RUN_TIMEOUT: Duration = Duration::from_secs(180);
const EMULATED_RUN_TIMEOUT: Duration = Duration::from_secs(540);
/// What `session.start` names, and `doctor` too.
const BACKENDS: [&str; 4] = ["lsm", "fmod_ret", "fanotify", "landlock"];

/// A folder and a user for one test. Whatever is left of its sandboxes when it goes fails the test.
pub(crate) struct TestBed {
    root: PathBuf,
    uid: u32,
    runs: AtomicU32,
    cgroups: Mutex<Vec<String>>,
}

/// One finished run in the sandbox.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) log: Log,
}

impl TestBed {
    /// # Panics
    /// When the caller is not root: these tests need it, and say so instead of passing.
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test needs root, and there is none: run `sudo -E env PATH=\"$PATH\" cargo xtask test`"
        );
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let root = Path::new(BEDS).join(format!("{name}.{pid}.{count}"));
        // A pid has 22 bits at most.
        let bed = Self {
            root,
            uid: FIRST_UID + (pid << 7) + (count & 0x7f),
            runs: AtomicU32::new(0),
            cgroups: Mutex::default(),
        };
        fs::create_dir_all(&bed.root).unwrap();
        for (folder, owned) in [
            ("project", true),
            ("home", true),
            ("tmp", true),
            ("outside", true),
            ("log", false),
            ("policies", false),
        ] {
            let path = bed.root.join(folder);
            fs::create_dir(&path).unwrap();
            if owned {
                bed.give(&path);
            }
        }
        fs::set_permissions(bed.root.join("log"), PermissionsExt::from_mode(0o700)).unwrap();
        bed
    }

    /// The user that commands run as; it has no entry in `/etc/passwd`.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that `{project}` stands for, and the working directory.
    pub(crate) fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A folder of the test's user that no rule of [`TestBed::policy`] allows to write to.
    pub(crate) fn outside(&self) -> PathBuf {
        self.root.join("outside")
    }

    /// Hands a path to the test's user.
    pub(crate) fn give(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid)).unwrap();
    }

    /// A file of the test's user; a relative path is one in the project.
    pub(crate) fn file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.project().join(path);
        self.folder(path.parent().unwrap());
        fs::write(&path, content).unwrap();
        self.give(&path);
        path
    }

    /// A folder of the test's user, with those above it; a relative path is one in the project.
    pub(crate) fn folder(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.project().join(path);
        if !path.exists() {
            self.folder(path.parent().unwrap());
            fs::create_dir(&path).unwrap();
            self.give(&path);
        }
        path
    }

    /// A policy file of root's: version and name are written by this function, the rest is `body`.
    pub(crate) fn policy(&self, name: &str, body: &str) -> PathBuf {
        self.raw_policy(name, &format!("version = 1\nname = \"{name}\"\n{body}"))
    }

    /// A policy file as it stands.
    pub(crate) fn raw_policy(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root.join("policies").join(format!("{name}.toml"));
        fs::write(&path, text).unwrap();
        path
    }

    /// A policy `test` that lets the project be written and everything be read, but for `deny`.
    pub(crate) fn deny(&self, deny: &[&str]) -> PathBuf {
        let deny: Vec<String> = deny.iter().map(|pattern| toml_string(pattern)).collect();
        self.policy(
            "test",
            &format!("[filesystem]\nwrite = [\"{{project}}\"]\ndeny = [{}]\n", deny.join(", ")),
        )
    }

    /// Runs a command as the test's user without any sandbox: the positive control.
    pub(crate) fn bare(&self, command: Vec<OsString>) -> Output {
        self.bare_command(command).output().unwrap()
    }

    /// See [`TestBed::bare`], not started yet.
    pub(crate) fn bare_command(&self, command: Vec<OsString>) -> Command {
        let mut words = command.into_iter();
        let mut process = Command::new(words.next().unwrap());
        // As root, `uid` drops the other groups too.
        process.args(words).uid(self.uid).gid(self.uid);
        self.surroundings(&mut process);
        process
    }

    /// A command as root with all its capabilities, without any sandbox.
    pub(crate) fn root_command(&self, command: Vec<OsString>) -> Command {
        let mut words = command.into_iter();
        let mut process = Command::new(words.next().unwrap());
        process.args(words);
        self.surroundings(&mut process);
        process
    }

    /// Runs a command in the sandbox under one policy.
    pub(crate) fn run(&self, policy: &Path, command: Vec<OsString>) -> Run {
        self.start(&[policy], command).finish()
    }

    /// A run that is not started yet, with a log of its own.
    pub(crate) fn start(&self, policies: &[&Path], command: Vec<OsString>) -> Start<'_> {
        let log = self.root.join("log").join(format!("{}.jsonl", self.runs.fetch_add(1, Ordering::Relaxed)));
        self.start_with_log(policies, log, command)
    }

    /// See [`TestBed::start`]; the log is to be written there.
    pub(crate) fn start_with_log(
        &self,
        policies: &[&Path],
        log: PathBuf,
        command: Vec<OsString>,
    ) -> Start<'_> {
        let mut process = Command::new(binary());
        process.arg("run").arg("--audit-log").arg(&log);
        for policy in policies {
            process.arg("-p").arg(policy);
        }
        process.arg("--").args(command);
        self.surroundings(&mut process);
        process.env("SUDO_UID", self.uid.to_string()).env("SUDO_GID", self.uid.to_string());
        Start { bed: self, process, log }
    }

    fn surroundings(&self, process: &mut Command) {
        process.env_clear().stdin(Stdio::null()).current_dir(self.project());
        for (name, value) in
            [("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"), ("LANG", "C.UTF-8"), ("TERM", "dumb")]
        {
            process.env(name, value);
        }
        process.env("HOME", self.home()).env("TMPDIR", self.tmp()).env("SHELL", "/bin/sh");
    }

    /// A copy that everyone may run. Made by another process: were the copy open for writing in this one, a child that
    /// another test forks meanwhile would keep it busy (ETXTBSY).
    pub(crate) fn program(&self, source: &Path, path: &Path) {
        let copied = Command::new("install").args(["-m", "755"]).arg(source).arg(path).status().unwrap();
        assert!(copied.success(), "install {}: {copied}", path.display());
    }

    /// A program of the test's user, in the project: a script, or whatever the bytes are.
    pub(crate) fn script(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let (source, path) =
            (self.root.join(format!("{}.part", name.replace('/', "-"))), self.project().join(name));
        fs::write(&source, content).unwrap();
        self.program(&source, &path);
        self.give(&path);
        path
    }

    /// The test executable under a name that the test's user can reach: run it with the words of [`worker`].
    pub(crate) fn worker(&self, words: Vec<OsString>) -> Vec<OsString> {
        [self.program_of_tests(worker::MARK), words].concat()
    }

    /// The test executable itself, with its first argument.
    pub(crate) fn program_of_tests(&self, mark: &str) -> Vec<OsString> {
        let path = self.root.join("worker");
        if !path.exists() {
            self.program(&std::env::current_exe().unwrap(), &path);
        }
        args![&path, mark]
    }

    /// What each step of [`worker`] came to, bare.
    pub(crate) fn bare_steps(&self, steps: Vec<OsString>) -> Vec<String> {
        let output = self.bare(self.worker(steps));
        assert!(output.status.success(), "{output:?}");
        lines(&output.stdout)
    }

    /// The run, and what each step of [`worker`] came to in it.
    pub(crate) fn run_steps(&self, policy: &Path, steps: Vec<OsString>) -> (Run, Vec<String>) {
        let run = self.run(policy, self.worker(steps));
        assert!(run.status.success(), "{run}");
        let lines = lines(&run.stdout);
        (run, lines)
    }
}

/// A command line of `govsandbox run` that can still be changed.
pub(crate) struct Start<'bed> {
    bed: &'bed TestBed,
    pub(crate) process: Command,
    log: PathBuf,
}

impl Start<'_> {
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Runs it to its end, standard input as set, output captured.
    pub(crate) fn finish(mut self) -> Run {
        let child = self.spawn();
        let at_most = if is_emulated() { EMULATED_RUN_TIMEOUT } else { RUN_TIMEOUT };
        let output = procs::wait_with_output(child, at_most);
        self.read(output)
    }

    /// As root itself started it, and nobody through sudo.
    pub(crate) fn by_root(mut self) -> Self {
        self.process.env_remove("SUDO_UID").env_remove("SUDO_GID");
        self
    }

    /// Started by a shell that does `first` before it becomes govsandbox.
    pub(crate) fn after(mut self, first: &str) -> Self {
        self.wrap(args!["/bin/sh", "-c", format!("{first}\nexec \"$@\""), "sh"]);
        self
    }

    /// Likewise, in a mount namespace of its own: what `first` mounts is not seen by others.
    pub(crate) fn after_in_own_mounts(mut self, first: &str) -> Self {
        let script = format!("set -e\n{first}\nset +e\nexec \"$@\"");
        self.wrap(args!["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", script, "sh"]);
        self
    }

    /// On a machine of its own.
    pub(crate) fn on(mut self, machine: &machine::Machine) -> Self {
        let cwd = self.process.get_current_dir().unwrap().to_owned();
        let mut words = machine.enter().into_iter().map(OsString::from).collect::<Vec<_>>();
        // nsenter leaves the folder for that of the namespace.
        words.last_mut().unwrap().push(&cwd);
        self.wrap(words);
        self
    }

    fn wrap(&mut self, words: Vec<OsString>) {
        let mut wrapped = Command::new(&words[0]);
        wrapped.args(&words[1..]).arg(self.process.get_program()).args(self.process.get_args());
        wrapped.env_clear().stdin(Stdio::null());
        for (name, value) in self.process.get_envs() {
            wrapped.env(name, value.unwrap_or_default());
        }
        wrapped.current_dir(self.process.get_current_dir().unwrap());
        self.process = wrapped;
    }

    /// Starts it, output captured; [`Start::read`] takes what comes.
    pub(crate) fn spawn(&mut self) -> Child {
        let child = self.process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The name of a run's cgroup ends in the supervisor's pid.
        self.bed.cgroups.lock().unwrap().push(format!("-{}", child.id()));
        child
    }

    /// The run behind an output that the test collected itself.
    pub(crate) fn read(&self, output: Output) -> Run {
        let log = Log::read(&self.log);
        let run = Run { status: output.status, stdout: output.stdout, stderr: output.stderr, log };
        if let Some(start) = run.log.events.iter().find(|event| event.kind() == "session.start") {
            assert_eq!(start.object("backend"), backend(), "the run took another backend: {run}");
        } else {
            assert_eq!(run.status.code(), Some(125), "a run without session.start: {run}");
        }
        run
    }
}

impl Run {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The status as a shell tells it: 128+n for a signal.
    pub(crate) fn shell_status(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap())
    }

    /// Holds that one, and only one, event tells of this denial, and that it names the rule.
    #[track_caller]
    pub(crate) fn assert_denied_once(&self, kind: &str, path: &Path, rule: &str) {
        let events = self.log.denied(kind, path);
        assert_eq!(events.len(), 1, "denials of {kind} on {}: {self}", path.display());
        assert_eq!(events[0].rule(), Some(rule), "{self}");
        let errno = events[0].text("errno");
        assert!(DENIED.contains(&errno), "errno {errno}: {self}");
        assert_eq!(events[0].0["process"]["uid"], events[0].0["actor"]["uid"], "{self}");
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{}\nstdout: {}\nstderr: {}", self.status, self.out(), self.err())?;
        writeln!(out, "log: {} events, those that are not `allowed`:", self.log.events.len())?;
        for event in self.log.events.iter().filter(|event| event.text("outcome") != "allowed").take(40) {
            writeln!(out, "  {}", event.0)?;
        }
        Ok(())
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        let left = procs::leftovers(self.uid, &self.root, &self.cgroups.lock().unwrap());
        let removed = fs::remove_dir_all(&self.root);
        // The last one out; others may still be there.
        let _ = fs::remove_dir(BEDS);
        if std::thread::panicking() {
            eprintln!("left behind: {left:?}; bed removed: {removed:?}");
        } else {
            assert!(left.is_empty(), "left behind: {left:?}");
            removed.unwrap();
        }
    }
}

/// The errnos of a refused open or change: EROFS and EBUSY come from a mount.
pub(crate) const DENIED: [&str; 2] = ["EACCES", "EPERM"];
pub(crate) const DENIED_CHANGE: [&str; 5] = ["EACCES", "EPERM", "EROFS", "EBUSY", "EXDEV"];

/// The command under test.
pub(crate) fn binary() -> &'static Path {
    let path = Path::new(env!("CARGO_BIN_EXE_govsandbox"));
    assert!(path.exists(), "there is no {}: run `cargo build`", path.display());
    path
}

/// Times are those of an emulated processor.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os("GOVSANDBOX_TEST_EMULATED").is_some()
}

/// For a start, which takes its time on an emulated processor.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if is_emulated() { 180 } else { 30 })
}

/// The backend that runs must take: what the caller expects, else what `doctor` promises for this machine.
pub(crate) fn backend() -> &'static str {
    static BACKEND: OnceLock<String> = OnceLock::new();
    BACKEND.get_or_init(|| {
        let name = std::env::var("GOVSANDBOX_TEST_BACKEND").unwrap_or_else(|_| {
            let output = Command::new(binary()).args(["doctor", "--format", "json"]).output().unwrap();
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("doctor --format json: {error}: {output:?}"));
            report["backend"]
                .as_str()
                .unwrap_or_else(|| panic!("doctor names no backend: {report}"))
                .to_owned()
        });
        assert!(BACKENDS.contains(&name.as_str()), "`{name}` is no backend");
        name
    })
}

/// Lines of an output, without the line ends.
pub(crate) fn lines(output: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(output).lines().map(str::to_owned).collect()
}

/// A shell script as a command.
pub(crate) fn sh(script: impl AsRef<OsStr>) -> Vec<OsString> {
    args!["/bin/sh", "-c", script.as_ref()]
}

/// `text` as a TOML string.
pub(crate) fn toml_string(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n").replace('\t', "\\t"))
}
