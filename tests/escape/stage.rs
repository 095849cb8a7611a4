//! What an attempt finds: files, and whatever else is made from outside.

use std::{
    any::Any,
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::attempt::{Attempt, OUTSIDE};

/// The folder of one attempt, as root sees it.
pub(crate) struct Stage {
    pub(crate) folder: PathBuf,
    pub(crate) uid: u32,
    /// Folders of the session that are not the attempt's own: its user's, and not in the write list.
    pub(crate) outside: PathBuf,
    said: BTreeMap<String, String>,
    /// Newest first away.
    kept: Vec<Box<dyn Any>>,
    watches: Vec<Box<dyn Fn() -> bool>>,
}

impl Stage {
    /// Builds the attempt's folder anew.
    pub(crate) fn build(attempt: &Attempt, project: &Path, outside: &Path, uid: u32) -> Self {
        let folder = project.join(&attempt.name);
        let mut stage = Self {
            folder,
            uid,
            outside: outside.to_owned(),
            said: BTreeMap::new(),
            kept: Vec::new(),
            watches: Vec::new(),
        };
        if stage.folder.exists() {
            fs::remove_dir_all(&stage.folder).unwrap();
        }
        stage.dir("");
        for name in &attempt.secrets {
            stage.file(name, attempt.canary_text());
        }
        for name in &attempt.kept {
            stage.file(name, "as it was");
        }
        (attempt.stage)(&mut stage);
        stage
    }

    /// A path in the attempt's folder; an absolute one stays.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file of the user's.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(above) = path.parent() {
            self.make(above);
        }
        fs::write(&path, content).unwrap();
        self.give(&path);
        path
    }

    /// A file of the user's outside of the write list; the attempt knows it as `outside`.
    pub(crate) fn outside_file(&mut self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let folder = self.outside.join(self.folder.file_name().unwrap());
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let path = self.file(folder.join(name).to_str().unwrap(), content);
        self.say("outside", path.display());
        path
    }

    /// A file that may be executed.
    pub(crate) fn script(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A folder of the user's, with those above it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.make(&path);
        path
    }

    fn make(&self, path: &Path) {
        if !path.exists() {
            self.make(path.parent().unwrap());
            fs::create_dir(path).unwrap();
            self.give(path);
        }
    }

    pub(crate) fn symlink(&self, name: &str, target: impl AsRef<Path>) {
        std::os::unix::fs::symlink(target, self.path(name)).unwrap();
    }

    pub(crate) fn link(&self, from: &str, to: &str) {
        fs::hard_link(self.path(from), self.path(to)).unwrap();
    }

    pub(crate) fn give(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid)).unwrap();
    }

    /// Tells the attempt something.
    pub(crate) fn say(&mut self, key: &str, value: impl ToString) {
        let value = value.to_string();
        self.file(&format!(".said-{key}"), &value);
        self.said.insert(key.to_owned(), value);
    }

    /// Keeps something alive until the attempt is over: a child, a listener, a mount that its `Drop` takes away.
    pub(crate) fn keep(&mut self, thing: impl Any) {
        self.kept.push(Box::new(thing));
    }

    /// Looks from outside whether the attempt got there.
    pub(crate) fn watch(&mut self, reached: impl Fn() -> bool + 'static) {
        self.watches.push(Box::new(reached));
    }

    /// What the watches saw; `None`: there are none.
    pub(crate) fn watched(&self) -> Option<bool> {
        (!self.watches.is_empty()).then(|| self.watches.iter().any(|watch| watch()))
    }

    /// `{name}` and what was said, in the text that an event must hold.
    pub(crate) fn fill(&self, text: &str, name: &str) -> String {
        let filled = text.replace("{name}", name);
        self.said.iter().fold(filled, |filled, (key, value)| filled.replace(&format!("{{{key}}}"), value))
    }

    /// All that must not change.
    pub(crate) fn guarded(&self, attempt: &Attempt) -> Vec<String> {
        let names = attempt.secrets.iter().chain(&attempt.kept).chain(&attempt.guarded);
        let mut lines = Vec::new();
        for name in names {
            let outside = self.said.get("outside").filter(|_| name == OUTSIDE);
            describe(&self.path(outside.unwrap_or(name)), &mut lines);
        }
        for path in attempt.names.iter().map(|name| self.path(name)) {
            let found = path.symlink_metadata();
            if found.is_ok_and(|found| !found.is_file() || found.len() > 0) {
                describe(&path, &mut lines);
            }
        }
        lines
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        while let Some(thing) = self.kept.pop() {
            drop(thing);
        }
    }
}

/// One line for an object, and one for each below it: what it is, whose, and its content.
fn describe(path: &Path, lines: &mut Vec<String>) {
    let Ok(found) = path.symlink_metadata() else {
        lines.push(format!("{}: not there", path.display()));
        return;
    };
    let content = if found.is_file() {
        let digest = Sha256::digest(fs::read(path).unwrap_or_default());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    } else if found.is_symlink() {
        fs::read_link(path).unwrap_or_default().display().to_string()
    } else {
        String::new()
    };
    let (mode, uid, gid, links) = (found.mode(), found.uid(), found.gid(), found.nlink());
    // A folder's links and times change with what is made in it, which is for its own rules to say.
    let (links, changed) =
        if found.is_dir() { (0, 0) } else { (links, found.mtime() * 1_000_000_000 + found.mtime_nsec()) };
    let attributes = attributes(path);
    lines
        .push(format!("{}: {mode:o} {uid}:{gid} {links} {changed} {attributes:?} {content}", path.display()));
    if found.is_dir() {
        let mut below: Vec<PathBuf> =
            fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        below.sort();
        below.iter().for_each(|path| describe(path, lines));
    }
}

/// Extended attributes, with their values.
fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = [0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = [0_u8; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}
