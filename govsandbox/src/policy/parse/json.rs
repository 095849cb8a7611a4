//! JSON → tree. `serde_json` tells no places, but its raw values are slices of the text.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    DEPTH_MAX, ParseError, Span,
    node::{Key, Misfit, Node, Value},
};

/// The document as a tree.
pub(super) fn tree(text: &str) -> Result<Node, Misfit> {
    let document: &RawValue = serde_json::from_str(text).map_err(|error| syntax(text, 0, &error))?;
    node(text, document, DEPTH_MAX)
}

fn node(text: &str, raw: &RawValue, depth_left: usize) -> Result<Node, Misfit> {
    let span = span(text, raw);
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(Misfit::at(ParseError::TooDeep, span));
    };
    let misread = |error: serde_json::Error| syntax(text, span.start, &error);
    let value = match raw.get().as_bytes().first() {
        Some(b'{') => {
            let Entries(entries) = serde_json::from_str(raw.get()).map_err(misread)?;
            table(text, &entries, depth_left)?
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(misread)?;
            Value::List(items.iter().map(|item| node(text, item, depth_left)).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(raw.get()).map_err(misread)?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        _ => match raw.get().parse() {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Float(serde_json::from_str(raw.get()).map_err(misread)?),
        },
    };
    Ok(Node { span, value })
}

fn table(text: &str, entries: &[(&RawValue, &RawValue)], depth_left: usize) -> Result<Value, Misfit> {
    let mut seen = HashSet::new();
    let entries = entries.iter().map(|(key, value)| {
        let span = span(text, key);
        let name: String =
            serde_json::from_str(key.get()).map_err(|error| syntax(text, span.start, &error))?;
        if !seen.insert(name.clone()) {
            return Err(Misfit::at(ParseError::DuplicateKey { key: name }, span));
        }
        Ok((Key { span, name }, node(text, value, depth_left)?))
    });
    entries.collect::<Result<_, _>>().map(Value::Table)
}

/// Where a slice of the text stands in it.
fn span(text: &str, raw: &RawValue) -> Span {
    let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + raw.get().len()
}

/// An error of the parser in the part of the text that begins at `offset`.
fn syntax(text: &str, offset: usize, error: &serde_json::Error) -> Misfit {
    let part = text.get(offset..).unwrap_or_default();
    let lines_before = part.split_inclusive('\n').take(error.line().saturating_sub(1));
    let position = offset + lines_before.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
    let words = error.to_string();
    // The place is pointed at; the parser's own counting starts anew in each part.
    let reason = words.split(" at line ").next().unwrap_or(&words).to_owned();
    Misfit::at(ParseError::Syntax { format: "JSON", reason }, position..position + 1)
}

/// The entries of an object in their order, doubles included.
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
