//! `execve(2)` with an environment of one's own.
#![expect(unsafe_code, reason = "a raw system call without a wrapper")]

use std::{
    ffi::{CStr, CString, OsString},
    io,
    os::unix::ffi::OsStrExt,
};

/// Strings as `execve(2)` takes them.
#[derive(Debug)]
pub struct ExecStrings(Vec<CString>);

impl ExecStrings {
    /// From whole strings.
    ///
    /// # Errors
    /// One holds a NUL byte.
    pub fn new(strings: &[OsString]) -> io::Result<Self> {
        let owned = strings.iter().map(|one| CString::new(one.as_bytes()));
        Ok(Self(owned.collect::<Result<_, _>>().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?))
    }

    /// From an environment: `NAME=value` each.
    ///
    /// # Errors
    /// One holds a NUL byte.
    pub fn from_environment(environment: &[(OsString, OsString)]) -> io::Result<Self> {
        let join = |(name, value): &(OsString, OsString)| {
            let mut joined = name.clone();
            joined.push("=");
            joined.push(value);
            joined
        };
        Self::new(&environment.iter().map(join).collect::<Vec<_>>())
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.0.iter().map(|one| one.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// Replaces this process; comes back only with the error.
#[must_use]
pub fn execve(program: &CStr, arguments: &ExecStrings, environment: &ExecStrings) -> io::Error {
    let (arguments, environment) = (arguments.pointers(), environment.pointers());
    // SAFETY: both arrays end with a null pointer and their strings live until the call is over.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}
