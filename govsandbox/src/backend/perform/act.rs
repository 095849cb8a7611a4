//! The calls themselves: judged, then done with the folders and objects that were judged.

use std::os::fd::{AsFd as _, OwnedFd};

use govsandbox_ebpf::abi::{
    event::RecordAction,
    rule::{Hits, RULE_PROC, RULE_SYMLINK},
};
use rustix::{
    fs::{
        Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, PROC_SUPER_MAGIC, RenameFlags, Stat, Uid,
        XattrFlags, accessat, chownat, fchmod, fchown, fremovexattr, fsetxattr, fstat, fstatfs, linkat,
        mkdirat, openat, removexattr, renameat_with, setxattr, symlinkat, unlinkat,
    },
    io::Errno,
    process::umask,
};

pub(super) use super::judge::Failed;
use super::{
    caller::Caller,
    edit::Edit,
    entry::{Entry, object, own_link, path_of},
    judge::{Deed, Judge},
    request::{Change, Place, Request, Target},
    walk::{self, Below},
};
use crate::sys::file_call::{mknod_at, truncate};

/// Judges and does one call.
pub(super) fn act(judge: &Judge<'_>, caller: &Caller<'_>, request: Request) -> Result<(), Failed> {
    match request {
        Request::Rename { from, to, flags } => {
            rename(judge, caller, &from, &to, RenameFlags::from_bits_retain(flags))
        }
        Request::Link { from, to } => link(judge, caller, &from, &to),
        Request::Remove { place, folder } => {
            let entry = Entry::find(&place, caller.tid)?;
            settle_name(judge, caller, RecordAction::Unlink, &entry)?;
            let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            Ok(unlinkat(&entry.folder, &entry.name, flags)?)
        }
        Request::MakeFolder { place, mode } => {
            let entry = Entry::find(&place, caller.tid)?;
            settle_name(judge, caller, RecordAction::Create, &entry)?;
            take_umask(caller)?;
            Ok(mkdirat(&entry.folder, &entry.name, Mode::from_raw_mode(mode))?)
        }
        Request::MakeNode { place, mode, device } => {
            let entry = Entry::find(&place, caller.tid)?;
            settle_name(judge, caller, RecordAction::Create, &entry)?;
            take_umask(caller)?;
            Ok(mknod_at(entry.folder.as_fd(), &entry.name, mode, device).map_err(errno)?)
        }
        Request::MakeSymlink { text, place } => {
            let entry = Entry::find(&place, caller.tid)?;
            settle_name(judge, caller, RecordAction::Create, &entry)?;
            if let Some(path) = &entry.path {
                let object = entry.object();
                let deed = Deed { caller, action: RecordAction::Create, path, object, target: &[] };
                judge.settle_symlink(deed, path, object.map(|_| Errno::EXIST))?;
            }
            Ok(symlinkat(&text, &entry.folder, &entry.name)?)
        }
        Request::Change { target, change } => alter(judge, caller, target, &change),
    }
}

/// A name that is made or removed.
fn settle_name(
    judge: &Judge<'_>,
    caller: &Caller<'_>,
    action: RecordAction,
    entry: &Entry,
) -> Result<(), Failed> {
    let Some(path) = &entry.path else { return Ok(()) };
    let found = entry.object();
    let hits = judge.weigh_entry(entry, found.as_ref());
    let instead = match (action, &found) {
        (RecordAction::Unlink, None) => Some(Errno::NOENT),
        (RecordAction::Create, Some(_)) => Some(Errno::EXIST),
        _ => None,
    };
    judge.settle(Deed { caller, action, path, object: found, target: &[] }, hits, instead)
}

fn rename(
    judge: &Judge<'_>,
    caller: &Caller<'_>,
    from: &Place,
    to: &Place,
    flags: RenameFlags,
) -> Result<(), Failed> {
    let from = Entry::find(from, caller.tid)?;
    let to = Entry::find(to, caller.tid).map_err(|errno| from.may_search().err().unwrap_or(errno))?;
    let perform = |flags: RenameFlags| renameat_with(&from.folder, &from.name, &to.folder, &to.name, flags);
    let (Some(old), Some(new)) = (&from.path, &to.path) else { return Ok(perform(flags)?) };
    let (moved, replaced) = (from.object(), to.object());
    let hits = both(judge.weigh_entry(&from, moved.as_ref()), judge.weigh_entry(&to, replaced.as_ref()));
    let instead = match (&moved, &replaced) {
        (None, _) => Some(Errno::NOENT),
        (_, None) if flags.contains(RenameFlags::EXCHANGE) => Some(Errno::NOENT),
        (_, Some(_)) if flags.contains(RenameFlags::NOREPLACE) => Some(Errno::EXIST),
        _ => None,
    };
    let deed = Deed { caller, action: RecordAction::Rename, path: old, object: moved, target: new };
    if flags.is_empty() && judge.weigh_entry(&from, moved.as_ref()) == Some(Hits::NONE) {
        let rule = judge.leaves_keys_open(judge.weigh_entry(&to, replaced.as_ref()));
        if let (Some(rule), Some(moved), Some(replaced)) = (rule, &moved, &replaced)
            && edit_config(caller, (&from, moved), (&to, replaced, rule))?
        {
            return Ok(unlinkat(&from.folder, &from.name, AtFlags::empty())?);
        }
    }
    judge.settle(deed, hits, instead)?;
    let exchanged = if flags.contains(RenameFlags::EXCHANGE) { replaced } else { None };
    for (found, place) in [(&moved, new), (&exchanged, old)] {
        if kind_of(found).is_symlink() {
            judge.settle_symlink(deed, place, instead)?;
        }
    }
    judge.settle_socket(deed, &moved, (old, new))?;
    judge.settle_socket(deed, &exchanged, (new, old))?;
    let is_folder = |found: &Option<Stat>| kind_of(found).is_dir();
    if !(is_folder(&moved) || is_folder(&exchanged)) || !walk::may_differ(judge.rules, old, new) {
        return Ok(perform(flags)?);
    }
    let folders = [(&from, old, new, is_folder(&moved)), (&to, new, old, is_folder(&exchanged))];
    for (entry, before, after, _) in folders.into_iter().filter(|(.., is_folder)| *is_folder) {
        let folder = open_entry(entry)?;
        settle_below(judge, deed, &folder, before, after)?;
    }
    perform(flags)?;
    // A file that was created below meanwhile met the old name's rules.
    for (entry, before, after, _) in
        [(&to, old, new, is_folder(&moved)), (&from, new, old, is_folder(&exchanged))]
            .into_iter()
            .filter(|(.., is_folder)| *is_folder)
    {
        let folder = open_entry(entry)?;
        if let refused @ Err(_) = settle_below(judge, deed, &folder, before, after) {
            let back = |flags| renameat_with(&to.folder, &to.name, &from.folder, &from.name, flags);
            let undo = if exchanged.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            back(undo).or_else(|_| back(RenameFlags::EXCHANGE))?;
            return refused;
        }
    }
    Ok(())
}

/// git writes a config anew beside the old one and renames it into place. `false`: not so, or other keys differ.
pub(super) fn edit_config(
    caller: &Caller<'_>,
    (from, moved): (&Entry, &Stat),
    (to, replaced, rule): (&Entry, &Stat, u16),
) -> Result<bool, Failed> {
    let is_file = |found: &Stat| FileType::from_raw_mode(found.st_mode).is_file();
    let is_beside = path_of(from.folder.as_fd())? == path_of(to.folder.as_fd())?;
    let Some(path) = to.path.as_deref().filter(|_| is_beside && is_file(moved) && is_file(replaced)) else {
        return Ok(false);
    };
    // The rename would take this right, and no right to write to the old file.
    accessat(&to.folder, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
    let edit = Edit { rule, object: (replaced.st_dev, replaced.st_ino), path };
    let source = open_entry(from)?;
    caller.reporter.edit(&edit, source.as_fd()).map_err(Failed::Performer)
}

fn open_entry(entry: &Entry) -> Result<OwnedFd, Errno> {
    openat(&entry.folder, &entry.name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn settle_below(
    judge: &Judge<'_>,
    deed: Deed<'_>,
    folder: &OwnedFd,
    before: &[u8],
    after: &[u8],
) -> Result<(), Failed> {
    let looked = super::with_capabilities(super::CAPABILITIES)
        .map(|()| walk::compare(judge.rules, deed.caller.reporter, folder.as_fd(), before, after));
    super::with_capabilities(rustix::thread::CapabilitySet::empty()).map_err(Failed::Performer)?;
    match looked.map_err(Failed::Performer)? {
        Below::Same => Ok(()),
        Below::Held(hits) => judge.settle(deed, Some(hits), None),
        Below::Symlink => judge.refuse(deed, RULE_SYMLINK),
        Below::Unknown => judge.settle(deed, None, None),
    }
}

fn link(judge: &Judge<'_>, caller: &Caller<'_>, from: &Target, to: &Place) -> Result<(), Failed> {
    let opened;
    let source = match from {
        Target::Path(place, last) => {
            opened = object(place, *last, caller.tid)?;
            &opened
        }
        Target::Handle(handle) | Target::File(handle) => handle,
    };
    let found = fstat(source)?;
    let path = told_path(source)?;
    let to = Entry::find(to, caller.tid)?;
    if let Some(new) = &to.path {
        let replaced = to.object();
        let hits = both(judge.weigh(&path, Some(&found)), judge.weigh_entry(&to, replaced.as_ref()));
        let deed = Deed { caller, action: RecordAction::Link, path: &path, object: Some(found), target: new };
        let instead = replaced.map(|_| Errno::EXIST);
        judge.settle(deed, hits, instead)?;
        if kind_of(&Some(found)).is_symlink() {
            judge.settle_symlink(deed, new, instead)?;
        }
        if instead.is_none() {
            judge.settle_socket(deed, &Some(found), (&path, new))?;
        }
    }
    Ok(linkat(CWD, own_link(source.as_fd())?, &to.folder, &to.name, AtFlags::SYMLINK_FOLLOW)?)
}

fn alter(judge: &Judge<'_>, caller: &Caller<'_>, target: Target, change: &Change) -> Result<(), Failed> {
    let (handle, is_file) = match target {
        Target::Path(place, last) => (object(&place, last, caller.tid)?, false),
        Target::Handle(handle) => (handle, false),
        Target::File(file) => (file, true),
    };
    let found = fstat(&handle)?;
    // Pipes, sockets and the like have no name that a rule could be about.
    let kind = FileType::from_raw_mode(found.st_mode);
    let path = told_path(&handle)?;
    if path.starts_with(b"/") || matches!(kind, FileType::RegularFile | FileType::Directory) {
        let action = match change {
            Change::Truncate(_) => RecordAction::Truncate,
            Change::Mode(_) => RecordAction::Chmod,
            Change::Owner(..) => RecordAction::Chown,
            Change::SetXattr { .. } | Change::RemoveXattr(_) => RecordAction::Xattr,
        };
        let hits = judge.weigh(&path, Some(&found));
        let deed = Deed { caller, action, path: &path, object: Some(found), target: &[] };
        judge.settle(deed, hits, None)?;
        // Of the machine, whichever mount they are changed by.
        let is_lasting = matches!(change, Change::Mode(_) | Change::Owner(..));
        if is_lasting && fstatfs(&handle)?.f_type == PROC_SUPER_MAGIC {
            judge.refuse(deed, RULE_PROC)?;
        }
    }
    if is_file { alter_file(&handle, change) } else { alter_object(caller, &handle, &found, change) }
}

fn alter_file(file: &OwnedFd, change: &Change) -> Result<(), Failed> {
    match change {
        Change::Mode(mode) => fchmod(file, Mode::from_raw_mode(*mode))?,
        Change::Owner(uid, gid) => fchown(file, uid_of(*uid), gid_of(*gid))?,
        Change::SetXattr { name, value, flags } => {
            fsetxattr(file, name, value, XattrFlags::from_bits_retain(*flags))?;
        }
        Change::RemoveXattr(name) => fremovexattr(file, name)?,
        // ftruncate(2) takes a file that was opened for writing, which was judged then.
        Change::Truncate(_) => return Err(Failed::Errno(Errno::NOSYS)),
    }
    Ok(())
}

fn alter_object(caller: &Caller<'_>, handle: &OwnedFd, found: &Stat, change: &Change) -> Result<(), Failed> {
    let path = own_link(handle.as_fd())?;
    match change {
        Change::Mode(mode) => rustix::fs::chmod(&path, Mode::from_raw_mode(*mode))?,
        Change::Owner(uid, gid) => {
            chownat(handle, c"", uid_of(*uid), gid_of(*gid), AtFlags::EMPTY_PATH)?;
        }
        Change::SetXattr { name, value, flags } => {
            setxattr(&path, name, value, XattrFlags::from_bits_retain(*flags))?;
        }
        Change::RemoveXattr(name) => removexattr(&path, name)?,
        Change::Truncate(length) => {
            let grows = length.cast_unsigned() > found.st_size.cast_unsigned();
            if grows && length.cast_unsigned() > caller.file_bytes_max()? {
                return Err(Failed::Errno(Errno::FBIG));
            }
            truncate(&path, *length).map_err(errno)?;
        }
    }
    Ok(())
}

fn kind_of(found: &Option<Stat>) -> FileType {
    found.as_ref().map_or(FileType::Unknown, |found| FileType::from_raw_mode(found.st_mode))
}

pub(super) fn take_umask(caller: &Caller<'_>) -> Result<(), Errno> {
    umask(caller.umask()?);
    Ok(())
}

/// -1 leaves it as it is.
fn uid_of(raw: u32) -> Option<Uid> {
    (raw != u32::MAX).then(|| Uid::from_raw(raw))
}

fn gid_of(raw: u32) -> Option<Gid> {
    (raw != u32::MAX).then(|| Gid::from_raw(raw))
}

/// Empty where it is longer than the kernel tells: such a path can't be judged.
fn told_path(object: &OwnedFd) -> Result<Vec<u8>, Errno> {
    match path_of(object.as_fd()) {
        Err(Errno::NAMETOOLONG) => Ok(Vec::new()),
        path => path,
    }
}

fn both(one: Option<Hits>, other: Option<Hits>) -> Option<Hits> {
    Some(one?.or(other?))
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
