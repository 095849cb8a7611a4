//! What the text is for: how wide, with or without colour, in which time zone.

use jiff::{Timestamp, tz::TimeZone};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::event::model::Outcome;

const RESET: &str = "\u{1b}[0m";

/// Where the text goes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Columns of the terminal; `None`: no terminal, nothing is cut.
    pub columns: Option<usize>,
    /// ANSI colours.
    pub colour: bool,
    /// Times are shown in it.
    pub zone: TimeZone,
}

impl Layout {
    /// `06:40:01`, with milliseconds where there is room.
    #[must_use]
    pub fn clock(&self, time: Timestamp, with_milliseconds: bool) -> String {
        let time = time.to_zoned(self.zone.clone());
        time.strftime(if with_milliseconds { "%H:%M:%S.%3f" } else { "%H:%M:%S" }).to_string()
    }

    /// `2026-11-21 06:40:01`.
    #[must_use]
    pub fn date(&self, time: Timestamp) -> String {
        time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// The text in the colour of the outcome; what was allowed has none.
    #[must_use]
    pub fn paint(&self, outcome: Outcome, text: &str) -> String {
        let colour = match outcome {
            _ if !self.colour => None,
            Outcome::Allowed => None,
            Outcome::Denied => Some("\u{1b}[1;31m"),
            Outcome::WouldDeny => Some("\u{1b}[33m"),
            Outcome::Failed => Some("\u{1b}[35m"),
        };
        colour.map_or_else(|| text.to_owned(), |colour| format!("{colour}{text}{RESET}"))
    }

    /// The text as a heading.
    #[must_use]
    pub fn heading(&self, text: &str) -> String {
        if self.colour { format!("\u{1b}[1m{text}{RESET}") } else { text.to_owned() }
    }

    /// The line, cut at the right edge.
    #[must_use]
    pub fn fit(&self, line: String) -> String {
        match self.columns {
            Some(columns) if line.width() > columns => keep_start(&line, columns),
            _ => line,
        }
    }
}

/// The first `columns` of the text, `…` in place of what is cut.
#[must_use]
pub fn keep_start(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut kept: String = take_columns(text.chars(), columns.saturating_sub(1)).collect();
    kept.extend((columns > 0).then_some('…'));
    kept
}

/// The last `columns` of the text, `…` in place of what is cut: of a path the end says more.
#[must_use]
pub fn keep_end(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let kept: Vec<char> = take_columns(text.chars().rev(), columns.saturating_sub(1)).collect();
    (columns > 0).then_some('…').into_iter().chain(kept.into_iter().rev()).collect()
}

/// The text, filled with blanks on its right to `columns`, or cut.
#[must_use]
pub fn pad(text: &str, columns: usize) -> String {
    let text = keep_start(text, columns);
    let blanks = columns.saturating_sub(text.width());
    text + &" ".repeat(blanks)
}

fn take_columns(characters: impl Iterator<Item = char>, columns: usize) -> impl Iterator<Item = char> {
    characters
        .scan(0, |used, character| {
            *used += character.width().unwrap_or(0);
            Some((*used, character))
        })
        .take_while(move |(used, _)| *used <= columns)
        .map(|(_, character)| character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_text_keeps_its_start_or_its_end() {
        assert_eq!(keep_start("/home/dev/a", 6), "/home…");
        assert_eq!(keep_end("/home/dev/a", 6), "…dev/a");
        assert_eq!((keep_start("abc", 3), keep_end("abc", 0)), ("abc".to_owned(), String::new()));
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!((keep_start("日本語", 5), keep_end("日本語", 4)), ("日本…".to_owned(), "…語".to_owned()));
        assert_eq!(pad("日", 4), "日  ");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_asked(text in "\\PC{0,40}", columns in 0_usize..30) {
            prop_assert!(keep_start(&text, columns).width() <= columns);
            prop_assert!(keep_end(&text, columns).width() <= columns);
            prop_assert_eq!(pad(&text, columns).width(), columns);
        }
    }
}
