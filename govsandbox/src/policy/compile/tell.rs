//! What was compiled, for people: rules as they were written and what they stand for.

use std::path::{Path, PathBuf};

use govsandbox_ebpf::abi::rule::TraceOpens;

use super::{EgressTarget, Protocol};
use crate::policy::{
    context::Context,
    effective::{self, EffectiveRule, EffectiveValue, Variable},
    merge::{Entry, Given, Settings},
    rule::{
        egress::EgressPattern,
        path::{ExpandedPath, PathPattern},
    },
};

/// A path rule.
pub(super) fn path(entry: &Entry<PathPattern>, expanded: &[ExpandedPath]) -> EffectiveRule {
    let mut rule = effective::readable(entry.rule.text().as_bytes());
    if let Some(keys) = entry.rule.keys() {
        rule.push_str(&effective::readable(format!(" but for {keys}").as_bytes()));
    }
    EffectiveRule {
        id: entry.id.clone(),
        rule,
        stands_for: expanded.iter().map(path_text).collect(),
        from: Some(effective::From::entry(entry)),
    }
}

/// Where the variables lie.
pub(super) fn variables(context: &Context) -> Vec<Variable> {
    let one = |name, path: &Path| Variable { name, stands_for: vec![effective::text(path)] };
    let all = |name, paths: &[PathBuf]| {
        let stands_for = paths.iter().map(|path| effective::text(path)).collect();
        Variable { name, stands_for }
    };
    vec![
        all("git", &context.repositories.folders),
        all("git-files", &context.repositories.files),
        all("git-hooks", &context.repositories.hooks),
        one("home", &context.home),
        one("project", &context.project),
        one("runtime", &context.runtime),
        one("state", &context.state),
        all("tmp", &context.tmp),
    ]
}

/// Single values, by their keys.
pub(super) fn values(settings: &Settings, audit_log: &Path) -> Vec<EffectiveValue> {
    fn from<T>(given: &Given<T>) -> Option<effective::From> {
        given.origin.as_deref().map(Into::into)
    }
    fn value<T>(key: &'static str, given: &Given<T>, value: impl ToString) -> EffectiveValue {
        EffectiveValue { key, value: value.to_string(), from: from(given) }
    }
    fn limit(key: &'static str, given: Option<&Given<u64>>) -> EffectiveValue {
        let value = given.map_or_else(|| "none".to_owned(), |given| given.value.to_string());
        EffectiveValue { key, value, from: given.and_then(from) }
    }
    vec![
        value("mode", &settings.mode, settings.mode.value),
        value("require", &settings.require, settings.require.value),
        value("process.root", &settings.root, settings.root.value),
        value("process.userfaultfd", &settings.userfaultfd, settings.userfaultfd.value),
        value("process.namespaces", &settings.namespaces, settings.namespaces.value),
        value("network.verify", &settings.verify, settings.verify.value),
        value("network.namespace", &settings.network_namespace, settings.network_namespace.value),
        value("network.icmp", &settings.icmp, settings.icmp.value),
        value("network.dns_refusal", &settings.dns_refusal, settings.dns_refusal.value),
        value("network.ask_timeout", &settings.ask_timeout, settings.ask_timeout.value),
        EffectiveValue {
            key: "network.proxy",
            value: settings.proxy.as_ref().map_or_else(|| "none".to_owned(), |proxy| proxy.value.to_string()),
            from: settings.proxy.as_ref().and_then(from),
        },
        value("trace.opens", &settings.trace_opens, opens_text(settings.trace_opens.value)),
        value("trace.args", &settings.trace_args, settings.trace_args.value),
        EffectiveValue {
            key: "audit.log",
            value: effective::text(audit_log),
            from: settings.audit_log.as_ref().and_then(from),
        },
        value("audit.required", &settings.audit_required, settings.audit_required.value),
        limit("limits.pids_max", settings.pids_max.as_ref()),
        limit("limits.memory_max_bytes", settings.memory_max_bytes.as_ref()),
    ]
}

fn opens_text(opens: TraceOpens) -> &'static str {
    match opens {
        TraceOpens::All => "all",
        TraceOpens::First => "first",
        TraceOpens::Writes => "writes",
        TraceOpens::Denied => "denied",
    }
}

/// A path or a pattern.
pub(super) fn path_text(path: &ExpandedPath) -> String {
    match path {
        ExpandedPath::Literal(path) => effective::text(path),
        ExpandedPath::Glob(pattern) => effective::readable(pattern),
    }
}

/// One network of a rule about hosts.
pub(super) fn egress_text(target: &EgressTarget, pattern: &EgressPattern) -> String {
    let ports: Vec<_> = pattern.ports().iter().map(ToString::to_string).collect();
    let protocol = match pattern.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Any => "any",
    };
    format!("{protocol} {target} port {}", ports.join(","))
}
