//! Questions of a run that a person answers from another terminal: how they are told, and how they are decided.
//!
//! Each run that may ask has a socket in [`FOLDER`], which only root can reach; [`server::Server`] serves it and looks at
//! who is at the other end, [`client`] is what `govsandbox approve` and `refuse` do. What is decided is decided by a
//! [`Desk`].

pub mod client;
pub mod server;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where the sockets are, each named by its sandbox.
pub const FOLDER: &str = "/run/govsandbox/ask";
/// Longest message: all questions that a run has at a time.
pub(crate) const PACKET_BYTES_MAX: usize = 128 * 1024;

/// Names a question for good, on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// Whose.
    pub sandbox: u32,
    /// The how manieth of that sandbox, from 1.
    pub number: u64,
}

/// What waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its name.
    pub id: Id,
    /// The run.
    pub session: String,
    /// Base name of the run's command.
    pub agent: String,
    /// The program that asked first; empty: not known.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// A name, or an address.
    pub host: String,
    /// Of an address; a name is asked about for all ports that rules ask about.
    pub port: Option<u16>,
    /// Names that the address has.
    pub names: Vec<String>,
    /// For how long it has waited, in ms.
    pub waited_ms: u64,
    /// When it is refused if nobody answers, in ms.
    pub left_ms: u64,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Yes or no.
    pub allow: bool,
    /// For a minute, not for as long as the run lasts.
    pub once: bool,
}

/// Who knows the questions of one run.
pub trait Desk: Send + Sync {
    /// What waits, the oldest first.
    fn waiting(&self) -> Vec<Waiting>;

    /// Answers a question in the name of that user; `None`: it does not wait, or no longer.
    fn decide(&self, number: u64, decision: Decision, by_uid: u32) -> Option<Waiting>;

    /// Refuses what has waited for too long.
    fn expire(&self);
}

/// Client → server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    List,
    Decide(u64, Decision),
}

/// Server → client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Waiting(Vec<Waiting>),
    Decided(Option<Waiting>),
    /// Whoever asks may not.
    NotYours,
}

/// `81.3`, as [`Id`] is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a question's id is two numbers with a dot between, as `govsandbox approve` lists them")]
pub struct NoId;

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}.{}", self.sandbox, self.number))
    }
}

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let (sandbox, number) = text.split_once('.').ok_or(NoId)?;
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(sandbox) || !is_number(number) {
            return Err(NoId);
        }
        Ok(Self { sandbox: sandbox.parse().map_err(|_| NoId)?, number: number.parse().map_err(|_| NoId)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_is_written_and_nothing_else_does() {
        let id = Id { sandbox: 4_100_017, number: 3 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1", "1.", ".1", "1.2.3", "+1.2", "1.-2", " 1.2", "4294967296.1", "../x.1"] {
            assert_eq!(text.parse::<Id>(), Err(NoId), "{text}");
        }
    }
}
