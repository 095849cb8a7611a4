//! A Rust file without what is not code: comments and the contents of literals become spaces, so that the rules can
//! look for words, and line numbers stay.

/// One file's code.
#[derive(Debug)]
pub(super) struct Source {
    code: String,
}

impl Source {
    pub(super) fn parse(text: &str) -> Self {
        Self { code: blank(text) }
    }

    /// All code, as long as the file.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// The code before the file's own unit tests.
    pub(super) fn code_before_tests(&self) -> &str {
        let is_tests = |at: usize| {
            let rest =
                self.code.get(at..).unwrap_or_default().trim_start_matches("#[cfg(test)]").trim_start();
            rest.starts_with("mod ") && !rest.split_once('{').is_none_or(|(head, _)| head.contains(';'))
        };
        let tests = self.code.match_indices("#[cfg(test)]").map(|(at, _)| at).find(|at| is_tests(*at));
        tests.and_then(|at| self.code.get(..at)).unwrap_or(&self.code)
    }

    /// Where the word stands by itself, as byte offsets into [`Source::code`].
    pub(super) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = self.code.get(..*at).and_then(|text| text.chars().next_back());
            let after = self.code.get(at + word.len()..).and_then(|text| text.chars().next());
            !part(before) && !part(after)
        })
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.code.get(..at).unwrap_or_default().matches('\n').count()
    }
}

fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match not_code(rest, code.chars().next_back()) {
            0 => {
                code.push(first);
                first.len_utf8()
            }
            length => {
                let blanks = rest.get(..length).unwrap_or(rest).chars();
                code.extend(blanks.map(|c| if c == '\n' { '\n' } else { ' ' }));
                length
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    code
}

/// How many bytes at the beginning of `rest` are a comment or a literal; 0 if it begins with code.
fn not_code(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if !in_word {
        let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|length| (1..=2).contains(length));
        let hashes = prefix.map(|at| rest.get(at..).unwrap_or_default());
        if let (Some(at), Some(literal)) = (prefix, hashes) {
            let raw = rest.get(..at).is_some_and(|prefix| prefix.contains('r'));
            let count = literal.len() - literal.trim_start_matches('#').len();
            if raw && literal.trim_start_matches('#').starts_with('"') {
                let end = format!("\"{}", "#".repeat(count));
                let body = at + count + 1;
                let found = rest.get(body..).and_then(|body| body.find(&end));
                return found.map_or(rest.len(), |found| body + found + end.len());
            }
        }
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, but not a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => quoted(rest, '\''),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::parse(text).code().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_are_no_code() {
        assert_eq!(code("a // unsafe\nb /* x /* y */ z */ c\n/// doc\nd"), "a b c d");
    }

    #[test]
    fn literals_are_no_code() {
        assert_eq!(code(r#"f("unsafe \" // x", b"y", 'a', '\'', "z")"#), "f( , b , , , )");
        assert_eq!(code("let a = r#\"crate::cli \" //\"#; b"), "let a = ; b");
        assert_eq!(code("br\"x\" + c"), "+ c");
    }

    #[test]
    fn lifetimes_and_words_that_end_in_a_prefix_letter_are_code() {
        assert_eq!(code("fn f<'a>(x: &'a str) -> &'a str"), "fn f<'a>(x: &'a str) -> &'a str");
        assert_eq!(code("bar(\"x\")"), "bar( )");
    }

    #[test]
    fn lines_stay_where_they_were() {
        let source = Source::parse("/* a\nb */\nlet s = \"x\n\";\nunsafe {}\n");
        let at: Vec<_> = source.words("unsafe").map(|at| source.line(at)).collect();
        assert_eq!(at, [5]);
    }

    #[test]
    fn a_word_is_not_part_of_another() {
        assert_eq!(Source::parse("unsafe_code not_unsafe unsafe").words("unsafe").count(), 1);
    }

    #[test]
    fn unit_tests_are_cut_off_but_test_only_items_are_not() {
        let source = Source::parse(
            "#[cfg(test)]\nfn only() {}\n#[cfg(test)]\nmod bed;\na();\n#[cfg(test)]\nmod tests { b(); }\n",
        );
        assert!(source.code_before_tests().contains("a();") && !source.code_before_tests().contains("b();"));
    }
}
