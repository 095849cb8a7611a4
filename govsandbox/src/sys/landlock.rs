//! `landlock_create_ruleset(2)` as a question: which version does this kernel speak?
#![expect(unsafe_code, reason = "a raw system call without a wrapper")]

use std::io;

/// `LANDLOCK_CREATE_RULESET_VERSION` of include/uapi/linux/landlock.h.
const VERSION: libc::c_uint = 1;

/// The best Landlock ABI of the running kernel, from 1.
///
/// # Errors
/// `ENOSYS`: built without; `EOPNOTSUPP`: built in but not started at boot.
pub fn abi() -> io::Result<i32> {
    // SAFETY: with this flag the kernel takes a null pointer and size 0 and reads no memory.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(answer).map_err(io::Error::other) }
}
