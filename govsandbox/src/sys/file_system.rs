//! File systems whose files do not keep their identity.

use std::path::Path;

/// Magic numbers of statfs(2) and what they are called; `linux/magic.h` has most of them.
const UNSTABLE: [(u64, &str); 11] = [
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "FUSE"),
    (0x6969, "NFS"),
    (0x0102_1997, "9p"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
];

/// What the kernel makes up: proc, sysfs, cgroup2, debugfs, tracefs, bpffs.
const OF_THE_KERNEL: [u64; 6] = [PROC, 0x6265_6572, 0x6367_7270, 0x6462_6720, 0x7472_6163, 0xcafe_4a11];

/// `PROC_SUPER_MAGIC`.
const PROC: u64 = 0x9fa0;

/// Does the path lie on `proc`, where nobody can ask about opens (`FS_DISALLOW_NOTIFY_PERM`)?
#[must_use]
pub fn is_proc(path: &Path) -> bool {
    magic(path) == Some(PROC)
}

/// Does the path lie on a file system of the kernel's own, where nothing has a second name?
#[must_use]
pub fn is_of_the_kernel(path: &Path) -> bool {
    magic(path).is_some_and(|magic| OF_THE_KERNEL.contains(&magic))
}

fn magic(path: &Path) -> Option<u64> {
    // The type is a signed number of another width on some architectures.
    Some(rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff)
}

/// The name of the file system that a path lies on, if a file there may come back as another inode: by a server's word,
/// after it left memory, or when a layer is copied up. `None` too where it can't be told.
#[must_use]
pub fn unstable(path: &Path) -> Option<&'static str> {
    let magic = magic(path)?;
    UNSTABLE.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_is_stable_and_what_is_not_there_is_not_told() {
        assert_eq!(unstable(Path::new("/dev/shm")), None);
        assert_eq!(unstable(Path::new("/no/such/path")), None);
        assert!(is_proc(Path::new("/proc/self")) && !is_proc(Path::new("/")));
        assert!(is_of_the_kernel(Path::new("/proc/self")) && !is_of_the_kernel(Path::new("/")));
    }
}
