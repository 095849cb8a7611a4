//! Bytes that come from the sandbox, as text that survives JSON and a terminal.

use serde::{Deserialize, Serialize};

/// Bytes as the kernel gave them: a path, an argument. In the log bytes that are not UTF-8 are written `\xHH` each and
/// a backslash `\\`; a field that needed it is listed in the event's `escaped`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Text(pub Vec<u8>);
