//! Programs held by their content: a copy under another name is the same program.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use govsandbox_ebpf::decide::Decision;
use sha2::{Digest as _, Sha256};

const CHUNK_BYTES: usize = 1 << 16;

type Hash = [u8; 32];

/// The files that are held.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By size, so that other files are not read.
    held: HashMap<u64, Vec<(Hash, u16)>>,
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

    /// Judges a file that is about to be executed. One that can't be read is refused by the first rule. Nothing is
    /// remembered: neither size nor times tell of what is written by way of a mapping.
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
        let Some(candidates) = self.held.get(&file.metadata()?.len()) else { return Ok(0) };
        let hash = digest(file)?;
        let same = candidates.iter().filter(|(held, _)| *held == hash).map(|(_, rule)| *rule);
        Ok(same.min().unwrap_or(0))
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
        assert_eq!(decide("other"), Decision::ALLOW);
        // A file that keeps its size and its times is looked at again.
        let times = std::fs::metadata(path("other")).unwrap().modified().unwrap();
        std::fs::write(path("other"), "program").unwrap();
        File::options().write(true).open(path("other")).unwrap().set_modified(times).unwrap();
        assert_eq!(decide("other"), Decision::deny(7));
    }
}
