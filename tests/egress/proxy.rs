//! A company's forward proxy: what goes through it, what it is told, and what it may answer.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::spawn,
    time::Duration,
};

use govsandbox::egress::channel::{Outcome, Proxy, ProxyFault, ResetReason, Settings};
use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    bed::sh,
    run::World,
    servers::FakeDns,
    stage::{Stage, WEB_SERVER, settings},
};

/// What an answer to CONNECT is, by the first label of the name.
const ANSWERS: [(&str, &[u8]); 6] = [
    ("wants", b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n"),
    ("refuses", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
    ("closes", b""),
    ("half", b"HTTP/1.1 200"),
    ("mute", b"SSH-2.0-x\r\n"),
    ("long", b"HTTP/1.1 200 OK\r\n"),
];

/// A proxy that knows every name: all of them are [`WEB_SERVER`]. It remembers the heads of requests.
struct Company {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Company {
    fn new() -> Self {
        Self::at(0)
    }

    fn at(port: u16) -> Self {
        let listener = TcpListener::bind((WEB_SERVER, port)).unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&heads);
        spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                spawn(move || drop(serve(client, &seen)));
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve(client: TcpStream, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    heads.lock().unwrap().push(head.clone());
    let mut client = client;
    let target = head.strip_prefix("CONNECT ").and_then(|it| it.split(' ').next()).unwrap_or_default();
    let (name, port) = target.rsplit_once(':').unwrap_or_default();
    let label = name.split('.').next().unwrap_or_default();
    if let Some((label, answer)) = ANSWERS.iter().find(|(it, _)| *it == label) {
        client.write_all(answer)?;
        if *label == "long" {
            client.write_all("x: y\r\n".repeat(10_000).as_bytes())?;
        }
        return Ok(());
    }
    let server = TcpStream::connect((WEB_SERVER, port.parse().unwrap_or(0)))?;
    // In pieces, and what the server says first right behind it.
    client.set_nodelay(true)?;
    for part in [&b"HTTP/1.1 200 Connec"[..], b"tion established\r\n", b"Via: 1.1 company\r\n\r\n"] {
        client.write_all(part)?;
        std::thread::sleep(Duration::from_millis(15));
    }
    let (mut from_client, mut to_server) = (lines, server.try_clone()?);
    let up = spawn(move || {
        drop(io::copy(&mut from_client, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    drop(io::copy(&mut &server, &mut client));
    drop(client.shutdown(Shutdown::Write));
    drop(up.join());
    Ok(())
}

#[test]
fn a_connection_goes_to_the_proxy_by_its_name_and_what_a_proxy_says_is_no_more_than_that() {
    // The stage makes the network, so the company comes second.
    let port = 3128;
    let place = Settings {
        proxy: Some(Proxy {
            host: WEB_SERVER.to_owned(),
            port,
            authorization: Some("Basic c2VjcmV0".to_owned()),
            direct: vec!["direct.test".to_owned()],
        }),
        ..settings()
    };
    let stage = Stage::with(place);
    let company = Company::at(port);
    let server = TcpListener::bind((WEB_SERVER, 2222)).unwrap();
    spawn(move || {
        for stream in server.incoming().flatten() {
            (&stream).write_all(b"hello from the server").unwrap();
            drop(io::copy(&mut &stream, &mut io::sink()));
        }
    });
    // A server that speaks first, behind an address that is nobody's.
    let says = |address: &str| {
        let relay = stage.lead(address, 2222);
        let mut client = TcpStream::connect(relay).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut said = [0; 21];
        client.read_exact(&mut said).map(|()| String::from_utf8(said.to_vec()).unwrap())
    };
    stage.name("198.18.0.1", "shell.test");
    assert_eq!(says("198.18.0.1").unwrap(), "hello from the server");
    let expected = "CONNECT shell.test:2222 HTTP/1.1\r\nHost: shell.test:2222\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n";
    assert_eq!(company.heads(), [expected]);
    // One that the proxy is not for goes to its own address.
    stage.name(WEB_SERVER, "direct.test");
    assert_eq!(says(WEB_SERVER).unwrap(), "hello from the server");
    assert_eq!(company.heads().len(), 1);

    let faults = [
        ("wants", ProxyFault::Status(407)),
        ("refuses", ProxyFault::Status(403)),
        ("closes", ProxyFault::Closed),
        ("half", ProxyFault::Closed),
        ("mute", ProxyFault::Malformed),
        ("long", ProxyFault::Malformed),
    ];
    for (place, (label, fault)) in faults.into_iter().enumerate() {
        let address = format!("198.18.1.{place}");
        stage.name(&address, &format!("{label}.test"));
        assert_eq!(says(&address).unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{label}");
        let event = stage.broker.until(label, |state| {
            state.events.iter().find_map(|event| match event {
                govsandbox::egress::channel::Event::Reset(it) if it.reason == ResetReason::Proxy(fault) => {
                    it.expected.contains(&format!("{label}.test")).then(|| it.clone())
                }
                _ => None,
            })
        });
        assert_eq!(event.origin.address.to_string(), address);
    }
}

#[test]
fn a_name_that_only_the_proxy_knows_gets_an_address_and_no_other_name_does() {
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused] {
        let proxy = Proxy {
            host: WEB_SERVER.to_owned(),
            port: 1,
            authorization: None,
            direct: vec!["direct.test".to_owned()],
        };
        let stage = Stage::with(Settings { proxy: Some(proxy), ..settings() });
        let _upstream = FakeDns::new(move |message| {
            let mut reply = message.clone().into_response();
            reply.metadata.response_code = code;
            Some(reply.to_vec().unwrap())
        });
        stage.broker.with(|state| state.stand_in = Some("198.18.0.7".parse().unwrap()));
        let reply = stage.ask("hidden.test.", RecordType::A);
        let found: Vec<_> = reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        assert_eq!(found, ["198.18.0.7".parse::<std::net::IpAddr>().unwrap()], "{code}");
        assert_eq!(stage.broker.query("hidden.test").outcome, Outcome::Answered);
        let v6 = stage.ask("hidden.test.", RecordType::AAAA);
        assert_eq!((v6.metadata.response_code, v6.answers.len()), (ResponseCode::NoError, 0), "{code}");
        for name in ["direct.test.", "denied.test.", "hidden.elsewhere."] {
            assert!(stage.ask(name, RecordType::A).answers.is_empty(), "{name}");
        }
        assert!(stage.ask("hidden.test.", RecordType::TXT).answers.is_empty());
    }
}

#[test]
fn all_that_is_allowed_by_name_goes_through_and_nothing_of_the_proxy_is_known_inside() {
    let world = World::new("egress-proxy");
    let company = Company::new();
    let url = format!("http://me:s3cretw0rd@{}", company.address);
    let curl = "curl --silent --insecure --max-time 60 --noproxy '*'";
    let lines = [
        format!("{curl} http://www.test/"),
        format!("{curl} https://hidden.elsewhere/"),
        format!("{curl} https://hidden.elsewhere:8443/"),
        format!(
            "{curl} https://hidden.elsewhere/ -H 'Host: x' --connect-to hidden.elsewhere:443:www.test:443"
        ),
        format!("{curl} http://other.elsewhere/"),
        format!("{curl} --noproxy '' --proxytunnel --proxy {url} http://www.test/"),
        "env | grep -i -c _proxy=".to_owned(),
        "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c 's3cretw[0]rd'".to_owned(),
    ];
    let script: String = lines.iter().map(|line| format!("{line}; echo\n")).collect();
    let bare =
        world.bed.bare(sh(format!("curl --silent --proxytunnel --proxy {url} http://hidden.elsewhere/")));
    assert_eq!(String::from_utf8_lossy(&bare.stdout), "www.test", "control: {bare:?}");
    assert_eq!(company.heads.lock().unwrap().drain(..).count(), 1);

    let network = "allow = [\"*.test:80,443\", \"hidden.elsewhere:80,443,8443\"]\nverify = \"address\"";
    for verify in ["sni", "address"] {
        let network = network.replace("address", verify);
        let policy = world.bed.policy("test", &format!("[network]\n{network}\nproxy_from_env = true\n"));
        let mut start = world.bed.start(&[&policy], sh(script.clone())).by_root();
        start.process.env("HTTPS_PROXY", &url).env("npm_config_proxy", &url);
        let run = start.finish();
        let out = run.out();
        let said: Vec<&str> = out.lines().filter(|line| !line.is_empty()).collect();
        let fronted = if verify == "sni" { None } else { Some("www.test") };
        let expected: Vec<&str> =
            ["www.test", "www.test", "www.test"].into_iter().chain(fronted).chain(["0", "0"]).collect();
        assert_eq!(said, expected, "{verify}: {run}");
        let heads = company.heads.lock().unwrap().drain(..).collect::<Vec<_>>();
        let targets: Vec<&str> = heads.iter().map(|head| head.split(' ').nth(1).unwrap()).collect();
        let mut wanted = vec!["www.test:80", "hidden.elsewhere:443", "hidden.elsewhere:8443"];
        wanted.extend(fronted.map(|_| "www.test:443"));
        assert_eq!(targets, wanted, "{verify}: {run}");
        assert!(
            heads.iter().all(|head| head.contains("Proxy-Authorization: Basic bWU6czNjcmV0dzByZA==")),
            "{heads:?}"
        );
        for event in &run.log.events {
            // The script names it itself.
            let event = event.0.to_string().replace(&url, "");
            assert!(!event.contains("s3cretw0rd") && !event.contains("bWU6"), "{event}");
        }
    }
}
