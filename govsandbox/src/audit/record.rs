//! One line of the log, read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chain::ChainHash;
use crate::{
    event::model::{Action, Kind, Object, Outcome, Process, Rule},
    id::SessionId,
};

/// `schema` of every line that this version writes.
pub const SCHEMA: &str = "govsandbox.event/1";

/// Whom the command runs as, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Actor {
    /// Name of the user that the command runs as.
    pub user: String,
    /// Its user id.
    pub uid: u32,
    /// Base name of the command.
    pub agent: String,
}

/// A line of the log, its fields in the order of the file. Fields that a later version adds are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// Place in the file, from 1, without holes.
    pub seq: u64,
    /// When it happened, UTC. Lines of runs that share a file, and of several CPUs, are nearly but not strictly in order.
    #[schemars(with = "String")]
    pub time: jiff::Timestamp,
    /// The run.
    pub session: SessionId,
    /// Trace of the run, 32 hex digits.
    pub trace_id: String,
    /// Span of the process, 16 hex digits.
    pub span_id: String,
    /// What.
    pub kind: Kind,
    /// How.
    pub action: Action,
    /// With which end.
    pub outcome: Outcome,
    /// What the caller got, by name.
    pub errno: Option<String>,
    /// What decided.
    pub rule: Option<Rule>,
    /// `sha256:` and the digest of the effective policy.
    pub policy: String,
    /// Whose command it was.
    pub actor: Actor,
    /// Which process; absent in events about the session.
    pub process: Option<Process>,
    /// On what.
    pub object: Object,
    /// `--tag K=V`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Name of the machine.
    pub host: String,
    /// The sandbox while it lived.
    pub sandbox_id: u32,
    /// Fields whose text needed an escape.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escaped: Vec<String>,
    /// `hash` of the line before.
    pub prev: ChainHash,
    /// Of this line.
    pub hash: ChainHash,
}
