//! Named keys of a protected git config: `git checkout -b` records where a branch came from, and nothing else changes.
//!
//! git writes the whole file anew and renames it into place. What gets there is never what it wrote: the old file stays,
//! line by line, and only keys that the policy names are taken from the new one, written by us.

pub mod keys;
mod read;

use std::collections::{BTreeMap, BTreeSet};

pub use keys::{KeyError, Keys};
use read::{Line, Name, Section};

/// Bytes of a config at most. git's own are some hundred.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Bytes of a line that we write at most: git has cut lines at 1,024 and read the rest as a section of its own
/// (CVE-2023-29007).
const LINE_BYTES_MAX: usize = 1000;

/// Why nothing is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A key differs that has to stay as it is.
    #[error("`{key}` may not be changed")]
    Key {
        /// `core.hooksPath`, `remote.origin.url`; control characters escaped.
        key: String,
    },
    /// A key that may be changed, to a value that it may not have: a remote that is not there, an address that names a
    /// program, a line that is too long.
    #[error("`{key}` may not be set to that")]
    Value {
        /// As above.
        key: String,
    },
    /// What git would not have written: continued lines, dotted sections, carriage returns, a mistake.
    #[error("line {line} is not written as git writes it")]
    Unusual {
        /// From 1.
        line: usize,
    },
    /// More than [`CONFIG_BYTES_MAX`].
    #[error("a config of more than {CONFIG_BYTES_MAX} bytes is not read")]
    TooLarge,
}

/// Values of each key, in their order; `None` is a key without `=`.
type Values<'a> = BTreeMap<Name, Vec<&'a Option<Vec<u8>>>>;

/// What a config becomes when `old` is to be replaced by `new` and only `allowed` keys may differ.
///
/// # Errors
/// [`Refused`].
pub fn merged(old: &[u8], new: &[u8], allowed: &Keys) -> Result<Vec<u8>, Refused> {
    let (lines, wanted) = (read::read(old)?, read::read(new)?);
    let (is, shall) = (values(&lines), values(&wanted));
    let names: BTreeSet<&Name> = is.keys().chain(shall.keys()).collect();
    let mut changed: BTreeMap<&Name, &[&Option<Vec<u8>>]> = BTreeMap::new();
    for name in names {
        let (before, after) = (is.get(name), shall.get(name));
        if before == after {
            continue;
        }
        if !allowed.allow(name) {
            return Err(Refused::Key { key: name.readable() });
        }
        let after = after.map(Vec::as_slice).unwrap_or_default();
        for value in after {
            if !may_be(name, value, &is) || !fits(name, value) {
                return Err(Refused::Value { key: name.readable() });
            }
        }
        changed.insert(name, after);
    }
    Ok(if changed.is_empty() { old.to_owned() } else { edited(&lines, &changed, &shall) })
}

/// All values of all keys.
fn values<'a>(lines: &'a [Line<'_>]) -> Values<'a> {
    let mut values = Values::new();
    for line in lines {
        if let Line::Entry { name, value, .. } = line {
            values.entry(name.clone()).or_default().push(value);
        }
    }
    values
}

/// Are the lines short enough that say so?
fn fits(name: &Name, value: &Option<Vec<u8>>) -> bool {
    written(name, value).len() <= LINE_BYTES_MAX && header(&name.section).len() <= LINE_BYTES_MAX
}

/// A branch's remote may also be an address, to which the next `git push` outside would carry the project: it has to
/// name a remote whose address is there already. A submodule's address may be any, but name no program.
fn may_be(name: &Name, value: &Option<Vec<u8>>, is: &Values<'_>) -> bool {
    let follows = match (name.section.name.as_str(), name.key.as_str()) {
        ("branch", "remote" | "pushremote") => true,
        ("submodule", "url") => false,
        _ => return true,
    };
    let Some(value) = value else { return false };
    if !follows {
        // `ext::sh -c …`, `-u…`.
        return !value.starts_with(b"-") && !value.windows(2).any(|bytes| bytes == b"::");
    }
    let url = |key: &str| Name {
        section: Section { name: "remote".into(), sub: Some(value.clone()) },
        key: key.to_owned(),
    };
    value == b"." || is.contains_key(&url("url"))
}

/// The old lines with other values for some keys.
fn edited(lines: &[Line<'_>], changed: &BTreeMap<&Name, &[&Option<Vec<u8>>]>, shall: &Values<'_>) -> Vec<u8> {
    let mut left = changed.clone();
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        match line {
            // All values of a key come where its first one stood.
            Line::Entry { name, .. } if changed.contains_key(name) => {
                for value in left.remove(name).unwrap_or_default() {
                    out.extend(written(name, value));
                }
            }
            Line::Header { section, .. } if is_emptied(lines.get(at + 1..).unwrap_or_default(), changed) => {
                // A section goes with its last key, unless the new file has something in it.
                if shall.keys().any(|name| name.section == *section) {
                    line.copy(&mut out);
                }
            }
            _ => line.copy(&mut out),
        }
    }
    // What is new stands at the end, in sections of its own: git joins those of one name.
    let mut current = None;
    for (name, values) in left.into_iter().filter(|(_, values)| !values.is_empty()) {
        if current != Some(&name.section) {
            out.extend(header(&name.section));
            current = Some(&name.section);
        }
        for value in values {
            out.extend(written(name, value));
        }
    }
    out
}

/// Has this section, whose lines begin `rest`, entries, and do all of them go?
fn is_emptied(rest: &[Line<'_>], changed: &BTreeMap<&Name, &[&Option<Vec<u8>>]>) -> bool {
    let mut any = false;
    for line in rest {
        match line {
            Line::Header { .. } => break,
            Line::Entry { name, .. } if !changed.contains_key(name) => return false,
            Line::Entry { .. } => any = true,
            Line::Other(text) if !text.trim_ascii().is_empty() => return false,
            Line::Other(_) => {}
        }
    }
    any
}

/// A section's header as git writes it.
fn header(section: &Section) -> Vec<u8> {
    let mut out = format!("[{}", section.name).into_bytes();
    if let Some(sub) = &section.sub {
        out.extend(b" \"");
        for byte in sub {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
    out.extend(b"]\n");
    out
}

/// An entry, its value quoted unless every parser reads it the same without.
fn written(name: &Name, value: &Option<Vec<u8>>) -> Vec<u8> {
    let mut out = format!("\t{}", name.key).into_bytes();
    if let Some(value) = value {
        out.extend(b" = ");
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_.:@+*-".contains(byte);
        if !value.is_empty() && value.iter().all(is_plain) {
            out.extend(value);
        } else {
            out.push(b'"');
            for byte in value {
                match byte {
                    b'"' | b'\\' => out.extend([b'\\', *byte]),
                    b'\n' => out.extend(b"\\n"),
                    b'\t' => out.extend(b"\\t"),
                    0x08 => out.extend(b"\\b"),
                    other => out.push(*other),
                }
            }
            out.push(b'"');
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests;
