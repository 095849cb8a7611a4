//! A finding in a policy file, with the place it points at.

use std::{fmt, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

use super::{effective, parse::Span};

/// A policy file as read, shared by everything that points into it.
pub type Source = Arc<NamedSource<String>>;

/// One error or warning about a place in a policy file. What is wrong and what to do come from its cause; what a file
/// holds may be hostile, so control characters are shown escaped.
#[derive(Debug)]
pub struct Problem {
    cause: Box<dyn Diagnostic + Send + Sync>,
    source: Source,
    span: Span,
    severity: Severity,
}

impl Problem {
    /// An error at `span` (bytes of the file).
    pub fn error(cause: impl Diagnostic + Send + Sync + 'static, source: &Source, span: Span) -> Self {
        Self { cause: Box::new(cause), source: Arc::clone(source), span, severity: Severity::Error }
    }

    /// Something that is valid and probably not meant.
    pub fn warning(cause: impl Diagnostic + Send + Sync + 'static, source: &Source, span: Span) -> Self {
        Self { severity: Severity::Warning, ..Self::error(cause, source, span) }
    }

    /// `true`: the policy can be used all the same.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity != Severity::Error
    }

    /// The file that it points into.
    #[must_use]
    pub fn file(&self) -> &str {
        self.source.name()
    }

    /// Line and column of the place, both from 1; the column counts characters.
    #[must_use]
    pub fn line_and_column(&self) -> (usize, usize) {
        line_and_column(&self.source, self.span.start)
    }
}

/// Line and column of a byte of a file, both from 1; the column counts characters.
#[must_use]
pub(super) fn line_and_column(source: &Source, at: usize) -> (usize, usize) {
    let before = source.inner().get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    (before.matches('\n').count() + 1, column + 1)
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&effective::readable(self.cause.to_string().as_bytes()))
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.cause.code()
    }

    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.cause.help()?;
        Some(Box::new(effective::readable(help.to_string().as_bytes())))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_primary_with_span(Some("here".to_owned()), self.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}
