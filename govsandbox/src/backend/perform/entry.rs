//! From a path as given to the folder and name, or the object, that it means for the caller.
//!
//! The kernel resolves paths as usual, but in this process `/proc/self` and what lies below it would be its own. So
//! magic links are not followed at first, and a path that needs them, or ends in `/proc`, is walked name by name.

use std::{
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Stat, fstat, fstatfs, openat,
        openat2, readlinkat, statat,
    },
    io::Errno,
};

use super::{
    magic,
    request::{Base, LastLink, Place},
};

/// `MAXSYMLINKS` of include/linux/namei.h.
const LINKS_MAX: u32 = 40;
/// Folders above that are asked for their path: more than 4,096 bytes of names of one byte have.
const LEVELS_MAX: u32 = 4096;
/// `PROC_ROOT_INO` of include/linux/proc_fs.h.
const PROC_ROOT: u64 = 1;

pub(super) const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A name in a folder; whether there is such an object is another question.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) folder: OwnedFd,
    /// As given, slashes at its end included: they mean that it is a folder.
    pub(super) name: CString,
    /// Absolute, without slashes at its end. `None`: `.`, `..` and `/`, which no call here can change.
    pub(super) path: Option<Vec<u8>>,
    /// `false`: the path is longer than the kernel tells; what is there is its beginning.
    pub(super) is_whole: bool,
}

impl Entry {
    /// The last name of a path; a symlink there is the entry itself.
    pub(super) fn find(place: &Place, tid: i32) -> Result<Self, Errno> {
        let (parent, name) = split(place.path.as_bytes());
        let folder = handle(&place.base, parent, OFlags::DIRECTORY, LastLink::Follow, tid)?;
        let name_only = trimmed(name);
        let mut is_whole = true;
        let path = match name_only {
            b"" | b"." | b".." => None,
            _ => {
                let mut path = match path_of(folder.as_fd()) {
                    Err(Errno::NAMETOOLONG) => {
                        is_whole = false;
                        path_above(folder.as_fd())?
                    }
                    path => path?,
                };
                if path.last() != Some(&b'/') {
                    path.push(b'/');
                }
                path.extend(name_only);
                Some(path)
            }
        };
        let name = CString::new(if name.is_empty() { &b"."[..] } else { name }).map_err(|_| Errno::INVAL)?;
        Ok(Self { folder, name, path, is_whole })
    }

    /// Whether names in the folder may be looked up; the kernel asks that before it comes to a second path.
    pub(super) fn may_search(&self) -> Result<(), Errno> {
        openat(&self.folder, c".", HANDLE, Mode::empty()).map(drop)
    }

    /// What is there now.
    pub(super) fn object(&self) -> Option<Stat> {
        let name = CString::new(trimmed(self.name.as_bytes())).ok()?;
        statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }
}

/// An `O_PATH` descriptor of the object that a path means.
pub(super) fn object(place: &Place, last: LastLink, tid: i32) -> Result<OwnedFd, Errno> {
    handle(&place.base, place.path.as_bytes(), OFlags::empty(), last, tid)
}

/// The path before the last name.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    split(path).0
}

/// The path of the nearest folder above that has one which can be told.
fn path_above(folder: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut at = openat(folder, c"..", HANDLE, Mode::empty())?;
    for _ in 0..LEVELS_MAX {
        match path_of(at.as_fd()) {
            Err(Errno::NAMETOOLONG) => at = openat(&at, c"..", HANDLE, Mode::empty())?,
            path => return path,
        }
    }
    Err(Errno::NAMETOOLONG)
}

/// The path of a descriptor's object, as this process' root sees it.
pub(super) fn path_of(descriptor: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", descriptor.as_raw_fd()), Vec::new())?;
    Ok(link.into_bytes())
}

/// As a directory entry: the last name without slashes.
fn trimmed(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    name.get(..end).unwrap_or(name)
}

/// The path before the last name, and the last name with the slashes behind it. Of `/` the name is `/`.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let name_end = trimmed(path).len();
    if name_end == 0 {
        return (path, path);
    }
    let start = path.iter().take(name_end).rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    path.split_at(start)
}

fn handle(base: &Base, path: &[u8], flags: OFlags, last: LastLink, tid: i32) -> Result<OwnedFd, Errno> {
    let flags = HANDLE | flags;
    let c_path = CString::new(if path.is_empty() { &b"."[..] } else { path }).map_err(|_| Errno::INVAL)?;
    let no_follow = if last == LastLink::Keep { OFlags::NOFOLLOW } else { OFlags::empty() };
    let at = match base {
        Base::Root => CWD,
        Base::Folder(folder) => folder.as_fd(),
        Base::Missing(errno) => return Err(*errno),
    };
    let found = openat2(at, &c_path, flags | no_follow, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    if let Ok(object) = &found
        && fstatfs(object)?.f_type != PROC_SUPER_MAGIC
    {
        return found;
    }
    // In `/proc/self`, what is not there for this process may be there for the caller.
    let mut met_proc = false;
    let walked = walk(base, path, flags, last, tid, &mut met_proc);
    if met_proc { walked } else { found }
}

/// Name by name, `self` and `thread-self` of `/proc` being the caller's.
fn walk(
    base: &Base,
    path: &[u8],
    flags: OFlags,
    last: LastLink,
    tid: i32,
    met_proc: &mut bool,
) -> Result<OwnedFd, Errno> {
    let mut at = match base {
        Base::Root => root()?,
        Base::Folder(folder) => openat(folder, c".", HANDLE, Mode::empty())?,
        Base::Missing(errno) => return Err(*errno),
    };
    let must_be_folder = flags.contains(OFlags::DIRECTORY) || path.ends_with(b"/") || path.ends_with(b"/.");
    let mut rest: Vec<Vec<u8>> = Vec::new();
    push(&mut rest, path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let in_proc_root = is_proc_root(at.as_fd())?;
        *met_proc |= fstatfs(&at)?.f_type == PROC_SUPER_MAGIC;
        let name = match name.as_slice() {
            // Links they are, and count as such.
            b"self" if in_proc_root => {
                links += 1;
                tid.to_string().into_bytes()
            }
            b"thread-self" if in_proc_root => {
                links += 1;
                push(&mut rest, format!("{tid}/task/{tid}").as_bytes());
                continue;
            }
            _ => name,
        };
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let next = openat(&at, &name, HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
        let is_link = FileType::from_raw_mode(fstat(&next)?.st_mode).is_symlink();
        if !is_link || (rest.is_empty() && last == LastLink::Keep && !must_be_folder) {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        if !in_proc_root && fstatfs(&next)?.f_type == PROC_SUPER_MAGIC {
            // A magic link leads to its object, whatever its text says.
            at = magic::follow(at.as_fd(), &name)?;
            continue;
        }
        let text = readlinkat(&next, c"", Vec::new())?.into_bytes();
        if text.starts_with(b"/") {
            at = root()?;
        }
        push(&mut rest, &text);
    }
    let is_folder = FileType::from_raw_mode(fstat(&at)?.st_mode).is_dir();
    if must_be_folder && !is_folder { Err(Errno::NOTDIR) } else { Ok(at) }
}

fn root() -> Result<OwnedFd, Errno> {
    openat(CWD, c"/", HANDLE, Mode::empty())
}

/// Names still to be walked, the next one last.
fn push(rest: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    rest.extend(names.rev().map(<[u8]>::to_vec));
}

pub(super) fn is_proc_root(folder: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstat(folder)?.st_ino == PROC_ROOT && fstatfs(folder)?.f_type == PROC_SUPER_MAGIC)
}

/// The path of this process' own descriptor: what follows it meets the object itself.
pub(super) fn own_link(descriptor: BorrowedFd<'_>) -> Result<CString, Errno> {
    CString::new(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_path_is_cut_before_its_last_name() {
        let cases: [(&str, &str, &str); 9] = [
            ("a", "", "a"),
            ("a/b", "a/", "b"),
            ("a//b//", "a//", "b//"),
            ("/a", "/", "a"),
            ("/", "/", "/"),
            ("//", "//", "//"),
            ("..", "", ".."),
            ("a/./", "a/", "./"),
            ("/a/../b/", "/a/../", "b/"),
        ];
        for (path, parent, name) in cases {
            assert_eq!(split(path.as_bytes()), (parent.as_bytes(), name.as_bytes()), "{path}");
        }
    }

    #[test]
    fn dots_and_the_root_are_no_names() {
        for path in ["/", "//", ".", "..", "/usr/.", "/usr/..", "/usr/../"] {
            let place = Place { base: Base::Root, path: CString::new(path).unwrap() };
            assert_eq!(Entry::find(&place, 1).unwrap().path, None, "{path}");
        }
        let place = Place { base: Base::Root, path: CString::new("/usr/new//").unwrap() };
        assert_eq!(Entry::find(&place, 1).unwrap().path.unwrap(), b"/usr/new");
    }

    #[test]
    fn self_is_the_caller() {
        let mut child = std::process::Command::new("sleep").arg("60").current_dir("/usr").spawn().unwrap();
        let tid = i32::try_from(child.id()).unwrap();
        for path in ["/proc/self/cwd/bin", "/proc/thread-self/cwd/bin", "/proc/self/root/usr/bin"] {
            let place = Place { base: Base::Root, path: CString::new(path).unwrap() };
            // A thread's own capabilities are put down on the way.
            let finds = || object(&place, LastLink::Follow, tid).unwrap();
            let found = std::thread::scope(|scope| scope.spawn(finds).join().unwrap());
            let bin = std::fs::canonicalize("/usr/bin").unwrap();
            assert_eq!(path_of(found.as_fd()).unwrap(), bin.into_os_string().into_vec(), "{path}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_circle_of_links_ends() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("a")).unwrap();
        let path = CString::new(folder.path().join("a").into_os_string().into_vec()).unwrap();
        let place = Place { base: Base::Root, path };
        assert_eq!(object(&place, LastLink::Follow, 1).unwrap_err(), Errno::LOOP);
        assert!(object(&place, LastLink::Keep, 1).is_ok());
    }
}
