//! What the rules say of a call, and telling of what they refuse.

use std::io;

use govsandbox_ebpf::{
    abi::{
        event::RecordAction,
        rule::{Hits, RULE_SOCKET},
    },
    decide::path::{Operation, decide_path},
};
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

use super::{caller::Caller, entry::Entry, report::Told, socket::Sockets};
use crate::{
    backend::fanotify::{Mode, PathRules},
    policy::automaton::unix,
};

/// A call did not go through.
#[derive(Debug)]
pub(super) enum Failed {
    /// With this errno.
    Errno(Errno),
    /// This process can't go on.
    Performer(io::Error),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// One call, for those who judge it.
#[derive(Clone, Copy)]
pub(super) struct Deed<'a> {
    pub(super) caller: &'a Caller<'a>,
    pub(super) action: RecordAction,
    /// What it is about; of a rename or link the old name.
    pub(super) path: &'a [u8],
    pub(super) object: Option<Stat>,
    /// The new name.
    pub(super) target: &'a [u8],
}

pub(super) struct Judge<'a> {
    pub(super) rules: &'a PathRules,
    pub(super) mode: Mode,
    /// Rules that leave keys of a config open.
    pub(super) with_keys: &'a [u16],
    pub(super) sockets: Sockets<'a>,
}

impl Judge<'_> {
    /// What holds an object's name and the object. `None`: it has no path that could be judged.
    pub(super) fn weigh(&self, path: &[u8], object: Option<&Stat>) -> Option<Hits> {
        self.rules.name_hits(path, object.map_or((0, 0), |found| (found.st_dev, found.st_ino)))
    }

    /// As [`Judge::weigh`], of a name in a folder.
    pub(super) fn weigh_entry(&self, entry: &Entry, object: Option<&Stat>) -> Option<Hits> {
        if entry.is_whole { self.weigh(entry.path.as_deref()?, object) } else { None }
    }

    /// The rule, where it protects a config of which keys may change, and nothing else holds it.
    pub(super) fn leaves_keys_open(&self, hits: Option<Hits>) -> Option<u16> {
        let rule = hits.filter(|hits| hits.deny == 0)?.protect;
        (self.mode == Mode::Enforce && self.with_keys.contains(&rule)).then_some(rule)
    }

    /// Goes by all names that a call changes: goes on, or refuses with EPERM after telling of it.
    ///
    /// `instead`: what the kernel answers before it would come to refuse (EEXIST, ENOENT).
    pub(super) fn settle(
        &self,
        deed: Deed<'_>,
        hits: Option<Hits>,
        instead: Option<Errno>,
    ) -> Result<(), Failed> {
        let rule = match hits {
            None => 0,
            Some(hits) => {
                let decision = decide_path(hits, Operation::Change);
                if decision.allow {
                    return Ok(());
                }
                decision.rule
            }
        };
        match instead {
            Some(errno) => Err(Failed::Errno(errno)),
            None => self.refuse(deed, rule),
        }
    }

    /// Goes on if a symlink may come to stand at this path, as [`Judge::settle`] does.
    pub(super) fn settle_symlink(
        &self,
        deed: Deed<'_>,
        path: &[u8],
        instead: Option<Errno>,
    ) -> Result<(), Failed> {
        let decision = self.rules.may_be_symlink(path);
        match instead.filter(|_| !decision.allow) {
            Some(errno) => Err(Failed::Errno(errno)),
            None if decision.allow => Ok(()),
            None => self.refuse(deed, decision.rule),
        }
    }

    /// Goes on if no unix socket of others gets a name by it that it may be reached by. `found` is moved from one path to the
    /// other.
    pub(super) fn settle_socket(
        &self,
        deed: Deed<'_>,
        found: &Option<Stat>,
        (from, to): (&[u8], &[u8]),
    ) -> Result<(), Failed> {
        let Some((table, found)) = self.sockets.table.zip(found.as_ref()) else { return Ok(()) };
        let may_go_on = match FileType::from_raw_mode(found.st_mode) {
            FileType::Socket => {
                let is_listed = |path| unix::decide(Some(table), path).allow;
                self.sockets.is_own(found) || is_listed(from) || !is_listed(to)
            }
            FileType::Directory => unix::lists_alike_below(table, from, to),
            _ => true,
        };
        if may_go_on { Ok(()) } else { self.refuse(deed, RULE_SOCKET) }
    }

    /// Tells of it, then refuses; in audit mode tells alone.
    pub(super) fn refuse(&self, deed: Deed<'_>, rule: u16) -> Result<(), Failed> {
        let refused = PathRules::refuses(rule, self.mode);
        let told = Told {
            tid: deed.caller.tid,
            action: deed.action,
            rule,
            refused,
            object: deed.object.map_or((0, 0), |found| (found.st_dev, found.st_ino)),
            path: deed.path,
            target: deed.target,
        };
        deed.caller.reporter.tell(&told, deed.caller.process()).map_err(Failed::Performer)?;
        if refused { Err(Failed::Errno(Errno::PERM)) } else { Ok(()) }
    }
}
