//! The user and group databases, by way of the C library (so that LDAP and the like count too).
#![expect(unsafe_code, reason = "C library calls without wrappers")]

use std::{
    ffi::{CStr, CString, OsString},
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

/// Bytes of one entry's strings at most; glibc's own default is 1 KiB, directory services may send more.
const ENTRY_BYTES_MAX: usize = 1 << 18;
/// Groups of one user at most: `NGROUPS_MAX` of include/uapi/linux/limits.h.
const GROUPS_MAX: usize = 65_536;

/// One user as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Login name.
    pub name: OsString,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: OsString,
}

/// The user of that name.
///
/// # Errors
/// The database can't be read. `Ok(None)`: there is no such user.
pub fn by_name(name: &CStr) -> io::Result<Option<Account>> {
    // SAFETY: the closure passes on what `look_up` gives it, whose sizes fit.
    look_up(|entry, buffer, length, found| unsafe {
        libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found)
    })
}

/// The user of that id.
///
/// # Errors
/// As [`by_name`].
pub fn by_uid(uid: u32) -> io::Result<Option<Account>> {
    // SAFETY: as above.
    look_up(|entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) })
}

/// All groups of the user, `gid` among them.
///
/// # Errors
/// More than the kernel takes.
pub fn groups(name: &CString, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = i32::try_from(groups.len()).map_err(io::Error::other)?;
        // SAFETY: `count` is the length of the array; the call writes at most so many.
        let answer = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let needed = usize::try_from(count).map_err(io::Error::other)?;
        if answer >= 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        groups.resize(needed.max(groups.len() * 2).min(GROUPS_MAX), 0);
    }
}

fn look_up(
    ask: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> i32,
) -> io::Result<Option<Account>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        match ask(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: found, so the entry is written and its strings lie in `buffer`, which still lives.
            0 => return Ok(Some(unsafe { copy(entry.assume_init_ref()) })),
            libc::ERANGE if buffer.len() < ENTRY_BYTES_MAX => {
                let longer = buffer.len() * 4;
                buffer.resize(longer, 0);
            }
            // Some name services answer so for a user that they do not have (getpwnam_r(3), ERRORS).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// # Safety
/// The entry's pointers are strings that end with NUL or null: the C library's promise for an entry that it found.
unsafe fn copy(entry: &libc::passwd) -> Account {
    let text = |pointer: *const libc::c_char| {
        if pointer.is_null() {
            return OsString::new();
        }
        // SAFETY: by the contract of `copy`.
        OsString::from_vec(unsafe { CStr::from_ptr(pointer) }.to_bytes().to_vec())
    };
    Account {
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        name: text(entry.pw_name),
        home: PathBuf::from(text(entry.pw_dir)),
        shell: text(entry.pw_shell),
    }
}
