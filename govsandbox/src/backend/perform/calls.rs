//! Which system calls are performed, and how each one's registers are read (the man page of each).

use rustix::io::Errno;

use super::{
    caller::Caller,
    request::{Change, LastLink, Request, Target},
};
use crate::sys::seccomp::Notification;

/// `fchmodat2(2)`, Linux 6.6; the same number everywhere.
const FCHMODAT2: i64 = 452;

/// Calls of every architecture.
macro_rules! calls {
    ($($old:ident)*) => {
        &[
            $(#[cfg(target_arch = "x86_64")] libc::$old,)*
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_linkat,
            libc::SYS_unlinkat,
            libc::SYS_mkdirat,
            libc::SYS_mknodat,
            libc::SYS_symlinkat,
            libc::SYS_truncate,
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            FCHMODAT2,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            libc::SYS_connect,
            libc::SYS_bind,
        ]
    };
}

/// All of them, and older ones that newer architectures do not have.
pub(super) const CALLS: &[i64] = calls!(SYS_rename SYS_link SYS_unlink SYS_rmdir SYS_mkdir SYS_mknod SYS_symlink SYS_chmod SYS_chown SYS_lchown);

/// Renames alone.
pub(super) const RENAMES: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
];

/// `setxattrat`, `removexattrat` (Linux 6.13). And Landlock, whose further domains would hold the
/// caller and not who does its calls: better that programs know that they have none.
pub(super) const MISSING: &[i64] = &[
    463,
    466,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

const AT_FDCWD: u64 = libc::AT_FDCWD as u64;
const NO_FOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const FOLLOW: u32 = libc::AT_SYMLINK_FOLLOW as u32;
const REMOVE_DIR: u32 = libc::AT_REMOVEDIR as u32;

/// Reads what a call is about.
///
/// # Errors
/// What the kernel would answer to such arguments.
pub(super) fn read(caller: &Caller<'_>, call: &Notification) -> Result<Request, Errno> {
    let [a, b, c, d, e, _] = call.arguments;
    #[cfg(target_arch = "x86_64")]
    match call.number {
        libc::SYS_rename => return rename(caller, (AT_FDCWD, a), (AT_FDCWD, b), 0),
        libc::SYS_link => return link(caller, (AT_FDCWD, a), (AT_FDCWD, b), 0),
        libc::SYS_unlink => return remove(caller, (AT_FDCWD, a), 0),
        libc::SYS_rmdir => return remove(caller, (AT_FDCWD, a), REMOVE_DIR),
        libc::SYS_mkdir => {
            return Ok(Request::MakeFolder { place: caller.place(AT_FDCWD, a), mode: int(b) });
        }
        libc::SYS_mknod => return node(caller, (AT_FDCWD, a), int(b), int(c)),
        libc::SYS_symlink => return symlink(caller, a, (AT_FDCWD, b)),
        libc::SYS_chmod => return mode(caller, (AT_FDCWD, a), int(b), 0),
        libc::SYS_chown => return owner(caller, (AT_FDCWD, a), (b, c), 0),
        libc::SYS_lchown => return owner(caller, (AT_FDCWD, a), (b, c), NO_FOLLOW),
        _ => {}
    }
    match call.number {
        libc::SYS_renameat => rename(caller, (a, b), (c, d), 0),
        libc::SYS_renameat2 => rename(caller, (a, b), (c, d), int(e)),
        libc::SYS_linkat => link(caller, (a, b), (c, d), int(e)),
        libc::SYS_unlinkat => remove(caller, (a, b), int(c)),
        libc::SYS_mkdirat => Ok(Request::MakeFolder { place: caller.place(a, b), mode: int(c) }),
        libc::SYS_mknodat => node(caller, (a, b), int(c), int(d)),
        libc::SYS_symlinkat => symlink(caller, a, (b, c)),
        libc::SYS_truncate => {
            let length = b.cast_signed();
            if length < 0 {
                return Err(Errno::INVAL);
            }
            let target = Target::Path(caller.place(AT_FDCWD, a), LastLink::Follow);
            Ok(Request::Change { target, change: Change::Truncate(length) })
        }
        libc::SYS_fchmod => change(caller.file(a)?, Change::Mode(int(b))),
        libc::SYS_fchmodat => mode(caller, (a, b), int(c), 0),
        FCHMODAT2 => mode(caller, (a, b), int(c), int(d)),
        libc::SYS_fchown => change(caller.file(a)?, Change::Owner(int(b), int(c))),
        libc::SYS_fchownat => owner(caller, (a, b), (c, d), int(e)),
        libc::SYS_setxattr => set_xattr(caller, [b, c, d, e], || Ok(caller.path_target(a, LastLink::Follow))),
        libc::SYS_lsetxattr => set_xattr(caller, [b, c, d, e], || Ok(caller.path_target(a, LastLink::Keep))),
        libc::SYS_fsetxattr => set_xattr(caller, [b, c, d, e], || caller.file(a)),
        libc::SYS_removexattr => {
            let change = Change::RemoveXattr(caller.xattr_name(b)?);
            Ok(Request::Change { target: caller.path_target(a, LastLink::Follow), change })
        }
        libc::SYS_lremovexattr => {
            let change = Change::RemoveXattr(caller.xattr_name(b)?);
            Ok(Request::Change { target: caller.path_target(a, LastLink::Keep), change })
        }
        libc::SYS_fremovexattr => {
            let change = Change::RemoveXattr(caller.xattr_name(b)?);
            Ok(Request::Change { target: caller.file(a)?, change })
        }
        _ => Err(Errno::NOSYS),
    }
}

/// Where the new name of a rename lies in the caller's memory; `None`: it is none.
pub(super) fn renamed_to(call: &Notification) -> Option<u64> {
    let [_, second, _, fourth, ..] = call.arguments;
    match call.number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Some(second),
        libc::SYS_renameat | libc::SYS_renameat2 => Some(fourth),
        _ => None,
    }
}

/// A register as the kernel takes an `int` or `unsigned int`.
fn int(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

fn only(flags: u32, known: u32) -> Result<u32, Errno> {
    if flags & !known == 0 { Ok(flags) } else { Err(Errno::INVAL) }
}

fn change(target: Target, change: Change) -> Result<Request, Errno> {
    Ok(Request::Change { target, change })
}

fn rename(caller: &Caller<'_>, from: (u64, u64), to: (u64, u64), flags: u32) -> Result<Request, Errno> {
    let (no_replace, exchange, whiteout) =
        (libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT);
    only(flags, no_replace | exchange | whiteout)?;
    if flags & exchange != 0 && flags & (no_replace | whiteout) != 0 {
        return Err(Errno::INVAL);
    }
    Ok(Request::Rename { from: caller.place(from.0, from.1), to: caller.place(to.0, to.1), flags })
}

fn link(caller: &Caller<'_>, from: (u64, u64), to: (u64, u64), flags: u32) -> Result<Request, Errno> {
    only(flags, FOLLOW | EMPTY_PATH)?;
    let last = if flags & FOLLOW == 0 { LastLink::Keep } else { LastLink::Follow };
    let from = caller.target(from.0, from.1, last, flags & EMPTY_PATH != 0)?;
    Ok(Request::Link { from, to: caller.place(to.0, to.1) })
}

fn remove(caller: &Caller<'_>, at: (u64, u64), flags: u32) -> Result<Request, Errno> {
    let folder = only(flags, REMOVE_DIR)? != 0;
    Ok(Request::Remove { place: caller.place(at.0, at.1), folder })
}

fn node(caller: &Caller<'_>, at: (u64, u64), mode: u32, device: u32) -> Result<Request, Errno> {
    // `umode_t` has 16 bits; `may_mknod` of fs/namei.c.
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG | libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => {}
        libc::S_IFDIR => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    }
    Ok(Request::MakeNode { place: caller.place(at.0, at.1), mode: mode & 0xffff, device })
}

fn symlink(caller: &Caller<'_>, text: u64, at: (u64, u64)) -> Result<Request, Errno> {
    let text = caller.path(text)?;
    if text.is_empty() {
        return Err(Errno::NOENT);
    }
    Ok(Request::MakeSymlink { text, place: caller.place(at.0, at.1) })
}

fn mode(caller: &Caller<'_>, at: (u64, u64), mode: u32, flags: u32) -> Result<Request, Errno> {
    change(by_flags(caller, at, flags)?, Change::Mode(mode))
}

fn owner(caller: &Caller<'_>, at: (u64, u64), ids: (u64, u64), flags: u32) -> Result<Request, Errno> {
    change(by_flags(caller, at, flags)?, Change::Owner(int(ids.0), int(ids.1)))
}

fn by_flags(caller: &Caller<'_>, at: (u64, u64), flags: u32) -> Result<Target, Errno> {
    only(flags, NO_FOLLOW | EMPTY_PATH)?;
    let last = if flags & NO_FOLLOW == 0 { LastLink::Follow } else { LastLink::Keep };
    caller.target(at.0, at.1, last, flags & EMPTY_PATH != 0)
}

/// `arguments`: name, value, size, flags.
fn set_xattr(
    caller: &Caller<'_>,
    [name, value, size, flags]: [u64; 4],
    target: impl FnOnce() -> Result<Target, Errno>,
) -> Result<Request, Errno> {
    let flags = only(int(flags), (libc::XATTR_CREATE | libc::XATTR_REPLACE).cast_unsigned())?;
    let name = caller.xattr_name(name)?;
    let value = caller.xattr_value(value, size)?;
    change(target()?, Change::SetXattr { name, value, flags })
}
