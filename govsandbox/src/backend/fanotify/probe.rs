//! Does this kernel let us refuse opens? Found by refusing one.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::sys::{
    clone::{Descriptors, clone_into_namespaces},
    fanotify::{Asked, Event, Group, Verdict},
};

/// A folder that is there on every system; only a namespace of the probe's own sees what is mounted on it.
const FOLDER: &str = "/tmp";
const REFUSED: &str = "/tmp/refused";
const ALLOWED: &str = "/tmp/allowed";

/// Statuses of the probe's process.
const HELD: i32 = 0;
const NOT_REFUSED: i32 = 1;
const NOT_ALLOWED: i32 = 2;
const NOT_SET_UP: i32 = 3;

/// Why the backend can't be used here.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ProbeError {
    /// No group for permission events.
    #[error("the kernel gives no fanotify group for permission events")]
    #[diagnostic(help("it needs root and CONFIG_FANOTIFY_ACCESS_PERMISSIONS"))]
    Group(#[source] io::Error),
    /// No namespaces, or nothing can be mounted in them.
    #[error("a private mount namespace can't be set up")]
    #[diagnostic(help("it needs CAP_SYS_ADMIN: run as root, outside of an unprivileged container"))]
    Namespace(#[source] io::Error),
    /// A mark on a mount is refused, or does nothing.
    #[error("an open that should have been refused went through")]
    NotRefused,
    /// Everything is refused.
    #[error("an open that should have been allowed was refused")]
    NotAllowed,
}

/// Marks a mount of its own, has one open refused (EPERM) and another allowed. One thread only, nothing stays.
///
/// # Errors
/// [`ProbeError`] says which part does not hold.
pub fn probe() -> Result<(), ProbeError> {
    let group = Group::new().map_err(ProbeError::Group)?;
    let keep = [group.as_fd().as_raw_fd()];
    let process = clone_into_namespaces(None, Descriptors::Only(&keep), || match try_opens(&group) {
        Ok(status) => status,
        Err(_) => NOT_SET_UP,
    })
    .map_err(ProbeError::Namespace)?;
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(group.as_fd(), PollFlags::IN),
            PollFd::new(&process.pidfd, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(ProbeError::Group(errno.into())),
        }
        let [asked, ended] = watched.map(|one| !one.revents().is_empty());
        if asked {
            for event in group.read().map_err(ProbeError::Group)? {
                group.answer(&event, verdict(&event)).map_err(ProbeError::Group)?;
            }
        } else if ended {
            break;
        }
    }
    let ended = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED);
    match ended.ok().flatten().and_then(|status| status.exit_status()) {
        Some(HELD) => Ok(()),
        Some(NOT_REFUSED) => Err(ProbeError::NotRefused),
        Some(NOT_ALLOWED) => Err(ProbeError::NotAllowed),
        _ => Err(ProbeError::Namespace(io::Error::from_raw_os_error(libc::EPERM))),
    }
}

fn verdict(event: &Event) -> Verdict {
    let path = fs::read_link(format!("/proc/self/fd/{}", event.object.as_raw_fd()));
    // Only the name: in a chroot the path begins outside of it.
    if path.is_ok_and(|path| path.file_name() == Path::new(ALLOWED).file_name()) {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

fn try_opens(group: &Group) -> io::Result<i32> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("probe", FOLDER, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    fs::write(REFUSED, "")?;
    fs::write(ALLOWED, "")?;
    group.mark(Asked::Opens, Path::new(FOLDER))?;
    let refused = fs::File::open(REFUSED).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    Ok(match (refused, fs::File::open(ALLOWED)) {
        (true, Ok(_)) => HELD,
        (false, _) => NOT_REFUSED,
        (true, Err(_)) => NOT_ALLOWED,
    })
}
