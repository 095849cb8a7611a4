//! A call as it was asked for, read from the caller once.

use std::{ffi::CString, os::fd::OwnedFd};

use rustix::io::Errno;

/// What a path is relative to.
#[derive(Debug)]
pub(super) enum Base {
    /// The path is absolute.
    Root,
    /// The caller's working directory, or a descriptor of its.
    Folder(OwnedFd),
    /// There is none; told when the kernel would come to it.
    Missing(Errno),
}

/// A path as given.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) base: Base,
    pub(super) path: CString,
}

/// What is done with a symlink at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLink {
    Follow,
    Keep,
}

/// The object of a call.
#[derive(Debug)]
pub(super) enum Target {
    Path(Place, LastLink),
    /// By `AT_EMPTY_PATH`: an `O_PATH` descriptor of what the caller's descriptor refers to.
    Handle(OwnedFd),
    /// The caller's open file itself.
    File(OwnedFd),
}

/// A change of the object itself.
#[derive(Debug)]
pub(super) enum Change {
    Truncate(i64),
    Mode(u32),
    Owner(u32, u32),
    SetXattr { name: CString, value: Vec<u8>, flags: u32 },
    RemoveXattr(CString),
}

/// One call.
#[derive(Debug)]
pub(super) enum Request {
    Rename { from: Place, to: Place, flags: u32 },
    Link { from: Target, to: Place },
    Remove { place: Place, folder: bool },
    MakeFolder { place: Place, mode: u32 },
    MakeNode { place: Place, mode: u32, device: u32 },
    MakeSymlink { text: CString, place: Place },
    Change { target: Target, change: Change },
}
