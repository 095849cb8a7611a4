//! A supervisor in a process of its own, with what it printed.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use govsandbox::{
    launch::{
        LaunchPlan,
        landlock::{LandlockLayer, LandlockPlan},
        mount::MountPlan,
        plan::CgroupPlan,
        privilege::{Identity, Origin},
        seccomp::SeccompPlan,
        spawn,
    },
    sys::clone::{Descriptors, Process, fork},
};
use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// The user of the tests: no entry in any database.
pub(crate) const UID: u32 = 61_234;

/// A folder for one test, owned by [`UID`], removed at the end.
pub(crate) struct Bed {
    folder: tempfile::TempDir,
}

/// How a supervisor ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("confine-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(UID), Some(UID)).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        let parent = path.parent().unwrap().to_owned();
        fs::create_dir_all(&parent).unwrap();
        fs::write(&path, content).unwrap();
        for made in path.ancestors().take_while(|one| one.starts_with(self.path())) {
            chown(made, Some(UID), Some(UID)).unwrap();
        }
        path
    }

    /// Everything readable, the bed writable, hooks' seccomp filter.
    pub(crate) fn plan(&self, command: &[&str]) -> LaunchPlan {
        let layer =
            LandlockLayer { read: vec![PathBuf::from("/")], write: vec![self.path()], any_write: false };
        LaunchPlan {
            argv: command.iter().map(OsString::from).collect(),
            cwd: self.path(),
            env: vec![(
                OsString::from("PATH"),
                OsString::from("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            )],
            identity: Identity {
                uid: UID,
                gid: UID,
                groups: vec![UID],
                name: UID.to_string(),
                home: self.path(),
                shell: OsString::new(),
                origin: Origin::Named,
            },
            cgroup: CgroupPlan { name: "confine".to_owned(), ..CgroupPlan::default() },
            network: None,
            mounts: MountPlan { writable: vec![self.path()], ..MountPlan::default() },
            landlock: LandlockPlan { layers: vec![layer], by_hooks: false, open_abstract: false },
            seccomp: SeccompPlan::HOOKS,
            fanotify: None,
            performer: None,
        }
    }

    /// Runs a shell script in a sandbox.
    pub(crate) fn sh(&self, script: &str) -> Outcome {
        run(&self.plan(&["sh", "-c", script]))
    }
}

/// Runs `plan` in a supervisor of its own to its end.
pub(crate) fn run(plan: &LaunchPlan) -> Outcome {
    supervise(|| launch(plan)).finish()
}

/// What a supervisor does, without its output and log.
pub(crate) fn launch(plan: &LaunchPlan) -> i32 {
    match spawn(plan, |_| Ok(())).and_then(|prepared| prepared.release()).and_then(|running| running.wait()) {
        Ok(ended) => i32::from(ended.status()),
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            125
        }
    }
}

/// A supervisor that runs.
pub(crate) struct Supervisor {
    pub(crate) process: Process,
    stdout: File,
    stderr: File,
}

/// Starts a process that does `work`, its output caught in files that lie outside any bed.
pub(crate) fn supervise(work: impl FnOnce() -> i32) -> Supervisor {
    let (out_read, out_write) = std::io::pipe().unwrap();
    let (err_read, err_write) = std::io::pipe().unwrap();
    let process = fork(Descriptors::All, || {
        rustix::stdio::dup2_stdin(File::open("/dev/null").unwrap()).unwrap();
        rustix::stdio::dup2_stdout(&out_write).unwrap();
        rustix::stdio::dup2_stderr(&err_write).unwrap();
        drop((out_read.try_clone(), err_read.try_clone()));
        work()
    })
    .unwrap();
    drop((out_write, err_write));
    let file = |read: std::io::PipeReader| File::from(std::os::fd::OwnedFd::from(read));
    Supervisor { process, stdout: file(out_read), stderr: file(err_read) }
}

impl Supervisor {
    /// Waits for a line of its standard output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let mut byte = [0];
        while self.stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(char::from(byte[0]));
        }
        line
    }

    pub(crate) fn kill(&self, signal: Signal) {
        kill_process(self.process.pid, signal).unwrap();
    }

    /// Its end.
    pub(crate) fn finish(mut self) -> Outcome {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        // Both at once: a full pipe would stop the supervisor.
        std::thread::scope(|scope| {
            scope.spawn(|| self.stderr.read_to_string(&mut stderr).unwrap());
            self.stdout.read_to_string(&mut stdout).unwrap();
        });
        use std::os::fd::AsFd;
        let ended =
            waitid(WaitId::PidFd(self.process.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
        let status = ended.exit_status().unwrap_or_else(|| 1000 + ended.terminating_signal().unwrap_or(0));
        Outcome { status, stdout, stderr }
    }
}

/// Cgroups of sandboxes whose supervisor had this pid.
pub(crate) fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let parent = govsandbox::launch::cgroup::root().unwrap().join("govsandbox");
    let entries = fs::read_dir(parent).map(|found| found.flatten().map(|entry| entry.path()).collect());
    let entries: Vec<PathBuf> = entries.unwrap_or_default();
    entries.into_iter().filter(|path| path.to_string_lossy().ends_with(&format!("-{pid}"))).collect()
}

/// Processes whose command line holds `text`.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(|pid| *pid != std::process::id() && holds(pid)).collect()
}
