//! What is compared: a random tree, a random policy about it, random operations on it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use crate::bed::{TestBed, backend, toml_string};

/// Few, so that operations meet.
const NAMES: [&str; 7] = ["a", "b", "c", ".x", "k.pem", "a.x", "deep"];

/// A xorshift generator: the same numbers from the same seed, everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A tree in memory, removed at the end.
pub(super) struct Tree(pub(super) PathBuf);

impl Tree {
    pub(super) fn new(bed: &TestBed, random: &mut Random) -> Self {
        let root = Path::new("/dev/shm").join(format!("govsandbox-differential.{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        chown(&root, Some(bed.uid()), Some(bed.uid())).unwrap();
        let tree = Self(root);
        for _ in 0..30 {
            let (path, other) = (tree.any(random), tree.any(random));
            fs::create_dir_all(path.parent().unwrap()).ok(); // what can't be made is left away
            match random.below(8) {
                0 | 1 => fs::create_dir(&path).ok(),
                2 if other.is_file() && !other.is_symlink() => fs::hard_link(&other, &path).ok(),
                3 => symlink(&other, &path).ok(),
                _ => (!path.exists() && !path.is_symlink())
                    .then(|| fs::write(&path, "content"))
                    .and_then(Result::ok),
            };
        }
        for path in tree.all() {
            lchown(path, Some(bed.uid()), Some(bed.uid())).unwrap();
        }
        tree
    }

    pub(super) fn any(&self, random: &mut Random) -> PathBuf {
        (0..=random.below(3)).fold(self.0.clone(), |path, _| path.join(random.pick(&NAMES)))
    }

    /// Every name below the root.
    pub(super) fn all(&self) -> Vec<PathBuf> {
        Self::below(&self.0)
    }

    /// Every name below a folder.
    pub(super) fn below(folder: &Path) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            folders.extend(names.iter().filter(|name| name.is_dir() && !name.is_symlink()).cloned());
            found.extend(names);
        }
        found
    }

    /// Mostly what exists (`all` of it): operations on nothing prove nothing.
    fn near(&self, all: &[PathBuf], random: &mut Random) -> PathBuf {
        if all.is_empty() || random.one_in(4) { self.any(random) } else { random.pick(all).clone() }
    }

    fn new_name(&self, all: &[PathBuf], random: &mut Random) -> PathBuf {
        let path = if all.is_empty() || random.one_in(6) { &self.0 } else { random.pick(all) };
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(&self.0) };
        folder.join(random.pick(&NAMES))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn policy(tree: &Tree, random: &mut Random) -> String {
    let list = |patterns: Vec<String>| {
        let texts: Vec<_> = patterns.iter().map(|pattern| toml_string(pattern)).collect();
        format!("[{}]", texts.join(", "))
    };
    let all = tree.all();
    let held = |random: &mut Random| {
        let count = random.below(4);
        let patterns = (0..count).map(|_| {
            let root = tree.0.display();
            match random.below(9) {
                0 => "**/*.pem".to_owned(),
                1 => "[!a].x".to_owned(),
                2 => format!("{root}/*/{}", random.pick(&NAMES)),
                3 => format!("{root}/**/{{b,.x}}"),
                4 => format!("{root}/?/**"),
                // May be missing.
                5 | 6 => tree.any(random).display().to_string(),
                _ => random.pick(&all).display().to_string(),
            }
        });
        list(patterns.collect())
    };
    let (deny, protect) = (held(random), held(random));
    let folders: Vec<_> = all.iter().filter(|path| path.is_dir() && !path.is_symlink()).collect();
    let single =
        |path: &&PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1);
    // Not `a`: that `a.x` beside it may be written too is what the rules say and Landlock does not hold.
    let has_no_sibling = |path: &&PathBuf| !path.ends_with("a");
    let files: Vec<_> = all.iter().filter(single).filter(has_no_sibling).collect();
    let mut write = vec![tree.0.display().to_string()];
    if random.one_in(3) && !folders.is_empty() {
        write = (0..2).map(|_| random.pick(&folders).display().to_string()).collect();
        if !files.is_empty() {
            write.push(random.pick(&files).display().to_string());
        }
    }
    format!(
        "[filesystem]\nwrite = {}\ndeny = {deny}\nprotect = {protect}\n[trace]\nopens = \"denied\"\n",
        list(write)
    )
}

/// One operation: the worker's verb and its paths.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) verb: &'static str,
    pub(super) path: PathBuf,
    pub(super) target: Option<PathBuf>,
}

pub(super) fn operation(tree: &Tree, random: &mut Random) -> Operation {
    let all = tree.all();
    let one = |verb, path| Operation { verb, path, target: None };
    match random.below(20) {
        0..=3 => one("read", tree.near(&all, random)),
        4 => one("list", tree.near(&all, random)),
        5 => one("o-path", tree.near(&all, random)),
        6 => one(if backend() == "lsm" { "openat2" } else { "read" }, tree.near(&all, random)),
        7 | 8 => one("write", tree.near(&all, random)),
        9 => one("open-truncate", tree.near(&all, random)),
        10 => one("truncate", tree.near(&all, random)),
        11 => {
            // A folder that lost its mode bits would refuse by itself from then on.
            let path = tree.near(&all, random);
            one(if path.is_dir() { "list" } else { "chmod" }, path)
        }
        12 => one("create", tree.new_name(&all, random)),
        13 => one("mkdir", tree.new_name(&all, random)),
        14 => one("unlink", tree.near(&all, random)),
        15 => one("rmdir", tree.near(&all, random)),
        16 => Operation {
            verb: "symlink",
            path: tree.near(&all, random),
            target: Some(tree.new_name(&all, random)),
        },
        17 => {
            let path = tree.near(&all, random);
            // A link to a symlink itself is not what any rule is about.
            if path.is_symlink() {
                return one("read", path);
            }
            Operation { verb: "link", path, target: Some(tree.new_name(&all, random)) }
        }
        _ => {
            let target = if random.one_in(3) { tree.near(&all, random) } else { tree.new_name(&all, random) };
            let path = tree.near(&all, random);
            let inode = |path| fs::symlink_metadata(path).map(|found| found.ino()).ok();
            // A rename to another name of the same file does nothing, and says that it was done.
            if inode(&path).is_some() && inode(&path) == inode(&target) {
                return one("list", path);
            }
            Operation { verb: "rename", path, target: Some(target) }
        }
    }
}

impl Operation {
    /// Would it succeed if nothing were refused? What would not says nothing about the rules.
    pub(super) fn makes_sense(&self) -> bool {
        let kind = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.file_type());
        let is_free = |path: &Path| kind(path).is_none() && path.parent().is_some_and(Path::is_dir);
        let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
        let path = &self.path;
        match (self.verb, &self.target) {
            ("list", _) => path.is_dir(),
            ("read" | "o-path" | "openat2" | "write" | "open-truncate" | "truncate" | "chmod", _) => {
                path.is_file()
            }
            ("create" | "mkdir", _) => is_free(path),
            ("unlink", _) => kind(path).is_some_and(|kind| !kind.is_dir()),
            ("rmdir", _) => kind(path).is_some_and(|kind| kind.is_dir()) && is_empty(path),
            ("symlink", Some(target)) => is_free(target),
            ("link", Some(target)) => kind(path).is_some_and(|kind| kind.is_file()) && is_free(target),
            ("rename", Some(target)) => {
                let (Some(from), real) = (kind(path), real_name(path)) else { return false };
                let real_target = real_name(target);
                let same = |one: &Path, other: &Path| {
                    let id = |path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
                    id(one) == id(other)
                };
                let fits = match kind(target) {
                    None => target.parent().is_some_and(Path::is_dir),
                    Some(to) => {
                        from.is_dir() == to.is_dir()
                            && (!to.is_dir() || is_empty(target))
                            && !same(path, target)
                    }
                };
                fits && !from.is_fifo() && !real_target.starts_with(&real) && !real.starts_with(&real_target)
            }
            _ => false,
        }
    }

    pub(super) fn line(&self) -> String {
        let target = self.target.iter().map(|target| format!("\t{}", target.display())).collect::<String>();
        format!("{}\t{}{target}\n", self.verb, self.path.display())
    }
}

/// The last name itself, what leads to it followed.
pub(super) fn real_name(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap();
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join(path.file_name().unwrap())
}
