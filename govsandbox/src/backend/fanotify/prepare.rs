//! From compiled rules to mounts, marks and the tables of the verdict thread.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use govsandbox_ebpf::abi::{
    exec::ExecHits,
    rule::{Hits, RULE_OWN},
};

use super::{
    NOT_HELD,
    content::Contents,
    existing::{self, Existing},
    programs::ProgramRules,
    rules::PathRules,
    special,
    verdicts::Mode,
};
use crate::{
    backend::{links, programs::Programs},
    launch::{
        mount::{MountPlan, resolve, table::MountTable},
        plan::FanotifyPlan,
    },
    policy::{
        compile::{PathEffect, PathPlan, PathTable},
        procfs,
        rule::glob,
        way::Way,
    },
    sys::{file_system, open_files},
};

/// Objects that are kept open, at most: beyond, one that is removed may leave its number, and its rule, to another.
const HELD_MAX: usize = 16_384;
/// Files that this process has open besides.
const OPEN_FILES_USUAL: usize = 4096;

/// What it is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The policy's paths.
    pub paths: &'a PathPlan,
    /// The table of its globs.
    pub automaton: PathTable,
    /// Policy files, log, state folder, binary: never changed from inside, in either mode.
    pub own_files: Vec<PathBuf>,
    /// `mode` of the policy.
    pub mode: Mode,
    /// The policy's exec rules.
    pub programs: Option<&'a Programs>,
}

/// What a launch and a [`super::Verdicts`] take.
#[derive(Debug)]
pub struct Setup {
    /// For [`crate::launch::LaunchPlan::mounts`].
    pub mounts: MountPlan,
    /// For [`crate::launch::LaunchPlan::fanotify`].
    pub fanotify: FanotifyPlan,
    /// For [`super::Verdicts::start`].
    pub rules: PathRules,
    /// What is not held in this run, in words.
    pub not_held: Vec<String>,
}

/// The rules can't be held so.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PrepareError {
    /// A named path can't be looked up (other than by not existing), the mount table can't be read.
    #[error("cannot find the files that the policy names")]
    Find(#[from] io::Error),
    /// Nobody is asked about opens in `/proc`, and its files come and go with processes.
    #[error(
        "the backend `fanotify` cannot hold `{pattern}`: what processes have in /proc is not asked about"
    )]
    #[diagnostic(help("take the rule out, or boot with `bpf` in the kernel's lsm= list"))]
    OfProcesses {
        /// What is denied.
        pattern: String,
    },
}

/// Finds what exists, and how each rule is held.
///
/// # Errors
/// [`PrepareError`].
pub fn prepare(input: Input<'_>) -> Result<Setup, PrepareError> {
    let Input { paths, automaton, own_files, mode, programs } = input;
    let table = MountTable::read()?;
    let mut setup = Setup {
        mounts: MountPlan::default(),
        fanotify: FanotifyPlan {
            // A process outside that replaces a file takes away what was bound over it; its name is held all the same.
            all_mounts: !paths.globs.is_empty() || !paths.literals.is_empty() || mode == Mode::Audit,
            beginnings: paths.globs.iter().filter_map(|glob| glob::beginning(&glob.pattern)).collect(),
            programs: programs.is_some(),
        },
        rules: PathRules {
            automaton,
            literals: Vec::new(),
            links: Vec::new(),
            inodes: HashMap::new(),
            held: Vec::new(),
            programs: None,
        },
        not_held: NOT_HELD.iter().map(|text| (*text).to_owned()).collect(),
    };
    open_files::raise((OPEN_FILES_USUAL + HELD_MAX) as u64);
    for path in paths.allow.iter().flat_map(|lists| &lists.write) {
        setup.mounts.writable.extend(resolve(&path.path)?);
    }
    for path in &own_files {
        setup.hold_own(path)?;
    }
    for glob in paths.globs.iter().filter(|glob| procfs::is_of_processes(&glob.pattern)) {
        setup.leave_to_processes(&String::from_utf8_lossy(&glob.pattern), glob.effect, mode)?;
    }
    for literal in &paths.literals {
        let hits = literal.effect.hits(literal.rule);
        let Way { end, links } = Way::of(&literal.path);
        setup.rules.links.extend(links.iter().map(|link| (bytes(link), hits)));
        match resolve(&literal.path)? {
            Some(path) if path == Path::new("/proc") || procfs::of_resolved(&path).is_some() => {
                setup.leave_to_processes(&literal.path.to_string_lossy(), literal.effect, mode)?;
            }
            Some(path) => setup.hold_literal(&path, hits, &table)?,
            // Judged by its name when it is opened.
            None => {
                setup.fanotify.beginnings.extend(end.parent().map(Path::to_owned));
                setup.rules.literals.push((bytes(&end), hits));
            }
        }
        if links.contains(&literal.path) {
            // Replaced by a file, from outside, it is what the rule names.
            setup.rules.literals.push((bytes(&literal.path), hits));
        }
    }
    if let Some(programs) = programs {
        setup.hold_programs(programs)?;
    }
    if mode == Mode::Enforce {
        setup.hold_matches(paths)?;
        setup.close_special(!paths.globs.is_empty());
    }
    if mode == Mode::Audit {
        let own_files = std::mem::take(&mut setup.mounts.own_files);
        setup.mounts = MountPlan { own_files, writable: setup.mounts.writable, ..MountPlan::default() };
    }
    Ok(setup)
}

/// What the verdict thread does on a backend that decides in the kernel: programs that are held by content.
///
/// # Errors
/// A file can't be read.
pub fn prepare_contents(programs: &Programs, automaton: PathTable) -> io::Result<(FanotifyPlan, PathRules)> {
    let plan = FanotifyPlan { programs: true, ..FanotifyPlan::default() };
    let rules = ProgramRules {
        table: programs.table.clone(),
        inodes: HashMap::new(),
        contents: Contents::of(&programs.by_content)?,
        by_path: false,
    };
    let rules = PathRules {
        automaton,
        literals: Vec::new(),
        links: Vec::new(),
        inodes: HashMap::new(),
        held: Vec::new(),
        programs: Some(rules),
    };
    Ok((plan, rules))
}

impl Setup {
    /// Denied programs that are there now can't be executed from their place; their inodes are known under other names.
    fn hold_programs(&mut self, programs: &Programs) -> io::Result<()> {
        let mut rules = ProgramRules {
            table: programs.table.clone(),
            inodes: HashMap::new(),
            contents: Contents::of(&programs.by_content)?,
            by_path: true,
        };
        for (path, hits) in &programs.held {
            let found = std::fs::metadata(path)?;
            let known = rules.inodes.entry((found.dev(), found.ino())).or_insert(ExecHits::NONE);
            *known = known.or(*hits);
            if hits.deny != 0 {
                self.mounts.no_exec.push(path.clone());
            }
        }
        self.rules.programs = Some(rules);
        Ok(())
    }

    /// What every process has in `/proc` is not held. To protect it is to keep processes from what is their own.
    fn leave_to_processes(
        &mut self,
        pattern: &str,
        effect: PathEffect,
        mode: Mode,
    ) -> Result<(), PrepareError> {
        if effect == PathEffect::Deny && mode == Mode::Enforce {
            return Err(PrepareError::OfProcesses { pattern: pattern.to_owned() });
        }
        self.not_held.push(format!("{pattern}: what processes have in /proc"));
        Ok(())
    }

    fn hold_literal(&mut self, path: &Path, hits: Hits, table: &MountTable) -> io::Result<()> {
        self.rules.literals.push((bytes(path), hits));
        if hits.deny != 0 && file_system::is_proc(path) {
            self.mounts.closed.push(path.to_owned());
            return Ok(());
        }
        self.hold_inode(path, hits)?;
        self.lists(hits).0.push(path.to_owned());
        self.hold_aliases(path, path, hits, table);
        // What is mounted below is another file system, which may be mounted elsewhere too.
        for mount in
            table.mounts().iter().filter(|mount| mount.point != path && mount.point.starts_with(path))
        {
            self.hold_aliases(&mount.point, path, hits, table);
        }
        Ok(())
    }

    /// The other paths that mounts give an object; but for those below `held`, which are held by it, and those above, which
    /// would be more than what the rule names: a bind of the whole root below a denied folder.
    fn hold_aliases(&mut self, path: &Path, held: &Path, hits: Hits, table: &MountTable) {
        let is_apart = |alias: &Path| !alias.starts_with(held) && !held.starts_with(alias);
        let aliases: Vec<_> = table.aliases(path).into_iter().filter(|alias| is_apart(alias)).collect();
        // Hidden under another mount, an alias leads elsewhere or nowhere.
        self.lists(hits).1.extend(aliases.iter().filter(|alias| same_object(alias, path)).cloned());
        self.rules.literals.extend(aliases.iter().map(|alias| (bytes(alias), hits)));
    }

    /// One of govsandbox's own files: by a mount, by its names, and under the others that it has.
    fn hold_own(&mut self, path: &Path) -> io::Result<()> {
        let hits = Hits { deny: 0, protect: RULE_OWN };
        let Way { end, links } = Way::of(path);
        self.rules.links.extend(links.iter().map(|link| (bytes(link), hits)));
        self.rules.literals.push((bytes(&end), hits));
        if let Some(path) = resolve(path)? {
            self.hold_inode(&path, hits)?;
            self.fanotify.all_mounts |= self.mounts.is_writable(&path);
            self.mounts.own_files.push(path);
        }
        Ok(())
    }

    /// What patterns match already, and what else has a second name outside of a folder that is held.
    fn hold_matches(&mut self, paths: &PathPlan) -> io::Result<()> {
        let mut found = Existing { matches: Vec::new(), complete: true };
        if !paths.globs.is_empty() {
            let in_proc = self.fanotify.beginnings.iter().filter(|path| is_setting(path)).cloned();
            let roots: Vec<_> = self.mounts.writable.iter().cloned().chain(in_proc).collect();
            found = existing::find(&self.rules.automaton, &roots);
        }
        let named = self.mounts.deny.iter().chain(&self.mounts.protect);
        let named = named.filter_map(|path| Some((path.clone(), self.rules.hits(&bytes(path), (0, 0))?)));
        let folders: Vec<_> = named.chain(found.matches.iter().cloned()).collect();
        for (path, hits) in found.matches {
            self.hold_existing(path, hits)?;
        }
        let linked = links::find(&self.rules.automaton, folders);
        for (path, hits) in linked.files {
            match self.hold_inode(&path, hits) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                held => held?,
            }
        }
        if !found.complete || !linked.complete {
            self.not_held.push(links::NOT_ALL_HELD.to_owned());
        }
        Ok(())
    }

    /// What nobody is asked about can't be opened at all, be it denied or protected.
    fn close_special(&mut self, by_name: bool) {
        let MountPlan { deny, deny_unpinned, protect, protect_unpinned, .. } = &self.mounts;
        let held = [deny, deny_unpinned, protect, protect_unpinned].into_iter().flatten();
        let devices = [PathBuf::from("/dev")];
        let by_name = if by_name { devices.as_slice() } else { &[] };
        let mut found = special::find(&self.rules.automaton, held, by_name);
        special::other_names(&self.rules.automaton, &mut found, &self.mounts.writable);
        self.mounts.closed.extend(found.paths);
        if !found.complete {
            self.not_held.push(special::NOT_ALL_HELD.to_owned());
        }
    }

    fn hold_existing(&mut self, path: PathBuf, hits: Hits) -> io::Result<()> {
        if hits.deny != 0 && file_system::is_proc(&path) {
            self.mounts.closed.push(path);
            return Ok(());
        }
        match self.hold_inode(&path, hits) {
            Ok(()) => {}
            // It went away since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.lists(hits).1.push(path);
        Ok(())
    }

    /// Kept open, so that its number does not become another file's.
    fn hold_inode(&mut self, path: &Path, hits: Hits) -> io::Result<()> {
        let object =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
        let found = object.metadata()?;
        let entry = self.rules.inodes.entry((found.dev(), found.ino())).or_insert(Hits::NONE);
        *entry = entry.or(hits);
        if self.rules.held.len() < HELD_MAX {
            self.rules.held.push(object);
        }
        Ok(())
    }

    fn lists(&mut self, hits: Hits) -> (&mut Vec<PathBuf>, &mut Vec<PathBuf>) {
        let mounts = &mut self.mounts;
        if hits.deny == 0 {
            (&mut mounts.protect, &mut mounts.protect_unpinned)
        } else {
            (&mut mounts.deny, &mut mounts.deny_unpinned)
        }
    }
}

/// In `/proc`, and no process's.
fn is_setting(path: &Path) -> bool {
    path != Path::new("/proc") && file_system::is_proc(path)
}

fn same_object(alias: &Path, path: &Path) -> bool {
    match (std::fs::symlink_metadata(alias), std::fs::symlink_metadata(path)) {
        // Below a denied folder a mount of a part of it is another inode of the same device.
        (Ok(alias), Ok(path)) => alias.dev() == path.dev(),
        _ => false,
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
