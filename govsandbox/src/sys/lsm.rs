//! `lsm_list_modules(2)`: the active security modules, also where securityfs is not mounted.
#![expect(unsafe_code, reason = "a raw system call without a wrapper")]

use std::io;

/// The same number on every architecture. Since Linux 6.8.
const SYS_LSM_LIST_MODULES: libc::c_long = 461;
/// Modules of one kernel at most; there are 14 in all today.
const MODULES_MAX: usize = 64;

/// `LSM_ID_*` of include/uapi/linux/lsm.h, from 100.
const NAMES: [&str; 14] = [
    "capability",
    "selinux",
    "smack",
    "tomoyo",
    "apparmor",
    "yama",
    "loadpin",
    "safesetid",
    "lockdown",
    "bpf",
    "landlock",
    "ima",
    "evm",
    "ipe",
];
const FIRST_ID: u64 = 100;

/// Names in the order in which they are asked; one that is not known here by its number.
///
/// # Errors
/// `ENOSYS`: an older kernel.
pub fn active() -> io::Result<Vec<String>> {
    let mut ids = [0_u64; MODULES_MAX];
    let mut size_bytes = u32::try_from(size_of_val(&ids)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size_bytes` bytes to `ids`, which is that large, and 4 to `size_bytes`.
    let count = unsafe { libc::syscall(SYS_LSM_LIST_MODULES, ids.as_mut_ptr(), &raw mut size_bytes, 0_u32) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok(ids.iter().take(count).map(|id| name(*id)).collect())
}

fn name(id: u64) -> String {
    let known = id.checked_sub(FIRST_ID).and_then(|at| NAMES.get(usize::try_from(at).ok()?));
    known.map_or_else(|| id.to_string(), |name| (*name).to_owned())
}
