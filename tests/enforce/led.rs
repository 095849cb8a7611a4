//! Queries, and connections that are allowed by name, are led to the sandbox's service, and what programs see is the far
//! end that they asked for. The service is a stand-in that says how it was reached.

use std::{net::SocketAddr, path::Path};

use crate::{
    bed::{
        Run, TestBed, args,
        net::{Listener, Neighbour, private_network},
        procs,
        service::{Sandbox, Service, octets},
    },
    stale::Inside,
};

const REFUSED: [&str; 2] = ["EPERM", "EACCES"];
/// Nobody is there: what arrives was led.
const SERVERS: [&str; 3] = ["192.0.2.53", "198.51.100.53", "127.0.0.53"];
/// Routes to these are there, so that it is not for want of one that something does not arrive.
const NEAR: &[&str] = &["10.77.0.1/24", "192.0.2.1/24"];
const POLICY: &str = "[network]\nallow = [\"203.0.113.1:9\"]\n";

struct Stage<'bed> {
    inside: Inside<'bed>,
    sandbox: Sandbox,
    service: Service,
}

impl<'bed> Stage<'bed> {
    fn new(bed: &'bed TestBed) -> Self {
        let service = Service::start(&SERVERS);
        let mut inside = Inside::start_with(bed, &bed.policy("test", POLICY));
        // Once it answers it is in its sandbox.
        assert_eq!(inside.step(&[Path::new("stat"), Path::new("/")]), "ok");
        let sandbox = Sandbox::of(inside.pid());
        Self { inside, sandbox, service }
    }

    fn led(bed: &'bed TestBed) -> Self {
        let stage = Self::new(bed);
        stage.sandbox.lead(stage.service.ports);
        stage
    }

    #[track_caller]
    fn says(&mut self, verb: &str, to: &str, expected: &str) {
        let answer = self.inside.step(&[Path::new(verb), Path::new(to)]);
        assert_eq!(answer, format!("ok {expected}"), "{verb} {to}");
    }

    #[track_caller]
    fn is_refused(&mut self, verb: &str, to: &str) {
        let answer = self.inside.step(&[Path::new(verb), Path::new(to)]);
        assert!(REFUSED.contains(&answer.as_str()), "{verb} {to}: {answer}");
    }

    fn end(self) -> Run {
        self.inside.end()
    }
}

#[test]
fn every_query_by_udp_reaches_the_service_and_the_answer_comes_from_whom_was_asked() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("led-udp");
    let mut stage = Stage::led(&bed);
    for server in SERVERS {
        let (plain, mapped) = (format!("{server}:53"), format!("[::ffff:{server}]:53"));
        let heard = "dns heard hello from 127.0.0.1";
        stage.says("ask", &plain, &format!("{plain} {heard}"));
        stage.says("ask-connected", &plain, &format!("{plain} {plain} {heard}"));
        stage.says("ask", &mapped, &format!("{mapped} {heard}"));
        stage.says("ask-connected", &mapped, &format!("{mapped} {mapped} {heard}"));
        // As bind's tools with -b, and what listens on one address of the machine.
        let from = "dns heard hello from 10.77.0.1";
        stage.says("ask-from", &format!("10.77.0.1:0,{plain}"), &format!("{plain} {from}"));
    }
    for server in ["[2001:db8::53]:53", "[fe80::53]:53", "[::1]:53"] {
        let heard = "dns heard hello from ::1";
        stage.says("ask", server, &format!("{server} {heard}"));
        stage.says("ask-connected", server, &format!("{server} {server} {heard}"));
    }
    let run = stage.end();
    assert!(run.log.of("net.connect").is_empty() && run.log.of("net.send").is_empty(), "{run}");
}

#[test]
fn one_socket_asks_many_servers_and_each_answers_for_itself() {
    private_network(&[]);
    let bed = TestBed::new("led-many");
    let mut stage = Stage::led(&bed);
    let heard = "dns heard hello from 127.0.0.1";
    stage.says(
        "ask",
        "198.51.100.53:53,192.0.2.53:53",
        &format!("192.0.2.53:53 {heard}, 198.51.100.53:53 {heard}"),
    );
    stage.says(
        "ask-all",
        "[::ffff:192.0.2.53]:53,[2001:db8::53]:53,[2001:db8::54]:53",
        &format!(
            "[2001:db8::53]:53 dns heard hello from ::1, [2001:db8::54]:53 dns heard hello from ::1, \
             [::ffff:192.0.2.53]:53 {heard}"
        ),
    );
    stage.says("ask-another", "192.0.2.53:53,198.51.100.53:53", &format!("192.0.2.53:53 {heard}"));
    // Eight servers of IPv6 have a port each.
    for server in 1..9 {
        let answer = stage.inside.step(&[Path::new("ask"), Path::new(&format!("[2001:db8:1::{server}]:53"))]);
        assert_eq!(answer.starts_with("ok"), server <= 6, "{server}: {answer}");
    }
    let run = stage.end();
    let denied = run.log.all_denied("net.send");
    assert_eq!(denied.len(), 2, "{run}");
    assert_eq!(denied[0].object("address"), "2001:db8:1::7", "{run}");
}

#[test]
fn queries_by_tcp_and_connections_by_name_reach_the_service_and_seem_to_be_elsewhere() {
    private_network(NEAR);
    let bed = TestBed::new("led-tcp");
    let mut stage = Stage::led(&bed);
    let (v4, v6): (SocketAddr, SocketAddr) =
        ("192.0.2.7:443".parse().unwrap(), "[2001:db8::7]:443".parse().unwrap());
    for to in [v4, v6] {
        stage.sandbox.allow_by_name(to);
    }
    for (to, who) in [
        ("192.0.2.53:53", "dns heard hello from 127.0.0.1"),
        ("[::ffff:192.0.2.53]:53", "dns heard hello from 127.0.0.1"),
        ("[2001:db8::53]:53", "dns heard hello from ::1"),
        ("192.0.2.7:443", "relay heard hello from 127.0.0.1"),
        ("[::ffff:192.0.2.7]:443", "relay heard hello from 127.0.0.1"),
        ("[2001:db8::7]:443", "relay heard hello from ::1"),
    ] {
        stage.says("talk", to, &format!("{to} {who}"));
    }
    stage.says("talk-from", "10.77.0.1:0,192.0.2.7:443", "192.0.2.7:443 relay heard hello from 10.77.0.1");
    let originals = stage.sandbox.originals();
    let last = originals.last().unwrap();
    assert_eq!((last.address, last.port, last.protocol), (octets(v4), 443, 6));
    assert_eq!(last.tgid, stage.inside.pid());
    // By no other port, protocol or address.
    for to in ["192.0.2.7:444", "192.0.2.8:443", "[2001:db8::8]:443"] {
        stage.is_refused("talk", to);
    }
    stage.is_refused("connect-udp", "192.0.2.7:443");
    let run = stage.end();
    let led: Vec<_> = run
        .log
        .of("net.connect")
        .into_iter()
        .filter(|event| event.text("outcome") == "allowed")
        .map(|event| (event.object("address"), event.0["object"]["port"].as_u64().unwrap(), event.rule()))
        .collect();
    let (v4, v6) = (("192.0.2.7", 443, RULE), ("2001:db8::7", 443, RULE));
    assert_eq!(led, [v4, v4, v6, v4], "{run}");
    let closed = run.log.of("net.close");
    assert_eq!(closed.len(), led.len(), "{run}");
    let last = &closed[3].0["object"];
    assert_eq!((&last["address"], &last["port"]), (&"192.0.2.7".into(), &443.into()), "{run}");
    assert_eq!((&last["bytes_sent"], &last["bytes_received"]), (&5.into(), &32.into()), "{run}");
    assert_eq!(closed[3].rule(), RULE, "{run}");
}

const RULE: Option<&str> = Some("test/network.allow/0");

#[test]
fn without_a_service_or_one_of_its_ports_what_would_be_led_is_refused() {
    private_network(NEAR);
    let bed = TestBed::new("led-none");
    let mut stage = Stage::new(&bed);
    stage.sandbox.lead(Default::default());
    stage.sandbox.allow_by_name("192.0.2.7:443".parse().unwrap());
    for (verb, to) in [("talk", "192.0.2.7:443"), ("talk", "192.0.2.53:53"), ("ask", "192.0.2.53:53")] {
        stage.is_refused(verb, to);
    }
    let ports = govsandbox_ebpf::abi::egress::EgressService { relay6_port: 1, ..Default::default() };
    stage.sandbox.lead(ports);
    for (verb, to) in [
        ("talk", "192.0.2.7:443"),
        ("talk", "192.0.2.53:53"),
        ("ask", "192.0.2.53:53"),
        ("ask-connected", "192.0.2.53:53"),
        ("ask", "[2001:db8::53]:53"),
        ("talk", "[2001:db8::53]:53"),
    ] {
        stage.is_refused(verb, to);
    }
    stage.sandbox.lead(stage.service.ports);
    stage.says("talk", "192.0.2.7:443", "192.0.2.7:443 relay heard hello from 127.0.0.1");
    let run = stage.end();
    assert_eq!(run.log.all_denied("net.connect").len() + run.log.all_denied("net.send").len(), 9, "{run}");
}

#[test]
fn the_service_is_reached_by_being_led_there_alone() {
    private_network(&[]);
    let bed = TestBed::new("led-direct");
    let mut stage = Stage::led(&bed);
    let ports = stage.service.ports;
    for port in [ports.relay4_port, ports.dns4_tcp_port] {
        stage.is_refused("talk", &format!("127.0.0.1:{port}"));
        stage.is_refused("talk", &format!("[::ffff:0.0.0.0]:{port}"));
    }
    stage.is_refused("talk", &format!("[::1]:{}", ports.relay6_port));
    // A socket that was led once goes nowhere else by it.
    stage.is_refused("talk-again", &format!("192.0.2.53:53,127.0.0.1:{}", ports.relay4_port));
    stage.is_refused("talk-again", "192.0.2.53:53,192.0.2.7:443");
    stage.sandbox.allow_by_name("192.0.2.7:443".parse().unwrap());
    let to = "192.0.2.7:443 relay heard hello from 127.0.0.1";
    stage.says("talk-again", "192.0.2.53:53,192.0.2.7:443", to);
    let wanted = stage.sandbox.originals().last().map(|original| original.port);
    assert_eq!(wanted, Some(443));
    stage.end();
}

/// glibc's getaddrinfo(3) connects datagram sockets to find out which address of its own it would have.
#[test]
fn a_connect_that_sends_nothing_is_no_event_and_what_it_sends_is_refused() {
    private_network(NEAR);
    let bed = TestBed::new("led-getaddrinfo");
    let mut stage = Stage::led(&bed);
    stage.says("only-connect", "10.77.0.9:443", "10.77.0.9:443");
    stage.says("only-connect", "[::1]:443", "[::1]:443");
    stage.is_refused("connect-udp", "10.77.0.9:443");
    let run = stage.end();
    assert!(run.log.of("net.connect").is_empty(), "{run}");
    let sent = run.log.of("net.send");
    assert_eq!(sent.len(), 1, "{run}");
    assert_eq!((sent[0].text("outcome"), sent[0].object("address")), ("denied", "10.77.0.9"), "{run}");
}

/// Whoever answers a datagram sends to where it says that it comes from.
#[test]
fn nothing_is_led_that_comes_from_elsewhere_or_leaves_the_machine() {
    private_network(NEAR);
    let neighbour = Neighbour::new();
    // As `IPV6_FREEBIND` does, which nobody sets inside.
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    let bed = TestBed::new("led-forged");
    let mut stage = Stage::led(&bed);
    let ports = stage.service.ports;
    let direct = format!("[::1]:{}", ports.dns6_udp_ports[0]);
    let listener = Listener::udp("::1");
    // The control: such a datagram arrives.
    let forged = |to: &dyn std::fmt::Display| format!("[2001:db8:bad::1]:53,{to}");
    assert_eq!(bed.bare_steps(args!["ask-forged", forged(&listener.address)]), ["ok"]);
    assert_eq!(listener.arrived(1), 1);
    stage.is_refused("ask-forged", &forged(&"[2001:db8::53]:53"));
    stage.is_refused("ask-forged", &forged(&direct));
    stage.is_refused("ask-from", "[2001:db8:bad::1]:53535,[2001:db8::53]:53");
    stage.is_refused("ask-by-device", "192.0.2.53:53");
    stage.is_refused("ask-by-device", "[2001:db8::53]:53");
    // Of 127.0.0.1 the kernel itself sends nothing by another device.
    stage.is_refused("ask-then-device", "10.99.0.1:0,192.0.2.53:53");
    drop(neighbour);
    let run = stage.end();
    assert_eq!(run.log.all_denied("net.send").len(), 6, "{run}");
}

#[test]
fn fast_open_is_led_too() {
    private_network(NEAR);
    let bed = TestBed::new("led-fast");
    let mut stage = Stage::led(&bed);
    stage.sandbox.allow_by_name("192.0.2.7:443".parse().unwrap());
    assert_eq!(stage.inside.step(&[Path::new("fast-open"), Path::new("192.0.2.7:443")]), "ok");
    stage.is_refused("fast-open", "192.0.2.8:443");
    let led = stage.sandbox.originals();
    assert_eq!(led.iter().map(|original| original.port).collect::<Vec<_>>(), [443]);
    stage.end();
}

/// Nothing is refused in audit mode, and a socket that sends thousands of datagrams is told of once.
#[test]
fn audit_mode_leads_and_refuses_nothing() {
    private_network(NEAR);
    let bed = TestBed::new("led-audit");
    let (udp, tcp) = (Listener::udp("10.77.0.1"), Listener::tcp("10.77.0.1"));
    let policy = bed.policy("test", &format!("mode = \"audit\"\n{POLICY}"));
    let (run, answers) = bed
        .run_steps(&policy, args!["send-many", udp.address.to_string(), "connect", tcp.address.to_string()]);
    assert_eq!(answers, ["ok", "ok"], "{run}");
    assert_eq!([udp.arrived(50), tcp.arrived(1)], [50, 1], "{run}");
    for kind in ["net.send", "net.connect"] {
        let told: Vec<_> = run.log.of(kind).iter().map(|event| event.text("outcome").to_owned()).collect();
        assert_eq!(told, ["would_deny"], "{kind}: {run}");
    }
}

impl Inside<'_> {
    /// The worker's process, as seen from here.
    pub(crate) fn pid(&self) -> u32 {
        let processes = procs::below(self.supervisor());
        processes.into_iter().find(|process| process.name == "worker").unwrap().pid
    }
}
