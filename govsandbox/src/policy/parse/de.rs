//! serde's view of the tree.

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{StrDeserializer, U64Deserializer},
    },
    forward_to_deserialize_any,
};

use super::{
    ParseError, Span,
    node::{Key, Misfit, Node, Value},
    spanned,
};
use crate::policy::{raw::RawPolicy, suggest};

/// The raw policy that a tree holds.
pub(super) fn policy(tree: &Node) -> Result<RawPolicy, Misfit> {
    RawPolicy::deserialize(tree)
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(out)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self { error: ParseError::Invalid(message.to_string()), span: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Unit => "null".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a table".to_owned(),
            Unexpected::Other(other) => other.to_owned(),
            plain => plain.to_string(),
        };
        // serde's own types have its own word.
        let expected = expected.to_string().replace("a sequence", "a list");
        Self { error: ParseError::WrongType { expected, found }, span: None }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        let help = suggest::among("the values here", value, known);
        Self { error: ParseError::UnknownValue { value: value.to_owned(), help }, span: None }
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let help = suggest::among("the keys here", key, known);
        Self { error: ParseError::UnknownKey { key: key.to_owned(), help }, span: None }
    }

    fn missing_field(key: &'static str) -> Self {
        let help = match key {
            "version" => "begin the file with `version = 1`".to_owned(),
            other => format!("add `{other} = …`"),
        };
        Self { error: ParseError::MissingKey { key, help }, span: None }
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self { error: ParseError::DuplicateKey { key: key.to_owned() }, span: None }
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let visited = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Date => Err(de::Error::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Table(entries) => visitor.visit_map(Entries { left: entries.iter(), value: None }),
        };
        visited.map_err(|misfit| misfit.or_at(&self.span))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_some(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        if name == spanned::NAME {
            return visitor.visit_map(Place { node: self, next: 0 });
        }
        match &self.value {
            // serde would take a list for the fields of a struct in their order.
            Value::List(_) => Err(<Misfit as de::Error>::invalid_type(Unexpected::Seq, &"a table"))
                .map_err(|misfit| misfit.or_at(&self.span)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let visited = match &self.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            other => {
                let expected = format!("one of {}", suggest::quoted(variants));
                Err(<Misfit as de::Error>::invalid_type(other.kind(), &expected.as_str()))
            }
        };
        visited.map_err(|misfit| misfit.or_at(&self.span))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl Value {
    /// In serde's words.
    fn kind(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Integer(value) => Unexpected::Signed(*value),
            Self::Float(value) => Unexpected::Float(*value),
            Self::Text(text) => Unexpected::Str(text),
            Self::Date => Unexpected::Other("a date"),
            Self::List(_) => Unexpected::Seq,
            Self::Table(_) => Unexpected::Map,
        }
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }
}

struct Entries<'a> {
    left: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((key, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        let name: StrDeserializer<'_, Misfit> = key.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|misfit| misfit.or_at(&key.span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        match self.value.take() {
            Some(value) => seed.deserialize(value),
            None => Err(de::Error::custom("a value without a key")),
        }
    }
}

/// The three fields of a [`super::Spanned`].
struct Place<'a> {
    node: &'a Node,
    next: usize,
}

impl Place<'_> {
    fn offset(&self, pick: fn(&Span) -> usize) -> U64Deserializer<Misfit> {
        // A file has at most POLICY_BYTES_MAX bytes, far below either type's end.
        u64::try_from(pick(&self.node.span)).unwrap_or(u64::MAX).into_deserializer()
    }
}

impl<'de> MapAccess<'de> for Place<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some(field) = spanned::FIELDS.get(self.next) else { return Ok(None) };
        self.next += 1;
        let field: StrDeserializer<'_, Misfit> = (*field).into_deserializer();
        seed.deserialize(field).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        match self.next {
            1 => seed.deserialize(self.offset(|span| span.start)),
            2 => seed.deserialize(self.offset(|span| span.end)),
            _ => seed.deserialize(self.node),
        }
    }
}
