//! Faults on request, in debug builds only: the tests end, hinder or hold up a launch between any two of its steps. A
//! release build has none of it and reads no variable.
//!
//! `GOVSANDBOX_FAULT=STEP:error=ERRNO` fails the step with that number. `GOVSANDBOX_FAULT=STEP:wait=FILE` holds the
//! process that takes the step up as long as the file exists, under the name `fault`, so that it can be found.

use std::{io, path::Path, thread, time::Duration};

const VARIABLE: &str = "GOVSANDBOX_FAULT";
/// Between two looks at the file.
const PAUSE: Duration = Duration::from_millis(5);

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A step of a launch, named for what has just been done; in the order in which they are taken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step { $($(#[doc = $doc])+ $name),+ }

        impl Step {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

steps! {
    /// The log is open.
    Log,
    /// cgroup v2 is there.
    CgroupRoot,
    /// The object is loaded; nothing is pinned yet. This and the next two: where no earlier run has done it.
    Object,
    /// The programs are attached and pinned.
    Links,
    /// The maps are pinned; only the last pin is missing.
    Maps,
    /// The programs are held.
    Programs,
    /// A backend was tried and works.
    Backend,
    /// What the policy names was found.
    Layers,
    /// The sandbox has a number, and nothing else.
    Number,
    /// Tagged inodes have their rules.
    Tags,
    /// Ring buffers and automaton are there.
    Slot,
    /// Networks are written.
    Networks,
    /// The kernel knows the supervisor.
    Supervisor,
    /// The sandbox exists in the kernel.
    Sandbox,
    /// There is a fanotify group, where the backend has one.
    Group,
    /// The cgroup is made.
    Cgroup,
    /// Its bounds are set.
    Bounds,
    /// A guardian looks after the tree (in the guardian).
    Guardian,
    /// The first guardian is started.
    FirstGuardian,
    /// Both are.
    Guardians,
    /// The init is started.
    Init,
    /// The guardians know it.
    Watched,
    /// The verdict thread answers, where the backend has one.
    Verdicts,
    /// The init dies with the supervisor (in the init, as the next ones).
    Bound,
    /// It is in the groups that bound it.
    Entered,
    /// Its mounts are made.
    Mounts,
    /// It is in the working directory.
    Folder,
    /// Opens are asked about, where the backend does so.
    Marks,
    /// Redirected files are opened anew.
    Streams,
    /// The command's process is there.
    Forked,
    /// The init has no capability any more.
    InitDropped,
    /// The supervisor was told of the command's process.
    Told,
    /// The Landlock rules are put together (in the command's process, as the next ones).
    Rules,
    /// User, groups and capabilities are dropped.
    Dropped,
    /// Landlock holds.
    Landlocked,
    /// Descriptors close on exec.
    Descriptors,
    /// seccomp holds.
    Filtered,
    /// The performer serves, where the backend has one.
    Performer,
    /// It has the word.
    Go,
    /// The supervisor knows that the command's process is ready.
    Ready,
    /// What is on descriptors 0–2 was judged.
    Judged,
    /// The log's thread runs.
    Recorder,
    /// The command is marked.
    Marked,
    /// The session's first event is on its way.
    Started,
    /// Records are read.
    Observer,
    /// The command executes.
    Released,
}

/// Comes back with an error, late, or never, if that was asked for.
///
/// # Errors
/// The one that was asked for.
#[inline]
pub fn at(step: Step) -> io::Result<()> {
    if cfg!(debug_assertions) { take(step) } else { Ok(()) }
}

fn take(step: Step) -> io::Result<()> {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let Some((name, action)) = wanted.split_once(':') else { return Ok(()) };
    if name != format!("{step:?}") {
        return Ok(());
    }
    if let Some(number) = action.strip_prefix("error=").and_then(|number| number.parse().ok()) {
        return Err(io::Error::from_raw_os_error(number));
    }
    if let Some(file) = action.strip_prefix("wait=") {
        let name = rustix::thread::name()?;
        rustix::thread::set_name(c"fault")?;
        while Path::new(file).exists() {
            thread::sleep(PAUSE);
        }
        rustix::thread::set_name(&name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_unless_asked_for() {
        assert!(Step::ALL.iter().all(|step| at(*step).is_ok()));
    }
}
