//! The host's resolvers, asked as the host would: resolv.conf(5) and hosts(5), the servers in their order, TCP where UDP
//! does not do. Search domains are the client's work: it asks for each name that they make.

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
        let (servers, read) = match parse_resolv_conf(&files.resolv_conf) {
            Ok((config, options)) => (config.into_parts().2, options),
            Err(_) => (
                vec![NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST))],
                ResolverOpts::default(),
            ),
        };
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
        Self { resolver }
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
