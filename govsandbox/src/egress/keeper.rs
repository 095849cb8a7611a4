//! The supervisor's side: starts the service, answers what it asks, starts it again when it dies, and ends it.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::{MemfdFlags, memfd_create},
    net::sockopt::{Timeout, set_socket_timeout},
};
use serde::Serialize;

use super::{
    Broker, Respond,
    channel::{Entered, Message, Order, Origin, Permitted, Question, Reply, Resolvers, Settings, Verdict},
    service::COMMAND,
    sockets::Sockets,
    wire::Channel,
};

/// From the start of the process until it serves.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a packet to it may wait for room.
const SEND_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at the host's files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Before it is started again: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Who ran for so long has not died of its start.
const STEADY: Duration = Duration::from_secs(30);
/// What is read of the host's files: lists of names that block advertisements are the longest known.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Where the program and the host's files lie.
#[derive(Clone, Debug)]
pub struct Host {
    /// The govsandbox executable.
    pub program: PathBuf,
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// hosts(5).
    pub hosts: PathBuf,
    /// Their changes count. Not where the sandbox could make them: then they stand as they were at the start.
    pub follow: bool,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            follow: true,
        }
    }
}

/// Why there is no service.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ServiceError {
    /// A step of the supervisor's failed.
    #[error("cannot {what} for the egress service")]
    System {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It said so itself, or ended.
    #[error("the egress service did not start: {why}")]
    #[diagnostic(help("it needs seccomp and Landlock (Linux 5.13), and a user of its own"))]
    NotServing {
        /// Its words.
        why: String,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> ServiceError {
    move |source| ServiceError::System { what, source }
}

/// A service that runs, and is started again until [`Service::stop`].
#[derive(Debug)]
pub struct Service {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts it and waits until it serves. Makes a thread, and calls the broker on it.
    ///
    /// # Errors
    /// It could not be started, or could not confine itself.
    pub fn start(
        sockets: Sockets,
        settings: Settings,
        host: Host,
        broker: Arc<dyn Broker>,
    ) -> Result<Self, ServiceError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|it| system("make a descriptor")(it.into()))?;
        let stop = Arc::new(stop);
        let mut keeper = Keeper { sockets, settings, host, broker, stop: Arc::clone(&stop), kept: None };
        let (first, started) = mpsc::channel();
        // The process dies with the thread that started it (PR_SET_PDEATHSIG), so one thread does that for good.
        let thread = std::thread::Builder::new()
            .name("egress".to_owned())
            .spawn(move || match keeper.launch() {
                Ok(running) if first.send(Ok(())).is_ok() => keeper.keep(running),
                Ok(running) => drop(running.end()),
                Err(error) => drop(first.send(Err(error))),
            })
            .map_err(system("start a thread"))?;
        let service = Self { stop, thread: Some(thread) };
        match started.recv() {
            Ok(Ok(())) => Ok(service),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ServiceError::NotServing { why: "its thread ended".to_owned() }),
        }
    }

    /// Ends it; what is connected through it is reset.
    pub fn stop(self) {}
}

impl Drop for Service {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take().filter(|_| told.is_ok()) {
            drop(thread.join()); // a panic of the broker was reported by the panic itself
        }
    }
}

/// The way to one process of the service.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<Channel>);

impl Line {
    /// A service that takes nothing waits in vain and refuses by itself.
    pub(super) fn reply(&self, number: u64, reply: Reply) {
        if let Err(error) = self.0.send(&Order::Reply(number, reply), None) {
            tracing::warn!(%error, "cannot reply to the egress service");
        }
    }
}

struct Keeper {
    sockets: Sockets,
    settings: Settings,
    host: Host,
    broker: Arc<dyn Broker>,
    stop: Arc<OwnedFd>,
    /// What the host's files said at the start, where that stands.
    kept: Option<Resolvers>,
}

/// One process.
struct Running {
    child: Child,
    line: Line,
    files: Files,
    since: Instant,
}

/// Why the keeper no longer waits for a process.
enum End {
    Asked,
    Died(String),
}

impl Keeper {
    fn keep(&mut self, mut running: Running) {
        let mut pause = PAUSE_FIRST;
        loop {
            let why = match self.serve(&mut running) {
                End::Asked => {
                    running.end();
                    return;
                }
                End::Died(why) => why,
            };
            if running.since.elapsed() > STEADY {
                pause = PAUSE_FIRST;
            }
            running.end();
            self.broker.ended(&why);
            running = loop {
                if self.is_asked_to_stop(pause) {
                    return;
                }
                pause = (pause * 2).min(PAUSE_MAX);
                match self.launch() {
                    Ok(running) => break running,
                    Err(error) => tracing::error!(%error, "the egress service does not start again"),
                }
            };
        }
    }

    /// Starts a process and waits until it serves.
    fn launch(&mut self) -> Result<Running, ServiceError> {
        let files = Files::look(&self.host);
        let resolvers = self.kept.take().unwrap_or_else(|| files.read(&self.host));
        if !self.host.follow {
            self.kept = Some(resolvers.clone());
        }
        self.broker.hosts(&resolvers.hosts);
        let (ours, theirs) = Channel::pair().map_err(system("make a channel"))?;
        set_socket_timeout(ours.as_fd(), Timeout::Send, Some(SEND_PATIENCE))
            .and_then(|()| set_socket_timeout(ours.as_fd(), Timeout::Recv, Some(START_PATIENCE)))
            .map_err(|errno| system("set up a channel")(errno.into()))?;
        let child = Command::new(&self.host.program)
            .arg(COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(system("start a process"))?;
        let running = Running { child, line: Line(Arc::new(ours)), files, since: Instant::now() };
        match self.hand_over(&running, &resolvers) {
            Ok(()) => Ok(running),
            Err(ServiceError::NotServing { why }) if why.is_empty() => {
                Err(ServiceError::NotServing { why: running.end() })
            }
            Err(error) => {
                running.end();
                Err(error)
            }
        }
    }

    fn hand_over(&self, running: &Running, resolvers: &Resolvers) -> Result<(), ServiceError> {
        let channel = &running.line.0;
        for (place, socket) in self.sockets.each() {
            channel.send(&Order::Socket(place), Some(socket)).map_err(system("hand over a socket"))?;
        }
        send_file(channel, &Order::Resolvers, resolvers).map_err(system("hand over resolv.conf"))?;
        send_file(channel, &Order::Begin, &self.settings).map_err(system("hand over the rules"))?;
        let why = match channel.receive::<Message>() {
            Ok(Some((Message::Ready, _))) => return Ok(()),
            Ok(Some((Message::Failed(why), _))) => why,
            Ok(Some((other, _))) => format!("it said {other:?}"),
            Ok(None) => String::new(), // how it ended says more
            Err(error) => error.to_string(),
        };
        Err(ServiceError::NotServing { why })
    }

    /// Answers questions until the process ends or is to end.
    fn serve(&self, running: &mut Running) -> End {
        let mut looked = Instant::now();
        loop {
            let channel = &running.line.0;
            let mut watched =
                [PollFd::new(&**channel, PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
            let left = LOOK_EVERY.saturating_sub(looked.elapsed());
            match poll(&mut watched, Some(&timespec(left))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return End::Died(errno.to_string()),
            }
            let [from_service, to_stop] = watched.map(|one| !one.revents().is_empty());
            if to_stop {
                return End::Asked;
            }
            if from_service {
                match channel.receive::<Message>() {
                    Ok(Some((message, _))) => {
                        if let Err(why) = self.handle(message, &running.line) {
                            return End::Died(why);
                        }
                    }
                    Ok(None) => return End::Died(running.status()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return End::Died(format!("it sent what is no message: {error}")),
                }
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                let files = Files::look(&self.host);
                if files != running.files && self.host.follow {
                    running.files = files;
                    let resolvers = running.files.read(&self.host);
                    self.broker.hosts(&resolvers.hosts);
                    if let Err(error) = send_file(&running.line.0, &Order::Resolvers, &resolvers) {
                        return End::Died(format!("it takes no orders: {error}"));
                    }
                }
            }
        }
    }

    fn handle(&self, message: Message, line: &Line) -> Result<(), String> {
        match message {
            Message::Question(number, Question::Who(who)) => self.broker.who(who, respond(number, line)),
            Message::Question(number, Question::Permit(permit)) => {
                self.broker.permit(permit, respond(number, line));
            }
            Message::Question(number, Question::Answer(answer)) => {
                self.broker.answer(answer, respond(number, line));
            }
            Message::Question(number, Question::Verify(verify)) => {
                self.broker.verify(verify, respond(number, line));
            }
            Message::Event(event) => self.broker.event(event),
            Message::Failed(why) => return Err(why),
            Message::Ready => return Err("it began twice".to_owned()),
        }
        Ok(())
    }

    fn is_asked_to_stop(&self, within: Duration) -> bool {
        let mut watched = [PollFd::new(&*self.stop, PollFlags::IN)];
        matches!(poll(&mut watched, Some(&timespec(within))), Ok(ready) if ready > 0)
    }
}

fn respond<T: Default + Into<Reply> + Serialize>(number: u64, line: &Line) -> Respond<T> {
    Respond { number, to: line.clone(), response: None }
}

impl Running {
    /// Kills it if it lives, waits for its end, and says how that was.
    fn end(mut self) -> String {
        drop(self.child.kill()); // it may have ended
        self.status()
    }

    /// How it ended, in words; it has closed its channel, which only its end does.
    fn status(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended with status {}", status.code().unwrap_or_default()),
            },
            Err(error) => error.to_string(),
        }
    }
}

impl From<Option<Origin>> for Reply {
    fn from(origin: Option<Origin>) -> Self {
        Self::Who(origin)
    }
}

impl From<Permitted> for Reply {
    fn from(permitted: Permitted) -> Self {
        Self::Permit(permitted)
    }
}

impl From<Entered> for Reply {
    fn from(entered: Entered) -> Self {
        Self::Answer(entered)
    }
}

impl From<Verdict> for Reply {
    fn from(verdict: Verdict) -> Self {
        Self::Verify(verdict)
    }
}

/// Sends an order with a file in memory that has `content` as JSON.
fn send_file(channel: &Channel, order: &Order, content: &impl Serialize) -> io::Result<()> {
    let mut file = File::from(memfd_create(c"egress", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(content)?)?;
    file.rewind()?;
    channel.send(order, Some(file.as_fd()))
}

/// What tells whether the host's files have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files([Option<Stamp>; 2]);

/// One state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl Files {
    fn look(host: &Host) -> Self {
        Self([&host.resolv_conf, &host.hosts].map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some(Stamp {
                device: found.dev(),
                inode: found.ino(),
                bytes: found.size(),
                changed_s: found.ctime(),
                changed_ns: found.ctime_nsec(),
            })
        }))
    }

    /// One that is not there, or no text, is empty, as for the C library.
    fn read(&self, host: &Host) -> Resolvers {
        let text = |path: &Path| {
            let mut bytes = Vec::new();
            let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
            if let Err(error) = read {
                tracing::warn!(%error, path = %path.display(), "cannot be read");
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Resolvers { resolv_conf: text(&host.resolv_conf), hosts: text(&host.hosts) }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Durations here are some seconds.
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: i64::from(duration.subsec_nanos()) }
}
