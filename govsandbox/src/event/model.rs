//! The event's parts, named as in the log.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{privilege::CallName, text::Text};
use crate::{id::RuleId, policy::compile::Layer};

/// `kind`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Kind {
    /// A run begins: command, backend, what it does not hold.
    #[serde(rename = "session.start")]
    SessionStart,
    /// A run ended: exit status, counts.
    #[serde(rename = "session.end")]
    SessionEnd,
    /// A new program image.
    #[serde(rename = "process.exec")]
    ProcessExec,
    /// A process is gone.
    #[serde(rename = "process.exit")]
    ProcessExit,
    /// A file or folder was opened.
    #[serde(rename = "file.open")]
    FileOpen,
    /// A name, content or attribute was changed.
    #[serde(rename = "file.change")]
    FileChange,
    /// `connect(2)`.
    #[serde(rename = "net.connect")]
    NetConnect,
    /// A datagram without `connect(2)`.
    #[serde(rename = "net.send")]
    NetSend,
    /// A name was looked up.
    #[serde(rename = "dns.query")]
    DnsQuery,
    /// A socket is listened on, or a connection came in.
    #[serde(rename = "net.listen")]
    NetListen,
    /// A connection ended: bytes each way, how long it stood.
    #[serde(rename = "net.close")]
    NetClose,
    /// A refused privilege.
    #[serde(rename = "privilege.use")]
    PrivilegeUse,
    /// Somebody was asked: what about, and what was said.
    #[serde(rename = "approval")]
    Approval,
    /// Events that were lost: kind, count, from, to.
    #[serde(rename = "audit.gap")]
    AuditGap,
}

/// `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the schema's table")]
pub enum Action {
    Start,
    End,
    Exec,
    Exit,
    Read,
    Write,
    Execute,
    List,
    Create,
    Truncate,
    Unlink,
    Rename,
    Link,
    Chmod,
    Chown,
    Xattr,
    Mount,
    Connect,
    Send,
    Query,
    Listen,
    Accept,
    Close,
    Use,
    Approve,
    Refuse,
    Expire,
    Gap,
    /// Of `privilege.use`: the system call or hook.
    #[serde(untagged)]
    Call(CallName),
}

/// `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It went through.
    Allowed,
    /// A rule or a layer of ours refused it.
    Denied,
    /// `mode = "audit"`: it would have been refused.
    WouldDeny,
    /// The kernel's own errno.
    Failed,
}

/// `rule`: what decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rule {
    /// Stable name.
    pub id: RuleId,
    /// Where it was written.
    pub layer: Layer,
}

/// `process`: the subject, pids as the supervisor's pid namespace sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Process {
    /// Thread-group id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Parent's thread-group id.
    pub ppid: u32,
    /// Start of the process, ns since boot; with `pid` it names a process for good.
    pub start_ns: u64,
    /// Effective user id.
    pub uid: u32,
    /// The program's file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exe: Option<Text>,
    /// Arguments, as copied at exec.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub argv: Option<Vec<Text>>,
    /// `true`: `argv` was longer than the kernel program reads.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub argv_truncated: bool,
    /// Working directory at exec.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cwd: Option<Text>,
}

/// `object`: what it was done to; which fields there are depends on the kind (docs/events.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[expect(missing_docs, reason = "described by kind in docs/events.md")]
pub struct Object {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<Text>,
    /// `MAJOR:MINOR`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ino: Option<u64>,
    /// Of `open(2)`, by name: `O_WRONLY|O_CREAT`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flags: Option<String>,
    /// `true`: the path was too long or too deep, what is there is its end.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub path_truncated: bool,
    /// `inet`, `inet6` or `unix`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub family: Option<String>,
    /// `tcp`, `udp`, of unix sockets `stream`, `dgram`, `seqpacket`; or the number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// The name that the address has, or that was looked up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Of a lookup, its type: `AAAA`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub record_type: Option<String>,
    /// Addresses that a lookup was answered with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answers: Option<Vec<String>>,
    /// `true`: the name looks as if data were hidden in it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub smuggling: bool,
    /// Whom the connection said it talks to: SNI (RFC 6066, 3), or the host of an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server_name: Option<String>,
    /// Bytes that went out over the connection.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_sent: Option<u64>,
    /// Bytes that came in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_received: Option<u64>,
    /// User that decided: of whoever has logged in, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decided_by: Option<u32>,
    /// How long it waited for a decision.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waited_ns: Option<u64>,
    /// How long the connection stood.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ns: Option<u64>,
    /// Exit code of a process or of the run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<Vec<Text>>,
    /// `lsm`, `fanotify`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backend: Option<String>,
    /// What the backend does not hold, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_held: Option<Vec<String>>,
    /// Files that came into being or changed during the run and that other programs run or take commands from; the first
    /// 64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub review: Option<Vec<Text>>,
    /// By kind and outcome: `file.open.denied` → 3.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counts: Option<std::collections::BTreeMap<String, u64>>,
    /// Kind of the events that were lost.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// First and last time of what was lost, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// In words: why, or which syscall or hook.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// One event as the supervisor hands it to the log; the log adds `schema`, `seq`, the session's fields and the hashes.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, UTC.
    pub time: jiff::Timestamp,
    /// What.
    pub kind: Kind,
    /// How.
    pub action: Action,
    /// With which end.
    pub outcome: Outcome,
    /// What the caller got, positive.
    pub errno: Option<i32>,
    /// What decided.
    pub rule: Option<Rule>,
    /// Who; `None` for events about the session itself.
    pub process: Option<Process>,
    /// On what.
    pub object: Object,
}

/// What is the same in all events of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionFields {
    /// `session`.
    pub session: crate::id::SessionId,
    /// `sandbox_id`.
    pub sandbox_id: u32,
    /// `trace_id`, 32 hex digits.
    pub trace_id: String,
    /// `policy`: `sha256:…`.
    pub policy: String,
    /// `actor.user` and `actor.uid`: whom the command runs as.
    pub user: String,
    /// See `user`.
    pub uid: u32,
    /// `actor.agent`: base name of the command.
    pub agent: String,
    /// `--tag K=V`.
    pub tags: std::collections::BTreeMap<String, String>,
    /// `host`.
    pub host: String,
}

impl Kind {
    /// As in the log: `file.open`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SessionStart => "session.start",
            Self::SessionEnd => "session.end",
            Self::ProcessExec => "process.exec",
            Self::ProcessExit => "process.exit",
            Self::FileOpen => "file.open",
            Self::FileChange => "file.change",
            Self::NetConnect => "net.connect",
            Self::NetSend => "net.send",
            Self::DnsQuery => "dns.query",
            Self::NetListen => "net.listen",
            Self::NetClose => "net.close",
            Self::PrivilegeUse => "privilege.use",
            Self::Approval => "approval",
            Self::AuditGap => "audit.gap",
        }
    }

    /// All of them, in the order of the schema's table.
    pub const ALL: [Self; 14] = [
        Self::SessionStart,
        Self::SessionEnd,
        Self::ProcessExec,
        Self::ProcessExit,
        Self::FileOpen,
        Self::FileChange,
        Self::NetConnect,
        Self::NetSend,
        Self::DnsQuery,
        Self::NetListen,
        Self::NetClose,
        Self::PrivilegeUse,
        Self::Approval,
        Self::AuditGap,
    ];
}

impl Action {
    /// As in the log.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Start => "start",
            Self::End => "end",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Read => "read",
            Self::Write => "write",
            Self::Execute => "execute",
            Self::List => "list",
            Self::Create => "create",
            Self::Truncate => "truncate",
            Self::Unlink => "unlink",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Xattr => "xattr",
            Self::Mount => "mount",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Query => "query",
            Self::Listen => "listen",
            Self::Accept => "accept",
            Self::Close => "close",
            Self::Use => "use",
            Self::Approve => "approve",
            Self::Refuse => "refuse",
            Self::Expire => "expire",
            Self::Gap => "gap",
            Self::Call(name) => name.as_str(),
        }
    }
}

impl Outcome {
    /// As in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldDeny => "would_deny",
            Self::Failed => "failed",
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allowed, Self::Denied, Self::WouldDeny, Self::Failed];
}

/// No word of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is none of {known}")]
pub struct UnknownWord {
    word: String,
    known: String,
}

impl FromStr for Kind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        find_word(word, &Self::ALL, Self::name)
    }
}

impl FromStr for Outcome {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        find_word(word, &Self::ALL, Self::name)
    }
}

fn find_word<T: Copy>(word: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<T, UnknownWord> {
    all.iter().copied().find(|known| name(*known) == word).ok_or_else(|| UnknownWord {
        word: word.to_owned(),
        known: all.iter().map(|known| name(*known)).collect::<Vec<_>>().join(", "),
    })
}

impl Event {
    /// An `audit.gap`: `count` events of `kind` that happened from `span.0` to `span.1` are not in the log.
    #[must_use]
    pub fn gap(
        time: jiff::Timestamp,
        kind: &str,
        count: u64,
        span: (jiff::Timestamp, jiff::Timestamp),
        detail: &str,
    ) -> Self {
        let object = Object {
            kind: Some(kind.to_owned()),
            count: Some(count),
            from: Some(format!("{:.9}", span.0)),
            to: Some(format!("{:.9}", span.1)),
            detail: Some(detail.to_owned()),
            ..Object::default()
        };
        Self {
            time,
            kind: Kind::AuditGap,
            action: Action::Gap,
            outcome: Outcome::Failed,
            errno: None,
            rule: None,
            process: None,
            object,
        }
    }

    /// The same with that errno.
    #[must_use]
    pub fn with_errno(self, errno: Option<i32>) -> Self {
        Self { errno, ..self }
    }

    /// Whether a rule or a layer of ours refused it or would have.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        match self.outcome {
            Outcome::Denied | Outcome::WouldDeny => true,
            Outcome::Allowed | Outcome::Failed => false,
        }
    }

    /// Memory that it holds, in bytes, roughly: what bounds a queue of events.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let text = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.0.capacity());
        let list = |list: &Option<Vec<Text>>| -> usize {
            list.iter().flatten().map(|text| size_of::<Text>() + text.0.capacity()).sum()
        };
        let process = self
            .process
            .as_ref()
            .map_or(0, |process| text(&process.exe) + text(&process.cwd) + list(&process.argv));
        let rule = self.rule.as_ref().map_or(0, |rule| rule.id.0.capacity());
        let object = &self.object;
        size_of::<Self>()
            + process
            + rule
            + text(&object.path)
            + text(&object.target)
            + list(&object.command)
            + list(&object.review)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_log() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
        for action in [Action::Start, Action::Xattr, Action::Accept, Action::Gap] {
            assert_eq!(serde_json::to_value(action).unwrap(), action.name());
        }
    }
}
