//! Bytes that come from the sandbox, as text that survives JSON and a terminal.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes as the kernel gave them: a path, an argument. In the log bytes that are not UTF-8 are written `\xHH` each and
/// a backslash `\\`; a field that needed it is listed in the event's `escaped`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

/// A backslash that begins neither `\\` nor `\xHH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the text begins neither `\\\\` nor `\\xHH`")]
pub struct EscapeError {
    /// Offset of the backslash in bytes.
    pub at: usize,
}

impl Text {
    /// Whether [`Self::escaped`] differs from the bytes: the field is to be listed in `escaped`.
    #[must_use]
    pub fn needs_escape(&self) -> bool {
        matches!(self.escaped(), Cow::Owned(_))
    }

    /// The form of the log.
    #[must_use]
    pub fn escaped(&self) -> Cow<'_, str> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !self.0.contains(&b'\\') => Cow::Borrowed(text),
            _ => Cow::Owned(render(&self.0, |_| false)),
        }
    }

    /// Undoes [`Self::escaped`].
    ///
    /// # Errors
    /// [`EscapeError`] where a backslash begins neither `\\` nor `\xHH`.
    pub fn from_escaped(text: &str) -> Result<Self, EscapeError> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = match (byte, after) {
                (b'\\', [b'\\', after @ ..]) => {
                    bytes.push(b'\\');
                    after
                }
                (b'\\', [b'x', high, low, after @ ..]) => {
                    let value = hex_value(*high).zip(hex_value(*low)).map(|(high, low)| high << 4 | low);
                    bytes.push(value.ok_or(EscapeError { at: text.len() - rest.len() })?);
                    after
                }
                (b'\\', _) => return Err(EscapeError { at: text.len() - rest.len() }),
                _ => {
                    bytes.push(byte);
                    after
                }
            };
        }
        Ok(Self(bytes))
    }

    /// For people: as [`Self::escaped`], and nothing in it moves a cursor, hides or turns what stands beside it.
    #[must_use]
    pub fn for_terminal(&self) -> String {
        render(&self.0, misleads)
    }
}

/// Text of ours or of a foreign log, made harmless for a terminal; a backslash stays as it is.
#[must_use]
pub fn for_terminal(text: &str) -> Cow<'_, str> {
    if !text.contains(misleads) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        push_character(&mut out, character, misleads(character));
    }
    Cow::Owned(out)
}

/// Whether a terminal would do anything else with the character than draw it: control characters (C0, DEL, C1), line
/// and paragraph separators, bidirectional marks, overrides and isolates, invisible and zero-width characters, tags.
#[must_use]
pub fn misleads(character: char) -> bool {
    // Graphic ASCII is nearly everything.
    !matches!(character, ' '..='~')
        && (character.is_control()
            || matches!(character,
                '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'))
}

fn render(bytes: &[u8], hide: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                _ => push_character(&mut out, character, hide(character)),
            }
        }
        for byte in chunk.invalid() {
            push_byte(&mut out, *byte);
        }
    }
    out
}

fn push_character(out: &mut String, character: char, hide: bool) {
    match (hide, u8::try_from(character)) {
        (false, _) => out.push(character),
        (true, Ok(b'\n')) => out.push_str("\\n"),
        (true, Ok(b'\t')) => out.push_str("\\t"),
        (true, Ok(byte @ ..0x80)) => push_byte(out, byte),
        (true, _) => out.extend(character.escape_unicode()),
    }
}

fn push_byte(out: &mut String, byte: u8) {
    out.push_str("\\x");
    out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| char::from_digit(u32::from(*digit), 16)));
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&std::path::Path> for Text {
    fn from(path: &std::path::Path) -> Self {
        Self(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.escaped())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::from_escaped(&text).map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "bytes that are not UTF-8 are written `\\xHH` each, a backslash `\\\\`",
            "pattern": r"^([^\\]|\\\\|\\x[0-9a-fA-F]{2})*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        let text = Text::from("/home/ü/a file");
        assert_eq!((text.escaped().as_ref(), text.needs_escape()), ("/home/ü/a file", false));
    }

    #[test]
    fn bytes_that_are_not_utf8_and_backslashes_are_escaped() {
        let text = Text(b"/a\xff\xc3\\x41\n".to_vec());
        assert_eq!(text.escaped(), "/a\\xff\\xc3\\\\x41\n");
        assert!(text.needs_escape());
    }

    #[test]
    fn a_lone_backslash_is_no_text_of_ours() {
        for (text, at) in [("a\\", 1), ("\\n", 0), ("ab\\x4", 2), ("\\xzz", 0)] {
            assert_eq!(Text::from_escaped(text), Err(EscapeError { at }), "{text}");
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let text = Text("\u{1b}[2J\r\n\t\u{7f}\u{9b}31m\u{202e}gpj.exe\u{2066}\u{200b}é".into());
        assert_eq!(
            text.for_terminal(),
            "\\x1b[2J\\x0d\\n\\t\\x7f\\u{9b}31m\\u{202e}gpj.exe\\u{2066}\\u{200b}é"
        );
    }

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes: Vec<u8>) {
            let text = Text(bytes);
            prop_assert_eq!(&Text::from_escaped(&text.escaped()).unwrap(), &text);
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
        }

        #[test]
        fn odd_bytes_come_back(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'4'), Just(0xc3), Just(0xa9), Just(0xf0), Just(b'\n'), Just(0)], 0..40)) {
            let text = Text(bytes);
            prop_assert_eq!(text.needs_escape(), text.escaped().as_bytes() != text.0);
            prop_assert_eq!(Text::from_escaped(&text.escaped()).unwrap(), text);
        }

        #[test]
        fn for_terminal_never_misleads(bytes: Vec<u8>, text in "\\PC*|.*") {
            prop_assert!(!Text(bytes).for_terminal().contains(misleads));
            prop_assert!(!for_terminal(&text).contains(misleads));
            prop_assert!(!Text::from(text.as_str()).for_terminal().contains(misleads));
        }
    }
}
