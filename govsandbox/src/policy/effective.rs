//! What holds in the end, and where each part was written: for people and for the digest.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    compile::Layer,
    merge::{Entry, Origin},
    problem::line_and_column,
};
use crate::id::RuleId;

/// The result of layering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Name of the policy that was chosen.
    pub name: String,
    /// Where the variables lie, in alphabetical order.
    pub variables: Vec<Variable>,
    /// Single values by key.
    pub values: Vec<EffectiveValue>,
    /// Rules, what decides first comes first.
    pub lists: Vec<EffectiveList>,
}

/// A list of rules. Of an allow-list there may be several, each of another policy: an access needs all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveList {
    /// `SECTION.KEY`.
    pub key: &'static str,
    /// Whose allow-list it is; `None` for what is joined from all policies.
    pub of: Option<String>,
    /// By precedence.
    pub rules: Vec<EffectiveRule>,
}

/// What a variable stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Without braces.
    pub name: &'static str,
    /// One folder, `{tmp}` several.
    pub stands_for: Vec<String>,
}

/// A single value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveValue {
    /// `SECTION.KEY`.
    pub key: &'static str,
    /// As in a policy; a path with its variables replaced.
    pub value: String,
    /// Who said so; `None` for the grammar's default.
    pub from: Option<From>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveRule {
    /// Its name in events.
    pub id: RuleId,
    /// As written.
    pub rule: String,
    /// Paths with their variables replaced; for hosts what they come to.
    pub stands_for: Vec<String>,
    /// Who said so; `None` for the grammar's default.
    pub from: Option<From>,
}

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct From {
    /// Name of the policy.
    pub policy: String,
    /// Its layer.
    pub layer: Layer,
    /// The file; `None` for what is compiled in.
    pub file: Option<PathBuf>,
    /// In which line, from 1; of single values it is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl std::convert::From<&Origin> for From {
    fn from(origin: &Origin) -> Self {
        Self { policy: origin.name.clone(), layer: origin.layer, file: origin.file.clone(), line: None }
    }
}

impl From {
    pub(super) fn entry<T>(entry: &Entry<T>) -> Self {
        let (line, _) = line_and_column(&entry.origin.source, entry.span.start);
        Self { line: Some(line), ..(&*entry.origin).into() }
    }

    /// The file, or `built in`.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.file.as_deref().map_or_else(|| "built in".to_owned(), text)
    }
}

impl Effective {
    /// `sha256:` and the hex digest of what holds, as JSON. Where the files lie doesn't change it.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn digest(&self) -> Result<String, serde_json::Error> {
        let mut anywhere = self.clone();
        let values = anywhere.values.iter_mut().map(|value| &mut value.from);
        let rules = anywhere.lists.iter_mut().flat_map(|list| &mut list.rules).map(|rule| &mut rule.from);
        for from in values.chain(rules).flatten() {
            from.file = None;
            from.line = None;
        }
        let digest = Sha256::digest(serde_json::to_vec(&anywhere)?);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("sha256:{hex}"))
    }
}

/// A path for people, see [`readable`].
#[must_use]
pub fn text(path: &Path) -> String {
    readable(path.as_os_str().as_encoded_bytes())
}

/// Bytes for people: what is no text and what would steer a terminal is escaped.
#[must_use]
pub fn readable(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}
