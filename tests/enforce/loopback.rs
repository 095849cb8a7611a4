//! A server that the sandbox started is reached without a rule; one of the outside is not.

use std::path::PathBuf;

use crate::bed::{
    TestBed, args,
    net::{Listener, Neighbour, arrivals, private_network},
};

const REFUSED: [&str; 2] = ["EPERM", "EACCES"];

fn policy(bed: &TestBed, network: &str) -> PathBuf {
    bed.policy("test", &format!("[network]\n{network}\n"))
}

/// Where a server listens, and where a client of the same sandbox connects to.
const WAYS: [(&str, &str); 9] = [
    ("127.0.0.1:0", "127.0.0.1:0"),
    ("0.0.0.0:0", "127.0.0.1:0"),
    ("127.9.9.9:0", "127.9.9.9:0"),
    ("127.0.0.1:0", "0.0.0.0:0"),
    ("127.0.0.1:0", "[::ffff:127.0.0.1]:0"),
    ("[::1]:0", "[::1]:0"),
    ("[::]:0", "127.0.0.1:0"),
    ("[::]:0", "[::1]:0"),
    ("10.77.0.1:0", "10.77.0.1:0"),
];

#[test]
fn an_own_server_is_reached_by_every_name_of_loopback_and_by_its_own_address() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("loopback-own");
    let steps = || -> Vec<_> {
        let both = |(listen, to): &(&str, &str)| {
            let way = format!("{listen},{to}");
            args!["talk-own", &way, "ask-own", &way]
        };
        WAYS.iter().flat_map(both).collect()
    };
    assert_eq!(bed.bare_steps(steps()), ["ok own"; 2 * WAYS.len()]);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []"), steps());
    assert_eq!(answers, ["ok own"; 2 * WAYS.len()], "{run}");
    assert!(
        run.log.all_denied("net.send").is_empty() && run.log.all_denied("net.connect").is_empty(),
        "{run}"
    );
    let allowed = run.log.of("net.connect");
    assert_eq!(allowed.len(), WAYS.len(), "{run}");
    assert!(allowed.iter().all(|event| event.rule().is_none()), "{run}");
    for action in ["listen", "accept"] {
        let events = run.log.of("net.listen");
        let of_action = events.iter().filter(|event| event.text("action") == action).count();
        assert_eq!(of_action, WAYS.len(), "{action}: {run}");
    }
    // Either end of each.
    let closed = run.log.of("net.close");
    assert_eq!(closed.len(), 2 * WAYS.len(), "{run}");
    let bytes = |event: &&crate::bed::Event, field: &str| event.0["object"][field].as_u64().unwrap();
    for event in &closed {
        assert_eq!(bytes(event, "bytes_sent") + bytes(event, "bytes_received"), 8, "{run}");
        assert!(bytes(event, "duration_ns") > 0, "{run}");
    }
    // A deny is for own servers too.
    let (run, answers) = bed.run_steps(
        &policy(&bed, "deny = [\"localhost\"]"),
        args!["talk-own", "127.0.0.1:0,127.0.0.1:0", "ask-own", "127.0.0.1:0,127.0.0.1:0"],
    );
    assert!(answers.iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
}

#[test]
fn a_server_of_the_outside_is_refused_beside_an_own_one() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("loopback-outside");
    let (tcp, udp) = (Listener::tcp("127.0.0.1"), Listener::udp("127.0.0.1"));
    let (tcp6, udp6) = (Listener::tcp("::1"), Listener::udp("::1"));
    let near = Listener::tcp("10.77.0.1");
    let steps = || {
        let mut steps = args!["talk-own", "127.0.0.1:0,127.0.0.1:0"];
        let port = tcp.address.port();
        for to in [
            tcp.address.to_string(),
            format!("0.0.0.0:{port}"),
            format!("127.1.2.3:{port}"),
            format!("[::ffff:127.0.0.1]:{port}"),
            format!("[::ffff:0.0.0.0]:{port}"),
            tcp6.address.to_string(),
            format!("[::]:{}", tcp6.address.port()),
            near.address.to_string(),
        ] {
            steps.extend(args!["connect", to]);
        }
        for to in [
            udp.address.to_string(),
            format!("0.0.0.0:{}", udp.address.port()),
            format!("[::ffff:127.0.0.1]:{}", udp.address.port()),
            udp6.address.to_string(),
            format!("[::]:{}", udp6.address.port()),
        ] {
            steps.extend(args!["send-to", &to, "connect-udp", &to]);
        }
        steps
    };
    let bare = bed.bare_steps(steps());
    // Nobody listens on 127.1.2.3.
    assert!(bare.iter().filter(|answer| !answer.starts_with("ok")).eq(["ECONNREFUSED"]), "{bare:?}");
    let all = [&tcp, &udp, &tcp6, &udp6, &near];
    assert_eq!(arrivals(all, [4, 6, 2, 4, 1]), [4, 6, 2, 4, 1]);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []"), steps());
    assert_eq!(answers[0], "ok own", "{run}");
    assert!(answers[1..].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(arrivals(all, [4, 6, 2, 4, 1]), [4, 6, 2, 4, 1], "{run}");
}

#[test]
fn a_server_of_another_sandbox_is_one_of_the_outside() {
    private_network(&[]);
    let bed = TestBed::new("loopback-other");
    let empty = policy(&bed, "allow = []");
    let mut server = crate::stale::Inside::start_with(&bed, &empty);
    let listens = server.step(&["listen".as_ref(), "127.0.0.1:0".as_ref()]);
    let to = listens.strip_prefix("ok ").unwrap().to_owned();
    // Its own processes reach it, and the outside does.
    assert_eq!(server.step(&["connect".as_ref(), to.as_ref()]), "ok");
    assert_eq!(bed.bare_steps(args!["connect", &to]), ["ok"]);
    let (run, answers) = bed.run_steps(&empty, args!["connect", &to]);
    assert!(REFUSED.contains(&answers[0].as_str()), "{answers:?}: {run}");
    server.end();
}

#[test]
fn servers_are_reached_from_this_machine_and_from_no_other() {
    private_network(&[]);
    let neighbour = Neighbour::new();
    let bed = TestBed::new("loopback-arrival");
    let program = bed.program_of_tests(crate::bed::worker::MARK);
    let there = |verb: &str, to: &str| neighbour.worker(&program, verb, to);
    // The control: a server of the outside, on the same addresses.
    for at in ["10.99.0.1", "fd99::1"] {
        let (tcp, udp) = (Listener::tcp(at), Listener::udp(at));
        assert_eq!(there("connect", &tcp.address.to_string()), "ok");
        assert_eq!(there("send-to", &udp.address.to_string()), "ok");
        assert_eq!([tcp.arrived(1), udp.arrived(1)], [1, 1]);
    }
    let mut inside = crate::stale::Inside::start_with(&bed, &policy(&bed, "allow = []"));
    let mut listen = |verb: &str, at: &str| {
        let answer = inside.step(&[verb.as_ref(), at.as_ref()]);
        let address: std::net::SocketAddr = answer.strip_prefix("ok ").expect(&answer).parse().unwrap();
        address.port()
    };
    let ports =
        [listen("listen", "0.0.0.0:0"), listen("listen", "[::]:0"), listen("listen-unbound", "0.0.0.0:0")];
    let udp = listen("listen-udp", "[::]:0");
    // From here each is reached, over loopback.
    for port in ports {
        let answers = bed.bare_steps(args!["connect", format!("127.0.0.1:{port}")]);
        assert_eq!(answers, ["ok"], "{port}");
    }
    assert_eq!(bed.bare_steps(args!["send-to", format!("[::1]:{udp}")]), ["ok"]);
    assert_eq!(inside.step(&["heard".as_ref(), "[::]:0".as_ref()]), "ok 1");
    for (port, to) in
        [(ports[0], "10.99.0.1"), (ports[1], "10.99.0.1"), (ports[1], "[fd99::1]"), (ports[2], "10.99.0.1")]
    {
        let answer = there("connect", &format!("{to}:{port}"));
        assert!(answer.contains("timed out"), "{to}:{port}: {answer}");
    }
    for to in ["10.99.0.1", "[fd99::1]"] {
        assert_eq!(there("send-to", &format!("{to}:{udp}")), "ok");
    }
    assert_eq!(inside.step(&["heard".as_ref(), "[::]:0".as_ref()]), "ok 0");
    let run = inside.end();
    let refused: Vec<_> =
        run.log.all_denied("net.listen").iter().map(|event| event.object("address")).collect();
    assert_eq!(refused, ["10.99.0.2", "10.99.0.2", "fd99::2", "10.99.0.2", "10.99.0.2", "fd99::2"], "{run}");
    let event = run.log.all_denied("net.listen")[0];
    assert_eq!((event.rule(), event.text("action")), (Some("default/network.listen"), "accept"), "{run}");
    let listened: Vec<_> =
        run.log.of("net.listen").into_iter().filter(|event| event.text("action") == "listen").collect();
    assert_eq!(listened.len(), 3, "{run}");
    assert_eq!(listened[0].0["object"]["port"], ports[0], "{run}");
}

#[test]
fn an_address_that_the_policy_listens_on_is_reached_from_elsewhere() {
    private_network(&[]);
    let neighbour = Neighbour::new();
    let bed = TestBed::new("loopback-listen");
    let program = bed.program_of_tests(crate::bed::worker::MARK);
    let there = |verb: &str, to: &str| neighbour.worker(&program, verb, to);
    let policy = policy(&bed, "listen = [\"localhost\", \"10.99.0.1\"]");
    let mut inside = crate::stale::Inside::start_with(&bed, &policy);
    let mut port = |verb: &str| {
        let answer = inside.step(&[verb.as_ref(), "[::]:0".as_ref()]);
        let address: std::net::SocketAddr = answer.strip_prefix("ok ").expect(&answer).parse().unwrap();
        address.port()
    };
    let (tcp, udp) = (port("listen"), port("listen-udp"));
    assert_eq!(there("connect", &format!("10.99.0.1:{tcp}")), "ok");
    assert_eq!(there("send-to", &format!("10.99.0.1:{udp}")), "ok");
    let answer = there("connect", &format!("[fd99::1]:{tcp}"));
    assert!(answer.contains("timed out"), "{answer}");
    assert_eq!(there("send-to", &format!("[fd99::1]:{udp}")), "ok");
    assert_eq!(inside.step(&["heard".as_ref(), "[::]:0".as_ref()]), "ok 1");
    let run = inside.end();
    let refused: Vec<_> =
        run.log.all_denied("net.listen").iter().map(|event| event.object("address")).collect();
    assert_eq!(refused, ["fd99::2", "fd99::2"], "{run}");
}
