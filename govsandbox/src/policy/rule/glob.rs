//! Path patterns by component: `*`, `?`, `[a-z]`, `[!a]`, `{a,b}` within one, `**` for any number of them.
//!
//! Patterns are bytes. A name never contains a slash, and none of the wildcards stands for one.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt as _, path::PathBuf};

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// `**`: any number of components, none included.
    AnyDepth,
    /// One name.
    Name(Vec<Part>),
}

/// A part of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// This byte.
    Byte(u8),
    /// `?`: one byte.
    One,
    /// `*`: any number of bytes.
    Run,
    /// `[a-z]`: one byte of these ranges, both ends included; negated: of none.
    Class {
        /// `[!…]`.
        negated: bool,
        /// In the order written.
        ranges: Vec<(u8, u8)>,
    },
    /// `{a,b}`: one of these.
    Either(Vec<Vec<Part>>),
}

/// Why a pattern makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum GlobError {
    /// `..`
    #[error("`..` has no place in a pattern")]
    #[diagnostic(
        code(policy::path::parent),
        help("write the path that is meant; symlinks are followed at the start")
    )]
    Parent,
    /// `a**`
    #[error("`**` stands for whole components")]
    #[diagnostic(
        code(policy::path::double_star),
        help("within a name a single `*` matches any number of characters")
    )]
    DoubleStarInName,
    /// `[ab`
    #[error("`[` is not closed in this component")]
    #[diagnostic(code(policy::path::open_bracket), help("close it with `]`, or quote it: `\\[`"))]
    OpenBracket,
    /// `[]`, `[!]`
    #[error("an empty set `[]` matches nothing")]
    #[diagnostic(
        code(policy::path::empty_class),
        help("name the characters: `[a-z]`, or quote the bracket: `\\[`")
    )]
    EmptyClass,
    /// `[^a]`
    #[error("`[^…]` is not this grammar's negation")]
    #[diagnostic(code(policy::path::caret), help("write `[!…]`, or quote the caret: `[\\^]`"))]
    Caret,
    /// `[z-a]`
    #[error("the range `{}-{}` is empty", char::from(*first), char::from(*last))]
    #[diagnostic(code(policy::path::empty_range), help("the smaller end comes first"))]
    EmptyRange {
        /// As written.
        first: u8,
        /// As written.
        last: u8,
    },
    /// `[é]`
    #[error("a set `[…]` is of single bytes, and this character is several")]
    #[diagnostic(code(policy::path::wide_class), help("list such characters as alternatives: `{{é,è}}`"))]
    WideClass,
    /// `{a,b`
    #[error("`{{` is not closed in this component")]
    #[diagnostic(code(policy::path::open_brace), help("close it with `}}`, or quote it: `\\{{`"))]
    OpenBrace,
    /// `{a}` in the middle of a pattern.
    #[error("braces without a comma are a variable, and variables stand only at the start")]
    #[diagnostic(
        code(policy::path::lone_alternative),
        help("alternatives need a comma: `{{a,b}}`; a quoted brace is `\\{{`")
    )]
    LoneAlternative,
    /// `{,}`
    #[error("a component of this pattern can be empty, and no file's name is")]
    #[diagnostic(code(policy::path::empty_name), help("give each alternative a character, or use `*`"))]
    EmptyName,
    /// `a\`
    #[error("`\\` at the end quotes nothing")]
    #[diagnostic(code(policy::path::lone_quote), help("a backslash itself is `\\\\`"))]
    LoneQuote,
    /// NUL
    #[error("a path has no NUL byte")]
    #[diagnostic(code(policy::path::nul))]
    Nul,
    /// `{{{{…`
    #[error("braces are nested more than {ALTERNATIVES_DEPTH_MAX} deep")]
    #[diagnostic(code(policy::path::nested))]
    TooDeep,
}

/// Braces in braces at most; each level multiplies the size of the automaton.
const ALTERNATIVES_DEPTH_MAX: usize = 4;

/// The components of a pattern. Slashes at the ends, doubled ones and `.` components are dropped; so is a trailing
/// `**`, because a match covers everything below anyway.
///
/// # Errors
/// [`GlobError`].
pub fn segments(pattern: &[u8]) -> Result<Vec<Segment>, GlobError> {
    let mut rest = Reader { left: pattern, is_argument: false };
    let mut segments = Vec::new();
    while let Some(next) = rest.peek() {
        if next == b'/' {
            rest.next();
            continue;
        }
        if rest.take_component(b"**") {
            segments.push(Segment::AnyDepth);
            continue;
        }
        let name = Segment::Name(rest.name()?);
        // However it is quoted: no file's name is one of these.
        match name.literal().as_deref() {
            Some(b"..") => return Err(GlobError::Parent),
            Some(b".") => {}
            Some(_) | None => segments.push(name),
        }
    }
    while segments.last() == Some(&Segment::AnyDepth) {
        segments.pop();
    }
    Ok(segments)
}

/// The pattern of one argument: `**` alone is any number of them, and a slash is a byte like others.
///
/// # Errors
/// [`GlobError`].
pub fn argument(pattern: &[u8]) -> Result<Segment, GlobError> {
    if pattern == b"**" {
        return Ok(Segment::AnyDepth);
    }
    let mut rest = Reader { left: pattern, is_argument: true };
    Ok(Segment::Name(rest.parts(0)?))
}

/// The pattern that matches exactly these bytes.
#[must_use]
pub fn quote(literal: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(literal.len());
    for byte in literal {
        if b"*?[]{},\\!".contains(byte) {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted
}

/// The folder that a pattern begins with; `None`: it is the root, or the pattern a name at any depth.
#[must_use]
pub fn beginning(pattern: &[u8]) -> Option<PathBuf> {
    let names = pattern.split(|byte| *byte == b'/').skip(1);
    let names = names.take_while(|name| !name.iter().any(|byte| b"*?[{\\".contains(byte)));
    let path = names.fold(PathBuf::from("/"), |path, name| path.join(OsStr::from_bytes(name)));
    path.parent().is_some().then_some(path)
}

impl Segment {
    /// The name, if this is one without wildcards.
    #[must_use]
    pub fn literal(&self) -> Option<Vec<u8>> {
        let Self::Name(parts) = self else { return None };
        let byte = |part: &Part| if let Part::Byte(byte) = part { Some(*byte) } else { None };
        parts.iter().map(byte).collect()
    }

    /// The component as it is written; the inverse of [`segments`].
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::AnyDepth => out.extend_from_slice(b"**"),
            Self::Name(parts) => write_parts(parts, out),
        }
    }
}

fn write_parts(parts: &[Part], out: &mut Vec<u8>) {
    for part in parts {
        match part {
            Part::Byte(byte) => out.extend(quote(&[*byte])),
            Part::One => out.push(b'?'),
            Part::Run => out.push(b'*'),
            Part::Class { negated, ranges } => {
                out.push(b'[');
                if *negated {
                    out.push(b'!');
                }
                for (first, last) in ranges {
                    out.extend([b'\\', *first, b'-', b'\\', *last]);
                }
                out.push(b']');
            }
            Part::Either(alternatives) => {
                for (index, alternative) in alternatives.iter().enumerate() {
                    out.push(if index == 0 { b'{' } else { b',' });
                    write_parts(alternative, out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Can these parts match no byte at all?
fn may_be_empty(parts: &[Part]) -> bool {
    parts.iter().all(|part| match part {
        Part::Run => true,
        Part::Either(alternatives) => alternatives.iter().any(|alternative| may_be_empty(alternative)),
        Part::Byte(_) | Part::One | Part::Class { .. } => false,
    })
}

struct Reader<'a> {
    left: &'a [u8],
    /// No slash ends it.
    is_argument: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.left.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(*first)
    }

    /// Is this the end of a component?
    fn ends(&self, byte: u8) -> bool {
        byte == b'/' && !self.is_argument
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.next();
        }
        found
    }

    /// Takes the component if it is `text`, no more and no less.
    fn take_component(&mut self, text: &[u8]) -> bool {
        let Some(left) = self.left.strip_prefix(text) else { return false };
        let whole = matches!(left.first(), None | Some(b'/'));
        if whole {
            self.left = left;
        }
        whole
    }

    /// One component, up to a slash or the end.
    fn name(&mut self) -> Result<Vec<Part>, GlobError> {
        let parts = self.parts(0)?;
        // `*` alone is "any name", which is not empty; everything else that may match nothing is a mistake.
        if parts != [Part::Run] && may_be_empty(&parts) {
            return Err(GlobError::EmptyName);
        }
        Ok(parts)
    }

    /// Parts up to the end of the component; within braces up to the comma or brace that ends the alternative.
    fn parts(&mut self, depth: usize) -> Result<Vec<Part>, GlobError> {
        let mut parts = Vec::new();
        while let Some(next) = self.peek() {
            if self.ends(next) || (depth > 0 && (next == b',' || next == b'}')) {
                break;
            }
            self.next();
            parts.push(match next {
                b'*' if self.peek() == Some(b'*') => return Err(GlobError::DoubleStarInName),
                b'*' => Part::Run,
                b'?' => Part::One,
                b'[' => self.class()?,
                b'{' => self.alternatives(depth + 1)?,
                b'\\' => Part::Byte(self.quoted()?),
                0 => return Err(GlobError::Nul),
                byte => Part::Byte(byte),
            });
        }
        Ok(parts)
    }

    fn quoted(&mut self) -> Result<u8, GlobError> {
        match self.next() {
            None => Err(GlobError::LoneQuote),
            Some(byte) if self.ends(byte) => Err(GlobError::LoneQuote),
            Some(0) => Err(GlobError::Nul),
            Some(byte) => Ok(byte),
        }
    }

    fn alternatives(&mut self, depth: usize) -> Result<Part, GlobError> {
        if depth > ALTERNATIVES_DEPTH_MAX {
            return Err(GlobError::TooDeep);
        }
        let mut alternatives = vec![self.parts(depth)?];
        while self.take(b',') {
            alternatives.push(self.parts(depth)?);
        }
        match self.take(b'}') {
            false => Err(GlobError::OpenBrace),
            true if alternatives.len() == 1 => Err(GlobError::LoneAlternative),
            true => Ok(Part::Either(alternatives)),
        }
    }

    fn class(&mut self) -> Result<Part, GlobError> {
        let negated = self.take(b'!');
        if self.peek() == Some(b'^') {
            return Err(GlobError::Caret);
        }
        let mut ranges = Vec::new();
        while !self.take(b']') {
            let first = self.class_byte()?;
            let is_range =
                self.left.first() == Some(&b'-') && self.left.get(1).is_some_and(|next| *next != b']');
            let last = if is_range && self.take(b'-') { self.class_byte()? } else { first };
            if first > last {
                return Err(GlobError::EmptyRange { first, last });
            }
            ranges.push((first, last));
        }
        if ranges.is_empty() { Err(GlobError::EmptyClass) } else { Ok(Part::Class { negated, ranges }) }
    }

    fn class_byte(&mut self) -> Result<u8, GlobError> {
        match self.next() {
            None => Err(GlobError::OpenBracket),
            Some(byte) if self.ends(byte) => Err(GlobError::OpenBracket),
            Some(b'\\') => self.quoted(),
            Some(0) => Err(GlobError::Nul),
            Some(byte) if byte.is_ascii() => Ok(byte),
            Some(_) => Err(GlobError::WideClass),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write(&mut text);
        out.write_str(&String::from_utf8_lossy(&text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(segments: &[Segment]) -> String {
        segments.iter().map(|segment| format!("/{segment}")).collect()
    }

    #[test]
    fn slashes_dots_and_a_trailing_double_star_change_nothing() {
        let plain = segments(b"/a/b").unwrap();
        for same in ["/a/b/", "/a/b/**", "//a///b", "/a/./b/.", "/a/b/**/**/"] {
            assert_eq!(segments(same.as_bytes()).unwrap(), plain, "{same}");
        }
        assert_ne!(segments(b"/a/*").unwrap(), segments(b"/a").unwrap());
        assert_ne!(segments(b"/a/**/b").unwrap(), plain);
    }

    #[test]
    fn a_backslash_takes_the_meaning_from_what_follows() {
        let quoted = segments(br"/\*\[\{\\\?").unwrap();
        assert_eq!(quoted.first().and_then(Segment::literal), Some(br"*[{\?".to_vec()));
        assert_eq!(segments(&quote(br"*[{\?,}!]")).unwrap()[0].literal(), Some(br"*[{\?,}!]".to_vec()));
    }

    #[test]
    fn nonsense_has_an_error_of_its_own() {
        let cases: [(&str, GlobError); 17] = [
            ("/a/../b", GlobError::Parent),
            ("/a/\\../b", GlobError::Parent),
            ("/a**", GlobError::DoubleStarInName),
            ("/**a", GlobError::DoubleStarInName),
            ("/[ab", GlobError::OpenBracket),
            ("/[a/b]", GlobError::OpenBracket),
            ("/[]", GlobError::EmptyClass),
            ("/[!]", GlobError::EmptyClass),
            ("/[^a]", GlobError::Caret),
            ("/[z-a]", GlobError::EmptyRange { first: b'z', last: b'a' }),
            ("/[é]", GlobError::WideClass),
            ("/{a,b", GlobError::OpenBrace),
            ("/{a,b/c}", GlobError::OpenBrace),
            ("/{a}", GlobError::LoneAlternative),
            ("/{,a}", GlobError::EmptyName),
            ("/a\\", GlobError::LoneQuote),
            ("/a\0", GlobError::Nul),
        ];
        for (pattern, error) in cases {
            assert_eq!(segments(pattern.as_bytes()), Err(error), "{pattern}");
        }
        assert_eq!(segments(b"/{{{{{a,b},c},d},e},f}"), Err(GlobError::TooDeep));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_reads_back_the_same(pattern in r"(/([ab.*?,!-]|\\[*\[{\\]|\[!?[a-c]-?\]|\{a,[b?]*\}){1,5}){1,4}") {
            if let Ok(read) = segments(pattern.as_bytes()) {
                prop_assert_eq!(segments(written(&read).as_bytes()).unwrap(), read);
            }
        }

        #[test]
        fn no_input_makes_it_panic(pattern in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = segments(&pattern);
        }
    }
}
