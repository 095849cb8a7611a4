//! What belongs to the whole machine and is met in the sandbox: govsandbox's program by way of its own processes.

use std::{fs, io, os::unix::fs::PermissionsExt as _};

use crate::{
    attempt::{Attempt, BY_KERNEL, Class},
    processes,
};

pub(crate) fn attempts() -> Vec<Attempt> {
    performer().into()
}

/// Links to the program and the files of the processes that stand beside the command, by each of their names.
fn performer() -> [Attempt; 2] {
    let new = |name: &str, what, links: &'static [&'static str]| {
        Attempt::new(name, Class::OwnFiles, what, "proc_pid_exe(5)")
            .control_by_root()
            .staged(processes::outside)
            .acts(move |at| changed(&at.said("pid")?, links))
            .refused(&[libc::EACCES])
            .told(BY_KERNEL)
    };
    [
        new(
            "own-performer-exe",
            "the mode of govsandbox itself, by the link of a process of its own",
            &["exe", "fd/../exe", "root/proc/self/exe"],
        ),
        new(
            "own-performer-files",
            "the mode of what a process of govsandbox's own has open",
            &["fd/0", "fd/1", "fd/2", "fd/3", "fd/4", "fd/5"],
        ),
    ]
}

/// Sets a mode by a link of a process that the caller can't look into, outside by one of another.
fn changed(outside: &str, links: &[&str]) -> io::Result<String> {
    for pid in std::iter::once(outside.to_owned()).chain((1..10).map(|pid| pid.to_string())) {
        let folders = [
            format!("/proc/{pid}"),
            format!("/proc/{pid}/task/{pid}"),
            format!("/proc/{pid}/task/../task/.."),
        ];
        for path in folders.iter().flat_map(|folder| links.iter().map(move |link| format!("{folder}/{link}")))
        {
            let mode = match fs::metadata(&path) {
                Ok(_) if pid != outside => continue,
                // The mode that it has: what counts is that it may be set.
                Ok(found) => found.permissions(),
                Err(_) => fs::Permissions::from_mode(0o666),
            };
            if fs::set_permissions(&path, mode).is_ok() {
                return Ok(path);
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}
