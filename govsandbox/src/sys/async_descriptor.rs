//! Descriptors that tokio waits for: its own function takes anything that says it has a number.
#![expect(unsafe_code, reason = "registering is safe for what owns its descriptor")]

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Has the runtime wait for this descriptor, which must not block.
///
/// # Errors
/// As epoll_ctl(2); `EPERM`: nothing can be waited for there.
pub fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is registered, so that it stays open and the same until it is taken out.
    Ok(unsafe { AsyncFd::register(descriptor)? })
}
