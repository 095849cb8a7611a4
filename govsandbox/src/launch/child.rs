//! The command's process from its fork to its exec.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::{
    channel::{Channel, Message},
    error::{Failure, Stage},
    landlock,
    performer::{ForPerformer, Waiting},
    plan::LaunchPlan,
    privilege, seccomp,
};
use crate::{
    fault::{self, Step},
    sys::{
        clone::OneThread,
        close_range,
        exec::{ExecStrings, execve},
        open_files, seccomp as seccomp_with_listener,
        signal::{self, Mask},
    },
};

/// Searched when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Applies all that holds the command, reports that it is ready, waits for the word and executes. Comes back only with
/// an exit status of failure, told to the supervisor before.
pub(super) fn run(
    plan: &LaunchPlan,
    channel: &Channel,
    performers: Option<ForPerformer<'_>>,
    mask: &Mask,
) -> i32 {
    let confined = confine(plan, performers);
    let failure = match confined.and_then(|prepared| wait_and_execute(&prepared, channel, mask)) {
        Ok(gone) => return gone,
        Err(failure) => failure,
    };
    let status = match (failure.stage, failure.errno) {
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => 127,
        (Stage::Exec, _) => 126,
        _ => 125,
    };
    // If nobody listens any more, the supervisor is gone and so is this process in a moment.
    drop(channel.send(&Message::Failed(failure)));
    status
}

/// What exec takes, and who performs, made before anything is dropped.
struct Program {
    candidates: Vec<CString>,
    /// The name has a slash: there is one candidate, and `PATH` was not asked.
    is_path: bool,
    name: String,
    arguments: ExecStrings,
    environment: ExecStrings,
    performer: Option<OwnedFd>,
}

fn confine(plan: &LaunchPlan, performers: Option<ForPerformer<'_>>) -> Result<Program, Failure> {
    let fail = |stage, object: &str| {
        let object = object.to_owned();
        move |source: io::Error| Failure::new(stage, object, &source)
    };
    let name = plan.argv.first().map(OsString::as_os_str).unwrap_or_default();
    let shown = name.to_string_lossy().into_owned();
    let mut program = Program {
        candidates: candidates(name, &plan.env).map_err(fail(Stage::Exec, &shown))?,
        arguments: ExecStrings::new(&plan.argv).map_err(fail(Stage::Exec, "arguments"))?,
        environment: ExecStrings::from_environment(&plan.env).map_err(fail(Stage::Exec, "environment"))?,
        is_path: name.as_bytes().contains(&b'/'),
        name: shown,
        performer: None,
    };
    let filter = seccomp::program(&plan.seccomp);
    // Paths of the lists may lie where only root can look them up.
    let domain = landlock::prepare(&plan.landlock).map_err(fail(Stage::Landlock, ""))?;
    fault::at(Step::Rules).map_err(fail(Stage::Landlock, ""))?;
    open_files::restore().map_err(fail(Stage::Descriptors, "the limit of open files"))?;
    let drop_privilege = || {
        privilege::drop_to(&plan.identity)
            .map_err(|(step, source)| Failure::new(Stage::Privilege, step, &source))?;
        fault::at(Step::Dropped).map_err(fail(Stage::Privilege, ""))
    };
    let enter_domain = || {
        landlock::apply(domain).map_err(fail(Stage::Landlock, ""))?;
        fault::at(Step::Landlocked).map_err(fail(Stage::Landlock, ""))
    };
    let close_others = || {
        close_range::close_on_exec_from(3).map_err(fail(Stage::Descriptors, ""))?;
        fault::at(Step::Descriptors).map_err(fail(Stage::Descriptors, ""))
    };
    if let (Some(performer), Some(held)) = (&plan.performer, performers) {
        // `/proc` is looked at before Landlock may hide it. The performer is forked between Landlock, which is to be one
        // domain for both, and the identity.
        let one = OneThread::check().map_err(fail(Stage::Performer, ""))?;
        enter_domain()?;
        let waiting =
            Waiting::fork(one, &**performer, &plan.identity, held).map_err(fail(Stage::Performer, ""))?;
        drop_privilege()?;
        close_others()?;
        let listener = seccomp_with_listener::install(&filter).map_err(fail(Stage::Seccomp, ""))?;
        fault::at(Step::Filtered).map_err(fail(Stage::Seccomp, ""))?;
        program.performer = Some(waiting.hand_over(listener).map_err(fail(Stage::Performer, ""))?);
    } else {
        drop_privilege()?;
        enter_domain()?;
        close_others()?;
        seccomp::apply(&filter).map_err(fail(Stage::Seccomp, ""))?;
        fault::at(Step::Filtered).map_err(fail(Stage::Seccomp, ""))?;
    }
    fault::at(Step::Performer).map_err(fail(Stage::Performer, ""))?;
    Ok(program)
}

fn wait_and_execute(program: &Program, channel: &Channel, mask: &Mask) -> Result<i32, Failure> {
    let fail = |source: io::Error| Failure::new(Stage::Exec, program.name.clone(), &source);
    channel.send_with(&Message::Ready, program.performer.as_ref().map(AsFd::as_fd)).map_err(fail)?;
    match channel.receive().map_err(fail)? {
        Some(received) if received.message == Message::Go => {}
        // Called off, or the supervisor is gone.
        _ => return Ok(125),
    }
    fault::at(Step::Go).map_err(|source| Failure::new(Stage::Seccomp, "", &source))?;
    // Rust's runtime ignores SIGPIPE, and what is ignored stays so over exec.
    signal::set_default(libc::SIGPIPE).map_err(fail)?;
    signal::restore(mask).map_err(fail)?;
    let mut refused = None;
    for candidate in &program.candidates {
        let error = execve(candidate, &program.arguments, &program.environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // As a shell does: a later folder of PATH may have one that can be executed, and a folder that can't be
            // searched (root's own, in the PATH of sudo's caller) has none.
            Some(libc::EACCES) if program.is_path || exists(candidate) => refused = Some(error),
            Some(libc::EACCES) => {}
            _ => return Err(fail(error)),
        }
    }
    Err(fail(refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))))
}

fn exists(path: &CStr) -> bool {
    rustix::fs::stat(path).is_ok()
}

fn candidates(name: &OsStr, env: &[(OsString, OsString)]) -> io::Result<Vec<CString>> {
    let c_string = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
    };
    if name.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(Path::new(name))?]);
    }
    let path = env.iter().find(|(found, _)| found == "PATH").map(|(_, value)| value.as_os_str());
    let folders = path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|byte| *byte == b':');
    folders.map(|folder| c_string(&Path::new(OsStr::from_bytes(folder)).join(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(name: &str, path: Option<&str>) -> Vec<String> {
        let env: Vec<_> =
            path.map(|path| (OsString::from("PATH"), OsString::from(path))).into_iter().collect();
        let found = candidates(OsStr::new(name), &env).unwrap();
        found.into_iter().map(|one| one.into_string().unwrap()).collect()
    }

    #[test]
    fn a_name_is_searched_in_path_and_a_path_is_taken_as_it_is() {
        assert_eq!(texts("sh", Some("/a:/b")), ["/a/sh", "/b/sh"]);
        assert_eq!(texts("./sh", Some("/a")), ["./sh"]);
        // An empty entry is the working directory (execvp(3)).
        assert_eq!(texts("sh", Some(":/b")), ["sh", "/b/sh"]);
        assert_eq!(texts("sh", None).len(), 3);
    }

    #[test]
    fn no_name_is_no_program() {
        assert!(candidates(OsStr::new(""), &[]).is_err());
        assert!(candidates(OsStr::new("a\0b"), &[]).is_err());
    }
}
