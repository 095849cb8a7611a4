//! The host's resolvers, asked as the host would: resolv.conf(5) and hosts(5), the servers in their order, TCP where UDP
//! does not do. Search domains are the client's work: it asks for each name that they make. Names of
//! the service's own settings are another matter.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    Hosts, Resolver, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    system_conf::parse_resolv_conf,
};
use tokio::time::timeout;

use crate::egress::channel::Resolvers;

/// For one lookup, retries and other servers included; programs give up after 5 to 30 seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers that are kept, each for its own time to live.
const CACHE_RESPONSES_MAX: u64 = 1024;
/// At one server, over one connection.
const ACTIVE_REQUESTS_MAX: usize = 256;

/// Resolvers by one state of the host's files.
pub(in crate::egress) struct Upstream {
    resolver: Option<TokioResolver>,
    search: Search,
}

/// `search` and `ndots` of resolv.conf(5).
#[derive(Debug)]
struct Search {
    domains: Vec<Name>,
    dots_min: usize,
}

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::egress) enum Nothing {
    /// The servers say so: `NXDomain`, or `NoError` for a name without records of the type.
    Said(ResponseCode),
    /// They did not answer, or not as they should.
    Failed,
}

impl Upstream {
    /// What the files leave out is as for the C library: the server is 127.0.0.1.
    pub(in crate::egress) fn new(files: &Resolvers) -> Self {
        let ((domain, search, servers), read) = match parse_resolv_conf(&files.resolv_conf) {
            Ok((config, options)) => (config.into_parts(), options),
            Err(_) => {
                let near = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
                ((None, Vec::new(), vec![near]), ResolverOpts::default())
            }
        };
        let domains = if search.is_empty() { domain.into_iter().collect() } else { search };
        let search = Search { domains, dots_min: read.ndots };
        let provider = TokioRuntimeProvider::default();
        let mut builder =
            Resolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), servers), provider);
        let options = builder.options_mut();
        options.timeout = read.timeout.clamp(Duration::from_secs(1), PATIENCE);
        options.attempts = read.attempts.clamp(1, 5);
        options.edns0 = true;
        options.cache_size = CACHE_RESPONSES_MAX;
        options.max_active_requests = ACTIVE_REQUESTS_MAX;
        options.num_concurrent_reqs = 1;
        options.preserve_intermediates = true;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.use_hosts_file = ResolveHosts::Never; // it would read the file itself
        let resolver = builder.build().inspect_err(|error| tracing::error!(%error, "no resolver")).ok();
        let mut hosts = Hosts::default();
        if let Err(error) = hosts.read_hosts_conf(files.hosts.as_bytes()) {
            tracing::warn!(%error, "the hosts file can't be understood");
        }
        let resolver = resolver.map(|mut resolver| {
            resolver.set_hosts(Arc::new(hosts));
            resolver
        });
        Self { resolver, search }
    }

    /// The full names that a host's own programs would try for one that a person wrote, in their order.
    pub(in crate::egress) fn spellings(&self, written: &str) -> Vec<Name> {
        self.search.spellings(written)
    }

    /// The answer's records: those of the type, and the CNAMEs that lead to them.
    pub(in crate::egress) async fn lookup(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Vec<Record>, Nothing> {
        let resolver = self.resolver.as_ref().ok_or(Nothing::Failed)?;
        match timeout(PATIENCE, resolver.lookup(name.clone(), kind)).await {
            Ok(Ok(lookup)) => Ok(lookup.answers().to_vec()),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(nothing)))) => match nothing.response_code {
                code @ (ResponseCode::NXDomain | ResponseCode::NoError) => Err(Nothing::Said(code)),
                _ => Err(Nothing::Failed),
            },
            Ok(Err(_)) | Err(_) => Err(Nothing::Failed),
        }
    }
}

impl Search {
    fn spellings(&self, written: &str) -> Vec<Name> {
        let Ok(name) = Name::from_ascii(written) else { return Vec::new() };
        let mut full = name.clone();
        full.set_fqdn(true);
        if name.is_fqdn() {
            return vec![full];
        }
        let below = self.domains.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let dots = written.bytes().filter(|byte| *byte == b'.').count();
        if dots >= self.dots_min {
            [full].into_iter().chain(below).collect()
        } else {
            below.chain([full]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_looked_for_in_the_search_domains_first() {
        let of = |resolv_conf: &str, written: &str| -> Vec<String> {
            let files = Resolvers { resolv_conf: resolv_conf.to_owned(), ..Resolvers::default() };
            Upstream::new(&files).spellings(written).iter().map(ToString::to_string).collect()
        };
        let two = "nameserver 192.0.2.1\nsearch a.example b.example\n";
        assert_eq!(of(two, "proxy"), ["proxy.a.example.", "proxy.b.example.", "proxy."]);
        assert_eq!(of(two, "proxy.c"), ["proxy.c.", "proxy.c.a.example.", "proxy.c.b.example."]);
        assert_eq!(of(two, "proxy."), ["proxy."]);
        assert_eq!(of("nameserver 192.0.2.1\n", "proxy"), ["proxy."]);
        assert_eq!(of("nameserver 192.0.2.1\ndomain c.example\n", "proxy"), ["proxy.c.example.", "proxy."]);
        let more = format!("{two}options ndots:2\n");
        assert_eq!(of(&more, "proxy.c").first().map(String::as_str), Some("proxy.c.a.example."));
        assert!(of(two, "").len() < 4 && of(two, "a..b").is_empty());
    }
}
