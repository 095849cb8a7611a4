//! Where a path leads inside the sandbox's file system, links followed as the process would have.
//!
//! The process may change the file system meanwhile, so the answer serves the log only. Nothing is opened (`O_PATH` runs
//! no `open` of a file system and raises no permission event), and each look goes by `openat2(2)` with
//! `RESOLVE_IN_ROOT` and `RESOLVE_NO_SYMLINKS`: however names are swapped, none leads out of the root.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};

/// As the kernel's (`MAXSYMLINKS`, include/linux/namei.h).
const LINKS_MAX: usize = 40;
/// Names that are looked at; those behind are only joined. More than the kernel programs walk.
const NAMES_MAX: usize = 512;

/// What to do where the last name is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLink {
    /// Go on to its target.
    Follow,
    /// The link itself is meant.
    Keep,
}

/// A path without links, `.`, `..` and a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: Vec<u8>,
    /// There is something; `false` too where it can't be told.
    pub(super) exists: bool,
}

enum Seen {
    Nothing,
    Object,
    Link(Vec<u8>),
}

/// Finds `given`, which is relative to `base` (absolute, without links) unless it begins with a slash. What is not
/// there keeps its names.
pub(super) fn follow(root: &Path, base: &[u8], given: &[u8], last: LastLink) -> Found {
    let mut path = Vec::with_capacity(base.len() + given.len() + 1);
    if !given.starts_with(b"/") {
        base.split(|byte| *byte == b'/').for_each(|name| push(&mut path, name));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty()).ok();
    if let Some(path) = root.as_ref().and_then(|root| at_once(root, &path, given, last)) {
        return Found { path, exists: true };
    }
    let mut names: VecDeque<Vec<u8>> = split(given).collect();
    let mut is_there = root.is_some();
    let (mut links, mut looks) = (0, 0);
    while let Some(name) = names.pop_front() {
        push(&mut path, &name);
        if matches!(name.as_slice(), b"" | b"." | b"..") || !is_there {
            continue;
        }
        looks += 1;
        let seen = match &root {
            Some(root) if looks <= NAMES_MAX => look(root, &path),
            Some(_) | None => Seen::Nothing,
        };
        match seen {
            Seen::Object => {}
            Seen::Nothing => is_there = false,
            Seen::Link(_) if names.is_empty() && last == LastLink::Keep => {}
            Seen::Link(_) if links == LINKS_MAX => is_there = false,
            Seen::Link(target) => {
                links += 1;
                push(&mut path, if target.starts_with(b"/") { b"/" } else { b".." });
                for part in split(&target).collect::<Vec<_>>().into_iter().rev() {
                    names.push_front(part);
                }
            }
        }
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Found { path, exists: is_there }
}

/// The same in one look: most paths have no links. `None`: this one has, or it can't be told so.
fn at_once(root: &OwnedFd, base: &[u8], given: &[u8], last: LastLink) -> Option<Vec<u8>> {
    let mut path = base.to_vec();
    for name in given.split(|byte| *byte == b'/') {
        // Where it leads depends on what stands before it.
        if name == b".." {
            return None;
        }
        push(&mut path, name);
    }
    match look(root, &path) {
        Seen::Object => Some(path).filter(|path| !path.is_empty()),
        Seen::Link(_) if last == LastLink::Keep && !given.ends_with(b"/") && !given.ends_with(b"/.") => {
            Some(path)
        }
        Seen::Link(_) | Seen::Nothing => None,
    }
}

fn split(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').map(<[u8]>::to_vec)
}

/// One name on; `..` one back, `/` to the root.
fn push(path: &mut Vec<u8>, name: &[u8]) {
    match name {
        b"" | b"." => {}
        b"/" => path.clear(),
        b".." => path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
        name => {
            path.push(b'/');
            path.extend_from_slice(name);
        }
    }
}

fn look(root: &OwnedFd, path: &[u8]) -> Seen {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let Ok(object) = openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) else {
        return Seen::Nothing;
    };
    match readlinkat(&object, c"", Vec::new()) {
        Ok(target) => Seen::Link(target.into_bytes()),
        Err(_) => Seen::Object,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    /// `/app/file`, `/app/sub/`, `/secret/key`; `/out` beside the root, which nothing may reach.
    fn bed() -> (tempfile::TempDir, std::path::PathBuf) {
        let bed = tempfile::tempdir().unwrap();
        let root = bed.path().join("root");
        fs::create_dir_all(root.join("app/sub")).unwrap();
        fs::create_dir_all(root.join("secret")).unwrap();
        fs::write(root.join("app/file"), "").unwrap();
        fs::write(root.join("secret/key"), "").unwrap();
        fs::create_dir(bed.path().join("out")).unwrap();
        fs::write(bed.path().join("out/key"), "").unwrap();
        (bed, root)
    }

    fn found(path: &str, exists: bool) -> Found {
        Found { path: path.into(), exists }
    }

    #[test]
    fn a_path_is_relative_to_its_base_unless_it_is_absolute() {
        let (_bed, root) = bed();
        for (given, expected) in [
            ("file", found("/app/file", true)),
            ("./sub/..//file", found("/app/file", true)),
            ("../secret/key", found("/secret/key", true)),
            ("/secret/key", found("/secret/key", true)),
            ("", found("/app", true)),
            ("sub/", found("/app/sub", true)),
            ("/", found("/", true)),
            ("../../../..", found("/", true)),
        ] {
            assert_eq!(follow(&root, b"/app", given.as_bytes(), LastLink::Follow), expected, "{given}");
        }
    }

    #[test]
    fn what_is_not_there_keeps_its_names() {
        let (_bed, root) = bed();
        assert_eq!(follow(&root, b"/app", b"new", LastLink::Follow), found("/app/new", false));
        assert_eq!(
            follow(&root, b"/app", b"no/such/./one", LastLink::Follow),
            found("/app/no/such/one", false)
        );
        assert_eq!(follow(&root, b"/app", b"file/below", LastLink::Follow), found("/app/file/below", false));
        let gone = root.join("no-root");
        assert_eq!(follow(&gone, b"/app", b"../x", LastLink::Follow), found("/x", false));
    }

    #[test]
    fn links_are_followed_and_the_last_one_only_on_demand() {
        let (_bed, root) = bed();
        symlink("/secret", root.join("app/absolute")).unwrap();
        symlink("../secret/key", root.join("app/relative")).unwrap();
        symlink("/secret/later", root.join("app/dangling")).unwrap();
        for (given, last, expected) in [
            ("absolute/key", LastLink::Keep, found("/secret/key", true)),
            ("relative", LastLink::Follow, found("/secret/key", true)),
            ("relative", LastLink::Keep, found("/app/relative", true)),
            ("absolute/", LastLink::Keep, found("/secret", true)),
            ("absolute/.", LastLink::Keep, found("/secret", true)),
            ("absolute/../app/file", LastLink::Follow, found("/app/file", true)),
            ("dangling", LastLink::Follow, found("/secret/later", false)),
        ] {
            assert_eq!(follow(&root, b"/app", given.as_bytes(), last), expected, "{given}");
        }
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let (bed, root) = bed();
        let out = bed.path().join("out");
        symlink("../../../../../../../../out", root.join("app/up")).unwrap();
        symlink(&out, root.join("app/absolute")).unwrap();
        assert_eq!(follow(&root, b"/app", b"up/key", LastLink::Follow), found("/out/key", false));
        let inside = format!("{}/key", out.display());
        assert_eq!(follow(&root, b"/app", b"absolute/key", LastLink::Follow), found(&inside, false));
    }

    #[test]
    fn a_loop_and_a_bomb_of_links_end() {
        let (_bed, root) = bed();
        symlink("loop", root.join("app/loop")).unwrap();
        assert_eq!(follow(&root, b"/app", b"loop", LastLink::Follow), found("/app/loop", false));
        symlink("bomb/bomb/bomb/bomb/x", root.join("app/bomb")).unwrap();
        assert!(!follow(&root, b"/app", b"bomb", LastLink::Follow).exists);
        let long = "sub/../".repeat(580);
        assert_eq!(follow(&root, b"/app", long.as_bytes(), LastLink::Follow), found("/app", false));
    }

    proptest! {
        #[test]
        fn every_answer_is_absolute_and_plain(
            given in proptest::collection::vec(prop_oneof![
                Just("/"), Just("."), Just(".."), Just("app"), Just("up"), Just("file"), Just("nul\0"), Just("é")], 0..12),
            base in "[a-z/.]{0,12}",
        ) {
            let (_bed, root) = bed();
            symlink("../../..", root.join("app/up")).unwrap();
            let path = follow(&root, base.as_bytes(), given.concat().as_bytes(), LastLink::Follow).path;
            prop_assert!(path.starts_with(b"/"));
            prop_assert!(path == b"/" || path.split(|byte| *byte == b'/').skip(1)
                .all(|name| !matches!(name, b"" | b"." | b"..")));
        }
    }
}
