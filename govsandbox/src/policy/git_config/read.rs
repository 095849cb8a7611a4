//! Reads a git config as git writes it: one header or one entry on a line, and nothing that parsers disagree about.

use super::{CONFIG_BYTES_MAX, Refused};

/// `[name "sub"]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Section {
    /// Lower case: git does not tell cases apart here.
    pub(super) name: String,
    /// As it is; `None` differs from an empty one.
    pub(super) sub: Option<Vec<u8>>,
}

/// A key with its section.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) section: Section,
    /// Lower case.
    pub(super) key: String,
}

impl Name {
    /// `branch.main.remote`, for people.
    pub(super) fn readable(&self) -> String {
        let sub = self.section.sub.as_ref();
        let sub = sub.map(|sub| format!(".{}", crate::policy::effective::readable(sub))).unwrap_or_default();
        format!("{}{sub}.{}", self.section.name, self.key)
    }
}

/// One line with its text, newline and all.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Header {
        section: Section,
        text: &'a [u8],
    },
    Entry {
        name: Name,
        value: Option<Vec<u8>>,
        text: &'a [u8],
    },
    /// Blank or a comment.
    Other(&'a [u8]),
}

impl Line<'_> {
    /// Appends it as it was, ended by a newline.
    pub(super) fn copy(&self, out: &mut Vec<u8>) {
        let (Self::Header { text, .. } | Self::Entry { text, .. } | Self::Other(text)) = self;
        out.extend_from_slice(text);
        if !text.ends_with(b"\n") {
            out.push(b'\n');
        }
    }
}

/// All lines.
///
/// # Errors
/// [`Refused::TooLarge`], [`Refused::Unusual`].
pub(super) fn read(text: &[u8]) -> Result<Vec<Line<'_>>, Refused> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    let mut lines = Vec::new();
    let mut section: Option<Section> = None;
    for (index, text) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let read = Cursor::of(text).and_then(|cursor| cursor.line(text, section.as_ref()));
        let line = read.ok_or(Refused::Unusual { line: index + 1 })?;
        if let Line::Header { section: begun, .. } = &line {
            section = Some(begun.clone());
        }
        lines.push(line);
    }
    Ok(lines)
}

/// What is left of a line, its newline off.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// `None`: bytes that git or others may read in several ways. A NUL ends git's strings; a carriage return is a part of
    /// the value or of the line's end; before a byte order mark or a form feed git sees nothing, and others do.
    fn of(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_suffix(b"\n").unwrap_or(line);
        let odd = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
        if rest.iter().any(odd) { None } else { Some(Self { rest }) }
    }

    fn line(mut self, text: &'a [u8], section: Option<&Section>) -> Option<Line<'a>> {
        self.blanks();
        match self.peek() {
            None | Some(b'#' | b';') => Some(Line::Other(text)),
            Some(b'[') => Some(Line::Header { section: self.header()?, text }),
            Some(_) => {
                let name = Name { section: section?.clone(), key: self.key()? };
                Some(Line::Entry { name, value: self.value()?, text })
            }
        }
    }

    fn header(&mut self) -> Option<Section> {
        self.next();
        let name = self.word(|byte| byte.is_ascii_alphanumeric() || byte == b'-')?;
        let blanks = self.blanks();
        let sub = match self.next()? {
            b']' if blanks == 0 => None,
            b'"' if blanks > 0 => {
                let sub = self.subsection()?;
                (self.next()? == b']').then_some(Some(sub))?
            }
            // `[branch.main]`: folded to lower case by git, kept by others.
            _ => return None,
        };
        self.end()?;
        Some(Section { name, sub })
    }

    /// Up to its closing quote.
    fn subsection(&mut self) -> Option<Vec<u8>> {
        let mut sub = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Some(sub),
                b'\\' => sub.push(self.next()?),
                other => sub.push(other),
            }
        }
    }

    fn key(&mut self) -> Option<String> {
        if !self.peek()?.is_ascii_alphabetic() {
            return None;
        }
        self.word(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    }

    /// Behind a key: `= value`, or nothing.
    fn value(&mut self) -> Option<Option<Vec<u8>>> {
        self.blanks();
        match self.next() {
            None => return Some(None),
            Some(b'=') => self.blanks(),
            // A comment behind a key without a value is one to some, and a mistake to git.
            Some(_) => return None,
        };
        let (mut value, mut quoted, mut trimmed) = (Vec::new(), false, 0);
        while let Some(byte) = self.next() {
            match byte {
                b'"' => quoted = !quoted,
                b'\\' => value.push(match self.next()? {
                    same @ (b'"' | b'\\') => same,
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'b' => 0x08,
                    _ => return None,
                }),
                b'#' | b';' if !quoted => break,
                // Before the value begins, even behind `""`, git drops it.
                b' ' if !quoted => {
                    if !value.is_empty() {
                        value.push(b' ');
                    }
                    continue;
                }
                // Inside of a value git has read it as a blank, and later as itself.
                b'\t' if !quoted => {
                    self.end()?;
                    break;
                }
                other => value.push(other),
            }
            trimmed = value.len();
        }
        value.truncate(trimmed);
        if quoted { None } else { Some(Some(value)) }
    }

    /// Nothing but blanks and a comment may follow.
    fn end(&mut self) -> Option<()> {
        self.blanks();
        matches!(self.peek(), None | Some(b'#' | b';')).then_some(())
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> Option<String> {
        let length = self.rest.iter().position(|byte| !belongs(*byte)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let word = String::from_utf8(word.to_ascii_lowercase()).ok()?;
        if word.is_empty() { None } else { Some(word) }
    }

    fn blanks(&mut self) -> usize {
        let before = self.rest.len();
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.next();
        }
        before - self.rest.len()
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }
}
