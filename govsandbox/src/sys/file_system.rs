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

/// The name of the file system that a path lies on, if a file there may come back as another inode: by a server's word,
/// after it left memory, or when a layer is copied up. `None` too where it can't be told.
#[must_use]
pub fn unstable(path: &Path) -> Option<&'static str> {
    // The type is a signed number of another width on some architectures.
    let magic = rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff;
    UNSTABLE.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_is_stable_and_what_is_not_there_is_not_told() {
        assert_eq!(unstable(Path::new("/dev/shm")), None);
        assert_eq!(unstable(Path::new("/no/such/path")), None);
    }
}
