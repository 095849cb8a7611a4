//! Namespaces of this thread's own, for mounts (mount_namespaces(7)) and networks (network_namespaces(7)).
#![expect(unsafe_code, reason = "`unshare_unsafe` is the only wrapper that is not deprecated; netdevice(7)")]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    net::{AddressFamily, SocketType, socket},
    thread::{UnshareFlags, unshare_unsafe},
};

/// From now on nothing that this thread mounts is seen outside, and it goes with the thread. Of a process with one
/// thread.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: only unsharing the table of descriptors could break what other code relies on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// A network with nothing but its own loopback, and what `make` makes in it. The calling thread stays where it is.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` from a kernel without network namespaces, and what `make` says.
pub(crate) fn own_network<T: Send>(make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    let inside = || {
        // SAFETY: as in `private_mounts`.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
        bring_up_loopback()?;
        let made = make()?;
        Ok((File::open("/proc/thread-self/ns/net")?.into(), made))
    };
    thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that was to make it has panicked")))
}

/// `SIOCSIFFLAGS` of netdevice(7); its addresses come with it.
fn bring_up_loopback() -> io::Result<()> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: numbers and bytes alone, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`.
    match unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
