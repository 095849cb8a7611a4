//! One file's raw form → its checked form. Finds everything that is wrong with a file, not the first mistake alone.

use std::{collections::HashSet, net::IpAddr, path::PathBuf, sync::Arc};

use govsandbox_ebpf::abi::rule::TraceOpens;
use miette::Diagnostic;

use super::{
    compile::{
        DnsRefusal, Icmp, Layer, Mode, Namespaces, NetworkNamespace, Protocol, Proxy, Require, RootPolicy,
        Seconds, Userfaultfd, Verify,
    },
    git_config::Keys,
    merge::{Entry, Given, Lists, Origin, Scalars},
    mistake::CheckError,
    parse::{Span, Spanned},
    problem::Problem,
    raw::{
        RawAllowDeny, RawDnsRefusal, RawEgressRule, RawExecRule, RawMode, RawNetwork, RawNetworkNamespace,
        RawPolicy, RawProtectRule, RawRequire, RawRoot, RawRule, RawTraceOpens, RawVerify, Texts,
    },
    rule::{
        egress::{EgressError, EgressList, EgressPattern, HostPattern},
        exec::ExecPattern,
        path::{PathError, PathPattern},
        proxy::ProxyUrl,
        unix::UnixPattern,
    },
    unenforced,
};
use crate::id::RuleId;

/// The version of the grammar that this program reads.
const VERSION: u64 = 1;
/// Characters of a policy's name at most: it is repeated in every event.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// One policy file that makes sense.
#[derive(Debug)]
pub struct Policy {
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// Policies it builds on.
    pub extends: Texts,
    /// Its single values.
    pub scalars: Scalars,
    /// Its rules.
    pub lists: Lists,
}

/// Where a file was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its layer.
    pub layer: Layer,
    /// The file; `None` for what is compiled in.
    pub file: Option<PathBuf>,
    /// Name of the policy unless it names itself.
    pub stem: String,
    /// Its text.
    pub source: super::problem::Source,
}

/// Checks a file.
///
/// # Errors
/// Everything that is wrong with it, from the top of the file down.
pub fn check(raw: &RawPolicy, found: Found) -> Result<(Policy, Vec<Problem>), Vec<Problem>> {
    let name = raw.name.as_ref().map_or_else(|| found.stem.clone(), |name| name.value.clone());
    let name_span = raw.name.as_ref().map_or(0..0, |name| name.span.clone());
    let origin = Arc::new(Origin { name, layer: found.layer, file: found.file, source: found.source });
    let mut checker = Checker { origin, problems: Vec::new() };
    if raw.version.value != VERSION {
        checker.error(CheckError::Version(raw.version.value), &raw.version.span);
    }
    if !is_name(&checker.origin.name) {
        checker.error(CheckError::Name(checker.origin.name.clone()), &name_span);
    }
    let scalars = checker.scalars(raw);
    let lists = Lists {
        read: raw.filesystem.read.as_ref().map(|list| checker.paths("filesystem.read", list)),
        write: raw.filesystem.write.as_ref().map(|list| checker.paths("filesystem.write", list)),
        deny: checker.paths("filesystem.deny", &raw.filesystem.deny),
        protect: checker.protected("filesystem.protect", &raw.filesystem.protect),
        exec_allow: raw.exec.allow.as_ref().map(|list| checker.exec("exec.allow", list)),
        exec_deny: checker.exec("exec.deny", &raw.exec.deny),
        network_allow: raw.network.allow.as_ref().map(|list| checker.egress(EgressList::Allow, list)),
        network_deny: checker.egress(EgressList::Deny, &raw.network.deny),
        network_ask: checker.asked(&raw.rule),
        network_listen: raw.network.listen.as_ref().map(|list| checker.listen(list)),
        network_unix: raw.network.unix.as_ref().map(|list| checker.unix(list)),
    };
    checker.unenforced_rules(raw);
    checker.unenforced_values(raw);
    for finding in unenforced::findings(raw, &lists) {
        checker.error(finding.value, &finding.span);
    }
    checker.problems.sort_by_key(Problem::line_and_column);
    let (warnings, errors): (Vec<_>, Vec<_>) = checker.problems.into_iter().partition(Problem::is_warning);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok((Policy { origin: checker.origin, extends: raw.extends.clone(), scalars, lists }, warnings))
}

/// A name that can stand in a rule's id and in a file's name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name.bytes().any(|byte| byte != b'.')
}

struct Checker {
    origin: Arc<Origin>,
    problems: Vec<Problem>,
}

impl Checker {
    fn error(&mut self, cause: impl Diagnostic + Send + Sync + 'static, span: &Span) {
        self.problems.push(Problem::error(cause, &self.origin.source, span.clone()));
    }

    fn warning(&mut self, cause: impl Diagnostic + Send + Sync + 'static, span: &Span) {
        self.problems.push(Problem::warning(cause, &self.origin.source, span.clone()));
    }

    fn given<R: Copy, T>(&self, raw: Option<&Spanned<R>>, convert: impl FnOnce(R) -> T) -> Option<Given<T>> {
        raw.map(|raw| Given { value: convert(raw.value), origin: Some(Arc::clone(&self.origin)) })
    }

    fn entry<T>(&self, key: &'static str, index: usize, rule: T, span: &Span) -> Entry<T> {
        let id = RuleId(format!("{}/{key}/{index}", self.origin.name));
        Entry { id, key, rule, origin: Arc::clone(&self.origin), span: span.clone() }
    }

    fn scalars(&mut self, raw: &RawPolicy) -> Scalars {
        for limit in [&raw.limits.pids_max, &raw.limits.memory_max_bytes].into_iter().flatten() {
            if limit.value == 0 {
                self.error(CheckError::ZeroLimit, &limit.span);
            }
        }
        Scalars {
            mode: self.given(raw.mode.as_ref(), |mode| match mode {
                RawMode::Enforce => Mode::Enforce,
                RawMode::Audit => Mode::Audit,
            }),
            require: self.given(raw.require.as_ref(), |require| match require {
                RawRequire::Kernel => Require::Kernel,
                RawRequire::Root => Require::Root,
                RawRequire::Any => Require::Any,
            }),
            root: self.given(raw.process.root.as_ref(), |root| match root {
                RawRoot::Drop => RootPolicy::Drop,
                RawRoot::Refuse => RootPolicy::Refuse,
            }),
            userfaultfd: self.given(raw.process.userfaultfd.as_ref(), |userfaultfd| match userfaultfd {
                RawAllowDeny::Allow => Userfaultfd::Allow,
                RawAllowDeny::Deny => Userfaultfd::Deny,
            }),
            namespaces: self.given(raw.process.namespaces.as_ref(), |namespaces| match namespaces {
                RawAllowDeny::Allow => Namespaces::Allow,
                RawAllowDeny::Deny => Namespaces::Deny,
            }),
            verify: self.given(raw.network.verify.as_ref(), |verify| match verify {
                RawVerify::Sni => Verify::Sni,
                RawVerify::Address => Verify::Address,
            }),
            network_namespace: self.given(raw.network.namespace.as_ref(), |namespace| match namespace {
                RawNetworkNamespace::Host => NetworkNamespace::Host,
                RawNetworkNamespace::Own => NetworkNamespace::Own,
            }),
            icmp: self.given(raw.network.icmp.as_ref(), |icmp| match icmp {
                RawAllowDeny::Allow => Icmp::Allow,
                RawAllowDeny::Deny => Icmp::Deny,
            }),
            dns_refusal: self.given(raw.network.dns_refusal.as_ref(), |refusal| match refusal {
                RawDnsRefusal::Nxdomain => DnsRefusal::Nxdomain,
                RawDnsRefusal::Refused => DnsRefusal::Refused,
            }),
            ask_timeout: raw.network.ask_timeout.as_ref().and_then(|time| self.seconds(time)),
            proxy: self.proxy(&raw.network),
            trace_opens: self.given(raw.trace.opens.as_ref(), |opens| match opens {
                RawTraceOpens::All => TraceOpens::All,
                RawTraceOpens::First => TraceOpens::First,
                RawTraceOpens::Writes => TraceOpens::Writes,
                RawTraceOpens::Denied => TraceOpens::Denied,
            }),
            trace_args: self.given(raw.trace.args.as_ref(), |args| args),
            audit_log: raw.audit.log.as_ref().and_then(|log| self.audit_log(log)),
            audit_required: self.given(raw.audit.required.as_ref(), |required| required),
            pids_max: self.given(raw.limits.pids_max.as_ref(), |max| max),
            memory_max_bytes: self.given(raw.limits.memory_max_bytes.as_ref(), |max| max),
        }
    }

    fn proxy(&mut self, raw: &RawNetwork) -> Option<Given<Proxy>> {
        let from_env = raw.proxy_from_env.as_ref().filter(|from_env| from_env.value);
        let (value, span) = match (&raw.proxy, from_env) {
            (None, None) => return None,
            (Some(_), Some(from_env)) => {
                self.error(CheckError::TwoProxies, &from_env.span);
                return None;
            }
            (None, Some(from_env)) => (Proxy::FromEnvironment, &from_env.span),
            (Some(url), None) => match ProxyUrl::parse(&url.value) {
                Ok(parsed) if parsed.credentials.is_some() => {
                    self.error(CheckError::ProxyCredentials, &url.span);
                    return None;
                }
                Ok(parsed) => (Proxy::At(parsed), &url.span),
                Err(error) => {
                    self.error(error, &url.span);
                    return None;
                }
            },
        };
        if self.origin.layer == Layer::Project {
            self.error(CheckError::ProxyOfProject, span);
        }
        Some(Given { value, origin: Some(Arc::clone(&self.origin)) })
    }

    fn seconds(&mut self, time: &Spanned<String>) -> Option<Given<Seconds>> {
        let Some(value) = seconds(&time.value) else {
            self.error(CheckError::Duration(time.value.clone()), &time.span);
            return None;
        };
        Some(Given { value, origin: Some(Arc::clone(&self.origin)) })
    }

    fn audit_log(&mut self, log: &Spanned<String>) -> Option<Given<PathPattern>> {
        if self.origin.layer == Layer::Project {
            self.error(CheckError::LogOfProject, &log.span);
            return None;
        }
        let pattern = PathPattern::parse(&log.value).map_err(|error| self.error(error, &log.span)).ok()?;
        if !pattern.is_one_path() {
            self.error(CheckError::LogNotOnePath(log.value.clone()), &log.span);
            return None;
        }
        Some(Given { value: pattern, origin: Some(Arc::clone(&self.origin)) })
    }

    fn paths(&mut self, key: &'static str, list: &Texts) -> Vec<Entry<PathPattern>> {
        let mut entries = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            match PathPattern::parse(&text.value) {
                Ok(pattern) => entries.push(self.entry(key, index, pattern, &text.span)),
                Err(error) => self.error(error, &text.span),
            }
        }
        entries
    }

    fn protected(&mut self, key: &'static str, list: &[Spanned<RawProtectRule>]) -> Vec<Entry<PathPattern>> {
        let mut entries = Vec::with_capacity(list.len());
        for (index, rule) in list.iter().enumerate() {
            let (path, span, keys) = match &rule.value {
                RawProtectRule::Text(path) => (path, &rule.span, None),
                RawProtectRule::Table(table) => (&table.path.value, &table.path.span, table.keys.as_ref()),
            };
            let pattern = PathPattern::parse(path).map_err(|error| self.error(error, span)).ok();
            let pattern = match keys {
                None => pattern,
                Some(keys) => {
                    let parsed = Keys::parse(keys.iter().map(|key| key.value.as_str()));
                    // A pattern that is wrong is pointed at; that there is none is the rule's mistake.
                    let wrong = keys.iter().find(|key| Keys::parse([key.value.as_str()]).is_err());
                    let keys_span = wrong.map_or(&rule.span, |key| &key.span);
                    let parsed = parsed.map_err(|error| self.error(error, keys_span)).ok();
                    pattern.zip(parsed).and_then(|(pattern, keys)| {
                        pattern.with_keys(keys).map_err(|error| self.error(error, span)).ok()
                    })
                }
            };
            entries.extend(pattern.map(|pattern| self.entry(key, index, pattern, &rule.span)));
        }
        entries
    }

    fn egress(&mut self, list: EgressList, raw: &[Spanned<RawEgressRule>]) -> Vec<Entry<EgressPattern>> {
        let key = match list {
            EgressList::Allow => "network.allow",
            EgressList::Deny => "network.deny",
            EgressList::Listen => "network.listen",
        };
        let mut entries = Vec::with_capacity(raw.len());
        for (index, rule) in raw.iter().enumerate() {
            match EgressPattern::check(&rule.value, list) {
                Ok(pattern) => {
                    if let Some(warning) = pattern.warning() {
                        self.warning(warning, &rule.span);
                    }
                    entries.push(self.entry(key, index, pattern, &rule.span));
                }
                Err(error) => self.error(error, &rule.span),
            }
        }
        entries
    }

    /// Hosts that are asked about; what else `[[rule]]` may say is looked at as what is not enforced.
    fn asked(&mut self, raw: &[Spanned<RawRule>]) -> Vec<Entry<EgressPattern>> {
        let mut entries = Vec::new();
        for rule in raw {
            let Some(host) = unenforced::asked_about(&rule.value) else { continue };
            match EgressPattern::check(&host.value, EgressList::Allow) {
                Ok(pattern) if pattern.protocol() == Protocol::Udp => {
                    self.error(CheckError::AskDatagram, &host.span);
                }
                Ok(pattern) if is_near(pattern.host()) => self.error(CheckError::AskLoopback, &host.span),
                Ok(pattern) => {
                    let id = RuleId(rule.value.id.value.clone());
                    let origin = Arc::clone(&self.origin);
                    entries.push(Entry { id, key: "rule", rule: pattern, origin, span: rule.span.clone() });
                }
                Err(_) => {} // told with the other parts of the rule
            }
        }
        entries
    }

    fn listen(&mut self, raw: &[Spanned<String>]) -> Vec<Entry<EgressPattern>> {
        let rules: Vec<Spanned<RawEgressRule>> = raw
            .iter()
            .map(|address| Spanned {
                value: RawEgressRule::Text(address.value.clone()),
                span: address.span.clone(),
            })
            .collect();
        self.egress(EgressList::Listen, &rules)
    }

    fn unix(&mut self, list: &Texts) -> Vec<Entry<UnixPattern>> {
        let mut entries = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            match UnixPattern::parse(&text.value) {
                Ok(pattern) => entries.push(self.entry("network.unix", index, pattern, &text.span)),
                Err(error) => self.error(error, &text.span),
            }
        }
        entries
    }

    fn exec(&mut self, key: &'static str, raw: &[Spanned<RawExecRule>]) -> Vec<Entry<ExecPattern>> {
        let mut entries = Vec::with_capacity(raw.len());
        for (index, rule) in raw.iter().enumerate() {
            match ExecPattern::check(&rule.value, key == "exec.allow") {
                Ok(pattern) => entries.push(self.entry(key, index, pattern, &rule.span)),
                Err(error) => self.error(error, &rule.span),
            }
        }
        entries
    }

    /// Rules that this version doesn't enforce must make sense as well: a policy is not to change its verdict later.
    fn unenforced_rules(&mut self, raw: &RawPolicy) {
        let mut ids = HashSet::new();
        for Spanned { value: rule, span } in &raw.rule {
            let id = &rule.id.value;
            if id.is_empty()
                || !id.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || byte.is_ascii_lowercase())
            {
                self.error(CheckError::RuleId(id.clone()), &rule.id.span);
            } else if !ids.insert(id) {
                self.error(CheckError::DuplicateRuleId(id.clone()), &rule.id.span);
            }
            let matches = &rule.matches.value;
            if matches.exec.is_none()
                && matches.read.is_none()
                && matches.write.is_none()
                && matches.network.is_none()
            {
                self.error(CheckError::NoMatch, span);
            }
            for path in [&matches.read, &matches.write].into_iter().flatten() {
                self.finish::<_, PathError>(PathPattern::parse(&path.value), &path.span);
            }
            if let Some(program) = &matches.exec {
                self.finish(ExecPattern::check(&program.value, false), &program.span);
            }
            if let Some(host) = &matches.network {
                self.finish::<_, EgressError>(
                    EgressPattern::check(&host.value, EgressList::Allow),
                    &host.span,
                );
            }
        }
    }

    fn unenforced_values(&mut self, raw: &RawPolicy) {
        for time in raw.audit.retention.iter().filter(|time| seconds(&time.value).is_none()) {
            self.error(CheckError::Duration(time.value.clone()), &time.span);
        }
        for url in &raw.audit.sinks {
            if url.value.split_once("://").is_none_or(|(scheme, rest)| scheme.is_empty() || rest.is_empty()) {
                self.error(CheckError::Url(url.value.clone()), &url.span);
            }
        }
        for expression in &raw.audit.redact {
            if let Err(error) = regex_automata::util::syntax::parse(&expression.value) {
                let words = error.to_string();
                let reason =
                    words.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.error(
                    CheckError::Regex { expression: expression.value.clone(), reason },
                    &expression.span,
                );
            }
        }
    }

    fn finish<T, E: Diagnostic + Send + Sync + 'static>(&mut self, result: Result<T, E>, span: &Span) {
        if let Err(error) = result {
            self.error(error, span);
        }
    }
}

/// This machine itself, by its loopback or unspecified address?
fn is_near(host: &HostPattern) -> bool {
    let HostPattern::Network { address, .. } = host else { return *host == HostPattern::Localhost };
    let is_unspecified = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    is_unspecified || !host.detours().is_empty()
}

/// `30s`, `15m`, `12h`, `90d`.
fn seconds(text: &str) -> Option<Seconds> {
    let number = text.trim_end_matches(|unit: char| unit.is_ascii_lowercase());
    let unit_s = match text.get(number.len()..).unwrap_or_default() {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    Some(Seconds(u64::from(number.parse::<u32>().ok()?) * unit_s))
}
