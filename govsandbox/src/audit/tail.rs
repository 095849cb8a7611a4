//! Where the chain stands: what the end of the file says.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    chain::ChainHash,
    line::LINE_BYTES_MAX,
    record::{Record, SCHEMA},
};

/// Read at once when looking for the start of the last line.
const CHUNK_BYTES: u64 = 64 << 10;
/// Longest line that is looked for, with room for one of a later version.
const SEARCH_BYTES_MAX: u64 = 4 * LINE_BYTES_MAX as u64;

/// State of the chain after the last whole line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Bytes of all whole lines.
    pub(super) end: u64,
    /// Bytes behind them: a line whose writer ended in the middle.
    pub(super) torn: u64,
    pub(super) next_seq: u64,
    pub(super) prev: ChainHash,
}

#[derive(Debug)]
pub(super) enum TailError {
    Read(io::Error),
    /// What is there was not written by us.
    NotALog,
}

impl Tail {
    pub(super) const EMPTY: Self = Self { end: 0, torn: 0, next_seq: 1, prev: ChainHash::GENESIS };

    /// # Errors
    /// [`TailError::NotALog`] when the last whole line is none of ours, or nothing is there but half a line of others.
    pub(super) fn read(file: &File) -> Result<Self, TailError> {
        let size = file.metadata().map_err(TailError::Read)?.len();
        let Some(end) = after_last_newline(file, size)? else {
            return if looks_torn(file, size)? {
                Ok(Self { torn: size, ..Self::EMPTY })
            } else {
                Err(TailError::NotALog)
            };
        };
        let start = after_last_newline(file, end - 1)?.unwrap_or(0);
        let length = usize::try_from(end - 1 - start).map_err(|_| TailError::NotALog)?;
        let mut line = vec![0; length];
        file.read_exact_at(&mut line, start).map_err(TailError::Read)?;
        let last: Record = serde_json::from_slice(&line).map_err(|_| TailError::NotALog)?;
        Ok(Self { end, torn: size - end, next_seq: last.seq.saturating_add(1), prev: last.hash })
    }
}

/// Offset behind the last newline before `end`; `None` when there is none.
fn after_last_newline(file: &File, end: u64) -> Result<Option<u64>, TailError> {
    let mut chunk_end = end;
    let mut chunk = Vec::new();
    while chunk_end > 0 && end - chunk_end < SEARCH_BYTES_MAX {
        let chunk_start = chunk_end.saturating_sub(CHUNK_BYTES);
        chunk.resize(usize::try_from(chunk_end - chunk_start).map_err(|_| TailError::NotALog)?, 0);
        file.read_exact_at(&mut chunk, chunk_start).map_err(TailError::Read)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(chunk_start + at as u64 + 1));
        }
        chunk_end = chunk_start;
    }
    if chunk_end > 0 { Err(TailError::NotALog) } else { Ok(None) }
}

/// Whether a file without a whole line is the start of a first line of ours (or empty, or zeros of a disk that lost
/// power), so that cutting it destroys nothing of others.
fn looks_torn(file: &File, size: u64) -> Result<bool, TailError> {
    let beginning = format!("{{\"schema\":\"{SCHEMA}\"");
    let mut found = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(beginning.len())];
    file.read_exact_at(&mut found, 0).map_err(TailError::Read)?;
    Ok(beginning.as_bytes().starts_with(&found) || found.iter().all(|byte| *byte == 0))
}
