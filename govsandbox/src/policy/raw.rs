//! The file as it is written: every key of the grammar, nothing checked but types.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::parse::Spanned;

/// A list of strings, each with its place.
pub type Texts = Vec<Spanned<String>>;

/// One policy file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawPolicy {
    /// Version of the grammar: 1.
    pub version: Spanned<u64>,
    /// Name of the policy, part of its rules' ids. Absent: the file's name without its ending.
    pub name: Option<Spanned<String>>,
    /// Policies that this one builds on, by name or by path. Lists are joined, the later scalar wins.
    #[serde(default)]
    pub extends: Texts,
    /// `audit` records what would have been denied. Absent: `enforce`.
    pub mode: Option<Spanned<RawMode>>,
    /// The weakest backend that is accepted. Absent: `root`.
    pub require: Option<Spanned<RawRequire>>,
    /// Files and folders.
    #[serde(default)]
    pub filesystem: RawFilesystem,
    /// Programs that may be executed.
    #[serde(default)]
    pub exec: RawExec,
    /// Where connections may go and come from.
    #[serde(default)]
    pub network: RawNetwork,
    /// What processes may be.
    #[serde(default)]
    pub process: RawProcess,
    /// What is recorded.
    #[serde(default)]
    pub trace: RawTrace,
    /// Where it is recorded.
    #[serde(default)]
    pub audit: RawAudit,
    /// Bounds on what the tree may use.
    #[serde(default)]
    pub limits: RawLimits,
    /// Rules with a name of their own and conditions.
    #[serde(default)]
    pub rule: Vec<Spanned<RawRule>>,
}

/// The JSON Schema of a policy file, draft 2020-12; `policies/schema.json` is this one.
#[must_use]
pub fn schema() -> Schema {
    let mut schema = schemars::schema_for!(RawPolicy);
    schema.insert("$id".to_owned(), "govsandbox.policy/1".into());
    schema.insert("title".to_owned(), "govsandbox policy".into());
    schema
}

/// `[filesystem]`: path patterns.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawFilesystem {
    /// What may be read and executed. Absent: everything.
    pub read: Option<Texts>,
    /// What may be changed; may be read as well. Absent: nothing.
    pub write: Option<Texts>,
    /// What may be neither read nor changed, whatever else says so.
    #[serde(default)]
    pub deny: Texts,
    /// What may be read and not changed, whatever else says so.
    #[serde(default)]
    pub protect: Vec<Spanned<RawProtectRule>>,
}

/// A path pattern, or a table that lets some keys of a git config change.
#[derive(Debug)]
pub enum RawProtectRule {
    /// `"~/.bashrc"`.
    Text(String),
    /// `{ path = "{project}/.git/config", keys = ["branch.*"] }`.
    Table(RawProtectTable),
}

/// The table form of what is protected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a path pattern or a table")]
pub struct RawProtectTable {
    /// Path pattern.
    pub path: Spanned<String>,
    /// Keys of that git config that may change: `branch.*`, `remote.*.fetch`. Absent: none.
    pub keys: Option<Texts>,
}

/// `[exec]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawExec {
    /// The only programs that may be executed. Absent: all.
    pub allow: Option<Vec<Spanned<RawExecRule>>>,
    /// Programs that may not.
    #[serde(default)]
    pub deny: Vec<Spanned<RawExecRule>>,
}

/// A program: its name or path, or a table with conditions.
#[derive(Debug)]
pub enum RawExecRule {
    /// `"sudo"`, `"/usr/bin/docker"`.
    Text(String),
    /// `{ command = "git", args = ["push", "**"] }`.
    Table(RawExecTable),
}

/// The table form of a program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a program's name or a table")]
pub struct RawExecTable {
    /// Name or path pattern.
    pub command: Spanned<String>,
    /// Globs on the arguments, `**` stands for any number.
    pub args: Option<Texts>,
    /// `content` holds the digest of the named file.
    #[serde(rename = "match")]
    pub matches: Option<RawExecMatch>,
}

/// How a program is recognised.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawExecMatch {
    /// By its content.
    Content,
}

/// `[network]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawNetwork {
    /// Where connections may go. Absent: nowhere.
    pub allow: Option<Vec<Spanned<RawEgressRule>>>,
    /// Where they may not, whatever `allow` says.
    #[serde(default)]
    pub deny: Vec<Spanned<RawEgressRule>>,
    /// How a connection to an allowed name is checked.
    pub verify: Option<Spanned<RawVerify>>,
    /// Addresses that the tree may listen on. Absent: `localhost`.
    pub listen: Option<Texts>,
    /// Unix sockets of processes outside the tree that may be reached: path patterns or `@abstract`. Absent: none.
    pub unix: Option<Texts>,
    /// The network that the tree sees. Absent: `host`.
    pub namespace: Option<Spanned<RawNetworkNamespace>>,
    /// How a refused name is answered.
    pub dns_refusal: Option<Spanned<RawDnsRefusal>>,
    /// Ping sockets: echo requests to the addresses of allowed hosts. Absent: `deny`.
    pub icmp: Option<Spanned<RawAllowDeny>>,
    /// A forward proxy that allowed connections go through.
    pub proxy: Option<Spanned<String>>,
    /// Take the proxy from the environment of govsandbox. Absent: `false`.
    pub proxy_from_env: Option<Spanned<bool>>,
    /// How long a connection waits for a person's answer. Absent: `30s`.
    pub ask_timeout: Option<Spanned<String>>,
}

/// A destination: `HOST[:PORTS]`, or a table with the parts named.
#[derive(Debug)]
pub enum RawEgressRule {
    /// `"api.example.com:443"`.
    Text(String),
    /// `{ host = "10.0.0.0/8", ports = "53", protocol = "udp" }`.
    Table(RawEgressTable),
}

impl std::fmt::Display for RawEgressRule {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = match self {
            Self::Text(text) => return out.write_str(text),
            Self::Table(table) => table,
        };
        out.write_str(&table.host.value)?;
        match table.ports.as_ref().map(|ports| &ports.value) {
            Some(RawPorts::Number(port)) => write!(out, " ports {port}")?,
            Some(RawPorts::Text(ports)) => write!(out, " ports {ports}")?,
            None => {}
        }
        match table.protocol.as_ref().map(|protocol| protocol.value) {
            Some(RawProtocol::Udp) => out.write_str(" udp"),
            Some(RawProtocol::Tcp) | None => Ok(()),
        }
    }
}

/// The table form of a destination.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`HOST[:PORTS]` or a table")]
pub struct RawEgressTable {
    /// The host, without ports.
    pub host: Spanned<String>,
    /// `443`, `"80,443"`, `"8000-8010"`, `"*"`.
    pub ports: Option<Spanned<RawPorts>>,
    /// Absent: TCP in `allow`, every protocol in `deny`.
    pub protocol: Option<Spanned<RawProtocol>>,
}

/// Ports: a number, or text.
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
pub enum RawPorts {
    /// One port.
    Number(i64),
    /// As in the text form.
    Text(String),
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the documentation")]
pub enum RawProtocol {
    Tcp,
    Udp,
}

/// `network.verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawVerify {
    /// Whom the TLS or HTTP request names is compared, and on their ports one must be named.
    Sni,
    /// An address that an allowed name has resolved to is enough.
    Address,
}

/// `network.namespace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawNetworkNamespace {
    /// The machine's.
    Host,
    /// One of its own, with nothing but loopback: what is allowed goes through the relay, TCP alone.
    Own,
}

/// `network.dns_refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawDnsRefusal {
    /// There is no such name.
    Nxdomain,
    /// The server refuses.
    Refused,
}

/// `deny` or `allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the documentation")]
pub enum RawAllowDeny {
    Deny,
    Allow,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "see `compile::Mode`")]
pub enum RawMode {
    Enforce,
    Audit,
}

/// `require`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "see `compile::Require`")]
pub enum RawRequire {
    Kernel,
    Root,
    Any,
}

/// `[process]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawProcess {
    /// What a plain root caller gets. Absent: `drop`.
    pub root: Option<Spanned<RawRoot>>,
    /// New namespaces and mounts, for an agent that brings a sandbox of its own (bubblewrap). `allow` needs the backend
    /// `lsm` and an ordinary user. Absent: `deny`.
    pub namespaces: Option<Spanned<RawAllowDeny>>,
    /// Whom a process may trace. Absent: `tree`.
    pub ptrace: Option<Spanned<RawPtrace>>,
    /// `userfaultfd(2)`. Absent: `deny`.
    pub userfaultfd: Option<Spanned<RawAllowDeny>>,
}

/// `process.root`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "see `compile::RootPolicy`")]
pub enum RawRoot {
    Drop,
    Refuse,
}

/// `process.ptrace`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawPtrace {
    /// Processes of its own tree.
    Tree,
}

/// `[trace]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawTrace {
    /// Which opens are recorded. Absent: `first`.
    pub opens: Option<Spanned<RawTraceOpens>>,
    /// Record arguments. Absent: `true`.
    pub args: Option<Spanned<bool>>,
}

/// `trace.opens`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawTraceOpens {
    /// Every open.
    All,
    /// The first of each process and file, by each of its names.
    First,
    /// Opens for writing.
    Writes,
    /// Refused ones.
    Denied,
}

/// `[audit]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawAudit {
    /// The log file. Absent: `{state}/audit.jsonl`.
    pub log: Option<Spanned<String>>,
    /// End the run when the log can't be written. Absent: `false`.
    pub required: Option<Spanned<bool>>,
    /// Addresses that get copies.
    #[serde(default)]
    pub sinks: Texts,
    /// How long records are kept: `90d`.
    pub retention: Option<Spanned<String>>,
    /// Regular expressions; what matches is blacked out.
    #[serde(default)]
    pub redact: Texts,
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawLimits {
    /// Processes and threads at once.
    pub pids_max: Option<Spanned<u64>>,
    /// Memory of the whole tree, in bytes.
    pub memory_max_bytes: Option<Spanned<u64>>,
}

/// `[[rule]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawRule {
    /// Its name in events: `[a-z0-9-]+`, unique.
    pub id: Spanned<String>,
    /// What it is about.
    #[serde(rename = "match")]
    pub matches: Spanned<RawRuleMatch>,
    /// What happens.
    pub effect: RawEffect,
    /// Groups of people who may answer `ask`.
    #[serde(default)]
    pub group: Texts,
}

/// `[[rule]].match`: one or more of these; all must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawRuleMatch {
    /// A program, as in `exec.deny`.
    pub exec: Option<Spanned<RawExecRule>>,
    /// A file that is read: a path pattern.
    pub read: Option<Spanned<String>>,
    /// A file that is changed: a path pattern.
    pub write: Option<Spanned<String>>,
    /// A destination, as in `network.allow`.
    pub network: Option<Spanned<RawEgressRule>>,
}

/// `[[rule]].effect`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the documentation")]
pub enum RawEffect {
    Allow,
    Deny,
    Protect,
    Ask,
}

/// Reads `Text | Table` by hand: serde's untagged enums lose the places inside and the reason of a mistake.
macro_rules! text_or_table {
    ($rule:ident, $table:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $rule {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextOrTable;
                impl<'de> Visitor<'de> for TextOrTable {
                    type Value = $rule;

                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($expected)
                    }

                    fn visit_str<E>(self, text: &str) -> Result<$rule, E> {
                        Ok($rule::Text(text.to_owned()))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$rule, A::Error> {
                        $table::deserialize(MapAccessDeserializer::new(map)).map($rule::Table)
                    }
                }
                deserializer.deserialize_any(TextOrTable)
            }
        }

        impl JsonSchema for $rule {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($rule).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let table = generator.subschema_for::<$table>();
                json_schema!({ "anyOf": [{ "type": "string" }, table] })
            }
        }
    };
}

text_or_table!(RawProtectRule, RawProtectTable, "a path pattern or a table");
text_or_table!(RawExecRule, RawExecTable, "a program's name, its path or a table");
text_or_table!(RawEgressRule, RawEgressTable, "`HOST[:PORTS]` or a table");

impl<'de> Deserialize<'de> for RawPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl<'de> Visitor<'de> for NumberOrText {
            type Value = RawPorts;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a port or ports as text, like `\"80,443\"`")
            }

            fn visit_i64<E>(self, port: i64) -> Result<RawPorts, E> {
                Ok(RawPorts::Number(port))
            }

            fn visit_str<E>(self, ports: &str) -> Result<RawPorts, E> {
                Ok(RawPorts::Text(ports.to_owned()))
            }
        }
        deserializer.deserialize_any(NumberOrText)
    }
}
