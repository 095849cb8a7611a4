//! Reads one policy file: a regular one, UTF-8, of bounded size.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags};

/// Bytes of a policy file at most. A thousand rules take a tenth of it.
pub(super) const POLICY_BYTES_MAX: u64 = 1 << 20;

/// May the last component of the path be a symlink?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Yes: whoever named the file knows where it lies.
    Follow,
    /// No: the file came with a project, and govsandbox may run as root.
    Refuse,
}

/// Why a file can't be read as a policy.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum FileError {
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, a pipe, a device.
    #[error("it is not a regular file")]
    #[diagnostic(help("name a file that ends in .toml or .json"))]
    NotRegular,
    /// A symlink where none is followed.
    #[error("it is a symlink, and what comes with a project is not followed")]
    #[diagnostic(help("put the policy itself there"))]
    Link,
    /// Larger than any policy.
    #[error("it has more than {} KiB", POLICY_BYTES_MAX >> 10)]
    #[diagnostic(help("no policy needs that much; is this the right file?"))]
    TooLarge,
    /// A control character, which no format allows and no terminal should see.
    #[error("it has the control character {} in line {line}", character.escape_unicode())]
    #[diagnostic(help("write it as an escape, `\\u001b`, if it is really meant"))]
    Control {
        /// The first of them.
        character: char,
        /// From 1.
        line: usize,
    },
    /// Not UTF-8.
    #[error("it is not UTF-8 text: byte {offset} is 0x{byte:02x}")]
    #[diagnostic(help("TOML and JSON are UTF-8; is this the right file?"))]
    NotUtf8 {
        /// The first byte that is wrong, from 0.
        offset: usize,
        /// Its value.
        byte: u8,
    },
}

/// The text of a file.
///
/// # Errors
/// [`FileError`].
pub(super) fn read(path: &Path, links: Links) -> Result<String, FileError> {
    let nofollow = if links == Links::Refuse { OFlags::NOFOLLOW } else { OFlags::empty() };
    // Without NONBLOCK the open of a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | nofollow;
    let file = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) if links == Links::Refuse => return Err(FileError::Link),
        Err(error) => return Err(FileError::Io(error.into())),
    };
    if !file.metadata()?.is_file() {
        return Err(FileError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(POLICY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > POLICY_BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        FileError::NotUtf8 { offset, byte: error.as_bytes().get(offset).copied().unwrap_or_default() }
    })?;
    for (line, content) in (1..).zip(text.split('\n')) {
        if let Some(character) =
            content.chars().find(|character| character.is_control() && !"\t\r".contains(*character))
        {
            return Err(FileError::Control { character, line });
        }
    }
    Ok(text)
}
