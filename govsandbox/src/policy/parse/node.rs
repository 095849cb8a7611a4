//! What both formats become.

use super::{ParseError, Span};

/// A value with its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// JSON's `null`, which is nowhere valid: absent and empty differ in a policy.
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// TOML's date or time, which is nowhere valid either.
    Date,
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) span: Span,
    pub(super) name: String,
}

/// A [`ParseError`], with its place as soon as that is known.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) error: ParseError,
    pub(super) span: Option<Span>,
}

impl Misfit {
    pub(super) fn at(error: ParseError, span: Span) -> Self {
        Self { error, span: Some(span) }
    }

    /// Gives it a place unless it has one: the innermost value that is wrong is the one to point at.
    pub(super) fn or_at(self, span: &Span) -> Self {
        Self { span: self.span.or_else(|| Some(span.clone())), ..self }
    }
}
