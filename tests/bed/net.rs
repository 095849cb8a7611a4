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
        while self.arrived.load(Ordering::SeqCst) < expected && begin.elapsed() < Duration::from_secs(5) {
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
