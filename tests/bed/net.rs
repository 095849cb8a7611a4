//! A network of the test's own, and listeners that count who arrives.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::sys;

/// How long datagrams must arrive without a break.
const STEADY: Duration = Duration::from_millis(300);

/// Moves the calling thread, and what it starts, into a network of its own: loopback up, and these addresses on it.
pub(crate) fn private_network(addresses: &[&str]) {
    sys::unshare_network().unwrap();
    ip(&["link", "set", "lo", "up"]);
    for address in addresses {
        // nodad: an IPv6 address can be bound at once.
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        ip(&[&["addr", "add", address, "dev", "lo"], nodad].concat());
    }
    let bare = addresses.iter().map(|address| address.split('/').next().unwrap());
    settle(&bare.chain(["127.0.0.1", "::1"]).collect::<Vec<_>>());
}

/// Another machine: a network of its own, joined to the calling thread's by a cable. Here is `10.99.0.1` and `fd99::1`, there
/// is `10.99.0.2` and `fd99::2`.
pub(crate) struct Neighbour {
    holder: std::process::Child,
}

impl Neighbour {
    pub(crate) fn new() -> Self {
        let holder = Command::new("unshare").args(["-n", "sleep", "infinity"]).spawn().unwrap();
        let neighbour = Self { holder };
        let there = neighbour.holder.id().to_string();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let name = format!("/proc/{there}/ns/net");
        let begin = Instant::now();
        while std::fs::read_link(&name).is_ok_and(|its| its == own) {
            assert!(begin.elapsed() < Duration::from_secs(10), "unshare does not");
            std::thread::sleep(Duration::from_millis(5));
        }
        ip(&["link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &there]);
        for (address, nodad) in [("10.99.0.1/24", &[][..]), ("fd99::1/64", &["nodad"])] {
            ip(&[&["addr", "add", address, "dev", "here"], nodad].concat());
        }
        ip(&["link", "set", "here", "up"]);
        neighbour.does("ip addr add 10.99.0.2/24 dev there; ip addr add fd99::2/64 dev there nodad");
        neighbour.does("ip link set lo up; ip link set there up");
        settle_with(&neighbour);
        neighbour
    }

    /// Runs a script there.
    pub(crate) fn does(&self, script: &str) -> std::process::Output {
        let there = self.holder.id().to_string();
        let output =
            Command::new("nsenter").args(["-t", &there, "-n", "sh", "-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        output
    }

    /// What a worker's step there comes to, outside of any sandbox.
    pub(crate) fn worker(&self, program: &[std::ffi::OsString], verb: &str, argument: &str) -> String {
        let there = self.holder.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &there, "-n"]).args(program).args([verb, argument]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn settle_with(neighbour: &Neighbour) {
    let listener = Listener::udp("fd99::1");
    let begin = Instant::now();
    while listener.arrived(0) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing comes over the cable");
        let port = listener.address.port();
        let _ = Command::new("nsenter")
            .args(["-t", &neighbour.holder.id().to_string(), "-n", "bash", "-c"])
            .arg(format!("echo x > /dev/udp/fd99::1/{port}"))
            .output();
    }
}

/// Waits until datagrams arrive without a break: for some tenths of a second after its link came up, IPv6 may say that
/// there is no route, or drop what was sent.
fn settle(addresses: &[&str]) {
    let sockets: Vec<UdpSocket> =
        addresses.iter().map(|address| UdpSocket::bind((*address, 0)).unwrap()).collect();
    for socket in &sockets {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    }
    let arrives = |socket: &UdpSocket| {
        let sent = socket.send_to(b"x", socket.local_addr().unwrap());
        sent.is_ok() && socket.recv_from(&mut [0; 8]).is_ok()
    };
    let (begin, mut since) = (Instant::now(), Instant::now());
    while since.elapsed() < STEADY {
        if !sockets.iter().all(arrives) {
            since = Instant::now();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the network does not settle: {addresses:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("`ip` is missing: install iproute2");
    assert!(output.status.success(), "ip {words:?}: {output:?}");
}

/// A listener of the test itself: outside the sandbox, on the address that it was bound to.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    arrived: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Takes TCP connections on a free port of that address.
    pub(crate) fn tcp(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"));
        listener.set_nonblocking(true).unwrap();
        Self::start(listener.local_addr().unwrap(), move || {
            listener.accept().is_ok_and(|(mut stream, _)| {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let _ = stream.read(&mut [0; 64]);
                true
            })
        })
    }

    /// Takes datagrams on a free port of that address.
    pub(crate) fn udp(address: &str) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_nonblocking(true).unwrap();
        Self::start(socket.local_addr().unwrap(), move || socket.recv_from(&mut [0; 64]).is_ok())
    }

    fn start(address: SocketAddr, mut one: impl FnMut() -> bool + Send + 'static) -> Self {
        let (arrived, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if one() {
                    count.fetch_add(1, Ordering::SeqCst);
                } else {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { address, arrived, stop, thread: Some(thread) }
    }

    /// How many connections or datagrams came until now; waits for those that a caller expects.
    pub(crate) fn arrived(&self, expected: usize) -> usize {
        let begin = Instant::now();
        while self.arrived.load(Ordering::SeqCst) < expected && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(2));
        }
        // One that must not come has had its time as well.
        std::thread::sleep(Duration::from_millis(20));
        self.arrived.load(Ordering::SeqCst)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What came to each, once it had the time that [`Listener::arrived`] gives.
pub(crate) fn arrivals<const N: usize>(listeners: [&Listener; N], expected: [usize; N]) -> [usize; N] {
    std::array::from_fn(|place| listeners[place].arrived(expected[place]))
}
