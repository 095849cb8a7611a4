//! A network with a service in it.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use govsandbox::{
    egress::{
        Host, Ports, Service, Sockets,
        channel::{Refusal, Settings},
        names::{NameRule, Pattern, Ports as PortRange, Transport},
    },
    policy::compile::EgressEffect,
};
use tempfile::TempDir;

use crate::{
    bed::{self, net, procs},
    broker::StandIn,
};

/// Where servers are, in every test's network.
pub(crate) const NAME_SERVER: &str = "192.0.2.53";
pub(crate) const WEB_SERVER: &str = "192.0.2.80";
pub(crate) const WEB_SERVER6: &str = "2001:db8::80";
/// The first of the services' users: nobody's on a test machine, and one for each stage.
const FIRST_UID: u32 = 0x2f00_0000;

pub(crate) struct Stage {
    pub(crate) broker: Arc<StandIn>,
    pub(crate) ports: Ports,
    pub(crate) folder: TempDir,
    pub(crate) uid: u32,
    service: Option<Service>,
}

/// `*.test` and `test` but for `denied.test` (rule 1), at any port.
pub(crate) fn settings() -> Settings {
    let rule = |pattern, allow: bool, rule| NameRule {
        pattern,
        ports: vec![PortRange { first: 0, last: u16::MAX }],
        transport: allow.then_some(Transport::Tcp),
        effect: if allow { EgressEffect::Allow } else { EgressEffect::Deny },
        rule,
    };
    Settings {
        lists: vec![vec![
            rule(Pattern::Exact("denied.test".to_owned()), false, 1),
            rule(Pattern::Below("test".to_owned()), true, 2),
        ]],
        refusal: Refusal::Nxdomain,
        enforce: true,
        uid: 0,
        gid: 0,
        ask_ms: None,
        proxy: None,
        patience_ms: 5000,
    }
}

impl Stage {
    /// In a new network of the calling thread.
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    /// With these settings, as a user of its own.
    pub(crate) fn with(settings: Settings) -> Self {
        Self::built(settings, true)
    }

    /// Of a sandbox that could write resolv.conf or the hosts file.
    pub(crate) fn unfollowed() -> Self {
        Self::built(settings(), false)
    }

    fn built(settings: Settings, follow: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let uid = FIRST_UID + (std::process::id() & 0xffff) * 256 + COUNT.fetch_add(1, Ordering::Relaxed);
        let settings = Settings { uid, gid: uid, ..settings };
        let addresses = [
            format!("{NAME_SERVER}/32"),
            format!("{WEB_SERVER}/32"),
            "192.0.2.81/32".to_owned(),
            format!("{WEB_SERVER6}/128"),
        ];
        net::private_network(&addresses.each_ref().map(String::as_str));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("resolv.conf"), format!("nameserver {NAME_SERVER}\n")).unwrap();
        fs::write(folder.path().join("hosts"), "192.0.2.80 filed.test\n").unwrap();
        let broker = Arc::new(StandIn::default());
        let sockets = Sockets::bind().unwrap();
        let ports = sockets.ports().unwrap();
        let server: SocketAddr = (NAME_SERVER.parse::<std::net::IpAddr>().unwrap(), 53).into();
        broker.with(|state| {
            let v6 = ports.dns6_udp.iter().copied();
            for port in [ports.dns4_udp, ports.dns4_tcp, ports.dns6_tcp].into_iter().chain(v6) {
                state.origins.insert(port, server);
            }
        });
        let host = Host {
            program: PathBuf::from(bed::binary()),
            resolv_conf: folder.path().join("resolv.conf"),
            hosts: folder.path().join("hosts"),
            follow,
        };
        let service = Service::start(sockets, settings, host, Arc::clone(&broker) as _).unwrap();
        Self { broker, ports, folder, uid, service: Some(service) }
    }

    /// Connections to the relay want to go there.
    pub(crate) fn lead(&self, address: &str, port: u16) -> SocketAddr {
        let wanted = SocketAddr::new(address.parse().unwrap(), port);
        self.broker.with(|state| {
            state.origins.insert(self.ports.relay4, wanted);
            state.origins.insert(self.ports.relay6, wanted);
        });
        SocketAddr::from(([127, 0, 0, 1], self.ports.relay4))
    }

    /// That address has been answered with for that name.
    pub(crate) fn name(&self, address: &str, name: &str) {
        let address = address.parse().unwrap();
        self.broker.with(|state| state.names.entry(address).or_default().push(name.to_owned()));
    }

    /// The service's process.
    pub(crate) fn pid(&self) -> u32 {
        let found = procs::of_user(self.uid);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].pid
    }

    pub(crate) fn stop(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop();
        }
    }
}
