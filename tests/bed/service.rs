//! A stand-in for the egress service: it says by which of its sockets it was reached, and who came.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use govsandbox_ebpf::{
    abi::egress::{
        ALIASES4, ALLOW_RELAY, EgressKey, EgressService, Original, PORT_RULES_MAX, PortRule, PortTable,
    },
    decide::egress::{alias, v4_mapped},
};

/// What the policies of these tests allow; nobody is there.
pub(crate) const RULED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Its sockets, in the network of the thread that made it.
pub(crate) struct Service {
    pub(crate) ports: EgressService,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// `servers`: those of IPv4 that are going to be asked by UDP.
    pub(crate) fn start(servers: &[&str]) -> Self {
        let (mut ports, stop, mut threads) = (EgressService::default(), Arc::default(), Vec::new());
        let stream = |name: &'static str, address: &str| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            (port, spawn(&stop, move || greet(name, &listener)))
        };
        let mut add = |(port, thread)| {
            threads.push(thread);
            port
        };
        ports.relay4_port = add(stream("relay", "127.0.0.1"));
        ports.relay6_port = add(stream("relay", "::1"));
        ports.dns4_tcp_port = add(stream("dns", "127.0.0.1"));
        ports.dns6_tcp_port = add(stream("dns", "::1"));
        for (place, server) in servers.iter().enumerate() {
            let local = Ipv4Addr::from(alias(number(server)));
            let socket = UdpSocket::bind((local, if place == 0 { 0 } else { ports.dns4_udp_port })).unwrap();
            ports.dns4_udp_port = socket.local_addr().unwrap().port();
            add((0, spawn(&stop, move || answer(&socket))));
        }
        for port in &mut ports.dns6_udp_ports {
            let socket = UdpSocket::bind(("::1", 0)).unwrap();
            *port = socket.local_addr().unwrap().port();
            add((0, spawn(&stop, move || answer(&socket))));
        }
        Self { ports, stop, threads }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The number that a server gets which is the first of its place.
fn number(server: &str) -> u32 {
    let word = u32::from_ne_bytes(server.parse::<Ipv4Addr>().unwrap().octets());
    (word.wrapping_mul(0x9e37_79b1) >> 22) & (ALIASES4 - 1)
}

fn spawn(stop: &Arc<AtomicBool>, one: impl Fn() + Send + 'static) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            one();
        }
    })
}

fn greet(name: &str, listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let Ok((mut stream, peer)) = listener.accept() else {
        return std::thread::sleep(Duration::from_millis(2));
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let _ = write!(stream, "{name} heard {text} from {}", peer.ip());
}

fn answer(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut text = [0; 64];
    if let Ok((length, from)) = socket.recv_from(&mut text) {
        let text = format!("dns heard {} from {}", String::from_utf8_lossy(&text[..length]), from.ip());
        let _ = socket.send_to(text.as_bytes(), from);
    }
}

/// A live sandbox's entries in the kernel's maps.
pub(crate) struct Sandbox {
    folder: PathBuf,
    id: u32,
}

impl Sandbox {
    /// That of a process.
    pub(crate) fn of(pid: u32) -> Self {
        let folders = std::fs::read_dir("/sys/fs/bpf/govsandbox").unwrap();
        let ids = folders.filter_map(|folder| {
            let folder = folder.ok()?.path();
            let members = MapData::from_pin(folder.join("map_MEMBERS")).ok()?;
            let members: HashMap<_, u32, u32> = Map::HashMap(members).try_into().ok()?;
            Some(Self { id: members.get(&pid, 0).ok()?, folder })
        });
        ids.into_iter().next().expect("the process is in no sandbox")
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.folder.join(format!("map_{name}"))).unwrap()
    }

    /// Leads what is to be led to `ports` from now on.
    pub(crate) fn lead(&self, ports: EgressService) {
        let mut services: HashMap<_, u32, EgressService> =
            Map::HashMap(self.map("SERVICES")).try_into().unwrap();
        services.insert(self.id, ports, 0).unwrap();
    }

    /// Allows an address and port by name, by the rule that allows [`RULED`].
    pub(crate) fn allow_by_name(&self, to: SocketAddr) {
        let mut egress: LpmTrie<_, EgressKey, PortTable> =
            Map::LpmTrie(self.map("EGRESS")).try_into().unwrap();
        let sandbox_id_be = self.id.to_be_bytes();
        let key = |address| Key::new(160, EgressKey { sandbox_id_be, address });
        let rule = egress.get(&key(v4_mapped(RULED.octets())), 0).unwrap().entries[0].rule;
        let mut entries = [PortRule::default(); PORT_RULES_MAX];
        entries[0] = PortRule { first: to.port(), last: to.port(), rule, protocol: 6, allow: ALLOW_RELAY };
        egress.insert(&key(octets(to)), PortTable { count: 1, entries }, 0).unwrap();
    }

    /// Datagrams to an address and port: allowed by the rule that allows [`RULED`] (`true`), denied by it, or nothing is said.
    pub(crate) fn set_datagrams(&self, to: SocketAddr, says: Option<bool>) {
        let mut egress: LpmTrie<_, EgressKey, PortTable> =
            Map::LpmTrie(self.map("EGRESS")).try_into().unwrap();
        let sandbox_id_be = self.id.to_be_bytes();
        let key = |address| Key::new(160, EgressKey { sandbox_id_be, address });
        let Some(allow) = says else { return egress.remove(&key(octets(to))).unwrap() };
        let rule = egress.get(&key(v4_mapped(RULED.octets())), 0).unwrap().entries[0].rule;
        let mut entries = [PortRule::default(); PORT_RULES_MAX];
        let (port, allow) = (to.port(), u8::from(allow));
        entries[0] = PortRule { first: port, last: port, rule, protocol: 17, allow };
        egress.insert(&key(octets(to)), PortTable { count: 1, entries }, 0).unwrap();
    }

    /// Makes every flow of its datagrams older by so many seconds; how many there are.
    pub(crate) fn age_flows(&self, seconds: u64) -> usize {
        let mut flows: HashMap<_, [u8; 32], u64> = Map::LruHashMap(self.map("FLOWS")).try_into().unwrap();
        // Cookie, address, and then the sandbox.
        let own: Vec<_> =
            flows.iter().flatten().filter(|(key, _)| key[24..28] == self.id.to_ne_bytes()).collect();
        for (key, time) in &own {
            flows.insert(key, time.saturating_sub(seconds * 1_000_000_000), 0).unwrap();
        }
        own.len()
    }

    /// Whom sockets wanted that were led, the oldest first.
    pub(crate) fn originals(&self) -> Vec<Original> {
        let originals: HashMap<_, u64, Original> = Map::LruHashMap(self.map("ORIGINALS")).try_into().unwrap();
        let mut own: Vec<Original> = originals
            .iter()
            .flatten()
            .map(|(_, original)| original)
            .filter(|one| one.sandbox_id == self.id)
            .collect();
        own.sort_by_key(|original| original.time_boot_ns);
        own
    }
}

/// As the kernel has it.
pub(crate) fn octets(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(v4) => v4_mapped(v4.ip().octets()),
        SocketAddr::V6(v6) => v6.ip().octets(),
    }
}
