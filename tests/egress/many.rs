//! As many connections at once as there is room for: ten thousand, where a process may have the descriptors. And many names
//! of one server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    bed::{args, lines, procs},
    run::World,
    stage::{Stage, WEB_SERVER},
};

const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// Memory of a process that is its own, bytes.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn as_many_connections_as_there_is_room_for_take_64_mib_at_most_and_each_still_passes() {
    govsandbox::sys::open_files::raise(73_728);
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
    let (connections, _) = govsandbox::egress::relay::room(usize::try_from(files).unwrap());
    let stage = Stage::new();
    let listener = TcpListener::bind((WEB_SERVER, 0)).unwrap();
    let relay = stage.lead(WEB_SERVER, listener.local_addr().unwrap().port());
    let begin = Instant::now();
    let mut pairs: Vec<(TcpStream, TcpStream)> = Vec::with_capacity(connections);
    for round in 0..connections {
        let mut client = TcpStream::connect(relay).unwrap();
        client.write_all(&[0, round as u8]).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        server.read_exact(&mut [0; 2]).unwrap();
        pairs.push((client, server));
    }
    let took = begin.elapsed();
    let used = memory(stage.pid());
    println!("{connections} connections in {took:?}: {} KiB", used / 1024);
    assert!(used <= MEMORY_BYTES_MAX, "{used} bytes");
    // One more is turned away, and those that are there go on.
    let mut late = TcpStream::connect(relay).unwrap();
    late.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(late.read(&mut [0; 1]).is_err(), "one too many was taken");
    for (client, server) in pairs.iter_mut().rev().step_by(97) {
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
    }
    drop(pairs);
    listener.set_nonblocking(true).unwrap();
    let gone = || {
        let mut again = TcpStream::connect(relay).unwrap();
        let mut came = None;
        again.write_all(b"\0").is_ok()
            && procs::until(Duration::from_secs(5), || {
                came = listener.accept().ok();
                came.is_some()
            })
            && came.is_some_and(|(mut it, _)| {
                it.set_nonblocking(false).is_ok() && it.read(&mut [0; 1]).is_ok_and(|it| it == 1)
            })
    };
    assert!(procs::until(Duration::from_secs(30), gone), "there is no room again");
}

/// Looks the names up one after the other, and connects to some as they come, by TLS with the name.
const NAMES: &str = r#"
import socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
def reached(number):
    name = f"n{number}.wide.test"
    try:
        to = socket.getaddrinfo(name, 443, socket.AF_INET, socket.SOCK_STREAM)[0][4]
        if number % 100 and number < 1099: return True
        with socket.create_connection(to, 30) as s, context.wrap_socket(s, server_hostname=name): return True
    except OSError as error:
        return False
print([number for number in range(1100) if not reached(number)])
"#;

#[test]
fn a_thousand_names_of_one_server_are_known_each_after_the_other() {
    let world = World::new("egress-names");
    let names: Vec<String> = (0..10_000).map(|it| format!("\"n{it}.wide.test:443\"")).collect();
    let policy = world.policy(&format!("allow = [{}]", names.join(", ")));
    let script = world.bed.file("names.py", NAMES);
    let bare = world.bed.bare(args!["python3", &script]);
    assert_eq!(lines(&bare.stdout), ["[]"], "{bare:?}");
    let run = world.bed.run(&policy, args!["python3", &script]);
    assert_eq!(lines(&run.stdout), ["[]"], "{run}");
}
