//! `getpgrp(2)`. rustix's panics on the answer 0, which a group from outside of the pid namespace has.
#![expect(unsafe_code, reason = "a C library call")]

use rustix::process::Pid;

/// This process' group. `None`: it has no number in this pid namespace.
#[must_use]
pub fn own() -> Option<Pid> {
    // SAFETY: takes nothing and can't fail.
    Pid::from_raw(unsafe { libc::getpgrp() })
}
