//! The mounts of this process, and the paths that they give an object.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::sys::mountinfo::{Mount, parse_line};

/// The mounts of this process' mount namespace, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// As it is now.
    ///
    /// # Errors
    /// `/proc` is not mounted, or a line that can't be understood.
    pub fn read() -> io::Result<Self> {
        Self::parse(&fs::read("/proc/self/mountinfo")?)
    }

    /// From the file's bytes.
    ///
    /// # Errors
    /// A line with fewer fields than the format has.
    pub fn parse(bytes: &[u8]) -> io::Result<Self> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parsed = lines.map(|line| {
            parse_line(line).ok_or_else(|| {
                io::Error::other(format!("unknown line in mountinfo: {}", String::from_utf8_lossy(line)))
            })
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// All of them.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.0
    }

    /// The mount that an absolute path without symlinks lies on: the deepest, of those the last made.
    #[must_use]
    pub fn holding(&self, path: &Path) -> Option<&Mount> {
        let holds = |mount: &&Mount| path.starts_with(&mount.point);
        self.0.iter().filter(holds).max_by_key(|mount| mount.point.components().count())
    }

    /// The other absolute paths by which the object at `path` is reached by way of other mounts of the same file
    /// system; where only something below it is mounted, that mount's point.
    #[must_use]
    pub fn aliases(&self, path: &Path) -> Vec<PathBuf> {
        let Some(home) = self.holding(path) else { return Vec::new() };
        let Ok(rest) = path.strip_prefix(&home.point) else { return Vec::new() };
        let inside = home.root.join(rest);
        let mut found = Vec::new();
        for mount in self.0.iter().filter(|mount| mount.device == home.device) {
            let alias = if let Ok(below) = inside.strip_prefix(&mount.root) {
                if below.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(below) }
            } else if mount.root.starts_with(&inside) {
                mount.point.clone()
            } else {
                continue;
            };
            if !alias.starts_with(path) && !found.contains(&alias) {
                found.push(alias);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:25 / /tmp rw shared:3 master:4 - tmpfs tmpfs rw
29 27 254:0 /home/u /mnt/with\\040space rw - ext4 /dev/vda rw
30 27 254:0 /home/u/.ssh/deep /mnt/deep rw - ext4 /dev/vda rw
";

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        let table = MountTable::parse(TABLE).unwrap();
        assert_eq!((table.mounts()[1].fs_type.as_str(), table.mounts()[0].options.as_str()), ("tmpfs", "rw"));
        assert_eq!(table.mounts()[2].point, Path::new("/mnt/with space"));
    }

    #[test]
    fn a_line_of_another_form_is_an_error() {
        assert!(MountTable::parse(b"27 1 254:0 / /\n").is_err());
    }

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let table = MountTable::parse(TABLE).unwrap();
        assert_eq!(table.holding(Path::new("/tmp/x")).unwrap().fs_type, "tmpfs");
        assert_eq!(table.holding(Path::new("/tmpfile")).unwrap().fs_type, "ext4");
    }

    #[test]
    fn other_mounts_of_the_same_file_system_give_other_names() {
        let table = MountTable::parse(TABLE).unwrap();
        let aliases = table.aliases(Path::new("/home/u/.ssh"));
        assert_eq!(aliases, [PathBuf::from("/mnt/with space/.ssh"), PathBuf::from("/mnt/deep")]);
        assert!(table.aliases(Path::new("/tmp/x")).is_empty());
    }
}
