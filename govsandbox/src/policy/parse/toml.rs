//! TOML → tree.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ParseError,
    node::{Key, Misfit, Node, Value},
};

/// The document as a tree. Nesting is bounded by the parser (80 levels).
pub(super) fn tree(text: &str) -> Result<Node, Misfit> {
    let table = DeTable::parse(text).map_err(|error| {
        let reason = error.message().trim_end().replace('\n', ", ");
        Misfit { error: ParseError::Syntax { format: "TOML", reason }, span: error.span() }
    })?;
    Ok(Node { span: table.span(), value: table_value(table.get_ref())? })
}

fn table_value(table: &DeTable<'_>) -> Result<Value, Misfit> {
    let entries = table.iter().map(|(key, value)| {
        let key = Key { span: key.span(), name: key.get_ref().clone().into_owned() };
        Ok((key, node(value)?))
    });
    entries.collect::<Result<_, _>>().map(Value::Table)
}

fn node(value: &Spanned<DeValue<'_>>) -> Result<Node, Misfit> {
    let span = value.span();
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(error) => {
                let error = ParseError::Syntax { format: "TOML", reason: error.to_string() };
                return Err(Misfit::at(error, span));
            }
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(values) => Value::List(values.iter().map(node).collect::<Result<_, _>>()?),
        DeValue::Table(table) => table_value(table)?,
    };
    Ok(Node { span, value })
}
