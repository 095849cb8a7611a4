//! Processes, and what a run may not leave behind.

use std::{
    fs,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Output},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};

/// Waits for a child and its output; one that takes longer is ended, and the test with it.
pub(crate) fn wait_with_output(mut child: Child, at_most: Duration) -> Output {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.as_mut().map(|stream| stream.read_to_end(&mut bytes)).transpose().unwrap();
        bytes
    });
    let pidfd = pidfd(child.id());
    let output = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.as_mut().map(|stream| stream.read_to_end(&mut bytes)).transpose().unwrap();
        bytes
    });
    if !gone(&pidfd, at_most) {
        child.kill().unwrap();
        let stderr = reader.join().unwrap();
        panic!("hangs: {child:?}: {}", String::from_utf8_lossy(&stderr));
    }
    let status = child.wait().unwrap();
    Output { status, stdout: output.join().unwrap(), stderr: reader.join().unwrap() }
}

/// A handle of a live process.
pub(crate) fn pidfd(pid: u32) -> OwnedFd {
    try_pidfd(pid).unwrap()
}

pub(crate) fn try_pidfd(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap())?, PidfdFlags::empty()).ok()
}

/// Whether the process ends within that time.
pub(crate) fn gone(pidfd: &OwnedFd, at_most: Duration) -> bool {
    let end = Instant::now() + at_most;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// A process and its parent, from /proc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) ppid: u32,
    pub(crate) uid: u32,
    pub(crate) name: String,
    /// In how many pid namespaces it is, from ours.
    pub(crate) depth: usize,
    pub(crate) zombie: bool,
}

/// All processes that there are.
pub(crate) fn all() -> Vec<Process> {
    let folders = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok()).filter_map(status).collect()
}

fn status(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .unwrap_or_default()
    };
    let first =
        |name| field(name).split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    Some(Process {
        pid,
        ppid: first("PPid"),
        uid: first("Uid"),
        name: field("Name").to_owned(),
        depth: field("NSpid").split_whitespace().count(),
        zombie: field("State").starts_with('Z'),
    })
}

/// In how many pid namespaces a process is, from ours; 0 when it is gone.
pub(crate) fn depth(pid: u32) -> usize {
    status(pid).map_or(0, |process| process.depth)
}

/// What `pid` started, and what those started.
pub(crate) fn below(pid: u32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut ids = vec![pid];
    while let Some(parent) = ids.pop() {
        let children = all.iter().filter(|process| process.ppid == parent);
        for child in children {
            ids.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// Processes of a user that still run.
pub(crate) fn of_user(uid: u32) -> Vec<Process> {
    all().into_iter().filter(|process| process.uid == uid && !process.zombie).collect()
}

/// Waits until something holds; false when it does not in that time.
pub(crate) fn until(at_most: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if begin.elapsed() > at_most {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process that the test started.
pub(crate) fn signal(pid: u32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Processes of the user, mounts below the folder, cgroups with these endings: what a finished run left.
pub(crate) fn leftovers(uid: u32, root: &Path, endings: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    // The last process of a tree may be on its way out.
    if !until(Duration::from_secs(20), || of_user(uid).is_empty()) {
        left.extend(of_user(uid).iter().map(|process| format!("process {process:?}")));
        for process in of_user(uid) {
            if let Some(pid) = Pid::from_raw(i32::try_from(process.pid).unwrap()) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = root.to_str().unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(root)).map(|line| format!("mount {line}")));
    if !until(Duration::from_secs(20), || cgroups(endings).is_empty()) {
        left.extend(cgroups(endings).iter().map(|folder| format!("cgroup {}", folder.display())));
    }
    left
}

/// Sandboxes' cgroups whose name ends so.
fn cgroups(endings: &[String]) -> Vec<PathBuf> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    let top = if unified.exists() { unified } else { Path::new("/sys/fs/cgroup") };
    let folders = fs::read_dir(top.join("govsandbox")).into_iter().flatten().filter_map(Result::ok);
    let is_ours =
        |path: &PathBuf| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending.as_str()));
    folders.map(|folder| folder.path()).filter(is_ours).collect()
}
