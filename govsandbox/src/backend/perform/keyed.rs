//! On `lsm` the hooks refuse every rename onto a protected config. One that would change nothing but keys which the policy
//! leaves open is done here instead, as on `fanotify`; every other rename goes on in the kernel, where the hooks judge what
//! it then is about.
//!
//! The process bears the sandbox's mark: what it removes is judged by the hooks too. The config itself is edited by the
//! supervisor.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
};

use govsandbox_ebpf::{
    abi::rule::{Automaton, Hits},
    decide::automaton::scan,
};
use rustix::fs::{AtFlags, unlinkat};

use super::{
    Answer,
    act::{Failed, edit_config},
    caller::Caller,
    calls::{self, RENAMES},
    entry::Entry,
    report::Reporter,
    request::{Place, Request},
    serve,
};
use crate::{
    launch::{performer::Performer, seccomp::Performed},
    policy::compile::PathPlan,
    sys::seccomp::{Listener, Notification},
};

/// What is handed over.
pub const KEYED: Performed = Performed { calls: RENAMES, missing: &[] };

/// The performer of a sandbox whose policy leaves keys of configs open.
#[derive(Debug)]
pub struct KeyPerformer {
    /// Configs by `st_dev` and inode, with the rule that leaves keys open; nothing else holds them.
    configs: HashMap<(u64, u64), u16>,
    /// Their last names.
    names: HashSet<Vec<u8>>,
}

impl KeyPerformer {
    /// Looks for the configs. `None`: there are none. The automaton is the kernel's.
    #[must_use]
    pub fn new(paths: &PathPlan, automaton: &Automaton) -> Option<Self> {
        let real: Vec<_> = paths
            .literals
            .iter()
            .filter_map(|literal| {
                let path = literal.path.canonicalize().ok()?;
                let found = path.metadata().ok()?;
                Some((literal, path, (found.dev(), found.ino())))
            })
            .collect();
        let mut performer = Self { configs: HashMap::new(), names: HashSet::new() };
        for (literal, path, object) in &real {
            let covering = real.iter().filter(|(_, other, inode)| path.starts_with(other) || inode == object);
            let hits = covering.fold(scan(automaton, path.as_os_str().as_bytes()), |hits, (other, ..)| {
                hits.or(other.effect.hits(other.rule))
            });
            // Rules with keys are numbered last: no other protects it.
            let rule = literal.rule;
            if paths.keys_of(rule).is_none() || hits != (Hits { deny: 0, protect: rule.0 }) {
                continue;
            }
            if let Some(name) = path.file_name() {
                performer.configs.insert(*object, rule.0);
                performer.names.insert(name.as_bytes().to_vec());
            }
        }
        (!performer.configs.is_empty()).then_some(performer)
    }

    fn answer(
        &self,
        caller: &Caller<'_>,
        listener: &Listener,
        call: &Notification,
    ) -> io::Result<Option<Answer>> {
        let to = calls::renamed_to(call).map(|address| caller.path(address));
        // What can't be read the kernel answers.
        if !matches!(to, Some(Ok(to)) if self.names.contains(last_name(to.as_bytes()))) {
            return Ok(Some(Answer::GoOn));
        }
        let Ok(Request::Rename { from, to, flags: 0 }) = calls::read(caller, call) else {
            return Ok(Some(Answer::GoOn));
        };
        if !listener.is_waiting(call.id) {
            return Ok(None);
        }
        let done = super::without_capabilities(|| self.replace(caller, &from, &to))?;
        match done {
            Ok(true) => Ok(Some(Answer::Done(Ok(())))),
            Ok(false) => Ok(Some(Answer::GoOn)),
            Err(Failed::Errno(errno)) => Ok(Some(Answer::Done(Err(errno)))),
            Err(Failed::Performer(error)) => Err(error),
        }
    }

    /// `false`: it is none of these configs, or other keys differ. The hooks refuse that, and tell of it.
    fn replace(&self, caller: &Caller<'_>, from: &Place, to: &Place) -> Result<bool, Failed> {
        let (Ok(from), Ok(to)) = (Entry::find(from, caller.tid), Entry::find(to, caller.tid)) else {
            return Ok(false);
        };
        let (Some(moved), Some(replaced)) = (from.object(), to.object()) else { return Ok(false) };
        let Some(rule) = self.configs.get(&(replaced.st_dev, replaced.st_ino)) else { return Ok(false) };
        if !edit_config(caller, (&from, &moved), (&to, &replaced, *rule))? {
            return Ok(false);
        }
        unlinkat(&from.folder, &from.name, AtFlags::empty())?;
        Ok(true)
    }
}

impl Performer for KeyPerformer {
    fn serve(&self, listener: Listener, reports: OwnedFd) -> io::Result<()> {
        let reporter = Reporter::new(reports);
        serve(&listener, &reporter, |caller, call| self.answer(caller, &listener, call))
    }
}

fn last_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let path = path.get(..end).unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        id::RuleIndex,
        policy::{
            automaton,
            compile::{GlobRule, LiteralRule, PathEffect},
            git_config::Keys,
        },
    };

    fn found(literals: &[(&Path, PathEffect, u16)], globs: &[GlobRule]) -> Option<usize> {
        let paths = PathPlan {
            literals: literals
                .iter()
                .map(|(path, effect, rule)| LiteralRule {
                    path: path.to_path_buf(),
                    effect: *effect,
                    rule: RuleIndex(*rule),
                })
                .collect(),
            keys: vec![(RuleIndex(9), Keys::parse(["branch.*"]).unwrap())],
            ..PathPlan::default()
        };
        let performer = KeyPerformer::new(&paths, &automaton::build(globs).unwrap())?;
        Some(performer.configs.len())
    }

    #[test]
    fn a_config_is_edited_only_if_no_other_rule_holds_it() {
        let bed = tempfile::tempdir().unwrap();
        let root = bed.path().canonicalize().unwrap();
        let (config, other) = (root.join("config"), root.join("other"));
        fs::write(&config, "").unwrap();
        fs::hard_link(&config, &other).unwrap();
        let with_keys = (config.as_path(), PathEffect::Protect, 9);
        assert_eq!(found(&[with_keys], &[]), Some(1));
        assert_eq!(found(&[(&root.join("missing"), PathEffect::Protect, 9)], &[]), None);
        assert_eq!(found(&[(config.as_path(), PathEffect::Protect, 8)], &[]), None);
        for holding in [
            (root.as_path(), PathEffect::Protect, 3),
            (root.as_path(), PathEffect::Deny, 3),
            (other.as_path(), PathEffect::Protect, 3),
        ] {
            assert_eq!(found(&[with_keys, holding], &[]), None, "{holding:?}");
        }
        let glob =
            GlobRule { pattern: b"/**/config".to_vec(), effect: PathEffect::Protect, rule: RuleIndex(2) };
        assert_eq!(found(&[with_keys], &[glob]), None);
    }

    #[test]
    fn the_last_name_of_a_path_is_found() {
        for (path, name) in
            [("/a/config", "config"), ("config", "config"), ("a/config//", "config"), ("/", "")]
        {
            assert_eq!(last_name(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }
}
