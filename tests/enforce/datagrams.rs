//! Datagrams have no connection: who was asked is sent more, who asked is answered, and nobody else. And no way of sending
//! one, or of writing its headers, is a way past that.

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    bed::{
        Run, TestBed, args,
        net::{Listener, Neighbour, arrivals, private_network},
        sending,
        service::Sandbox,
        worker,
    },
    stale::Inside,
};

const REFUSED: [&str; 2] = ["EPERM", "EACCES"];
/// Nobody is there.
const RULE: &str = "allow = [\"203.0.113.1:9\"]";

fn policy(bed: &TestBed, network: &str) -> PathBuf {
    bed.policy("test", &format!("[network]\n{network}\n"))
}

/// A sandbox with a server of datagrams.
struct Server<'bed> {
    inside: Inside<'bed>,
    port: u16,
}

impl<'bed> Server<'bed> {
    fn start(bed: &'bed TestBed, policy: &Path, at: &str) -> Self {
        let mut inside = Inside::start_with(bed, policy);
        let answer = inside.step(&[Path::new("listen-udp"), Path::new(at)]);
        let address: SocketAddr = answer.strip_prefix("ok ").expect(&answer).parse().unwrap();
        Self { inside, port: address.port() }
    }

    fn does(&mut self, verb: &str, to: impl ToString) -> String {
        self.inside.step(&[Path::new(verb), Path::new(&to.to_string())])
    }

    #[track_caller]
    fn is_refused(&mut self, verb: &str, to: impl ToString) {
        let to = to.to_string();
        let answer = self.does(verb, &to);
        assert!(REFUSED.contains(&answer.as_str()), "{verb} {to}: {answer}");
    }

    fn end(self) -> Run {
        self.inside.end()
    }
}

fn outside(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[track_caller]
fn hears(socket: &UdpSocket) {
    let mut text = [0; 16];
    let length = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"own");
}

#[test]
fn options_of_a_header_get_nobody_to_a_server_that_the_policy_does_not_listen_for() {
    private_network(&[]);
    let neighbour = Neighbour::new();
    let bed = TestBed::new("datagrams-options");
    let program = bed.program_of_tests(worker::MARK);
    let there = |verb: &str, to: &str| neighbour.worker(&program, verb, to);
    for at in ["10.99.0.1", "fd99::1"] {
        let (tcp, udp) = (Listener::tcp(at), Listener::udp(at));
        assert_eq!(there("connect-with-options", &tcp.address.to_string()), "ok");
        assert_eq!(there("send-with-options", &udp.address.to_string()), "ok");
        assert_eq!(arrivals([&tcp, &udp], [1, 1]), [1, 1]);
    }
    for listens in [false, true] {
        let listen =
            if listens { "listen = [\"10.99.0.1\", \"fd99::1\"]" } else { "listen = [\"localhost\"]" };
        let mut server = Server::start(&bed, &policy(&bed, listen), "[::]:0");
        let answer = server.does("listen", "[::]:0");
        let (_, tcp) = answer.rsplit_once(':').unwrap();
        for host in ["10.99.0.1", "[fd99::1]"] {
            assert_eq!(there("send-with-options", &format!("{host}:{}", server.port)), "ok");
            if listens {
                assert_eq!(there("connect-with-options", &format!("{host}:{tcp}")), "ok");
            }
        }
        assert_eq!(server.does("heard", "[::]:0"), if listens { "ok 2" } else { "ok 0" });
        if !listens {
            let connects = ["10.99.0.1", "[fd99::1]"].map(|host| {
                let (program, to) = (program.clone(), format!("{host}:{tcp}"));
                let neighbour = &neighbour;
                move || neighbour.worker(&program, "connect-with-options", &to)
            });
            std::thread::scope(|scope| {
                for answer in connects.map(|connect| scope.spawn(connect)) {
                    assert_ne!(answer.join().unwrap(), "ok");
                }
            });
        }
        let run = server.end();
        let denied = run.log.all_denied("net.listen");
        let mut told: Vec<_> =
            denied.iter().map(|event| (event.object("address"), event.object("protocol"))).collect();
        told.sort_unstable();
        told.dedup();
        let both = [("10.99.0.2", "tcp"), ("10.99.0.2", "udp"), ("fd99::2", "tcp"), ("fd99::2", "udp")];
        assert_eq!(told, if listens { &both[..0] } else { &both[..] }, "{run}");
        assert!(denied.iter().all(|event| event.0["object"]["port"] != 0), "{run}");
    }
}

#[test]
fn a_server_answers_whom_the_policy_listens_for_and_tells_nobody_else() {
    private_network(&[]);
    let neighbour = Neighbour::new();
    let bed = TestBed::new("datagrams-answer");
    let program = bed.program_of_tests(worker::MARK);
    for (mode, refuses) in [("enforce", true), ("audit", false)] {
        let policy = bed.policy("test", &format!("mode = \"{mode}\"\n[network]\nlisten = [\"10.99.0.1\"]\n"));
        let mut server = Server::start(&bed, &policy, "[::]:0");
        let port = server.port;
        let (answer, asked) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| neighbour.worker(&program, "ask", &format!("10.99.0.1:{port}")));
            (server.does("answer", "[::]:0"), asked.join().unwrap())
        });
        assert_eq!(asked, format!("ok 10.99.0.1:{port} own"), "{answer}");
        let from: SocketAddr = answer.strip_prefix("ok ").expect(&answer).parse().unwrap();
        // Again, as long as it is not silent for too long; and by no other port or address, nor by another socket.
        assert_eq!(server.does("say", from), "ok");
        let others = [
            ("say", format!("10.99.0.2:{}", from.port() ^ 1)),
            ("say", format!("10.99.0.3:{}", from.port())),
            ("send-to", from.ip().to_canonical().to_string() + &format!(":{}", from.port())),
        ];
        for (verb, to) in others {
            let answer = server.does(verb, &to);
            assert_eq!(REFUSED.contains(&answer.as_str()), refuses, "{mode}: {verb} {to}: {answer}");
        }
        let run = server.end();
        let told = if refuses { run.log.all_denied("net.send") } else { run.log.of("net.send") };
        assert_eq!(told.len(), 3, "{run}");
        assert!(told.iter().all(|event| event.text("outcome") != "allowed"), "{run}");
    }
}

#[test]
fn a_server_answers_a_process_of_the_outside_on_loopback_and_does_not_begin() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("datagrams-loopback");
    let mut server = Server::start(&bed, &policy(&bed, "allow = []"), "[::]:0");
    for (at, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("10.77.0.1:0", "10.77.0.1")] {
        let (client, other) = (outside(at), outside(at));
        let own = client.local_addr().unwrap();
        server.is_refused("say", own);
        client.send_to(b"hello", (to, server.port)).unwrap();
        assert!(server.does("answer", "[::]:0").starts_with("ok"), "{at}");
        hears(&client);
        assert_eq!(server.does("say", own), "ok");
        hears(&client);
        server.is_refused("say", other.local_addr().unwrap());
    }
    let run = server.end();
    assert_eq!(run.log.all_denied("net.send").len(), 6, "{run}");
}

/// Neither from an address that is not its own, nor from a port that somebody outside has too.
#[test]
fn what_a_sandbox_sends_to_itself_opens_no_way_out() {
    private_network(&["10.77.0.1/32", "fd77::1/128"]);
    let _neighbour = Neighbour::new();
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    let bed = TestBed::new("datagrams-forged");
    let victim = sending::shared("127.0.0.1:0".parse().unwrap()).unwrap();
    let shared = victim.local_addr().unwrap();
    victim.set_nonblocking(true).unwrap();
    for listen in ["allow = []", "allow = []\nlisten = [\"*\"]"] {
        let mut server = Server::start(&bed, &policy(&bed, listen), "[::]:0");
        let port = server.port;
        for to in ["fd77::1", "fd99::1"] {
            assert_eq!(server.does("ask-forged", format!("[fd99::2]:0,[{to}]:{port}")), "ok");
            server.is_refused("answer", "[::]:0");
        }
        server.is_refused("ask-forged", format!("[fd99::2]:0,[::1]:{port}"));
        assert_eq!(server.does("ask-shared", format!("{shared},127.0.0.1:{port}")), "ok");
        server.is_refused("answer", "[::]:0");
        let run = server.end();
        assert!(run.log.all_denied("net.listen").is_empty(), "{run}");
    }
    // The controls: whoever is in no sandbox is answered so, and the answers go there.
    let own = UdpSocket::bind("[::]:0").unwrap();
    let port = own.local_addr().unwrap().port();
    assert_eq!(bed.bare_steps(args!["ask-forged", format!("[fd99::2]:0,[fd77::1]:{port}")]), ["ok"]);
    let (_, from) = own.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(from.ip().to_string(), "fd99::2");
    own.send_to(b"own", from).unwrap();
    assert_eq!(bed.bare_steps(args!["ask-shared", format!("{shared},127.0.0.1:{port}")]), ["ok"]);
    let (_, from) = own.recv_from(&mut [0; 8]).unwrap();
    own.send_to(b"own", from).unwrap();
    let mut text = [0; 8];
    assert_eq!(victim.recv(&mut text).unwrap(), 3, "the first that came");
    assert!(victim.recv(&mut text).is_err(), "a second one came out of the sandbox");
}

/// Over the network comes what says that it is from here: whoever has that address here is none who asked.
#[test]
fn who_names_an_address_of_this_machine_is_not_answered_there() {
    private_network(&[]);
    let neighbour = Neighbour::new();
    neighbour.does("echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind");
    let bed = TestBed::new("datagrams-named");
    let program = bed.program_of_tests(worker::MARK);
    let ask = |port: u16| neighbour.worker(&program, "ask-forged", &format!("[fd99::1]:0,[fd99::1]:{port}"));
    let own = outside("[::]:0");
    assert_eq!(ask(own.local_addr().unwrap().port()), "ok");
    let (_, from) = own.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(from.ip().to_string(), "fd99::1");
    own.send_to(b"own", from).unwrap();
    let mut server = Server::start(&bed, &policy(&bed, "listen = [\"*\"]"), "[::]:0");
    assert_eq!(ask(server.port), "ok");
    server.is_refused("answer", "[::]:0");
    let run = server.end();
    assert_eq!(run.log.all_denied("net.send")[0].object("address"), "fd99::1", "{run}");
}

#[test]
fn a_connect_that_sends_nothing_lets_nobody_in() {
    private_network(&[]);
    let neighbour = Neighbour::new();
    let bed = TestBed::new("datagrams-tied");
    let program = bed.program_of_tests(worker::MARK);
    let rule = "allow = [{ host = \"10.99.0.2\", protocol = \"udp\" }]";
    for (rule, count) in [("allow = []", 0), (rule, 1)] {
        let mut server = Server::start(&bed, &policy(&bed, rule), "10.99.0.1:0");
        let from = format!("10.99.0.2:{}", server.port);
        assert_eq!(server.does("tie", &from), "ok");
        let way = format!("{from},10.99.0.1:{}", server.port);
        assert_eq!(neighbour.worker(&program, "ask-shared", &way), "ok");
        assert_eq!(server.does("heard", "[::]:0"), format!("ok {count}"));
        let run = server.end();
        assert_eq!(run.log.all_denied("net.listen").len(), 1 - count, "{run}");
    }
}

/// As when the answer that named an address has expired.
#[test]
fn what_was_allowed_goes_on_until_it_is_silent_or_denied() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("datagrams-expired");
    let far = Listener::udp("10.77.0.1");
    let to = far.address;
    let mut server = Server::start(&bed, &policy(&bed, RULE), "0.0.0.0:0");
    let sandbox = Sandbox::of(server.inside.pid());
    server.is_refused("say", to);
    let begin = |server: &mut Server| {
        sandbox.set_datagrams(to, Some(true));
        assert_eq!(server.does("say", to), "ok");
        sandbox.set_datagrams(to, None);
        assert_eq!(server.does("say", to), "ok");
    };
    begin(&mut server);
    assert_eq!(sandbox.age_flows(119), 1);
    assert_eq!(server.does("say", to), "ok");
    // It was used meanwhile.
    assert_eq!(sandbox.age_flows(119), 1);
    assert_eq!(server.does("say", to), "ok");
    server.is_refused("send-to", to);
    assert_eq!(sandbox.age_flows(121), 1);
    server.is_refused("say", to);
    begin(&mut server);
    sandbox.set_datagrams(to, Some(false));
    server.is_refused("say", to);
    assert_eq!(far.arrived(6), 6);
    let run = server.end();
    assert_eq!(run.log.all_denied("net.send").len(), 4, "{run}");
    assert_eq!(run.log.all_denied("net.send")[3].rule(), Some("test/network.allow/0"), "{run}");
}

#[test]
fn each_datagram_of_a_call_is_judged_by_where_it_goes() {
    private_network(&["10.77.0.1/24", "10.78.0.1/32"]);
    let bed = TestBed::new("datagrams-calls");
    let (open, closed) = (Listener::udp("10.77.0.1"), Listener::udp("10.78.0.1"));
    let (to, not) = (open.address, closed.address);
    let rules = policy(
        &bed,
        &format!("allow = [{{ host = \"10.77.0.1\", ports = {}, protocol = \"udp\" }}]", to.port()),
    );
    let steps = [
        ("say-to-all", format!("{to},{not},{to}")),
        ("say-to-all", format!("{not},{to}")),
        ("say-in-segments", to.to_string()),
        ("say-in-segments", not.to_string()),
        // All of it goes where the first part says.
        ("say-in-parts", format!("{to},{not}")),
        ("say-in-parts", format!("{not},{to}")),
        ("say-to-many", format!("10.77.0.255:{}", to.port())),
        ("say-to-many", format!("255.255.255.255:{}", to.port())),
        ("say-to-many", format!("224.0.0.251:{}", to.port())),
    ];
    let all = || {
        let mut words = args!["listen-udp", "10.77.0.1:0"];
        words.extend(steps.iter().flat_map(|(verb, to)| args![verb, to]));
        words
    };
    let bare = bed.bare_steps(all());
    assert!(bare.iter().all(|answer| answer.starts_with("ok")), "{bare:?}");
    assert_eq!(bare[1..3], ["ok 3", "ok 2"]);
    let counts = arrivals([&open, &closed], [6, 5]);
    assert_eq!(counts, [6, 5], "{bare:?}");
    let (run, answers) = bed.run_steps(&rules, all());
    let refused = |answer: &String| REFUSED.contains(&answer.as_str());
    assert_eq!(answers[1], "ok 1", "{answers:?}: {run}");
    assert!(answers[3] == "ok" && answers[5] == "ok", "{answers:?}: {run}");
    for place in [2, 4, 6, 7, 8, 9] {
        assert!(refused(&answers[place]), "{place}: {answers:?}: {run}");
    }
    assert_eq!(arrivals([&open, &closed], [10, 5]), [10, 5], "{answers:?}: {run}");
    let many: Vec<_> = run.log.all_denied("net.send").iter().map(|event| event.object("address")).collect();
    assert!(["10.77.0.255", "255.255.255.255", "224.0.0.251"].iter().all(|to| many.contains(to)), "{run}");
}
