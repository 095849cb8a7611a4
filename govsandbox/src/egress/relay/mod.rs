//! The relay: connections to addresses that are allowed by name. It looks at the first bytes, without taking them from
//! the socket, for whom the client wants to talk to; asks whether it may; then connects and has the kernel pass bytes on,
//! both ways, unread. Only what tells nothing yet, where the client waits for an answer to it, is passed on by hand.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    RecvFlags, recv,
    sockopt::{
        set_socket_keepalive, set_socket_linger, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
        set_tcp_nodelay,
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use self::{
    hello::{Hello, Port},
    listen::Words,
    pipes::Pipes,
};
use super::{
    accept::accept,
    channel::{
        Event, Limit, Origin, Permission, Permit, Permitted, Reset, ResetReason, Speech, Verdict, Verify, Who,
    },
    names::Transport,
    service::Shared,
};

pub mod hello;
mod http;
mod http2;
mod listen;
mod pipes;
mod proxy;
mod splice;
mod tls;

/// Connections at once.
const CONNECTIONS_MAX: usize = 10_000;
/// Descriptors that are not the relay's: lookups and their servers.
const OTHER_FILES: usize = 1536;
/// Pipes that there is room for at least, where a process may have few descriptors.
const PIPES_MIN: usize = 1280;
/// For the connection to the server; the kernel would try for two minutes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// Addresses that are tried at a time.
const ATTEMPTS_MAX: usize = 3;
/// An address that has not answered for so long is not waited for alone (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// A server that has gone without a word is found out after two minutes: the client's own probes end at the relay.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_COUNT: u32 = 6;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Relay {
    connections: Arc<Semaphore>,
    pipes: Rc<Pipes>,
}

impl Relay {
    /// For a process that may have so many files open.
    pub(super) fn new(open_files_max: usize) -> Self {
        let (connections, pipes) = room(open_files_max);
        Self { connections: Arc::new(Semaphore::new(connections)), pipes: Rc::new(Pipes::new(pipes)) }
    }
}

/// How many connections, and pipes for what waits in them, there is room for. Two sockets are a connection, and two
/// descriptors a pipe.
#[must_use]
pub fn room(open_files_max: usize) -> (usize, usize) {
    let pairs = open_files_max.saturating_sub(OTHER_FILES) / 2;
    let connections = pairs.saturating_sub(PIPES_MIN).clamp(1, CONNECTIONS_MAX);
    (connections, pairs.saturating_sub(connections).clamp(1, 2 * connections))
}

/// Takes connections for as long as the service lives.
pub(super) async fn serve(listener: TcpListener, shared: Rc<Shared>, relay: Relay) -> io::Result<()> {
    loop {
        let (client, peer) = accept(&listener).await?;
        let Ok(permit) = Arc::clone(&relay.connections).try_acquire_owned() else {
            shared.supervisor.count(Limit::Connections);
            reset(client);
            continue;
        };
        let (shared, pipes) = (Rc::clone(&shared), Rc::clone(&relay.pipes));
        tokio::task::spawn_local(async move {
            connection(client, peer, &shared, &pipes).await;
            drop(permit);
        });
    }
}

async fn connection(client: TcpStream, peer: SocketAddr, shared: &Shared, pipes: &Pipes) {
    let Ok(local) = client.local_addr() else { return };
    let who = Who { transport: Transport::Tcp, local, peer };
    let Some(origin) = Box::pin(shared.supervisor.who(who)).await else {
        shared.supervisor.tell(Event::Stranger(who));
        return reset(client);
    };
    let passed = match (Box::pin(permit(origin, shared)).await, Port::of(origin.port)) {
        (Err(broken), _) => Err(broken),
        _ if !origin.compared => unseen(&client, origin, shared, pipes).await,
        (Ok(()), Port::Web) if origin.strict => judged_first(&client, origin, shared, pipes, Port::Web).await,
        (Ok(()), _) => other(&client, origin, shared, pipes).await,
    };
    match passed {
        Ok(()) => {}
        Err(Broken::Refused(refused)) => {
            shared.supervisor.tell(Event::Reset(refused));
            reset(client);
        }
        // As one end was: the other end is told in the same way.
        Err(Broken::Connection) => reset(client),
    }
}

/// Why a connection did not come to its ordinary end.
enum Broken {
    /// It is reset, and that is an event.
    Refused(Reset),
    /// Either end was reset or lost.
    Connection,
}

/// Waits for somebody's answer where one is asked; nothing has left until then.
async fn permit(origin: Origin, shared: &Shared) -> Result<(), Broken> {
    if shared.settings.ask_ms.is_none() {
        return Ok(());
    }
    let Permitted { permission, rule } = shared.supervisor.permit(Permit { origin, name: None }).await;
    match permission {
        Permission::Allowed => Ok(()),
        refused => {
            let reason = ResetReason::Permission(refused);
            Err(Broken::Refused(Reset { origin, reason, seen: None, expected: Vec::new(), rule }))
        }
    }
}

/// Whom it wants comes first, then the connection.
async fn judged_first(
    client: &TcpStream,
    origin: Origin,
    shared: &Shared,
    pipes: &Pipes,
    port: Port,
) -> Result<(), Broken> {
    // In a box: what judging needs is gone when bytes pass, for as long as they do.
    let meant = Box::pin(judge(client, origin, shared, port)).await?;
    let server = Box::pin(connect(origin, shared, meant)).await?;
    pass_both(client, server, pipes).await
}

async fn pass_both(client: &TcpStream, server: TcpStream, pipes: &Pipes) -> Result<(), Broken> {
    let both = async {
        tokio::try_join!(splice::pass(client, &server, pipes), splice::pass(&server, client, pipes))
    };
    if both.await.is_err() {
        reset(server);
        return Err(Broken::Connection);
    }
    Ok(())
}

/// Where servers may speak first: what they say passes, and what the client says when it has been judged.
async fn other(client: &TcpStream, origin: Origin, shared: &Shared, pipes: &Pipes) -> Result<(), Broken> {
    let meant = match &shared.settings.proxy {
        None => Meant::default(),
        // Whom it is for must be known before there is a server that could speak.
        Some(_) => match Box::pin(meant(origin, shared, Speech::Other)).await {
            Some(meant) => meant,
            // Only the client's first words tell.
            None => return judged_first(client, origin, shared, pipes, Port::Other).await,
        },
    };
    let server = Box::pin(connect(origin, shared, meant)).await?;
    let up = async {
        Box::pin(judge_as_it_speaks(client, &server, origin, shared)).await?;
        splice::pass(client, &server, pipes).await.map_err(|_| Broken::Connection)
    };
    let down = async { splice::pass(&server, client, pipes).await.map_err(|_| Broken::Connection) };
    if let Err(broken) = async { tokio::try_join!(up, down) }.await {
        reset(server);
        return Err(broken);
    }
    Ok(())
}

/// It is allowed whoever is talked to, and only comes this way because there is no other.
async fn unseen(client: &TcpStream, origin: Origin, shared: &Shared, pipes: &Pipes) -> Result<(), Broken> {
    let meant = match &shared.settings.proxy {
        Some(_) => match Box::pin(meant(origin, shared, Speech::Unseen)).await {
            Some(meant) => meant,
            // Past the proxy goes only what is known to have no name.
            None => return Err(Broken::Refused(unanswered(origin))),
        },
        None => Meant::default(),
    };
    let server = Box::pin(connect(origin, shared, meant)).await?;
    pass_both(client, server, pipes).await
}

fn unanswered(origin: Origin) -> Reset {
    Reset { origin, reason: ResetReason::Unanswered, seen: None, expected: Vec::new(), rule: origin.rule }
}

/// Whom a connection is for.
#[derive(Default)]
struct Meant {
    /// For a proxy.
    name: Option<String>,
    /// Other addresses of it; `None`: nobody has asked.
    others: Option<Vec<IpAddr>>,
}

impl From<Verdict> for Meant {
    fn from(verdict: Verdict) -> Self {
        Self { name: verdict.meant, others: Some(verdict.others) }
    }
}

/// Whom a connection is for by its address alone; `None`: that does not allow it.
async fn meant(origin: Origin, shared: &Shared, speech: Speech) -> Option<Meant> {
    let verdict = shared.supervisor.verify(Verify { origin, name: None, speech }).await?;
    verdict.allow.then(|| verdict.into())
}

/// The same, where a client that says little and waits is to have its answer: what may still become a request is passed on
/// while it tells nothing, where an address is reason enough.
async fn judge_as_it_speaks(
    client: &TcpStream,
    server: &TcpStream,
    origin: Origin,
    shared: &Shared,
) -> Result<(), Broken> {
    let mut passed = Vec::new();
    let words = loop {
        match listen::words_or_pause(client, &passed).await {
            Ok(Words::Undecided(mut said)) => {
                if meant(origin, shared, Speech::Other).await.is_none() {
                    // What went before would count with what is said now.
                    break match passed.is_empty() {
                        true => listen::first_words(client, Port::Other).await,
                        false => Ok(Hello::Malformed),
                    };
                }
                pass_on(client, server, &mut said).await.map_err(|_| Broken::Connection)?;
                passed.extend(said);
            }
            Ok(Words::Told(hello)) => break Ok(hello),
            // There is nothing more to judge.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => break Err(error),
        }
    };
    judge_words(words, origin, shared, Port::Other).await.map(drop)
}

/// Takes from the client what was looked at, and passes it on.
async fn pass_on(client: &TcpStream, server: &TcpStream, said: &mut [u8]) -> io::Result<()> {
    // They are there, and tokio knows of nothing new.
    let (_, taken) = recv(client.as_fd(), &mut *said, RecvFlags::DONTWAIT)?;
    if taken != said.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut rest = &*said;
    while !rest.is_empty() {
        server.writable().await?;
        match server.try_write(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// May the connection go on, by its first bytes, and whom is it for?
async fn judge(client: &TcpStream, origin: Origin, shared: &Shared, port: Port) -> Result<Meant, Broken> {
    judge_words(listen::first_words(client, port).await, origin, shared, port).await
}

async fn judge_words(
    words: io::Result<Hello>,
    origin: Origin,
    shared: &Shared,
    port: Port,
) -> Result<Meant, Broken> {
    let refused = |reason, seen, verdict: Verdict| {
        let reset = Reset { origin, reason, seen, expected: verdict.names, rule: verdict.rule };
        if shared.settings.enforce {
            return Err(Broken::Refused(reset));
        }
        shared.supervisor.tell(Event::Reset(reset));
        Ok(Meant::default())
    };
    let (speech, name) = match words {
        Ok(Hello::Named(speech, name)) => (speech, Some(name)),
        Ok(Hello::Nameless(speech)) => (speech, None),
        Ok(Hello::Other) if port == Port::Other => (Speech::Other, None),
        Ok(Hello::Other) => return refused(ResetReason::Protocol, None, Verdict::default()),
        Ok(Hello::Malformed) => return refused(ResetReason::Malformed, None, Verdict::default()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return refused(ResetReason::Silent, None, Verdict::default());
        }
        // Closed before it said anything: there is nothing to pass on, and nothing was refused.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && shared.settings.proxy.is_none() => {
            return Ok(Meant::default());
        }
        Err(_) => return Err(Broken::Connection),
    };
    let verify = Verify { origin, name: name.clone(), speech };
    let Some(verdict) = shared.supervisor.verify(verify).await else {
        return refused(ResetReason::Unanswered, name, Verdict::default());
    };
    if verdict.allow {
        return Ok(verdict.into());
    }
    let reason = if name.is_some() { ResetReason::Name } else { ResetReason::NoName };
    refused(reason, name, verdict)
}

/// To the server, or to whom is meant by way of the proxy.
async fn connect(origin: Origin, shared: &Shared, meant: Meant) -> Result<TcpStream, Broken> {
    let proxy = shared.settings.proxy.as_ref().zip(meant.name).filter(|(proxy, name)| proxy.is_for(name));
    let connected = match proxy {
        Some((proxy, name)) => {
            let connected = Box::pin(proxy::connect(shared, proxy, &name, origin.port)).await;
            Ok(connected.map_err(|fault| {
                let reason = ResetReason::Proxy(fault);
                let expected = vec![name];
                Broken::Refused(Reset { origin, reason, seen: None, expected, rule: origin.rule })
            })?)
        }
        None => {
            let connected = timeout(CONNECT_PATIENCE, Box::pin(reach(origin, shared, meant.others))).await;
            connected.unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)))
        }
    };
    let server = connected.and_then(|server| {
        let socket = server.as_fd();
        set_socket_keepalive(socket, true)?;
        set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
        set_tcp_keepintvl(socket, KEEP_ALIVE_EVERY)?;
        set_tcp_keepcnt(socket, KEEP_ALIVE_COUNT)?;
        set_tcp_nodelay(socket, true)?; // what the client held back it has held back already
        Ok(server)
    });
    server.map_err(|error| {
        let reason = ResetReason::Unreachable(error.raw_os_error().unwrap_or(0));
        Broken::Refused(Reset { origin, reason, seen: None, expected: Vec::new(), rule: origin.rule })
    })
}

/// A client that is led here is connected at once, so it does not try another address of a name where one is dead. That is
/// done here, the addresses one after the other (RFC 8305).
async fn reach(origin: Origin, shared: &Shared, others: Option<Vec<IpAddr>>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut first_error = None;
    let mut next = Some(origin.address);
    let mut others = others.map(Vec::into_iter);
    loop {
        if let Some(address) = next {
            let connects = TcpStream::connect(SocketAddr::new(address, origin.port));
            attempts.spawn_local(async move { (address, connects.await) });
        }
        let ended = match next {
            Some(_) => timeout(ATTEMPT_DELAY, attempts.join_next()).await,
            None => Ok(attempts.join_next().await),
        };
        match ended {
            Err(_) => {} // it is not waited for alone
            Ok(Some(Ok((address, Ok(stream))))) => {
                if address != origin.address {
                    let errno = first_error.as_ref().and_then(io::Error::raw_os_error);
                    shared.supervisor.tell(Event::Elsewhere { origin, address, errno });
                }
                return Ok(stream);
            }
            Ok(Some(Ok((_, Err(error))))) => drop(first_error.get_or_insert(error)),
            Ok(Some(Err(_))) => {} // only what is dropped here is cancelled
            Ok(None) => return Err(first_error.unwrap_or_else(|| io::ErrorKind::TimedOut.into())),
        }
        if others.is_none() {
            let meant = meant(origin, shared, Speech::Other).await;
            others = Some(meant.and_then(|meant| meant.others).unwrap_or_default().into_iter());
        }
        next = others.as_mut().filter(|_| attempts.len() < ATTEMPTS_MAX).and_then(Iterator::next);
    }
}

/// Closes with RST, as a connection that the kernel refuses ends.
fn reset(stream: TcpStream) {
    set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).ok(); // else it is closed in the ordinary way
    drop(stream);
}
