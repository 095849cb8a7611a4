//! The way that a path leads: every symlink on it, and where it ends.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Links that are followed at most, as the kernel does (`MAXSYMLINKS` of include/linux/namei.h).
const LINKS_MAX: usize = 40;

/// What looking up a path meets now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where it ends, symlinks followed; names that are not there as they are written. A circle ends where it begins.
    pub end: PathBuf,
    /// Every symlink that is met, by its own path, in order: those that a link's text leads through too.
    pub links: Vec<PathBuf>,
}

impl Way {
    /// Follows an absolute path.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let mut links = Vec::new();
        let mut at = PathBuf::from("/");
        let mut rest: Vec<OsString> = Vec::new();
        push(&mut rest, path);
        while let Some(name) = rest.pop() {
            match name.as_bytes() {
                b"/" => at = PathBuf::from("/"),
                b"." => {}
                b".." => drop(at.pop()),
                _ => {
                    let next = at.join(&name);
                    let Ok(text) = fs::read_link(&next) else {
                        at = next;
                        continue;
                    };
                    if links.len() == LINKS_MAX {
                        return Self { end: path.to_owned(), links };
                    }
                    push(&mut rest, &text);
                    links.push(next);
                }
            }
        }
        Self { end: at, links }
    }

    /// The names that keep the way as it is: the folders above its end, the links, and the folders above those.
    pub fn names(&self) -> impl Iterator<Item = &Path> {
        let above = self.end.ancestors().skip(1);
        above.chain(self.links.iter().flat_map(|link| link.ancestors()))
    }
}

/// Names still to be walked, the next one last.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    rest.extend(path.components().rev().map(|one| one.as_os_str().to_owned()));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_links_lead_through_are_met() {
        let bed = tempfile::tempdir().unwrap();
        let root = bed.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("home/sub")).unwrap();
        fs::create_dir_all(root.join("real/dots")).unwrap();
        symlink("../store", root.join("home/conf")).unwrap();
        symlink(root.join("real/dots"), root.join("store")).unwrap();
        let way = Way::of(&root.join("home/conf/later/file"));
        assert_eq!(way.end, root.join("real/dots/later/file"));
        assert_eq!(way.links, [root.join("home/conf"), root.join("store")]);
        for name in ["real", "real/dots", "real/dots/later", "home", "home/conf", "store"] {
            assert!(way.names().any(|kept| kept == root.join(name)), "{name}");
        }
        for name in ["home/sub", "real/dots/later/file"] {
            assert!(way.names().all(|kept| kept != root.join(name)), "{name}");
        }
    }

    #[test]
    fn a_link_to_nothing_stands_for_what_it_names_and_a_circle_for_itself() {
        let bed = tempfile::tempdir().unwrap();
        let root = bed.path().canonicalize().unwrap();
        symlink("not/../yet", root.join("dangling")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        assert_eq!(Way::of(&root.join("dangling/x")).end, root.join("yet/x"));
        assert_eq!(Way::of(&root.join("circle/x")).end, root.join("circle/x"));
    }
}
