//! What is the caller's: its memory, its folders and descriptors, its umask.

use std::{
    ffi::CString,
    io::Read as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    report::Reporter,
    request::{Base, LastLink, Place, Target},
};
use crate::sys::memory;

/// `PATH_MAX` of include/uapi/linux/limits.h, with the NUL.
const PATH_BYTES: usize = 4096;
/// `XATTR_NAME_MAX` and `XATTR_SIZE_MAX`, likewise.
const XATTR_NAME_BYTES: usize = 255;
const XATTR_VALUE_BYTES: u64 = 65_536;
/// `PIDFD_THREAD` of include/uapi/linux/pidfd.h, Linux 6.9.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);

/// A thread whose call is performed.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    /// In the sandbox's pid namespace.
    pub(super) tid: i32,
    /// `/proc` of that namespace.
    pub(super) proc: BorrowedFd<'a>,
    pub(super) reporter: &'a Reporter,
}

impl Caller<'_> {
    /// A path from its memory.
    pub(super) fn path(&self, address: u64) -> Result<CString, Errno> {
        self.string(address, PATH_BYTES, Errno::NAMETOOLONG)
    }

    /// So many bytes of its memory.
    pub(super) fn bytes(&self, address: u64, count: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; count];
        if count > 0 && memory::read(self.tid, address, &mut bytes).map_err(errno)? != count {
            return Err(Errno::FAULT);
        }
        Ok(bytes)
    }

    /// What a path is relative to that is absolute or relative to the working directory.
    pub(super) fn at(&self, path: CString) -> Place {
        Place { base: self.base(libc::AT_FDCWD as u64, &path), path }
    }

    /// A path that must not be empty, with what it is relative to. What is wrong with it is told when it is looked up, as
    /// by the kernel, which looks the first of two paths up before.
    pub(super) fn place(&self, folder: u64, address: u64) -> Place {
        match self.path(address) {
            Ok(path) if path.is_empty() => Place { base: Base::Missing(Errno::NOENT), path },
            Ok(path) => Place { base: self.base(folder, &path), path },
            Err(errno) => Place { base: Base::Missing(errno), path: CString::default() },
        }
    }

    /// The object of a path; an empty one means the descriptor's where that is asked for.
    pub(super) fn target(
        &self,
        folder: u64,
        address: u64,
        last: LastLink,
        may_be_empty: bool,
    ) -> Result<Target, Errno> {
        if may_be_empty {
            let path = self.path(address)?;
            if path.is_empty() {
                return Ok(Target::Handle(self.folder(folder)?));
            }
            return Ok(Target::Path(Place { base: self.base(folder, &path), path }, last));
        }
        Ok(Target::Path(self.place(folder, address), last))
    }

    /// The object of a path that is absolute or relative to the working directory.
    pub(super) fn path_target(&self, address: u64, last: LastLink) -> Target {
        Target::Path(self.place(libc::AT_FDCWD as u64, address), last)
    }

    /// Its open file of that number.
    pub(super) fn file(&self, descriptor: u64) -> Result<Target, Errno> {
        self.descriptor(descriptor).map(Target::File)
    }

    /// Its descriptor of that number, as one of this process.
    pub(super) fn descriptor(&self, descriptor: u64) -> Result<OwnedFd, Errno> {
        let number = low_half(descriptor);
        if number < 0 {
            return Err(Errno::BADF);
        }
        let thread = Pid::from_raw(self.tid).ok_or(Errno::SRCH)?;
        let pidfd = match pidfd_open(thread, PIDFD_THREAD) {
            Err(Errno::INVAL) => pidfd_open(self.process().ok_or(Errno::SRCH)?, PidfdFlags::empty())?,
            answer => answer?,
        };
        pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())
    }

    pub(super) fn xattr_name(&self, address: u64) -> Result<CString, Errno> {
        let name = self.string(address, XATTR_NAME_BYTES + 1, Errno::RANGE)?;
        if name.is_empty() { Err(Errno::RANGE) } else { Ok(name) }
    }

    pub(super) fn xattr_value(&self, address: u64, size: u64) -> Result<Vec<u8>, Errno> {
        if size > XATTR_VALUE_BYTES {
            return Err(Errno::TOOBIG);
        }
        let mut value = vec![0; size as usize];
        if size > 0 && memory::read(self.tid, address, &mut value).map_err(errno)? != value.len() {
            return Err(Errno::FAULT);
        }
        Ok(value)
    }

    /// Its umask.
    pub(super) fn umask(&self) -> Result<Mode, Errno> {
        let text = self.read("status")?;
        let octal = text.lines().find_map(|line| line.strip_prefix("Umask:")).ok_or(Errno::IO)?.trim();
        u32::from_str_radix(octal, 8).map(Mode::from_raw_mode).map_err(|_| Errno::IO)
    }

    /// The process that it is a thread of.
    pub(super) fn process(&self) -> Option<Pid> {
        let text = self.read("status").ok()?;
        Pid::from_raw(text.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?)
    }

    /// `RLIMIT_FSIZE`, soft, in bytes.
    pub(super) fn file_bytes_max(&self) -> Result<u64, Errno> {
        let text = self.read("limits")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max file size"));
        match line.and_then(|line| line.split_ascii_whitespace().next()) {
            Some("unlimited") => Ok(u64::MAX),
            Some(number) => number.parse().map_err(|_| Errno::IO),
            None => Err(Errno::IO),
        }
    }

    fn base(&self, folder: u64, path: &CString) -> Base {
        if path.as_bytes().starts_with(b"/") {
            return Base::Root;
        }
        self.folder(folder).map_or_else(Base::Missing, Base::Folder)
    }

    /// An `O_PATH` descriptor of what one of its refers to.
    fn folder(&self, descriptor: u64) -> Result<OwnedFd, Errno> {
        let link = match low_half(descriptor) {
            libc::AT_FDCWD => format!("{}/cwd", self.tid),
            number if number < 0 => return Err(Errno::BADF),
            number => format!("{}/fd/{number}", self.tid),
        };
        match openat(self.proc, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            answer => answer,
        }
    }

    /// A file of its folder in `/proc`; where the policy does not let that be read, the supervisor opens it.
    fn read(&self, name: &str) -> Result<String, Errno> {
        let path = format!("{}/{name}", self.tid);
        let file = match openat(self.proc, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::ACCESS) => self
                .reporter
                .open(openat(self.proc, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.as_fd())?,
            answer => answer?,
        };
        let mut text = String::new();
        std::fs::File::from(file).take(1 << 16).read_to_string(&mut text).map_err(errno)?;
        Ok(text)
    }

    fn string(&self, address: u64, room: usize, too_long: Errno) -> Result<CString, Errno> {
        let mut bytes = vec![0; room];
        let read = memory::read(self.tid, address, &mut bytes).map_err(errno)?;
        bytes.truncate(read);
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => bytes.truncate(end),
            None if read == room => return Err(too_long),
            None => return Err(Errno::FAULT),
        }
        CString::new(bytes).map_err(|_| Errno::FAULT)
    }
}

/// A descriptor's number: the kernel takes it as an `int`.
fn low_half(register: u64) -> i32 {
    ((register & 0xffff_ffff) as u32).cast_signed()
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
