//! Sockets that a process outside made, and hands in over a unix socket: what is sent by them goes where a rule leads.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use crate::bed::{
    Run, TestBed, args, backend,
    net::{Listener, private_network},
    sys,
};

const REFUSED: [&str; 2] = ["EPERM", "EACCES"];
/// What is told that has no descriptor with it, where the kernel did not let it be received.
const NOTHING: &str = "nothing was passed";
const WAYS: [&str; 3] = ["stream-passed", "stream-passed-in-parts", "stream-passed-from-file"];

fn policy(bed: &TestBed, network: &str) -> PathBuf {
    bed.policy("test", &format!("[network]\n{network}\n"))
}

/// Passes to each who connects there, in turn.
fn passes<T: Into<OwnedFd> + Send>(
    bed: &TestBed,
    each: impl IntoIterator<Item = T> + Send + 'static,
) -> (PathBuf, JoinHandle<()>) {
    let path = bed.project().join("passes");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    bed.give(&path);
    let thread = std::thread::spawn(move || {
        for one in each {
            sys::pass(&listener.accept().unwrap().0, &one.into()).unwrap();
        }
    });
    (path, thread)
}

/// So many connections to that address: the near ends and the far ones.
fn connections(count: usize, address: &str) -> (Vec<TcpStream>, Vec<TcpStream>, u16) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let (near, far) =
        (0..count).map(|_| (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0)).unzip();
    (near, far, to.port())
}

/// How much arrived until the near end was closed, or for some time.
fn arrived(far: &mut TcpStream) -> usize {
    far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut text = Vec::new();
    match far.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset), "{error}");
        }
    }
    text.len()
}

/// Does this kernel, with this backend, hold it? Before Linux 6.16 the hooks alone do.
fn is_held(run: &Run) -> bool {
    let told =
        run.log.of("session.start")[0].0["object"]["not_held"].to_string().contains("made and hands in");
    let tracepoint = Path::new("/sys/kernel/btf/vmlinux").exists()
        && std::fs::read("/sys/kernel/btf/vmlinux")
            .unwrap()
            .windows(29)
            .any(|name| name == b"btf_trace_tcp_sendmsg_locked\0");
    assert_eq!(told, backend() == "fanotify" && !tracepoint, "{run}");
    !told
}

#[test]
fn a_connection_that_is_passed_carries_nothing_where_no_rule_leads() {
    private_network(&["10.77.0.1/32", "fd77::1/128"]);
    let bed = TestBed::new("passed-streams");
    for address in ["10.77.0.1", "fd77::1"] {
        let (near, mut far, port) = connections(4 * WAYS.len(), address);
        let kept: Vec<_> = near.iter().map(|stream| stream.try_clone().unwrap()).collect();
        let (path, thread) = passes(&bed, near);
        let steps = || WAYS.iter().flat_map(|way| args![*way, &path]).collect::<Vec<_>>();
        assert_eq!(bed.bare_steps(steps()), ["ok"; WAYS.len()]);
        let rules = |network: &str| policy(&bed, &format!("{network}\nunix = [\"{{project}}/passes\"]"));
        let (refused, answers) = bed.run_steps(&rules("allow = []"), steps());
        let (allowed, open) = bed.run_steps(
            &rules(&format!("allow = [\"[{address}]:{port}\"]").replace("[10.77.0.1]", "10.77.0.1")),
            steps(),
        );
        let audit = bed.policy("audit", "mode = \"audit\"\n[network]\nallow = []\n");
        let (audited, would) = bed.run_steps(&audit, steps());
        thread.join().unwrap();
        // The last who has it: what waits in it would go now.
        drop(kept);
        let counts: Vec<_> = far.iter_mut().map(arrived).collect();
        assert_eq!(
            (open, would),
            (vec!["ok".to_owned(); WAYS.len()], vec!["ok".to_owned(); WAYS.len()]),
            "{allowed}"
        );
        let sent = WAYS.len();
        assert_eq!(counts[..sent], [3; WAYS.len()]);
        if is_held(&refused) {
            assert_eq!(counts[sent..2 * sent], [0; WAYS.len()], "{answers:?}: {refused}");
        }
        assert_eq!(counts[2 * sent..], [3; 2 * WAYS.len()], "{allowed} {audited}");
        let of_backend = if backend() == "lsm" { NOTHING } else { "ok" };
        assert_eq!(answers, [of_backend; WAYS.len()], "{refused}");
        for (run, outcome) in [(&refused, "denied"), (&allowed, "allowed"), (&audited, "would_deny")] {
            let mut told = run.log.of("net.connect");
            told.retain(|event| event.object("protocol") == "tcp");
            assert_eq!(told.len(), if is_held(run) { WAYS.len() } else { 0 }, "{run}");
            assert!(told.iter().all(|event| event.text("outcome") == outcome), "{run}");
            assert!(told.iter().all(|event| event.object("address") == address), "{run}");
        }
    }
}

/// Whoever connects to a server outside is one whom no rule leads to either.
#[test]
fn what_is_accepted_by_a_socket_that_is_passed_carries_nothing() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("passed-listener");
    let listener = TcpListener::bind("10.77.0.1:0").unwrap();
    let mut clients = [(); 2].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let (path, thread) = passes(&bed, [listener.try_clone().unwrap(), listener]);
    let steps = || args!["accept-passed", &path];
    assert_eq!(bed.bare_steps(steps()), ["ok"]);
    let rules = policy(&bed, "allow = []\nunix = [\"{project}/passes\"]");
    let (run, answers) = bed.run_steps(&rules, steps());
    thread.join().unwrap();
    assert_eq!(arrived(&mut clients[0]), 3);
    assert_eq!(answers, [if backend() == "lsm" { NOTHING } else { "ok" }], "{run}");
    if is_held(&run) {
        assert_eq!(arrived(&mut clients[1]), 0, "{run}");
        assert_eq!(run.log.all_denied("net.connect").len(), 1, "{run}");
    }
}

/// What listens would take connections that nobody judged, and what a sandbox can't make it does not get.
#[test]
fn sockets_that_the_sandbox_could_not_have_made_are_not_received() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("passed-kinds");
    let each = || -> Vec<OwnedFd> {
        let listener = TcpListener::bind("10.77.0.1:0").unwrap();
        let unconnected =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
        let raw = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::RAW,
            Some(rustix::net::ipproto::ICMP),
        );
        let file = File::open("/dev/null").unwrap();
        let datagrams = UdpSocket::bind("10.77.0.1:0").unwrap();
        vec![listener.into(), raw.unwrap(), unconnected.unwrap(), datagrams.into(), file.into()]
    };
    let (path, thread) = passes(&bed, each().into_iter().chain(each()));
    let steps = || (0..5).flat_map(|_| args!["passed", &path]).collect::<Vec<_>>();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 5]);
    let rules = policy(&bed, "allow = []\nunix = [\"{project}/passes\"]");
    let (run, answers) = bed.run_steps(&rules, steps());
    // What arrives over a unix socket is judged by hooks, and by nothing else.
    let (refused, count) = if backend() == "lsm" { (NOTHING, 2) } else { ("ok", 0) };
    assert_eq!(answers, [refused, refused, "ok", "ok", "ok"], "{run}");
    let denied = [run.log.all_denied("net.connect"), run.log.all_denied("privilege.use")].concat();
    assert_eq!(denied.len(), count, "{run}");
    thread.join().unwrap();
}

/// It was made and connected outside, and sends without any call that names an address.
#[test]
fn a_connected_socket_that_is_passed_sends_no_datagram() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("passed-datagrams");
    let listener = Listener::udp("10.77.0.1");
    let path = bed.project().join("passes");
    let passes = UnixListener::bind(&path).unwrap();
    bed.give(&path);
    let to = listener.address;
    let outside = std::thread::spawn(move || {
        for _ in 0..2 {
            let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
            socket.connect(to).unwrap();
            sys::pass(&passes.accept().unwrap().0, &socket).unwrap();
        }
    });
    let steps = || args!["send-passed", &path];
    assert_eq!(bed.bare_steps(steps()), ["ok"]);
    assert_eq!(listener.arrived(1), 1);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []\nunix = [\"{project}/passes\"]"), steps());
    assert!(REFUSED.contains(&answers[0].as_str()), "{answers:?}: {run}");
    assert_eq!(listener.arrived(1), 1, "{run}");
    let denied = run.log.all_denied("net.send");
    assert_eq!((denied.len(), denied[0].object("address")), (1, "10.77.0.1"), "{run}");
    outside.join().unwrap();
}

#[test]
fn a_ping_socket_that_is_passed_sends_nothing() {
    private_network(&["10.77.0.1/32"]);
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    let bed = TestBed::new("passed-ping");
    let sockets =
        |count: usize| (0..count).map(|_| sys::ping_socket("10.77.0.1:0".parse().unwrap()).unwrap());
    let (path, outside) = passes(&bed, sockets(3).collect::<Vec<_>>());
    let steps = || args!["ping-passed", &path];
    assert_eq!(bed.bare_steps(steps()), ["ok"]);
    for icmp in ["deny", "allow"] {
        let network =
            format!("allow = [\"10.77.0.1:443\"]\nunix = [\"{{project}}/passes\"]\nicmp = \"{icmp}\"");
        let (run, answers) = bed.run_steps(&policy(&bed, &network), steps());
        assert!(
            REFUSED.contains(&answers[0].as_str()) || answers[0] == NOTHING,
            "{icmp}: {answers:?}: {run}"
        );
    }
    outside.join().unwrap();
}
