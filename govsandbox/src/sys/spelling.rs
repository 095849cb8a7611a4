//! File systems that find a name by other spellings too: in another case, by a short form, with a dot at the end.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::mountinfo::{self, Mount};

/// What a mounted file system takes for the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// What is equal after Unicode's case folding (Documentation/admin-guide/ext4.rst, "case-insensitive file name lookups"),
    /// in some of its folders at least.
    Folded,
    /// Other forms too: `GIT~1`, `.env.`, whatever a server makes of it.
    Others,
}

/// FAT and NTFS have short names and drop dots and spaces at the end; what a server of these does is its own affair.
const OTHERS: [&str; 9] = ["vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "smbfs"];
const FOLDED: [&str; 3] = ["hfs", "hfsplus", "apfs"];
/// They hand names on to others: tried by an example.
const HANDED_ON: [&str; 4] = ["9p", "virtiofs", "vboxsf", "prl_fs"];
/// Names that are looked at for an example.
const EXAMPLES_MAX: usize = 64;

/// `ext4_super_block` (fs/ext4/ext4.h): where it lies, its magic number and the features that it has.
const SUPER_BLOCK: u64 = 1024;
const MAGIC: (u64, [u8; 2]) = (SUPER_BLOCK + 0x38, [0x53, 0xef]);
const FEATURES: u64 = SUPER_BLOCK + 0x60;
/// `EXT4_FEATURE_INCOMPAT_CASEFOLD`.
const CASEFOLD: u32 = 0x20000;

/// The mounts where a name has more than one spelling, with their points.
///
/// # Errors
/// When /proc/self/mountinfo can't be read.
pub fn find() -> io::Result<Vec<(PathBuf, Spelling)>> {
    let mounts = mountinfo::read(Path::new("/proc/self/mountinfo"))?;
    Ok(mounts.into_iter().filter_map(|mount| Some((mount.point.clone(), of(&mount)?))).collect())
}

fn of(mount: &Mount) -> Option<Spelling> {
    let kind = mount.fs_type.as_str();
    let is_folded = match kind {
        _ if OTHERS.contains(&kind) => return Some(Spelling::Others),
        _ if FOLDED.contains(&kind) => true,
        // Any of its folders may be made so. What can't be told is taken for it: then patterns match more. Who may not look
        // starts no sandbox either.
        "ext4" => ext4_folds(&mount.device).unwrap_or(true),
        "f2fs" => f2fs_folds(&mount.device).unwrap_or(true),
        "tmpfs" | "bcachefs" => mount.options.split(',').any(|option| option.starts_with("casefold")),
        _ if HANDED_ON.contains(&kind) || kind.starts_with("fuse.") => {
            return finds_in_another_case(&mount.point).then_some(Spelling::Others);
        }
        _ => false,
    };
    is_folded.then_some(Spelling::Folded)
}

/// The name of a block device, as in `/dev` and `/sys/fs`.
fn device_name(device: &str) -> Option<String> {
    let said = fs::read_to_string(format!("/sys/dev/block/{device}/uevent")).ok()?;
    said.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned)
}

fn ext4_folds(device: &str) -> Option<bool> {
    let disk = match File::open(Path::new("/dev").join(device_name(device)?)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(false),
        opened => opened.ok()?,
    };
    let (mut magic, mut features) = ([0; 2], [0; 4]);
    disk.read_exact_at(&mut magic, MAGIC.0).ok()?;
    disk.read_exact_at(&mut features, FEATURES).ok()?;
    (magic == MAGIC.1).then_some(u32::from_le_bytes(features) & CASEFOLD != 0)
}

fn f2fs_folds(device: &str) -> Option<bool> {
    let features = fs::read_to_string(format!("/sys/fs/f2fs/{}/features", device_name(device)?)).ok()?;
    Some(features.contains("casefold"))
}

/// Is a name that is there also found with its letters in the other case, where no such name is listed?
fn finds_in_another_case(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).take(EXAMPLES_MAX).collect();
    let examples = names.iter().filter_map(|name| Some((name, other_case(name.to_str()?)?)));
    let inode = |path: PathBuf| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
    examples.into_iter().any(|(name, other)| {
        let other = inode(folder.join(other));
        other.is_some() && other == inode(folder.join(name))
    })
}

/// `None`: it has no letters.
fn other_case(name: &str) -> Option<String> {
    let swap = |letter: char| {
        if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
    };
    let other: String = name.chars().map(swap).collect();
    (other != name).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, options: &str) -> Mount {
        let (point, root) = ("/no/such/point".into(), "/".into());
        Mount {
            id: 1,
            point,
            root,
            fs_type: fs_type.to_owned(),
            device: "0:0".to_owned(),
            source: "none".into(),
            options: options.to_owned(),
        }
    }

    #[test]
    fn what_is_known_of_a_file_system_is_told_by_its_type_and_options() {
        assert_eq!(of(&mount("vfat", "rw")), Some(Spelling::Others));
        assert_eq!(of(&mount("tmpfs", "rw,casefold=utf8-12.1.0")), Some(Spelling::Folded));
        assert_eq!(of(&mount("tmpfs", "rw")), None);
        assert_eq!(of(&mount("xfs", "rw")), None);
        // Its device can't be read.
        assert_eq!(of(&mount("ext4", "rw")), Some(Spelling::Folded));
    }

    #[test]
    fn a_file_system_that_tells_cases_apart_is_not_taken_for_another() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Name"), "").unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        assert!(!finds_in_another_case(folder.path()));
        // Both are listed, and both the same file: no more than a second name.
        assert_eq!((other_case("aB.1"), other_case("1")), (Some("Ab.1".to_owned()), None));
    }
}
