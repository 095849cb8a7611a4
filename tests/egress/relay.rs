//! Connections through the relay: whose name they say, what passes, and how they end.

use std::{
    io::{self, ErrorKind, Read, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    process::{Command, Output},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use govsandbox::egress::channel::{Event, ResetReason, Settings, Speech};

use crate::{
    servers::nginx,
    stage::{Stage, WEB_SERVER, settings},
};

/// What curl prints and how it ends; `host` is what it is told the relay's address is.
fn curl(stage: &Stage, url: &str, host: &str, words: &[&str]) -> Output {
    let port = stage.ports.relay4;
    Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "30"])
        .args(["--connect-to", &format!("::127.0.0.1:{port}"), "--resolve", &format!("{host}:443:127.0.0.1")])
        .args(words)
        .arg(url)
        .output()
        .expect("`curl` is missing: install curl")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A ClientHello as bytes of one handshake message, with a list of extensions.
fn hello(name: Option<&str>, padding: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        extensions.extend(body);
    };
    extension(0x3a3a, &[]); // GREASE (RFC 8701)
    if let Some(name) = name {
        let length = u16::try_from(name.len()).unwrap();
        extension(
            0,
            &[&(length + 3).to_be_bytes()[..], &[0], &length.to_be_bytes(), name.as_bytes()].concat(),
        );
    }
    extension(10, &[0, 6, 0x1a, 0x1a, 0x11, 0xec, 0, 29]); // GREASE, X25519MLKEM768, X25519
    extension(13, &[0, 4, 4, 3, 8, 4]);
    extension(43, &[4, 0x2a, 0x2a, 3, 4]);
    // Key shares of GREASE and of X25519MLKEM768: 1216 bytes.
    let share = [&[0x1a, 0x1a, 0, 1, 0][..], &[0x11, 0xec, 4, 0xc0], &[7; 1216]].concat();
    extension(51, &[&u16::try_from(share.len()).unwrap().to_be_bytes()[..], &share].concat());
    // ECH as browsers grease it: outer, HKDF-SHA256 with AES-128-GCM, a key and a payload of noise.
    let noise = [5; 144];
    extension(0xfe0d, &[&[0, 0, 1, 0, 1, 7, 0, 32][..], &noise[..32], &[0, 144], &noise].concat());
    if padding > 0 {
        extension(21, &vec![0; padding]);
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(32);
    body.extend([8; 32]);
    body.extend([0, 4, 0x2a, 0x2a, 0x13, 1]); // GREASE, TLS_AES_128_GCM_SHA256
    body.extend([1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], bytes: usize) -> Vec<u8> {
    let record =
        |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(bytes).flat_map(record).collect()
}

/// Takes one connection, at [`WEB_SERVER`], and gives what `serve` makes of it.
fn server<T: Send + 'static>(
    port: u16,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind((WEB_SERVER, port)).unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
}

fn read_all(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What came, however it ended.
fn read_until_reset(stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.take(1 << 20).read_to_end(&mut bytes).ok();
    bytes
}

fn is_reset<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

#[test]
fn tls_passes_for_a_name_of_the_address_and_for_no_other() {
    let stage = Stage::new();
    let _nginx = nginx(stage.folder.path());
    stage.lead(WEB_SERVER, 443);
    stage.name(WEB_SERVER, "www.test");
    for version in ["--tlsv1.3", "--tls-max 1.2"] {
        let words: Vec<&str> = version.split(' ').collect();
        let passed = curl(&stage, "https://www.test/", "www.test", &words);
        assert_eq!(text(&passed), "www.test", "{version}");
    }
    // The other name of the same address, by the same server.
    let refused = curl(&stage, "https://other.test/", "other.test", &[]);
    assert!(!refused.status.success() && text(&refused).contains("reset by peer"), "{}", text(&refused));
    let event = stage.broker.reset(ResetReason::Name, Some("other.test"));
    assert_eq!((event.expected, event.rule), (vec!["www.test".to_owned()], 5));
    // Positive control: with a rule for it, it passes.
    stage.name(WEB_SERVER, "other.test");
    assert_eq!(text(&curl(&stage, "https://other.test/", "other.test", &[])), "other.test");
    let nameless = curl(&stage, "https://127.0.0.1/", "x", &[]);
    assert!(!nameless.status.success());
    stage.broker.reset(ResetReason::NoName, None);
    stage.broker.with(|state| assert!(state.verified.iter().all(|it| it.speech == Speech::Tls)));
}

#[test]
fn http_passes_for_a_name_of_the_address_and_for_no_other() {
    let stage = Stage::new();
    let _nginx = nginx(stage.folder.path());
    stage.lead(WEB_SERVER, 80);
    stage.name(WEB_SERVER, "www.test");
    assert_eq!(text(&curl(&stage, "http://www.test/", "x", &[])), "www.test");
    assert_eq!(text(&curl(&stage, "http://www.test./", "x", &["-H", "Host: WWW.test.:80"])), "www.test");
    for words in [
        &["-H", "Host: other.test"][..],
        &["-H", "Host: other.test", "-H", "X: y", "--http1.0"],
        &["-H", "Host:"],
        &["-H", "Host: 127.0.0.1"],
        &["--request-target", "http://other.test/"],
        &["--request-target", "http://other.test/", "-H", "Host: www.test"],
        &["-X", "CONNECT", "--request-target", "other.test:443", "-H", "Host: www.test"],
        &["--http2-prior-knowledge", "-H", "Host: other.test"],
    ] {
        let refused = curl(&stage, "http://www.test/", "x", words);
        assert!(!refused.status.success(), "{words:?}: {}", text(&refused));
    }
}

#[test]
fn a_hello_may_come_in_pieces_and_be_as_long_as_it_may_be() {
    let stage = Stage::new();
    stage.name(WEB_SERVER, "www.test");
    for (padding, record, piece) in
        [(0, 16384, 1), (0, 1, 700), (14_000, 16384, 1400), (60_000, 16384, 65_536), (60_000, 9000, 1460)]
    {
        let sent = records(&hello(Some("www.test"), padding), record);
        let (address, received) = server(0, read_all);
        let relay = stage.lead(WEB_SERVER, address.port());
        let mut client = TcpStream::connect(relay).unwrap();
        client.set_nodelay(true).unwrap();
        let pause = sent.len() / piece < 4000;
        for (at, part) in sent.chunks(piece).enumerate() {
            client.write_all(part).unwrap();
            if pause && at % 8 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert!(received.join().unwrap().unwrap() == sent, "{padding} in {record} by {piece}");
        let seen = stage.broker.with(|state| state.verified.pop().unwrap().name);
        assert_eq!(seen.as_deref(), Some("www.test"));
    }
}

#[test]
fn what_is_neither_tls_nor_http_passes_by_address_but_not_on_their_ports() {
    let stage = Stage::new();
    // The server speaks first, as SSH and SMTP do.
    let (address, served) = server(22, |mut stream| {
        stream.write_all(b"SSH-2.0-server\r\n").unwrap();
        read_all(stream).unwrap()
    });
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    let mut banner = [0; 16];
    client.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-server\r\n");
    client.write_all(b"SSH-2.0-client\r\nrest").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.join().unwrap(), b"SSH-2.0-client\r\nrest");
    // Not where the supervisor says that the address is no reason.
    stage.broker.with(|state| state.by_name_only = true);
    let (address, served) = server(22, read_all);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    client.write_all(b"SSH-2.0-client\r\n").unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    assert!(served.join().unwrap().map_or(true, |got| got.is_empty()), "nothing of it was passed on");
    stage.broker.reset(ResetReason::NoName, None);
    for first in [
        // Half of something, and no more: nobody else waits because of it.
        &b"\x16\x03\x01\x00"[..],
        b"GET / HTTP/1.1\r\nHost: w",
    ] {
        let mut client = TcpStream::connect(stage.lead(WEB_SERVER, 443)).unwrap();
        client.write_all(first).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        assert!(is_reset(&client.read(&mut [0; 1])), "{first:?}");
        stage.broker.reset(ResetReason::Malformed, None);
    }
    for first in [
        &b"SSH-2.0-client\r\n"[..],
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x01\x02",
    ] {
        let mut client = TcpStream::connect(stage.lead(WEB_SERVER, 443)).unwrap();
        client.write_all(first).unwrap();
        assert!(is_reset(&client.read(&mut [0; 1])), "{first:?}");
    }
    // On another port TLS and HTTP are looked at all the same.
    for first in [
        records(&hello(Some("evil.example"), 0), 16384),
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(),
    ] {
        let (address, served) = server(0, |mut stream| stream.read(&mut [0; 1]));
        let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
        client.write_all(&first).unwrap();
        assert!(is_reset(&client.read(&mut [0; 1])));
        assert!(!matches!(served.join().unwrap(), Ok(1..)), "something got through");
        stage.broker.reset(ResetReason::Name, Some("evil.example"));
    }
}

/// What may yet become a request is passed on when the client waits, and judged when it becomes one.
#[test]
fn a_client_that_says_little_has_its_answer() {
    let stage = Stage::new();
    for words in ["ping", "hello world", "\r\n", "GET /"] {
        let (address, served) = server(0, move |mut stream| {
            stream.read_exact(&mut vec![0; words.len()]).unwrap();
            stream.write_all(b"pong").unwrap();
            read_all(stream).unwrap()
        });
        let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        client.write_all(words.as_bytes()).unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        client.write_all(b"\0and so on").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(served.join().unwrap().starts_with(b"\0and"), "{words:?}");
    }
    // A request is judged whole, however it came, and no server has all of it.
    let request = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x0f\x01\x04\0\0\0\x01\x82\x86\x84\x41\x0aevil.testx";
    for (request, name) in [(&request[..], "evil.example"), (&http2[..], "evil.testx")] {
        for at in [1, 3, 4, 9, 15, request.len() - 1] {
            let (address, served) = server(0, read_until_reset);
            let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
            client.set_nodelay(true).unwrap();
            client.write_all(&request[..at]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            client.write_all(&request[at..]).unwrap();
            assert!(is_reset(&client.read(&mut [0; 1])), "{name} {at}");
            assert!(served.join().unwrap().len() <= at, "{name} {at}");
            stage.broker.reset(ResetReason::Name, Some(name));
        }
    }
    // Nor does the end of what is said make a request of half of one.
    let (address, served) = server(0, read_all);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    assert!(served.join().unwrap().map_or(true, |got| got.is_empty()));
    // What was passed on counts with what follows, also where the address is a reason no longer.
    let (address, served) = server(0, read_until_reset);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    client.set_nodelay(true).unwrap();
    stage.name(WEB_SERVER, "www.test");
    client.write_all(b"GET /leak").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    stage.broker.with(|state| state.by_name_only = true);
    client.write_all(b"-more").unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    assert_eq!(served.join().unwrap(), b"GET /leak");
    // And where the address is no reason nothing is passed on.
    stage.broker.with(|state| state.by_name_only = true);
    let (address, served) = server(0, read_all);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    client.write_all(b"ping").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    client.write_all(b"\0").unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    assert!(served.join().unwrap().map_or(true, |got| got.is_empty()));
}

#[test]
fn audit_mode_resets_nothing_and_tells() {
    let stage = Stage::with(Settings { enforce: false, ..settings() });
    let (address, served) = server(0, read_all);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    let sent = records(&hello(Some("evil.example"), 0), 16384);
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.join().unwrap().unwrap(), sent);
    stage.broker.reset(ResetReason::Name, Some("evil.example"));
}

/// A connection through the relay that has said its name, and the server's end of it.
fn pair(stage: &Stage) -> (TcpStream, TcpStream) {
    stage.name(WEB_SERVER, "www.test");
    let first = records(&hello(Some("www.test"), 0), 16384);
    let length = first.len();
    let (address, served) = server(0, move |mut stream| {
        stream.read_exact(&mut vec![0; length]).unwrap();
        stream
    });
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, address.port())).unwrap();
    client.write_all(&first).unwrap();
    let server = served.join().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    }
    (client, server)
}

#[test]
fn one_half_may_be_closed_and_the_other_go_on() {
    let stage = Stage::new();
    let (mut client, mut server) = pair(&stage);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    server.write_all(b"still here").unwrap();
    let mut buffer = [0; 10];
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"still here");
    drop(server);
    assert_eq!(client.read(&mut buffer).unwrap(), 0);
}

#[test]
fn a_reset_of_either_end_is_a_reset_of_the_other() {
    let stage = Stage::new();
    for client_first in [true, false] {
        let (client, server) = pair(&stage);
        let (resets, mut other) = if client_first { (client, server) } else { (server, client) };
        rustix::net::sockopt::set_socket_linger(resets.as_fd(), Some(Duration::ZERO)).unwrap();
        drop(resets);
        assert!(is_reset(&other.read(&mut [0; 1])), "client first: {client_first}");
    }
}

#[test]
fn a_server_that_is_not_there_is_a_reset_and_an_event() {
    let stage = Stage::new();
    stage.name(WEB_SERVER, "www.test");
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, 443)).unwrap();
    client.write_all(&records(&hello(Some("www.test"), 0), 16384)).unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    stage.broker.reset(ResetReason::Unreachable(libc::ECONNREFUSED), None);
}

/// As clients do that are not connected at once.
#[test]
fn where_one_address_of_a_name_is_dead_another_is_tried() {
    let stage = Stage::new();
    // A cable to nobody: that takes seconds to be found out.
    for words in [
        "link add lost type veth peer name nobody",
        "link set nobody up",
        "addr add 198.51.100.1/24 dev lost",
        "link set lost up",
    ] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
    }
    let first = records(&hello(Some("www.test"), 0), 16384);
    for (dead, errno) in [(WEB_SERVER, Some(libc::ECONNREFUSED)), ("198.51.100.9", None)] {
        stage.name(dead, "www.test");
        let elsewhere: std::net::IpAddr = "127.0.0.9".parse().unwrap();
        let listener = TcpListener::bind((elsewhere, 443)).unwrap();
        stage.broker.with(|state| state.others = vec![elsewhere]);
        let mut client = TcpStream::connect(stage.lead(dead, 443)).unwrap();
        client.write_all(&first).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(listener.accept().unwrap().0).unwrap(), first, "{dead}");
        let told = stage.broker.until("the other address", |state| {
            state.events.iter().find_map(|event| match event {
                Event::Elsewhere { origin, address, errno } if origin.address.to_string() == dead => {
                    Some((*address, *errno))
                }
                _ => None,
            })
        });
        assert_eq!(told, (elsewhere, errno));
    }
    // None is left.
    stage.broker.with(|state| state.others = vec!["127.0.0.9".parse().unwrap()]);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, 443)).unwrap();
    client.write_all(&first).unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    stage.broker.reset(ResetReason::Unreachable(libc::ECONNREFUSED), None);
}

#[test]
fn a_client_that_says_nothing_is_reset_on_a_port_for_tls() {
    let stage = Stage::new();
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, 443)).unwrap();
    client.write_all(&[22, 3]).unwrap();
    let begin = Instant::now();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    assert!(begin.elapsed() > Duration::from_secs(5));
    stage.broker.reset(ResetReason::Silent, None);
}

#[test]
fn a_supervisor_that_does_not_answer_allows_nothing() {
    let stage = Stage::with(Settings { patience_ms: 3000, ..settings() });
    stage.broker.with(|state| state.mute = true);
    let mut client = TcpStream::connect(stage.lead(WEB_SERVER, 443)).unwrap();
    client.write_all(&records(&hello(Some("www.test"), 0), 16384)).unwrap();
    assert!(is_reset(&client.read(&mut [0; 1])));
    stage.broker.reset(ResetReason::Unanswered, Some("www.test"));
}

#[test]
fn what_a_slow_reader_does_not_take_waits_with_the_sender() {
    let stage = Stage::new();
    let (mut client, mut server) = pair(&stage);
    // Nobody reads: the sender must come to a stop, with what the kernel holds between the two.
    client.set_nonblocking(true).unwrap();
    let (block, mut sent, mut quiet) = (vec![0x5a; 65_536], 0_u64, 0);
    while quiet < 20 {
        match client.write(&block) {
            Ok(bytes) => (sent, quiet) = (sent + bytes as u64, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < 64 << 20, "{sent} bytes went nowhere");
    drop(client);
    let mut received = 0;
    while let bytes @ 1.. = server.read(&mut vec![0; 1 << 20]).unwrap() {
        received += bytes as u64;
    }
    assert_eq!(received, sent);
}

#[test]
fn much_passes_both_ways_at_once_and_arrives_as_it_was() {
    let stage = Stage::new();
    let (client, server) = pair(&stage);
    const BYTES: usize = 64 << 20;
    let pattern = |from: usize, length: usize, salt: u8| -> Vec<u8> {
        (from..from + length)
            .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ salt)
            .collect()
    };
    std::thread::scope(|scope| {
        for (out, into, salt) in [(&client, &server, 1_u8), (&server, &client, 2)] {
            scope.spawn(move || {
                let mut out = out;
                for at in (0..BYTES).step_by(1 << 16) {
                    out.write_all(&pattern(at, 1 << 16, salt)).unwrap();
                }
                out.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (mut into, mut at, mut buffer) = (into, 0, vec![0; 1 << 17]);
                while let bytes @ 1.. = into.read(&mut buffer).unwrap() {
                    assert!(buffer[..bytes] == pattern(at, bytes, salt), "at {at}");
                    at += bytes;
                }
                assert_eq!(at, BYTES);
            });
        }
    });
}
