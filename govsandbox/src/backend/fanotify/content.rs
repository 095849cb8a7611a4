//! Programs held by their content: a copy under another name is the same program.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use govsandbox_ebpf::decide::Decision;
use sha2::{Digest as _, Sha256};

/// Verdicts that are remembered at most.
const REMEMBERED_MAX: usize = 4096;
const CHUNK_BYTES: usize = 1 << 16;

type Hash = [u8; 32];

/// What tells one state of a file from another: device, inode, size, and the time of its last change in s and ns.
type State = (u64, u64, u64, i64, i64);

/// The files that are held.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By size, so that other files are not read.
    held: HashMap<u64, Vec<(Hash, u16)>>,
    /// What was hashed already.
    known: Mutex<HashMap<State, u16>>,
}

impl Contents {
    /// Reads the files, each with the number of its rule. An empty file is no program.
    ///
    /// # Errors
    /// A file can't be read.
    pub(super) fn of(files: &[(PathBuf, u16)]) -> io::Result<Self> {
        let mut contents = Self::default();
        for (path, rule) in files {
            let file = File::open(path)?;
            let found = file.metadata()?;
            if found.is_file() && found.len() > 0 {
                contents.held.entry(found.len()).or_default().push((digest(&file)?, *rule));
            }
        }
        Ok(contents)
    }

    /// Nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Judges a file that is about to be executed: it can't be written meanwhile (ETXTBSY). One that can't be read is
    /// refused by the first rule.
    pub(super) fn decide(&self, file: &File) -> Decision {
        if self.held.is_empty() {
            return Decision::ALLOW;
        }
        match self.rule_of(file) {
            Ok(0) => Decision::ALLOW,
            Ok(rule) => Decision::deny(rule),
            Err(_) => Decision::deny(self.held.values().flatten().map(|(_, rule)| *rule).min().unwrap_or(0)),
        }
    }

    fn rule_of(&self, file: &File) -> io::Result<u16> {
        let found = file.metadata()?;
        let Some(candidates) = self.held.get(&found.len()) else { return Ok(0) };
        let state = (found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec());
        if let Some(rule) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&state) {
            return Ok(*rule);
        }
        let hash = digest(file)?;
        let same = candidates.iter().filter(|(held, _)| *held == hash).map(|(_, rule)| *rule);
        let rule = same.min().unwrap_or(0);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(state, rule);
        Ok(rule)
    }
}

fn digest(file: &File) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut chunk, at)?;
        if read == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(chunk.get(..read).unwrap_or_default());
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_held_and_one_byte_makes_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("held"), "program").unwrap();
        std::fs::write(path("copy"), "program").unwrap();
        std::fs::write(path("other"), "progran").unwrap();
        let contents = Contents::of(&[(path("held"), 7)]).unwrap();
        let decide = |name: &str| contents.decide(&File::open(path(name)).unwrap());
        assert_eq!(decide("copy"), Decision::deny(7));
        assert_eq!(decide("copy"), Decision::deny(7), "remembered");
        assert_eq!(decide("other"), Decision::ALLOW);
    }
}
