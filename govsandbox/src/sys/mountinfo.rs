//! Where file systems are mounted (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// One mount of the caller's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, as `/proc/self/fdinfo` tells it.
    pub id: u64,
    /// Of its file system: `MAJOR:MINOR`.
    pub device: String,
    /// Where it is.
    pub point: PathBuf,
    /// Which folder of its file system is there.
    pub root: PathBuf,
    /// `ext4`, `cgroup2`, …
    pub fs_type: String,
    /// What was mounted: a device, a name, whatever the file system takes.
    pub source: PathBuf,
    /// Options of the file system itself.
    pub options: String,
}

/// All mounts of a process, oldest first; `/proc/self/mountinfo` of one's own.
///
/// # Errors
/// When the file can't be read.
pub fn read(path: &Path) -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(path)?))
}

/// Where a file system of that type is mounted whole; the newest, because it hides older ones.
///
/// # Errors
/// When /proc/self/mountinfo can't be read.
pub fn find(fs_type: &str) -> io::Result<Option<PathBuf>> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    Ok(mounts
        .into_iter()
        .rev()
        .find(|mount| mount.fs_type == fs_type && mount.root == Path::new("/"))
        .map(|it| it.point))
}

/// The mounts that a text names; a line that is none is left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// One line without its end; `None`: it has not the fields of the format.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let text = |field: &&[u8]| String::from_utf8(field.to_vec()).ok();
    Some(Mount {
        id: str::from_utf8(fields.first()?).ok()?.parse().ok()?,
        device: text(fields.get(2)?)?,
        root: unescape(fields.get(3)?),
        point: unescape(fields.get(4)?),
        fs_type: text(fields.get(separator + 1)?)?,
        source: unescape(fields.get(separator + 2)?),
        options: String::from_utf8_lossy(fields.get(separator + 3)?).into_owned(),
    })
}

/// Space, tab, newline and backslash are written as octal.
pub(super) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_optional_fields_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext4 /dev/root rw\n\
                     37 35 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\ndamaged line\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/mnt 2"));
        assert_eq!(mounts[0].root, Path::new("/mnt1"));
        assert_eq!((mounts[0].id, mounts[0].device.as_str()), (36, "98:0"));
        assert_eq!((mounts[1].fs_type.as_str(), mounts[1].root.as_path()), ("cgroup2", Path::new("/")));
        assert_eq!(mounts[0].source, Path::new("/dev/root"));
    }
}
