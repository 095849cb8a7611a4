//! `process_vm_readv(2)`: another thread's memory.
#![expect(unsafe_code, reason = "a raw system call without a wrapper")]

use std::io;

/// A read that crosses into a page that is not there ends before it only at such a border; smaller than any kernel's
/// pages is as good.
const PAGE_BYTES: u64 = 4096;

/// Reads up to `buffer.len()` bytes from `address` on, fewer where the memory ends. Needs the right to trace it.
///
/// # Errors
/// `EFAULT`: nothing there can be read; `ESRCH`: the thread is gone; `EPERM`.
pub fn read(tid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut remote: Vec<libc::iovec> = Vec::new();
    let (mut at, mut left) = (address, buffer.len() as u64);
    while left > 0 {
        let length = left.min(PAGE_BYTES - at % PAGE_BYTES);
        remote.push(libc::iovec { iov_base: at as *mut libc::c_void, iov_len: length as usize });
        left -= length;
        let Some(next) = at.checked_add(length) else { break };
        at = next;
    }
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the local vector is this buffer; the remote addresses are checked by the kernel.
    let read = unsafe {
        libc::process_vm_readv(tid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
