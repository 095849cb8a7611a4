//! Whether a log is whole: every line in its place, every hash right.

use std::path::Path;

use super::{
    chain::ChainHash,
    read::{Entry, LogReader, ReadError},
    record::Record,
};

/// What a whole log comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Lines, which is also the `seq` of the last.
    pub records: u64,
    /// `hash` of the last line: kept elsewhere, it proves later that nothing before was changed.
    pub last: ChainHash,
    /// Bytes of a line that is not yet, or never was, finished.
    pub unfinished_bytes: u64,
}

/// The first line that does not fit.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum VerifyError {
    /// The file can't be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Read(#[from] ReadError),
    /// A line was changed, removed, added or moved.
    #[error("line {line} of the audit log does not fit: {reason}")]
    #[diagnostic(
        code(audit::verify::broken),
        help("the lines before it are as they were written; what follows proves nothing")
    )]
    Broken {
        /// From 1.
        line: u64,
        /// In words.
        reason: String,
    },
}

/// Checks `seq`, `prev` and `hash` of every line.
///
/// # Errors
/// [`VerifyError::Broken`] names the first line that does not fit. Lines that were cut off at the end leave no trace in
/// the file itself.
pub fn verify(path: &Path) -> Result<Verified, VerifyError> {
    let mut reader = LogReader::open(path)?;
    let mut verified = Verified { records: 0, last: ChainHash::GENESIS, unfinished_bytes: 0 };
    while let Some(entry) = reader.next_entry()? {
        let line = verified.records + 1;
        verified.last =
            check(&entry, line, verified.last).map_err(|reason| VerifyError::Broken { line, reason })?;
        verified.records = line;
    }
    verified.unfinished_bytes = reader.unfinished_bytes();
    Ok(verified)
}

fn check(entry: &Entry, seq: u64, prev: ChainHash) -> Result<ChainHash, String> {
    let record: &Record = entry.record.as_ref().map_err(ToString::to_string)?;
    if record.seq != seq {
        return Err(format!("its seq is {}, not {seq}", record.seq));
    }
    if record.prev != prev {
        return Err("its prev is not the hash of the line before".to_owned());
    }
    let ending = format!(",\"hash\":\"{}\"}}", record.hash);
    let hashed = entry.raw.strip_suffix(ending.as_bytes()).ok_or("its hash does not come last")?;
    if ChainHash::of(hashed) != record.hash {
        return Err("its hash is not that of its bytes".to_owned());
    }
    Ok(record.hash)
}
