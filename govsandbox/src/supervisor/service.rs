//! What the egress service is told, and what the kernel is told of it.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use govsandbox_ebpf::abi::{egress::EgressService, rule::RULE_OWN};
use rustix::net::sockopt::socket_cookie;

use super::{
    RunError,
    addresses::{self, Addresses},
    broker::{Asking, Egress},
    proxy,
    questions::Questions,
    system,
};
use crate::{
    approval::{
        self,
        server::{Server, ServerError},
    },
    audit::{self, Subject},
    bpf::{load::Loaded, members::Members},
    egress::{
        self, Host, Service, Sockets,
        channel::{Refusal, Settings},
    },
    event::model::SessionFields,
    id::{RuleIndex, SandboxId},
    policy::compile::{
        Compiled, DnsRefusal, EgressEffect, Icmp, LiteralRule, Mode, NetworkNamespace, PathEffect,
    },
    sys::{
        namespace::own_network,
        sock_diag::{Protocol, SockDiag},
    },
};

/// Users of services begin here: beyond what distributions, systemd and containers give away (systemd's UIDS-GIDS.md).
const FIRST_UID: u32 = 2_000_000_000;
/// How long the service waits for an answer.
const PATIENCE_MS: u64 = 5_000;

/// Where the service is reached: what lies in the network that the sandbox sees.
pub(super) struct Entrance {
    pub(super) sockets: Sockets,
    pub(super) diag: SockDiag,
    /// `None`: the supervisor's own.
    pub(super) network: Option<Arc<OwnedFd>>,
}

/// None has a name yet.
pub(super) fn addresses(compiled: &Compiled) -> Addresses {
    let addresses = Addresses::new(&compiled.egress, compiled.verify, network(compiled), asks(compiled));
    if compiled.proxy.is_some() { addresses.with_proxy() } else { addresses }
}

/// In audit mode nothing is refused, and so everything is to be there.
fn network(compiled: &Compiled) -> NetworkNamespace {
    match compiled.mode {
        Mode::Enforce => compiled.network_namespace,
        Mode::Audit => NetworkNamespace::Host,
    }
}

/// Before the first fork: a network of its own is made by a thread that is gone afterwards.
pub(super) fn entrance(compiled: &Compiled) -> Result<Entrance, RunError> {
    let (network, (sockets, diag)) = match network(compiled) {
        NetworkNamespace::Host => (None, (sockets(), diag())),
        NetworkNamespace::Own => own_network(|| Ok((sockets(), diag())))
            .map(|(network, made)| (Some(Arc::new(network)), made))
            .map_err(system("make a network of the sandbox's own"))?,
    };
    Ok(Entrance { sockets: sockets?, diag: diag?, network })
}

fn sockets() -> Result<Sockets, RunError> {
    Sockets::bind().map_err(system("bind sockets on loopback for lookups and the relay"))
}

/// Asks for two sockets of our own first: a kernel without one of its modules answers as if nobody had the address.
fn diag() -> Result<SockDiag, RunError> {
    let what = "ask the kernel for sockets (modules inet_diag, tcp_diag and udp_diag)";
    let ask = || {
        let mut diag = SockDiag::open()?;
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let nobody = (Ipv4Addr::LOCALHOST, 0).into();
        let found = [
            diag.cookie(Protocol::Udp, datagrams.local_addr()?, nobody)?,
            diag.cookie(Protocol::Tcp, stream.local_addr()?, stream.peer_addr()?)?,
        ];
        let ours = [socket_cookie(&datagrams)?, socket_cookie(&stream)?];
        if found == ours.map(Some) { Ok(diag) } else { Err(io::Error::from(io::ErrorKind::Unsupported)) }
    };
    ask().map_err(system(what))
}

pub(super) fn ports(sockets: &Sockets) -> Result<EgressService, RunError> {
    let ports = sockets.ports().map_err(system("tell the ports of the egress service"))?;
    Ok(EgressService {
        relay4_port: ports.relay4,
        relay6_port: ports.relay6,
        dns4_udp_port: ports.dns4_udp,
        dns4_tcp_port: ports.dns4_tcp,
        dns6_tcp_port: ports.dns6_tcp,
        dns6_udp_ports: ports.dns6_udp,
    })
}

/// `network.icmp`, as the hooks have it (`SandboxConfig::icmp`).
pub(super) fn icmp(compiled: &Compiled) -> u8 {
    match (compiled.icmp, asks(compiled)) {
        (Icmp::Deny, _) => 0,
        (Icmp::Allow, false) => 1,
        (Icmp::Allow, true) => 2,
    }
}

/// Can there be something that somebody is asked about? A mode that refuses nothing asks nobody.
pub(super) fn asks(compiled: &Compiled) -> bool {
    let mut rules = compiled.egress.iter().flat_map(|list| &list.rules);
    compiled.mode == Mode::Enforce && rules.any(|rule| rule.effect == EgressEffect::Ask)
}

/// Nothing is asked yet.
pub(super) fn asking(compiled: &Compiled, session: &SessionFields) -> Option<Asking> {
    asks(compiled).then(|| Asking {
        questions: Mutex::new(Questions::new(Duration::from_secs(compiled.ask_timeout.0))),
        sandbox: session.sandbox_id,
        session: session.session.0.clone(),
        agent: session.agent.clone(),
    })
}

/// Where the sockets are by which it is asked, not to be reached from inside whatever `network.unix` has.
pub(super) fn own_folder(compiled: &Compiled) -> Result<Option<LiteralRule>, ServerError> {
    if !asks(compiled) {
        return Ok(None);
    }
    let folder = PathBuf::from(approval::FOLDER);
    approval::server::make_folder(&folder)?;
    Ok(Some(LiteralRule { path: folder, effect: PathEffect::Deny, rule: RuleIndex(RULE_OWN) }))
}

/// Lets `govsandbox approve` ask and answer.
pub(super) fn approval(
    loaded: &Loaded,
    compiled: &Compiled,
    sandbox: SandboxId,
    egress: &Arc<Egress>,
) -> miette::Result<Option<Server>> {
    if !asks(compiled) {
        return Ok(None);
    }
    let members = Members::open(loaded)?;
    let is_member = Box::new(move |process: BorrowedFd<'_>| members.has(process));
    let folder = Path::new(approval::FOLDER);
    Ok(Some(Server::start(folder, sandbox.0, Arc::clone(egress) as _, is_member)?))
}

pub(super) fn start(
    sockets: Sockets,
    compiled: &Compiled,
    sandbox: SandboxId,
    subject: &Subject<'_>,
    egress: &Arc<Egress>,
) -> miette::Result<Service> {
    let proxy = proxy::chosen(compiled.proxy.as_ref(), |name| std::env::var_os(name))?;
    let settings = settings(compiled, sandbox, proxy);
    Ok(Service::start(sockets, settings, host(compiled, subject), Arc::clone(egress) as _)?)
}

/// What the sandbox could write is not asked again for who has which address: an allowed name would lead wherever the
/// command wants.
fn host(compiled: &Compiled, subject: &Subject<'_>) -> Host {
    let host = Host::default();
    let writes_all = compiled.paths.allow.iter().all(|layer| layer.any_write.is_some());
    // Uid 0 owns them, and nothing is refused in audit mode.
    let is_limited = subject.uid != 0 || (compiled.mode == Mode::Enforce && !writes_all);
    let is_kept = |file: &Path| is_limited && audit::is_kept(file, subject);
    let follow = is_kept(&host.hosts) && is_kept(&host.resolv_conf);
    if !follow {
        tracing::info!(
            "the sandbox could write the hosts file or resolv.conf, so they stand as at the start"
        );
    }
    Host { follow, ..host }
}

/// A user of its own for each sandbox.
fn settings(compiled: &Compiled, sandbox: SandboxId, proxy: Option<egress::channel::Proxy>) -> Settings {
    let uid = FIRST_UID.saturating_add(sandbox.0);
    Settings {
        lists: addresses::name_rules(&compiled.egress),
        refusal: match compiled.dns_refusal {
            DnsRefusal::Nxdomain => Refusal::Nxdomain,
            DnsRefusal::Refused => Refusal::Refused,
        },
        enforce: compiled.mode == Mode::Enforce,
        uid,
        gid: uid,
        proxy,
        ask_ms: asks(compiled).then(|| compiled.ask_timeout.0.saturating_mul(1000)),
        patience_ms: PATIENCE_MS,
    }
}
