//! Egress: by address and port, by every family and protocol that leads there. Each test has a network of its own.

use std::{ffi::OsString, path::PathBuf};

use crate::bed::{
    Run, TestBed, args,
    net::{Listener, arrivals, private_network},
};

const REFUSED: [&str; 2] = ["EPERM", "EACCES"];

fn policy(bed: &TestBed, network: &str) -> PathBuf {
    bed.policy("test", &format!("[network]\n{network}\n"))
}

fn step(verb: &str, to: impl ToString) -> Vec<OsString> {
    args![verb, &to.to_string()]
}

/// Holds that one event tells of this destination, with this outcome and rule.
#[track_caller]
fn told(run: &Run, kind: &str, address: &str, port: u16, outcome: &str, rule: &str) {
    let events = run.log.of(kind);
    let own: Vec<_> = events
        .iter()
        .filter(|event| event.object("address") == address && event.0["object"]["port"] == port)
        .collect();
    assert_eq!(own.len(), 1, "{kind} {address}:{port}: {:?} {run}", run.log.of(kind));
    assert_eq!((own[0].text("outcome"), own[0].rule()), (outcome, Some(rule)), "{run}");
    assert_eq!(own[0].0["process"]["uid"], own[0].0["actor"]["uid"], "{run}");
}

#[test]
fn tcp_is_allowed_by_network_and_port_and_by_nothing_else() {
    private_network(&["10.77.0.1/32", "10.77.0.9/32", "10.78.0.1/32"]);
    let bed = TestBed::new("net-tcp");
    let (open, denied, elsewhere) =
        (Listener::tcp("10.77.0.1"), Listener::tcp("10.77.0.9"), Listener::tcp("10.78.0.1"));
    let other_port = Listener::tcp("10.77.0.1");
    let all = [&open, &denied, &elsewhere, &other_port];
    let steps = || all.iter().flat_map(|listener| step("connect", listener.address)).collect::<Vec<_>>();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 4]);
    assert_eq!(arrivals(all, [1; 4]), [1; 4]);
    let ports = format!("{},{}", open.address.port(), denied.address.port());
    let policy = policy(&bed, &format!("allow = [\"10.77.0.0/24:{ports}\"]\ndeny = [\"10.77.0.9\"]"));
    let (run, answers) = bed.run_steps(&policy, steps());
    assert_eq!(answers[0], "ok", "{run}");
    assert!(answers[1..].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(arrivals(all, [2, 1, 1, 1]), [2, 1, 1, 1], "{run}");
    told(&run, "net.connect", "10.77.0.1", open.address.port(), "allowed", "test/network.allow/0");
    told(&run, "net.connect", "10.77.0.9", denied.address.port(), "denied", "test/network.deny/0");
    told(&run, "net.connect", "10.78.0.1", elsewhere.address.port(), "denied", "default/network.allow");
    told(&run, "net.connect", "10.77.0.1", other_port.address.port(), "denied", "default/network.allow");
    let event = run.log.of("net.connect")[0];
    assert_eq!((event.object("family"), event.object("protocol")), ("inet", "tcp"), "{run}");
}

#[test]
fn nothing_is_reached_by_default() {
    private_network(&["10.77.0.1/32", "fd77::1/128"]);
    let bed = TestBed::new("net-default");
    let listeners = [
        ("connect", Listener::tcp("10.77.0.1")),
        ("connect", Listener::tcp("fd77::1")),
        ("connect", Listener::tcp("127.0.0.1")),
        ("connect", Listener::tcp("::1")),
        ("send-to", Listener::udp("10.77.0.1")),
        ("send-to", Listener::udp("fd77::1")),
        ("connect-udp", Listener::udp("10.77.0.1")),
        ("connect-udp", Listener::udp("fd77::1")),
    ];
    let steps = || listeners.iter().flat_map(|(verb, to)| step(verb, to.address)).collect::<Vec<_>>();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 8]);
    assert!(listeners.iter().all(|(_, listener)| listener.arrived(1) == 1));
    for (name, text) in [("absent", ""), ("empty", "allow = []")] {
        let (run, answers) = bed.run_steps(&policy(&bed, text), steps());
        assert!(
            answers.iter().all(|answer| REFUSED.contains(&answer.as_str())),
            "{name}: {answers:?}: {run}"
        );
        assert!(listeners.iter().all(|(_, listener)| listener.arrived(1) == 1), "{name}: {run}");
        for (verb, listener) in &listeners {
            // A datagram socket is refused when it sends: its connect sends nothing.
            let kind = if *verb == "connect" { "net.connect" } else { "net.send" };
            let (ip, port) = (listener.address.ip().to_string(), listener.address.port());
            told(&run, kind, &ip, port, "denied", "default/network.allow");
        }
    }
}

#[test]
fn ipv6_is_judged_like_ipv4() {
    private_network(&["fd77::1/128", "fd77::9/128", "fd78::1/128"]);
    let bed = TestBed::new("net-v6");
    let (open, denied, elsewhere) =
        (Listener::tcp("fd77::1"), Listener::tcp("fd77::9"), Listener::tcp("fd78::1"));
    let all = [&open, &denied, &elsewhere];
    let steps = || all.iter().flat_map(|listener| step("connect", listener.address)).collect::<Vec<_>>();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 3]);
    let (run, answers) =
        bed.run_steps(&policy(&bed, "allow = [\"[fd77::/64]:1-65535\"]\ndeny = [\"fd77::9\"]"), steps());
    assert_eq!(answers[0], "ok", "{run}");
    assert!(answers[1..].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(arrivals(all, [2, 1, 1]), [2, 1, 1], "{run}");
    told(&run, "net.connect", "fd77::1", open.address.port(), "allowed", "test/network.allow/0");
    told(&run, "net.connect", "fd77::9", denied.address.port(), "denied", "test/network.deny/0");
    assert_eq!(run.log.of("net.connect")[0].object("family"), "inet6", "{run}");
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    private_network(&["10.77.0.1/32", "10.77.0.9/32"]);
    let bed = TestBed::new("net-mapped");
    let (open, denied) = (Listener::tcp("10.77.0.1"), Listener::tcp("10.77.0.9"));
    let mapped = |listener: &Listener| {
        step("connect", format!("[::ffff:{}]:{}", listener.address.ip(), listener.address.port()))
    };
    let steps = || [mapped(&open), mapped(&denied)].concat();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 2]);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = [\"10.77.0.1\"]"), steps());
    assert_eq!(answers[0], "ok", "{run}");
    assert!(REFUSED.contains(&answers[1].as_str()), "{answers:?}: {run}");
    assert_eq!([open.arrived(2), denied.arrived(1)], [2, 1], "{run}");
    told(&run, "net.connect", "10.77.0.9", denied.address.port(), "denied", "default/network.allow");
}

#[test]
fn udp_needs_a_rule_for_udp_and_a_deny_is_for_every_protocol() {
    private_network(&["10.77.0.1/32", "fd77::1/128", "10.77.0.9/32", "10.78.0.1/32"]);
    let bed = TestBed::new("net-udp");
    let (v4, v6, denied, tcp_only) = (
        Listener::udp("10.77.0.1"),
        Listener::udp("fd77::1"),
        Listener::udp("10.77.0.9"),
        Listener::udp("10.78.0.1"),
    );
    let steps = || {
        [&v4, &v6, &denied, &tcp_only]
            .iter()
            .flat_map(|listener| {
                [step("send-to", listener.address), step("connect-udp", listener.address)].concat()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(bed.bare_steps(steps()), ["ok"; 8]);
    let rules = "allow = [{ host = \"10.77.0.0/24\", protocol = \"udp\" }, { host = \"fd77::/64\", protocol = \"udp\" }, \"10.78.0.1\"]\n\
                 deny = [\"10.77.0.9\"]";
    let (run, answers) = bed.run_steps(&policy(&bed, rules), steps());
    assert_eq!(answers[..4], ["ok"; 4], "{run}");
    assert!(answers[4..].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(arrivals([&v4, &v6, &denied, &tcp_only], [4, 4, 2, 2]), [4, 4, 2, 2], "{run}");
    let refused: Vec<_> =
        run.log.all_denied("net.send").iter().map(|event| (event.object("address"), event.rule())).collect();
    let (by_deny, by_default) =
        (("10.77.0.9", Some("test/network.deny/0")), ("10.78.0.1", Some("default/network.allow")));
    assert_eq!(refused, [by_deny, by_deny, by_default, by_default], "{run}");
    assert_eq!(run.log.all_denied("net.send")[0].object("protocol"), "udp", "{run}");
    let connected = run.log.of("net.connect");
    assert!(connected.iter().all(|event| event.text("outcome") == "allowed"), "{run}");
    assert_eq!(connected.len(), 2, "{run}");
}

#[test]
fn a_datagram_with_ancillary_data_is_judged_by_its_socket_s_peer() {
    private_network(&["10.77.0.1/32", "fd77::1/128"]);
    let bed = TestBed::new("net-marked");
    let (v4, v6) = (Listener::udp("10.77.0.1"), Listener::udp("fd77::1"));
    let steps = || [step("send-marked", v4.address), step("send-marked", v6.address)].concat();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 2]);
    let rules = "allow = [{ host = \"10.77.0.1\", ports = \"*\", protocol = \"udp\" }, { host = \"fd77::1\", ports = \"*\", \
                 protocol = \"udp\" }]";
    let (run, answers) = bed.run_steps(&policy(&bed, rules), steps());
    assert_eq!(answers, ["ok"; 2], "{run}");
    assert_eq!(arrivals([&v4, &v6], [2, 2]), [2, 2], "{run}");
    told(&run, "net.send", "10.77.0.1", v4.address.port(), "allowed", "test/network.allow/0");
    told(&run, "net.send", "fd77::1", v6.address.port(), "allowed", "test/network.allow/1");
}

#[test]
fn no_datagram_takes_a_route_of_its_own() {
    private_network(&["fd77::1/128", "fd78::1/128"]);
    let bed = TestBed::new("net-routed");
    let open = Listener::udp("fd77::1");
    let steps = || step("send-routed", open.address);
    let bare = bed.bare_steps(steps());
    let rules = "allow = [{ host = \"fd77::1\", ports = \"*\", protocol = \"udp\" }]";
    let (run, answers) = bed.run_steps(&policy(&bed, rules), steps());
    // A kernel without CONFIG_IPV6_MIP6 knows no such route.
    if bare[0].starts_with("Invalid argument") {
        assert_eq!(answers, bare, "{run}");
        return;
    }
    assert_eq!(bare, ["ok"]);
    assert!(REFUSED.contains(&answers[0].as_str()), "{answers:?}: {run}");
    let denied = run.log.all_denied("net.send");
    assert_eq!(denied.len(), 1, "{run}");
    assert_eq!(
        (denied[0].object("address"), denied[0].rule()),
        ("fd78::1", Some("default/network.allow")),
        "{run}"
    );
}

/// What is sent so is told of, and comes back whole.
#[test]
fn a_ping_goes_where_anything_may_if_the_policy_has_it() {
    private_network(&["10.77.0.1/32", "10.77.0.9/32", "10.78.0.1/32", "fd77::1/128"]);
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    let bed = TestBed::new("net-ping");
    let near = ["10.77.0.1:0", "[fd77::1]:0", "127.0.0.1:0", "[::1]:0"];
    let refused = ["10.77.0.9:0", "10.78.0.1:0"];
    let steps = || near.iter().chain(&refused).flat_map(|to| step("ping", to)).collect::<Vec<_>>();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 6]);
    let rules = "allow = [\"10.77.0.0/24:443\", { host = \"fd77::1\", protocol = \"udp\" }, \"localhost\"]\n\
                 deny = [\"10.77.0.9\", \"10.77.0.1:22\"]";
    // Nobody's unless the policy says so.
    let (run, answers) = bed.run_steps(&policy(&bed, rules), steps());
    assert!(answers.iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    let told_of = run.log.all_denied("privilege.use");
    assert!(
        !told_of.is_empty() && told_of.iter().all(|event| event.rule() == Some("builtin/sockets")),
        "{run}"
    );
    let allows = policy(&bed, &format!("{rules}\nicmp = \"allow\""));
    let (run, answers) = bed.run_steps(&allows, steps());
    assert_eq!(answers[..4], ["ok"; 4], "{run}");
    assert!(answers[4..].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    told(&run, "net.send", "10.77.0.1", 0, "allowed", "test/network.allow/0");
    told(&run, "net.send", "fd77::1", 0, "allowed", "test/network.allow/1");
    told(&run, "net.send", "10.77.0.9", 0, "denied", "test/network.deny/0");
    told(&run, "net.send", "10.78.0.1", 0, "denied", "default/network.allow");
    assert_eq!(run.log.all_denied("net.send")[0].object("protocol"), "icmp", "{run}");
    // Whoever answers would send what was sent to where it says that it comes from. The kernel does not tell the sender what
    // became of a ping of IPv6 (`icmpv6_push_pending_frames`).
    let (run, answers) = bed.run_steps(&allows, step("ping-from", "[2001:db8:bad::1]:0,[::1]:0"));
    assert_ne!(answers, ["ok"], "{run}");
    told(&run, "net.send", "::1", 0, "denied", "default/network.allow");
}

#[test]
fn localhost_is_loopback_in_both_families_and_the_unspecified_address() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("net-localhost");
    let (v4, other, v6, outside) = (
        Listener::tcp("127.0.0.1"),
        Listener::tcp("127.8.8.8"),
        Listener::tcp("::1"),
        Listener::tcp("10.77.0.1"),
    );
    let steps = || {
        [
            step("connect", v4.address),
            step("connect", other.address),
            step("connect", v6.address),
            step("connect", format!("0.0.0.0:{}", v4.address.port())),
            step("connect", format!("[::ffff:127.0.0.1]:{}", v4.address.port())),
            step("connect", outside.address),
        ]
        .concat()
    };
    assert_eq!(bed.bare_steps(steps()), ["ok"; 6]);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = [\"localhost\"]"), steps());
    assert_eq!(answers[..5], ["ok"; 5], "{run}");
    assert!(REFUSED.contains(&answers[5].as_str()), "{answers:?}: {run}");
    assert_eq!([v4.arrived(6), other.arrived(2), v6.arrived(2), outside.arrived(1)], [6, 2, 2, 1], "{run}");
    // One port of it, and one without: `localhost` in a deny is all of loopback too.
    let rules = format!("allow = [\"localhost:{}\"]", v4.address.port());
    let (run, answers) = bed.run_steps(
        &policy(&bed, &rules),
        [step("connect", v4.address), step("connect", v6.address)].concat(),
    );
    assert!(answers[0] == "ok" && REFUSED.contains(&answers[1].as_str()), "{answers:?}: {run}");
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = [\"*\"]\ndeny = [\"localhost\"]"), steps());
    assert!(answers[..5].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(answers[5], "ok", "{run}");
}

#[test]
fn every_process_of_the_tree_meets_the_same_refusal() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("net-tree");
    let listener = Listener::tcp("10.77.0.1");
    let to = listener.address.to_string();
    let steps =
        || args!["connect", &to, "thread", "connect", &to, "orphan", "connect", &to, "spawn", "connect", &to];
    assert_eq!(bed.bare_steps(steps()), ["ok"; 4]);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []"), steps());
    assert!(answers.iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!(listener.arrived(4), 4, "{run}");
    assert_eq!(run.log.all_denied("net.connect").len(), 4, "{run}");
}

#[test]
fn tcp_fast_open_is_a_connection_too() {
    private_network(&["10.77.0.1/32", "10.77.0.9/32"]);
    let bed = TestBed::new("net-fastopen");
    let (open, closed) = (Listener::tcp("10.77.0.1"), Listener::tcp("10.77.0.9"));
    let steps = || [step("fast-open", open.address), step("fast-open", closed.address)].concat();
    assert_eq!(bed.bare_steps(steps()), ["ok"; 2]);
    let rules = format!("allow = [\"10.77.0.1:{}\"]", open.address.port());
    let (run, answers) = bed.run_steps(&policy(&bed, &rules), steps());
    assert_eq!(answers[0], "ok", "{run}");
    assert!(REFUSED.contains(&answers[1].as_str()), "{answers:?}: {run}");
    assert_eq!([open.arrived(2), closed.arrived(1)], [2, 1], "{run}");
    told(&run, "net.connect", "10.77.0.9", closed.address.port(), "denied", "default/network.allow");
}

/// A connection to `0.0.0.0` or `::` arrives at loopback (ip(7), ipv6(7)).
#[test]
fn a_denied_loopback_address_is_not_reached_by_the_unspecified_one() {
    private_network(&[]);
    let bed = TestBed::new("net-unspecified");
    let (open, denied) = (Listener::tcp("127.0.0.1"), Listener::tcp("127.0.0.1"));
    let port = denied.address.port();
    let unspecified = |port| ["0.0.0.0", "[::ffff:0.0.0.0]"].map(|host| format!("{host}:{port}"));
    let steps = || {
        let ways = unspecified(open.address.port()).into_iter().chain(unspecified(port));
        ways.flat_map(|to| step("connect", to)).collect::<Vec<_>>()
    };
    assert_eq!(bed.bare_steps(steps()), ["ok"; 4]);
    assert_eq!([&open, &denied].map(|listener| listener.arrived(2)), [2, 2]);
    let policy = policy(&bed, &format!("allow = [\"*:*\"]\ndeny = [\"127.0.0.1:{port}\"]"));
    let (run, answers) = bed.run_steps(&policy, steps());
    assert_eq!(answers[..2], ["ok"; 2], "{run}");
    assert!(answers[2..].iter().all(|answer| REFUSED.contains(&answer.as_str())), "{answers:?}: {run}");
    assert_eq!([&open, &denied].map(|listener| listener.arrived(2)), [4, 2], "{run}");
}
