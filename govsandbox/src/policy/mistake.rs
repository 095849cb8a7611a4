//! Mistakes in a file's values, in words.

use super::check::NAME_BYTES_MAX;
use miette::Diagnostic;

/// What is wrong with values that are no rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
pub enum CheckError {
    /// `version = 2`
    #[error("version {0} of the policy grammar is unknown")]
    #[diagnostic(code(policy::version), help("this program reads `version = 1`"))]
    Version(u64),
    /// `name = "a/b"`
    #[error("`{0}` can't be a policy's name")]
    #[diagnostic(
        code(policy::name),
        help(
            "set `name` to letters, digits, `.`, `_` and `-`, at most {NAME_BYTES_MAX}; without it the file's name is taken"
        )
    )]
    Name(String),
    /// `id = "Not This"`
    #[error("`{0}` can't be a rule's id")]
    #[diagnostic(code(policy::rule::id), help("an id has lower-case letters, digits and `-`"))]
    RuleId(String),
    /// Two rules with one id.
    #[error("the id `{0}` is there twice")]
    #[diagnostic(code(policy::rule::duplicate_id), help("events name rules by their id; give each its own"))]
    DuplicateRuleId(String),
    /// `match = {}`
    #[error("this rule matches nothing")]
    #[diagnostic(
        code(policy::rule::no_match),
        help("name at least one of `exec`, `read`, `write`, `network`")
    )]
    NoMatch,
    /// `match = { network = { host = "*", protocol = "udp" } }, effect = "ask"`
    #[error("a datagram can't wait for an answer")]
    #[diagnostic(code(policy::rule::ask_datagram), help("leave `protocol` out: connections wait"))]
    AskDatagram,
    /// `match = { network = "localhost" }, effect = "ask"`
    #[error("connections to this machine itself are not asked about")]
    #[diagnostic(code(policy::rule::ask_loopback), help("name them in `network.allow`; `*` leaves them out"))]
    AskLoopback,
    /// `retention = "90 days"`
    #[error("`{0}` is no length of time")]
    #[diagnostic(code(policy::duration), help("a number and a unit: `30s`, `15m`, `12h`, `90d`"))]
    Duration(String),
    /// `sinks = ["example"]`
    #[error("`{0}` is no URL")]
    #[diagnostic(code(policy::url), help("begin with the scheme: `https://…`"))]
    Url(String),
    /// `redact = ["("]`
    #[error("`{expression}` is no regular expression: {reason}")]
    #[diagnostic(code(policy::regex))]
    Regex {
        /// As written.
        expression: String,
        /// The parser's words.
        reason: String,
    },
    /// `pids_max = 0`
    #[error("a limit of 0 lets nothing run")]
    #[diagnostic(code(policy::limits::zero), help("leave the key out for no limit"))]
    ZeroLimit,
    /// `log = "**/x"` or `log = "{tmp}/x"`
    #[error("`{0}` is not one file")]
    #[diagnostic(
        code(policy::audit::log),
        help("name one path without wildcards, as in `{{state}}/audit.jsonl`")
    )]
    LogNotOnePath(String),
    /// `proxy` and `proxy_from_env`.
    #[error("both a proxy and the environment's are named")]
    #[diagnostic(code(policy::proxy::both), help("leave one of them out"))]
    TwoProxies,
    /// `proxy = "http://user:password@…"`
    #[error("a password in a policy can be read by whom it is kept from")]
    #[diagnostic(
        code(policy::proxy::credentials),
        help("write `proxy_from_env = true`, and the URL with user and password in HTTPS_PROXY")
    )]
    ProxyCredentials,
    /// A project's own file names a proxy.
    #[error("a project's own file can't say which way connections go")]
    #[diagnostic(
        code(policy::proxy::of_project),
        help("what comes with a project only narrows; name it in the policy")
    )]
    ProxyOfProject,
    /// A project's own file says where the log is.
    #[error("a project's own file can't say where the log is")]
    #[diagnostic(
        code(policy::audit::log_of_project),
        help("what comes with a project only narrows; set `audit.log` in the policy or with `--audit-log`")
    )]
    LogOfProject,
}
