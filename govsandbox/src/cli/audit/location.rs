//! Which log is read when none is named.

use std::{
    env,
    path::{Path, PathBuf},
};

const ROOT_STATE: &str = "/var/lib/govsandbox";
const FILE_NAME: &str = "audit.jsonl";

/// Which log to read
#[derive(Debug, clap::Args)]
pub(super) struct LogArg {
    /// The log [default: that of your runs: /var/lib/govsandbox/UID/audit.jsonl where root started them (sudo),
    /// $XDG_STATE_HOME/govsandbox/audit.jsonl otherwise]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// None of the usual places has one.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("there is no audit log at {}", list(.0))]
#[diagnostic(
    code(audit::no_log),
    help("a log begins with the first `govsandbox run`; name one that lies elsewhere with --log FILE")
)]
pub(super) struct NoLog(Vec<PathBuf>);

impl LogArg {
    /// The file to read. Where the usual place has none but another has, that one, and stderr says so.
    ///
    /// # Errors
    /// [`NoLog`] names all places that were looked at.
    pub(super) fn find(&self) -> Result<PathBuf, NoLog> {
        if let Some(log) = &self.log {
            return Ok(log.clone());
        }
        let places = places();
        // A folder that we may not enter may hold it: reading it then says that permission is missing.
        let found = places.iter().find(|place| !matches!(place.try_exists(), Ok(false))).cloned();
        match (found, places.first()) {
            (Some(found), Some(first)) if found != *first => {
                eprintln!("govsandbox: no audit log at {}, reading {}", first.display(), found.display());
                Ok(found)
            }
            (Some(found), _) => Ok(found),
            (None, _) => Err(NoLog(places)),
        }
    }

    /// The same, for one who waits until there is one.
    pub(super) fn find_or_first(&self) -> Result<PathBuf, NoLog> {
        self.find().or_else(|none| none.0.first().cloned().ok_or(none))
    }
}

/// Where logs of the caller's runs may be, the usual place first.
fn places() -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let of_root = |uid: u32| Path::new(ROOT_STATE).join(uid.to_string()).join(FILE_NAME);
    let own_state = env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")));
    let own = own_state.map(|state| state.join("govsandbox").join(FILE_NAME));
    if uid == 0 {
        let caller = env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
        caller.into_iter().filter(|uid| *uid != 0).chain([0]).map(of_root).collect()
    } else {
        own.into_iter().chain([of_root(uid)]).collect()
    }
}

fn list(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ")
}
