//! A whole run: programs that know of no service, with the resolver and the clients that people use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    bed::{Run, TestBed, net, sh, sys},
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
    _folder: TempDir,
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
        Self { bed: TestBed::new(name), _folder: folder, _servers: servers }
    }

    fn policy(&self, network: &str) -> PathBuf {
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
    assert!(
        first["bytes_sent"].as_u64() > Some(100) && first["bytes_received"].as_u64() > Some(100),
        "{run}"
    );
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
