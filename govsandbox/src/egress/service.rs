//! The service: a process that the supervisor starts for one sandbox. It gets its sockets and its rules over the channel
//! that is its standard input, confines itself, says so, and serves until the supervisor is gone.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    rc::Rc,
    time::Duration,
};

use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use tokio::{
    net::{TcpListener, UdpSocket},
    task::{JoinSet, LocalSet},
};

use super::{
    channel::{Message, Order, Place, Resolvers, Settings},
    confine,
    dns::{self, Upstream},
    names::Names,
    relay,
    supervisor::Supervisor,
    wire::Channel,
};

/// The subcommand that runs it.
pub const COMMAND: &str = "egress-service";
/// Settings and files of the host at most, as JSON.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// How often the supervisor is told how many were turned away.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What all parts of the service share.
pub(super) struct Shared {
    pub(super) names: Names,
    pub(super) settings: Settings,
    pub(super) supervisor: Rc<Supervisor>,
    pub(super) upstream: RefCell<Rc<Upstream>>,
}

/// Runs it: only a supervisor can.
///
/// # Errors
/// Standard input is no channel, or a step failed; the supervisor was told.
pub fn run() -> io::Result<()> {
    let channel = Channel::from_descriptor(io::stdin().as_fd().try_clone_to_owned()?);
    let done = start(&channel);
    if let Err(error) = &done {
        drop(channel.send(&Message::Failed(error.to_string()), None)); // it sees that the channel is closed
    }
    let (runtime, parts) = done?;
    LocalSet::new().block_on(&runtime, serve(channel, parts))
}

/// What it was given.
#[derive(Default)]
struct Parts {
    sockets: Vec<(Place, OwnedFd)>,
    resolvers: Resolvers,
    settings: Option<Settings>,
    open_files_max: usize,
}

fn start(channel: &Channel) -> io::Result<(tokio::runtime::Runtime, Parts)> {
    let mut parts = receive(channel)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let (uid, gid) = match &parts.settings {
        Some(settings) => (settings.uid, settings.gid),
        None => return Err(io::Error::other("no settings came")),
    };
    rustix::thread::set_name(c"govsandbox-egr")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let during =
        |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    confine::become_nobody(uid, gid).map_err(during("privileges"))?;
    // A change of credentials takes it away (commit_creds of kernel/cred.c).
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The kernel has a limit where a process has none.
    let open_files = getrlimit(Resource::Nofile).current;
    parts.open_files_max = open_files.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    confine::deny_files().map_err(during("Landlock"))?;
    confine::deny_calls().map_err(during("seccomp"))?;
    Ok((runtime, parts))
}

/// Everything up to [`Order::Begin`].
fn receive(channel: &Channel) -> io::Result<Parts> {
    let mut parts = Parts::default();
    loop {
        let received = channel.receive::<Order>()?;
        let (order, along) = received.ok_or_else(|| io::Error::other("the supervisor is gone"))?;
        match (order, along) {
            (Order::Socket(place), Some(socket)) => parts.sockets.push((place, socket)),
            (Order::Resolvers, Some(file)) => parts.resolvers = read(file)?,
            (Order::Begin, Some(file)) => {
                parts.settings = Some(read(file)?);
                return Ok(parts);
            }
            (Order::Reply(..), _) | (_, None) => {
                return Err(io::Error::other("an order without its descriptor"));
            }
        }
    }
}

fn read<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    let mut text = Vec::new();
    File::from(file).take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

async fn serve(channel: Channel, parts: Parts) -> io::Result<()> {
    let settings = parts.settings.ok_or_else(|| io::Error::other("no settings came"))?;
    rustix::io::ioctl_fionbio(channel.as_fd(), true)?;
    let upstream = RefCell::new(Rc::new(Upstream::new(&parts.resolvers)));
    let shared_later: Rc<RefCell<Option<Rc<Shared>>>> = Rc::default();
    let for_orders = Rc::clone(&shared_later);
    let orders = move |order, along| {
        if let (Order::Resolvers, Some(file), Some(shared)) = (order, along, &*for_orders.borrow()) {
            match read::<Resolvers>(file) {
                Ok(resolvers) => *shared.upstream.borrow_mut() = Rc::new(Upstream::new(&resolvers)),
                Err(error) => tracing::warn!(%error, "cannot read how the host resolves names"),
            }
        }
    };
    let patience_ms = settings.patience_ms;
    let patience =
        [0, settings.ask_ms.unwrap_or(0)].map(|ms| Duration::from_millis(patience_ms.saturating_add(ms)));
    let (supervisor, to_and_fro) = Supervisor::new(channel, patience.into(), orders)?;
    let names = Names::new(settings.lists.clone());
    let shared = Rc::new(Shared { names, settings, supervisor: Rc::clone(&supervisor), upstream });
    *shared_later.borrow_mut() = Some(Rc::clone(&shared));

    // One that ends has failed, and the service with it: the supervisor starts it again.
    let mut tasks = JoinSet::new();
    let (limits, passing) = (dns::Limits::new(), relay::Relay::new(parts.open_files_max));
    for (place, socket) in parts.sockets {
        let shared = Rc::clone(&shared);
        match place {
            Place::Relay4 | Place::Relay6 => {
                tasks.spawn_local(relay::serve(tcp(socket)?, shared, passing.clone()));
            }
            Place::Dns4Tcp | Place::Dns6Tcp => {
                tasks.spawn_local(dns::serve_tcp(tcp(socket)?, shared, limits.clone()));
            }
            Place::Dns4Udp => {
                tasks.spawn_local(dns::serve_udp4(udp(socket)?, shared, limits.clone()));
            }
            Place::Dns6Udp => {
                tasks.spawn_local(dns::serve_udp6(udp(socket)?, shared, limits.clone()));
            }
        }
    }
    tasks.spawn_local(async move {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            supervisor.tell_limits();
        }
    });
    shared.supervisor.ready().await;
    tokio::select! {
        ended = to_and_fro => ended,
        ended = tasks.join_next() => match ended {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Ok(()),
        },
    }
}

fn tcp(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn udp(socket: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
