//! TOML or JSON → [`RawPolicy`], every value with its place in the file.
//!
//! Both formats become one tree of nodes; serde reads the raw form from that. So an error points at line and
//! column in both, and the two formats can't drift apart.

mod de;
mod json;
mod node;
mod spanned;
mod toml;

use std::path::Path;

pub use spanned::Spanned;

use super::{
    problem::{Problem, Source},
    raw::RawPolicy,
};

/// Bytes of a file, from and up to.
pub type Span = std::ops::Range<usize>;

/// Nesting of tables and lists at most. The grammar needs five.
const DEPTH_MAX: usize = 32;

/// How a policy file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Every file whose name doesn't end in `.json`.
    Toml,
    /// `*.json`.
    Json,
}

impl Format {
    /// By the end of the file's name.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|end| end == "json") { Self::Json } else { Self::Toml }
    }
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum ParseError {
    /// The text is neither TOML nor JSON.
    #[error("cannot read this as {format}: {reason}")]
    #[diagnostic(code(policy::parse::syntax))]
    Syntax {
        /// `TOML` or `JSON`.
        format: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// The same key twice in one table.
    #[error("key `{key}` is there twice")]
    #[diagnostic(code(policy::parse::duplicate_key), help("keep one of them"))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Tables in lists in tables without end.
    #[error("values are nested more than {DEPTH_MAX} deep")]
    #[diagnostic(code(policy::parse::too_deep))]
    TooDeep,
    /// A key that the grammar does not have.
    #[error("unknown key `{key}`")]
    #[diagnostic(code(policy::parse::unknown_key))]
    UnknownKey {
        /// As written.
        key: String,
        /// The nearest known key, or all there are.
        #[help]
        help: String,
    },
    /// A word that is none of those possible here.
    #[error("unknown value `{value}`")]
    #[diagnostic(code(policy::parse::unknown_value))]
    UnknownValue {
        /// As written.
        value: String,
        /// The nearest possible value, or all there are.
        #[help]
        help: String,
    },
    /// A key without which there is no policy.
    #[error("key `{key}` is missing")]
    #[diagnostic(code(policy::parse::missing_key))]
    MissingKey {
        /// The key.
        key: &'static str,
        /// What to write.
        #[help]
        help: String,
    },
    /// A number where a string belongs, and the like.
    #[error("expected {expected}, found {found}")]
    #[diagnostic(code(policy::parse::wrong_type))]
    WrongType {
        /// What may stand here.
        expected: String,
        /// What stands here.
        found: String,
    },
    /// Anything else that serde objects to.
    #[error("{0}")]
    #[diagnostic(code(policy::parse::invalid))]
    Invalid(String),
}

/// Reads one policy from the text of a file.
///
/// # Errors
/// The first [`ParseError`], with its place.
pub fn parse(source: &Source, format: Format) -> Result<RawPolicy, Problem> {
    let text = source.inner().as_str();
    let tree = match format {
        Format::Toml => toml::tree(text),
        Format::Json => json::tree(text),
    };
    let parsed = tree.and_then(|tree| de::policy(&tree));
    parsed.map_err(|misfit| {
        // The end of the file, where some syntax errors are, is no byte of it.
        let span = misfit.span.unwrap_or(0..0);
        let start = span.start.min(text.len());
        Problem::error(misfit.error, source, start..span.end.clamp(start, text.len()))
    })
}
