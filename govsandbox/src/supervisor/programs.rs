//! The exec rules of a run.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use super::system;
use crate::{
    backend::{
        fanotify::{self, PathRules},
        programs::{self, Programs},
    },
    launch::plan::FanotifyPlan,
    policy::compile::{ExecPlan, PathTable},
};

/// Finds the files that they name; names are looked for in the command's `PATH` too.
pub(super) fn find(plan: &ExecPlan, env: &[(OsString, OsString)]) -> miette::Result<Option<Programs>> {
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let folders: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    Ok(programs::find(plan, &folders)?)
}

/// What the verdict thread is asked where hooks decide about everything else.
pub(super) fn by_content(
    programs: Option<&Programs>,
    automaton: &PathTable,
) -> miette::Result<Option<(FanotifyPlan, Arc<PathRules>)>> {
    let Some(programs) = programs.filter(|programs| !programs.by_content.is_empty()) else { return Ok(None) };
    let asked = fanotify::prepare_contents(programs, automaton.clone())
        .map_err(system("read the programs that the policy holds by content"))?;
    Ok(Some((asked.0, Arc::new(asked.1))))
}
