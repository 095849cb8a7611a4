//! A whole run: programs that know of no service, with the resolver and the clients that people use.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    bed::{Run, TestBed, args, lines, net, sh, sys},
    servers::{Server, knot, nginx},
    stage::{NAME_SERVER, WEB_SERVER, WEB_SERVER6},
};

/// What each line of the script prints in a network without a sandbox.
const WORLD: [(&str, &str); 9] = [
    (r"curl --insecure https://www.test/ -w ' %{remote_ip}:%{remote_port}'", "www.test 192.0.2.80:443"),
    ("curl http://alias.test/ -H 'Host: www.test'", "www.test"),
    // The second name of the first one's address.
    ("curl --insecure --connect-to other.test:443:www.test:443 https://other.test/", "other.test"),
    ("curl http://www.test/ -H 'Host: other.test'", "other.test"),
    ("curl --insecure https://192.0.2.80/", "www.test"),
    ("getent ahostsv4 denied.test | head -n 1 | cut -d ' ' -f 1", "192.0.2.80"),
    ("getent ahostsv4 private.test | head -n 1 | cut -d ' ' -f 1", "10.1.2.3"),
    ("getent ahostsv4 cloak.test | head -n 1 | cut -d ' ' -f 1", "192.0.2.80"),
    ("getent ahostsv4 ns.test | head -n 1 | cut -d ' ' -f 1", "192.0.2.53"),
];

/// Knot and nginx, and a resolv.conf that names Knot, for the calling thread and what it starts.
pub(crate) struct World {
    pub(crate) bed: TestBed,
    folder: TempDir,
    _servers: [Server; 2],
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let addresses = [NAME_SERVER, WEB_SERVER, WEB_SERVER6].map(|it| {
            let bits = if it.contains(':') { 128 } else { 32 };
            format!("{it}/{bits}")
        });
        net::private_network(&addresses.each_ref().map(String::as_str));
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {NAME_SERVER}\n")).unwrap();
        sys::replace_for_thread(&resolv_conf, "/etc/resolv.conf".as_ref()).unwrap();
        let servers = [knot(folder.path()), nginx(folder.path())];
        Self { bed: TestBed::new(name), folder, _servers: servers }
    }

    /// Where the servers have their files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn policy(&self, network: &str) -> PathBuf {
        self.bed.policy("test", &format!("[network]\n{network}\n"))
    }

    fn script() -> String {
        let lines = WORLD.iter().map(|(line, _)| {
            let line = line.replace("curl ", "curl --ipv4 --silent --noproxy '*' --max-time 30 ");
            format!("({line}) 2>/dev/null; echo")
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What the lines of the script print, in order.
    #[track_caller]
    fn said(output: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(output);
        // Those of getent end their line themselves.
        let said: Vec<String> = text.split('\n').map(str::to_owned).collect();
        let mut said = said.into_iter();
        let mut found = Vec::new();
        for (line, _) in WORLD {
            let first = said.next().unwrap_or_default();
            if line.starts_with("getent") && !first.is_empty() {
                said.next();
            }
            found.push(first);
        }
        found
    }

    fn run(&self, policy: &Path) -> (Run, Vec<String>) {
        let run = self.bed.run(policy, sh(Self::script()));
        let said = Self::said(&run.stdout);
        (run, said)
    }
}

#[test]
fn names_are_answered_and_connections_compared_with_them() {
    let world = World::new("egress-run");
    let bare = world.bed.bare(sh(World::script()));
    let everything: Vec<&str> = WORLD.iter().map(|(_, said)| *said).collect();
    assert_eq!(World::said(&bare.stdout), everything, "{bare:?}");

    let names = "allow = [\"*.test:80,443\"]\ndeny = [\"denied.test\"]";
    let (run, said) = world.run(&world.policy(names));
    let mut expected = everything.clone();
    // Not the other name of the address, nor none; not what is denied, by no alias; not a private address.
    for refused in [2, 3, 4, 5, 6, 7] {
        expected[refused] = "";
    }
    assert_eq!(said, expected, "{run}");

    let queries = run.log.of("dns.query");
    let about = |name: &str, record_type: &str| {
        let found = queries.iter().find(|it| it.object("name") == name && it.object("type") == record_type);
        found.unwrap_or_else(|| panic!("{record_type} {name}: {queries:?}"))
    };
    let www = about("www.test", "A");
    assert_eq!((www.text("outcome"), www.rule()), ("allowed", Some("test/network.allow/0")), "{run}");
    assert_eq!(www.0["object"]["answers"], serde_json::json!([WEB_SERVER]), "{run}");
    assert_eq!((www.object("address"), www.0["object"]["port"].as_u64()), (NAME_SERVER, Some(53)), "{run}");
    assert!(www.process("exe").ends_with("curl") && www.0["process"]["uid"] == world.bed.uid(), "{run}");
    let denied = about("denied.test", "A");
    assert_eq!((denied.text("outcome"), denied.rule()), ("denied", Some("test/network.deny/0")), "{run}");
    let private = about("private.test", "A");
    assert_eq!(
        (private.text("outcome"), private.rule()),
        ("denied", Some("builtin/private-address")),
        "{run}"
    );

    let resets: Vec<_> = run.log.all_denied("net.connect");
    let names: Vec<_> = resets.iter().map(|it| it.0["object"]["server_name"].as_str()).collect();
    assert_eq!(names, [Some("other.test"), Some("other.test"), None], "{run}");
    for reset in resets {
        assert_eq!((reset.text("errno"), reset.rule()), ("ECONNRESET", Some("builtin/server-name")), "{run}");
        assert!(reset.object("name").contains("www.test") && reset.object("address") == WEB_SERVER, "{run}");
    }
    let closed = run.log.of("net.close");
    let first = &closed[0].0["object"];
    assert_eq!((closed[0].object("address"), closed[0].object("name")), (WEB_SERVER, "www.test"), "{run}");
    assert_eq!(closed[0].object("server_name"), "www.test", "{run}");
    assert!(
        first["bytes_sent"].as_u64() > Some(100) && first["bytes_received"].as_u64() > Some(100),
        "{run}"
    );
}

/// The address of a full name alone: whoever says another name there is refused, and who says none is not.
#[test]
fn by_a_full_name_no_other_one_is_reached_on_its_address() {
    let world = World::new("egress-full");
    let (run, said) = world.run(&world.policy("allow = [\"www.test:80,443,8443\"]"));
    let mut expected = vec![""; WORLD.len()];
    for allowed in [0, 4] {
        expected[allowed] = WORLD[allowed].1;
    }
    assert_eq!(said, expected, "{run}");
    let resets: Vec<_> = run.log.all_denied("net.connect");
    let names: Vec<_> = resets.iter().map(|it| it.0["object"]["server_name"].as_str()).collect();
    assert_eq!(names, [Some("other.test"), Some("other.test")], "{run}");
    // Where the address counts alone, it is the policy that says so.
    let (run, said) = world.run(&world.policy("allow = [\"www.test:80,443\"]\nverify = \"address\""));
    for allowed in [2, 3] {
        expected[allowed] = WORLD[allowed].1;
    }
    assert_eq!(said, expected, "{run}");
}

#[test]
fn what_is_not_named_is_not_answered_and_audit_mode_only_tells() {
    let world = World::new("egress-none");
    let (run, said) = world.run(&world.policy("allow = [\"www.elsewhere.example\"]"));
    let mut nothing = [""; WORLD.len()];
    nothing[0] = " :0"; // no address at all
    assert_eq!(said, nothing, "{run}");
    let queries = run.log.of("dns.query");
    assert!(queries.len() >= 6, "{run}");
    for query in queries {
        assert_eq!((query.text("outcome"), query.rule()), ("denied", Some("default/network.allow")), "{run}");
    }

    let audit = world
        .bed
        .raw_policy("test", "version = 1\nname = \"test\"\nmode = \"audit\"\n[network]\nallow = []\n");
    let (run, said) = world.run(&audit);
    let everything: Vec<&str> = WORLD.iter().map(|(_, said)| *said).collect();
    assert_eq!(said, everything, "{run}");
    assert!(run.log.of("dns.query").iter().all(|query| query.text("outcome") == "would_deny"), "{run}");
}

/// Tries one thing after the other, and prints what came of each; the arguments are ports: of a server on loopback outside,
/// and of one that talks first.
const TRIES: &str = r#"
import socket, sys, threading
outside, greeter = int(sys.argv[1]), int(sys.argv[2])
def attempt(what, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(20)
            print(what(s))
    except OSError as error:
        print(type(error).__name__, error.errno)
def to(address, port, says=b""):
    def talk(s):
        s.connect((address, port))
        s.sendall(says)
        return s.recv(12).decode(), s.getpeername()[0] == address
    return talk
print("192.0.2.80" in open("/proc/net/fib_trie").read())
attempt(to("192.0.2.80", greeter))
attempt(to("192.0.2.80", 443, b"neither TLS nor HTTP\r\n\r\n"))
attempt(to("192.0.2.80", 81))
attempt(to("127.0.0.1", outside))
attempt(lambda s: s.sendto(b"x", ("192.0.2.80", 9)), kind=socket.SOCK_DGRAM)
with socket.create_server(("127.0.0.1", outside if len(sys.argv) > 3 else 0)) as own:
    port = own.getsockname()[1]
    threading.Thread(target=lambda: own.accept()[0].sendall(b"own"), daemon=True).start()
    attempt(to("127.0.0.1", port))
"#;

#[test]
fn in_a_network_of_its_own_there_is_only_what_the_relay_leads_to() {
    let world = World::new("egress-own");
    let greet = |address: &str| {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.write_all(b"hello").ok();
            }
        });
        port.to_string()
    };
    let (outside, greeter) = (greet("127.0.0.1:0"), greet(&format!("{WEB_SERVER}:0")));
    let script = world.bed.file("tries.py", TRIES);
    let tries = |more: &[&str]| {
        let words = args!["python3", &script, &outside, &greeter];
        words.into_iter().chain(more.iter().map(OsString::from)).collect::<Vec<_>>()
    };
    let policy = |namespace: &str| {
        world.policy(&format!(
            "allow = [\"*.test\", \"{WEB_SERVER}:443,{greeter}\", \"localhost\", {{ host = \"{WEB_SERVER}\", ports = 9, \
             protocol = \"udp\" }}]\nnamespace = \"{namespace}\"\n"
        ))
    };
    let (hello, own) = ("('hello', True)", "('own', True)");
    let bare = world.bed.bare(tries(&[]));
    let bare = lines(&bare.stdout);
    let mut all = ["True", hello, &bare[2], "ConnectionRefusedError 111", hello, "1", own].map(str::to_owned);
    assert_eq!(bare, all);
    assert!(bare[2].contains("HTTP/1.1 400"), "{bare:?}");

    let run = world.bed.run(&policy("host"), tries(&[]));
    all[3] = "PermissionError 1".to_owned();
    assert_eq!(lines(&run.stdout), all, "{run}");

    // The port of the server outside is another's here.
    let run = world.bed.run(&policy("own"), tries(&["take its port"]));
    for (place, said) in [(0, "False"), (4, "PermissionError 1"), (5, "OSError 101")] {
        all[place] = said.to_owned();
    }
    assert_eq!(lines(&run.stdout), all, "{run}");
    let closed = run.log.of("net.close");
    assert!(closed.iter().any(|it| it.object("address") == WEB_SERVER), "{run}");

    let (run, said) = world.run(&policy("own"));
    assert_eq!(said[0], WORLD[0].1, "{run}");
    assert_eq!(run.log.of("dns.query")[0].text("outcome"), "allowed", "{run}");
}
