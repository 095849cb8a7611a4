//! Hosts that somebody is asked about: what waits, who may answer, and what comes of it.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use govsandbox::{
    egress::{
        channel::{Event, Outcome, Permission, Permitted, ResetReason, Settings},
        names::{NameRule, Pattern, Ports},
    },
    policy::compile::EgressEffect,
};
use hickory_proto::{op::Message, rr::RecordType};
use serde_json::Value;

use crate::{
    bed::{
        self, Log,
        procs::{until, wait_with_output},
        sh,
    },
    run::World,
    servers::{knot, query, udp},
    stage::{Stage, WEB_SERVER, WEB_SERVER6, settings},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// As [`settings`], and all other names are asked about.
fn asking() -> Settings {
    let mut settings = settings();
    settings.lists[0].push(NameRule {
        pattern: Pattern::Any,
        ports: vec![Ports { first: 0, last: u16::MAX }],
        transport: None,
        effect: EgressEffect::Ask,
        rule: 9,
    });
    Settings { ask_ms: Some(60_000), ..settings }
}

/// Answers the oldest that waits.
fn answer(stage: &Stage, permission: Permission) {
    stage.broker.until("a question", |state| (!state.waiting.is_empty()).then_some(()));
    let respond = stage.broker.with(|state| state.waiting.remove(0));
    respond.send(Permitted { permission, rule: 9 });
}

#[test]
fn a_lookup_waits_for_its_answer_and_no_other_waits_with_it() {
    let stage = Stage::with(asking());
    let _knot = knot(stage.folder.path());
    let server = SocketAddr::from(([127, 83, 1, 7], stage.ports.dns4_udp));
    let reply = |client: &std::net::UdpSocket| {
        let mut buffer = [0; 4096];
        let bytes = client.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..bytes]).unwrap()
    };
    let held = udp(server);
    held.send(&query("www.elsewhere.", RecordType::A)).unwrap();
    stage.broker.until("the question", |state| (state.permits == ["www.elsewhere"]).then_some(()));
    assert_eq!(stage.ask("www.test.", RecordType::A).answers.len(), 1, "others are answered meanwhile");
    assert!(stage.ask("denied.test.", RecordType::A).answers.is_empty());
    assert!(stage.ask("80.2.0.192.in-addr.arpa.", RecordType::PTR).answers.is_empty());
    // Asked again by a resolver that has given up: the first gets no reply, which would end its wait.
    held.send(&query("www.elsewhere.", RecordType::A)).unwrap();
    stage.broker.until("the second", |state| (state.waiting.len() == 2).then_some(()));
    answer(&stage, Permission::Joined);
    held.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(held.recv(&mut [0; 512]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    held.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    answer(&stage, Permission::Allowed);
    reply(&held); // Knot knows nothing of it, and was asked
    assert_eq!(stage.broker.query("www.elsewhere").rule, 9);

    let refused = udp(server);
    for permission in [Permission::RefusedByPerson, Permission::NoAnswer, Permission::Crowded] {
        refused.send(&query("other.elsewhere.", RecordType::A)).unwrap();
        answer(&stage, permission);
        assert!(reply(&refused).answers.is_empty());
        let event = stage.broker.until("its event", |state| {
            state.events.iter().find_map(|event| match event {
                Event::Query(query) if query.permission == Some(permission) => Some(query.clone()),
                _ => None,
            })
        });
        assert_eq!(
            (event.name.as_str(), event.outcome, event.rule),
            ("other.elsewhere", Outcome::Refused, 9)
        );
    }
    let denied = stage.broker.with(|state| state.permits.contains(&"denied.test".to_owned()));
    assert!(!denied, "nobody is asked about what a rule denies");
}

#[test]
fn a_connection_waits_and_nothing_arrives_anywhere_before_it_is_allowed() {
    let stage = Stage::with(asking());
    let listener = TcpListener::bind((WEB_SERVER, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let relay = stage.lead(WEB_SERVER, listener.local_addr().unwrap().port());
    let nobody = || listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);

    let mut client = TcpStream::connect(relay).unwrap();
    client.write_all(b"\0hello").unwrap();
    stage.broker.until("the question", |state| (state.permits == [WEB_SERVER]).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    assert!(nobody());
    answer(&stage, Permission::RefusedByPerson);
    client.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let reset = stage.broker.reset(ResetReason::Permission(Permission::RefusedByPerson), None);
    assert_eq!(reset.rule, 9);
    assert!(nobody());

    let mut client = TcpStream::connect(relay).unwrap();
    client.write_all(b"\0hello").unwrap();
    answer(&stage, Permission::Allowed);
    listener.set_nonblocking(false).unwrap();
    let mut said = [0; 6];
    listener.accept().unwrap().0.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"\0hello");
}

/// Runs a subcommand as root, outside of every sandbox.
pub(crate) fn govsandbox(words: &[&str]) -> Output {
    Command::new(bed::binary()).args(words).output().unwrap()
}

pub(crate) fn waiting() -> Vec<Value> {
    let listed = govsandbox(&["approve", "--format", "json"]);
    let found: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap_or_else(|_| panic!("{listed:?}"));
    assert_eq!(listed.status.code(), Some(i32::from(found.is_empty())), "{listed:?}");
    found
}

pub(crate) fn id(question: &Value) -> String {
    format!("{}.{}", question["id"]["sandbox"], question["id"]["number"])
}

/// Answers as `answers` says, by host, until it is dropped; other runs ask too.
struct Person {
    gone: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<Value>>>,
}

impl Person {
    fn new(answers: &'static [(&'static str, &'static [&'static str])]) -> Self {
        let gone = Arc::<AtomicBool>::default();
        let is_gone = Arc::clone(&gone);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !is_gone.load(Ordering::SeqCst) {
                for question in waiting() {
                    let Some((_, words)) = answers.iter().find(|(host, _)| question["host"] == *host) else {
                        continue;
                    };
                    let said = govsandbox(&[*words, &[&id(&question)]].concat());
                    assert_eq!(said.status.code(), Some(0), "{said:?}");
                    // Once is enough.
                    assert_eq!(govsandbox(&[*words, &[&id(&question)]].concat()).status.code(), Some(1));
                    seen.push(question);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            seen
        });
        Self { gone, thread: Some(thread) }
    }

    fn leave(mut self) -> Vec<Value> {
        self.gone.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// All but `www.test` is asked about.
fn policy(world: &World, timeout: &str) -> std::path::PathBuf {
    let network =
        format!("allow = [\"www.test:80,443\"]\ndeny = [\"denied.test\"]\nask_timeout = \"{timeout}\"");
    let rule = "[[rule]]\nid = \"unknown-hosts\"\nmatch = { network = \"*\" }\neffect = \"ask\"";
    world.bed.policy("test", &format!("[network]\n{network}\n{rule}\n"))
}

#[test]
fn unknown_hosts_are_reached_when_somebody_says_so() {
    let world = World::new("egress-asked");
    let curl6 = "curl --globoff --silent --noproxy '*' --max-time 60";
    let curl = "curl --ipv4 --silent --noproxy '*' --max-time 60";
    let lines = [
        format!("{curl} http://www.test/"),
        format!("{curl} http://alias.test/"),
        format!("{curl} http://alias.test/"), // kept
        format!("{curl} http://alias.test/ -H 'Host: www.elsewhere'"),
        format!("{curl} http://chain.test/"),
        format!("{curl} http://chain.test/"), // kept too
        format!("{curl} http://denied.test/"),
        format!("{curl} --insecure https://{WEB_SERVER}/"), // whose address that is stands, and it names nobody
        format!("{curl6} --insecure https://[{WEB_SERVER6}]/"), // nobody's address so far
        format!("{curl6} --insecure https://[{WEB_SERVER6}]:8443/"),
        "echo end".to_owned(),
    ];
    let script: String = lines.iter().map(|line| format!("{line}; echo\n")).collect();
    let person = Person::new(&[
        ("alias.test", &["approve"]),
        ("chain.test", &["refuse"]),
        // Of an address each port is a question.
        (WEB_SERVER6, &["approve", "--once"]),
    ]);
    let run = world.bed.run(&policy(&world, "120s"), sh(script));
    let seen = person.leave();
    let hosts: Vec<(&str, Option<u64>)> =
        seen.iter().map(|it| (it["host"].as_str().unwrap(), it["port"].as_u64())).collect();
    let expected =
        [("alias.test", None), ("chain.test", None), (WEB_SERVER6, Some(443)), (WEB_SERVER6, Some(8443))];
    assert_eq!(hosts, expected, "{run}");
    assert!(
        seen.iter().all(|it| it["program"].as_str().unwrap().ends_with("/curl") && it["agent"] == "sh"),
        "{seen:?}"
    );
    let out = run.out();
    assert_eq!(
        out.trim_end().lines().collect::<Vec<_>>(),
        ["www.test", "www.test", "www.test", "", "", "", "", "", "www.test", "www.test", "end"],
        "{run}"
    );

    let approvals = run.log.of("approval");
    let told: Vec<(&str, &str, &str)> =
        approvals.iter().map(|it| (it.text("action"), it.text("outcome"), it.object("detail"))).collect();
    let expected = [
        ("approve", "allowed", "for the session"),
        ("refuse", "denied", "for the session"),
        ("approve", "allowed", "for a minute"),
        ("approve", "allowed", "for a minute"),
    ];
    assert_eq!(told, expected, "{run}");
    for approval in approvals {
        assert_eq!(approval.rule(), Some("unknown-hosts"), "{run}");
        assert!(approval.process("exe").ends_with("curl"), "{run}");
        assert!(
            approval.0["object"]["decided_by"].is_u64() && approval.0["object"]["waited_ns"].is_u64(),
            "{run}"
        );
    }
    let about = |name: &str| {
        let queries = run.log.of("dns.query");
        let found =
            queries.iter().find(|it| it.object("name") == name).unwrap_or_else(|| panic!("{name}: {run}"));
        (found.text("outcome").to_owned(), found.rule().unwrap_or_default().to_owned())
    };
    assert_eq!(about("alias.test"), ("allowed".to_owned(), "unknown-hosts".to_owned()));
    assert_eq!(about("chain.test"), ("denied".to_owned(), "unknown-hosts".to_owned()));
    assert_eq!(about("denied.test"), ("denied".to_owned(), "test/network.deny/0".to_owned()));
    let fronted = run.log.all_denied("net.connect");
    assert_eq!(fronted.len(), 2, "{run}");
    assert_eq!(
        (fronted[0].object("server_name"), fronted[0].rule()),
        ("www.elsewhere", Some("builtin/server-name"))
    );
}

#[test]
fn what_nobody_answers_is_refused_and_nobody_inside_can_answer() {
    let world = World::new("egress-unanswered");
    let program = bed::binary().display();
    let folder = "/run/govsandbox/ask";
    // As root without a capability, who may open what root may.
    let script = format!(
        "(getent ahostsv4 ns.test; echo asked) &\n\
         {program} approve; echo status $?\n\
         while ! [ -s runs ]; do sleep 0.05; done\n\
         for run in $(cat runs); do {program} approve $run.1; echo status $?; rm -f {folder}/$run; done\n\
         mv {folder} {folder}-away; echo x > {folder}/x; echo $(ls {folder}) files\nwait\n"
    );
    let body = "version = 1\nname = \"test\"\n[filesystem]\nwrite = [\"/run\", \"/dev/null\"]\n\
                [network]\nallow = []\nask_timeout = \"3s\"\nunix = [\"/run/govsandbox/ask/**\"]\n\
                [[rule]]\nid = \"unknown-hosts\"\nmatch = { network = \"*\" }\neffect = \"ask\"\n";
    let policy = world.bed.raw_policy("test", body);
    let mut start = world.bed.start(&[&policy], sh(script)).by_root();
    let child = start.spawn();
    // Those of other tests among them.
    let runs = || fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.file_name());
    let own = || Some(Log::so_far(start.log()).of("session.start").first()?.0["sandbox_id"].to_string());
    let listens = || own().is_some_and(|id| Path::new(folder).join(id).exists());
    assert!(until(PATIENCE, listens), "there is no socket");
    let names: Vec<_> = runs().map(|name| name.into_string().unwrap()).collect();
    world.bed.file("runs", names.join("\n"));
    let run = start.read(wait_with_output(child, PATIENCE));
    let out = run.out();
    let said: Vec<&str> = out.lines().collect();
    assert!(said.contains(&"asked") && !out.contains("192.0.2"), "{run}");
    assert!(said.iter().filter(|line| **line == "status 125").count() >= 2, "{run}");
    assert!(!out.contains("status 0") && said.contains(&"files"), "{run}");
    assert!(Path::new(folder).is_dir() && !Path::new(&format!("{folder}-away")).exists());
    let approvals = run.log.of("approval");
    assert!(!approvals.is_empty(), "{run}");
    for approval in approvals {
        assert_eq!((approval.text("action"), approval.text("outcome")), ("expire", "denied"), "{run}");
        assert!(approval.0["object"]["waited_ns"].as_u64() >= Some(3_000_000_000), "{run}");
    }
    assert!(run.log.of("dns.query").iter().all(|it| it.text("outcome") == "denied"), "{run}");
    // Nobody else has a way in.
    let socket = fs::read_dir(folder).unwrap().next();
    assert!(socket.is_none_or(|it| it.is_ok()), "the run's own is gone or another's");
    let stranger = world.bed.bare(sh(format!("{program} approve; echo status $?")));
    assert!(String::from_utf8_lossy(&stranger.stdout).contains("status 125"), "{stranger:?}");
}
