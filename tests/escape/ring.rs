//! A ring of `io_uring(7)`, by hand.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{Ordering, fence},
};

use crate::sys::{call, errno, owned};

const SQES: i64 = 0x1000_0000;
const ENTRIES: u32 = 8;

/// `struct io_uring_sqe`, as far as attempts use it (include/uapi/linux/io_uring.h).
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Sqe {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) ioprio: u16,
    pub(crate) fd: i32,
    pub(crate) off: u64,
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) op_flags: u32,
    pub(crate) user_data: u64,
    pub(crate) buf: u16,
    pub(crate) personality: u16,
    pub(crate) file_index: u32,
    pub(crate) addr3: u64,
    pub(crate) pad: u64,
}

pub(crate) const OP_READV: u8 = 1;
pub(crate) const OP_SENDMSG: u8 = 9;
pub(crate) const OP_CONNECT: u8 = 16;
pub(crate) const OP_OPENAT: u8 = 18;
pub(crate) const OP_STATX: u8 = 21;
pub(crate) const OP_READ: u8 = 22;
pub(crate) const OP_SEND: u8 = 26;
pub(crate) const OP_OPENAT2: u8 = 28;
pub(crate) const OP_RENAMEAT: u8 = 35;
pub(crate) const OP_UNLINKAT: u8 = 36;
pub(crate) const OP_MKDIRAT: u8 = 37;
pub(crate) const OP_SYMLINKAT: u8 = 38;
pub(crate) const OP_LINKAT: u8 = 39;
pub(crate) const OP_FSETXATTR: u8 = 41;
pub(crate) const OP_SETXATTR: u8 = 42;
pub(crate) const OP_SOCKET: u8 = 45;
pub(crate) const OP_URING_CMD: u8 = 46;
pub(crate) const OP_SEND_ZC: u8 = 47;
pub(crate) const OP_FTRUNCATE: u8 = 55;

pub(crate) const FIXED_FILE: u8 = 1;
pub(crate) const ASYNC: u8 = 1 << 4;
pub(crate) const SETUP_SQPOLL: u32 = 1 << 1;

impl Sqe {
    pub(crate) fn at(opcode: u8, path: &CStr) -> Self {
        Self { opcode, fd: libc::AT_FDCWD, addr: path.as_ptr() as u64, ..Self::default() }
    }
}

pub(crate) struct Ring {
    fd: OwnedFd,
    rings: *mut u8,
    entries: *mut Sqe,
    params: [u32; 30],
}

impl Ring {
    pub(crate) fn new(flags: u32) -> io::Result<Self> {
        // struct io_uring_params as words: flags at 2, sq_off begins at 10, cq_off at 20.
        let mut params = [0_u32; 30];
        params[2] = flags;
        params[4] = 100; // sq_thread_idle, ms
        let fd = owned(call!(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr())?);
        let map = |offset: i64| -> io::Result<*mut u8> {
            let (read_write, shared) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
            Ok(call!(libc::SYS_mmap, 0, 4096, read_write, shared, fd.as_raw_fd(), offset)? as *mut u8)
        };
        // Since Linux 5.4 both rings are one mapping.
        let (rings, entries) = (map(0)?, map(SQES)?.cast());
        Ok(Self { fd, rings, entries, params })
    }

    pub(crate) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn word(&self, base: usize, field: usize) -> *mut u32 {
        self.rings.wrapping_add(self.params[base + field] as usize).cast()
    }

    /// `io_uring_register(2)`.
    pub(crate) fn register<T>(&self, opcode: u32, argument: &mut [T]) -> io::Result<i64> {
        let count = argument.len() as u32;
        call!(libc::SYS_io_uring_register, self.fd.as_raw_fd(), opcode, argument.as_mut_ptr(), count)
    }

    /// Room for `count` descriptors that have no number.
    pub(crate) fn register_files(&self, count: usize) -> io::Result<()> {
        const REGISTER_FILES: u32 = 2;
        self.register(REGISTER_FILES, &mut vec![-1_i32; count]).map(drop)
    }

    /// Submits one entry and waits for its result.
    pub(crate) fn run(&mut self, entry: Sqe) -> io::Result<i32> {
        let wait = if self.params[2] & SETUP_SQPOLL == 0 { (1, 1) } else { (0, 3) };
        // SAFETY: offsets are the kernel's own, within the mapped page; one entry is under way at a time.
        unsafe {
            let tail = self.word(10, 1);
            let place = tail.read_volatile() & (ENTRIES - 1);
            self.entries.add(place as usize).write(entry);
            self.word(10, 6).add(place as usize).write(place);
            fence(Ordering::SeqCst);
            tail.write_volatile(tail.read_volatile().wrapping_add(1));
            fence(Ordering::SeqCst);
        }
        call!(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), wait.0, 1, wait.1, 0, 0)?;
        // SAFETY: as above; the entry is complete.
        unsafe {
            let head = self.word(20, 0);
            let seen = head.read_volatile();
            let first = self.word(20, 5).cast::<u8>().add(16 * (seen as usize & (2 * ENTRIES as usize - 1)));
            let result = first.add(8).cast::<i32>().read_volatile();
            head.write_volatile(seen.wrapping_add(1));
            if result < 0 { Err(errno(-result)) } else { Ok(result) }
        }
    }
}
