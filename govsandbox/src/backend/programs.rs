//! Which files exec rules mean on this machine: paths resolved, names found in `PATH`.

use std::{
    collections::BTreeSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use govsandbox_ebpf::abi::exec::{ExecHits, ExecTable};

use crate::policy::{
    automaton::exec::{self, ExecTableError, Found},
    compile::{ExecEffect, ExecPlan, ExecProgram, ExecRule, ExpandedPath},
};

/// Folders of programs on every machine, beside those of `PATH`.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Entries of one folder that are looked at for a name with a wildcard.
const ENTRIES_MAX: usize = 50_000;

/// The exec rules of one run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// For the kernel, and for whoever decides beside it.
    pub table: Box<ExecTable>,
    /// Files and folders that are there now and that a rule is about: absolute, without symlinks.
    pub held: Vec<(PathBuf, ExecHits)>,
    /// Files whose content is held.
    pub by_content: Vec<(PathBuf, u16)>,
}

/// Finds the files. `search_path` is the command's `PATH`. `None`: the policy has no exec rule.
///
/// # Errors
/// [`ExecTableError`].
pub fn find(plan: &ExecPlan, search_path: &[PathBuf]) -> Result<Option<Programs>, ExecTableError> {
    if plan.is_empty() {
        return Ok(None);
    }
    let meanings = exec::meanings(plan);
    let mut looked = Looked { folders: folders(search_path), found: Found::default(), held: Vec::new() };
    let mut by_content = Vec::new();
    for (place, (rule, hits)) in plan.rules.iter().zip(meanings).enumerate() {
        let files = looked.files_of(place, rule)?;
        if rule.by_content {
            looked.found.unseen = looked.found.unseen.max(rule.rule.0);
            by_content.extend(files.iter().map(|file| (file.clone(), rule.rule.0)));
        }
        if rule.effect == ExecEffect::Deny {
            looked.held.extend(files.into_iter().map(|file| (file, hits)));
        }
    }
    let table = exec::build(plan, &looked.found)?;
    Ok(Some(Programs { table, held: looked.held, by_content }))
}

struct Looked {
    folders: Vec<PathBuf>,
    found: Found,
    held: Vec<(PathBuf, ExecHits)>,
}

impl Looked {
    /// The files that a rule means: those that bear a name themselves. One that is only called so, by a symlink, is what it
    /// is called.
    fn files_of(&mut self, place: usize, rule: &ExecRule) -> Result<Vec<PathBuf>, ExecTableError> {
        let mut files = Vec::new();
        match &rule.program {
            ExecProgram::Paths(paths) => {
                for real in paths.iter().filter_map(literal).filter_map(|path| path.canonicalize().ok()) {
                    self.found.resolved.push((real.as_os_str().as_bytes().to_vec(), place));
                    files.push(real);
                }
            }
            ExecProgram::Name(name) => {
                let names = exec::one_name(name)?;
                for entry in self.entries(name.literal()) {
                    let base = entry.file_name().unwrap_or_default();
                    if !exec::matches_name(&names, base.as_bytes()) {
                        continue;
                    }
                    let Ok(real) = entry.canonicalize() else { continue };
                    let own = real.file_name().unwrap_or_default();
                    if exec::matches_name(&names, own.as_bytes()) {
                        files.push(real);
                    } else {
                        self.found.called_otherwise.push(real.as_os_str().as_bytes().to_vec());
                    }
                }
            }
        }
        files.sort();
        files.dedup();
        Ok(files)
    }

    fn entries(&self, literal: Option<Vec<u8>>) -> Vec<PathBuf> {
        match literal {
            Some(name) => {
                let name = std::ffi::OsStr::from_bytes(&name);
                let paths = self.folders.iter().map(|folder| folder.join(name));
                paths.filter(|path| path.symlink_metadata().is_ok()).collect()
            }
            None => {
                let listed = self.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
                listed
                    .flat_map(|entries| entries.flatten().take(ENTRIES_MAX).map(|entry| entry.path()))
                    .collect()
            }
        }
    }
}

fn literal(path: &ExpandedPath) -> Option<&PathBuf> {
    match path {
        ExpandedPath::Literal(path) => Some(path),
        ExpandedPath::Glob(_) => None,
    }
}

/// Absolute folders, each once, symlinks followed.
fn folders(search_path: &[PathBuf]) -> Vec<PathBuf> {
    let all = search_path.iter().map(PathBuf::as_path).chain(FOLDERS.iter().map(Path::new));
    let real: BTreeSet<PathBuf> =
        all.filter(|folder| folder.is_absolute()).filter_map(|folder| folder.canonicalize().ok()).collect();
    real.into_iter().collect()
}
