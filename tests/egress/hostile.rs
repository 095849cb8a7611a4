//! What is no lookup, whose is nobody's, and too much of everything.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use govsandbox::egress::channel::{Event, Limit, Outcome};
use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    servers::{FakeDns, knot, query, udp},
    stage::Stage,
};

/// Packets without sense, from a generator with a fixed seed.
fn garbage(seed: &mut u64, length: usize) -> Vec<u8> {
    (0..length)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 56) as u8
        })
        .collect()
}

#[test]
fn hostile_packets_end_nothing() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let before = stage.pid();
    let header = [0x10, 0xe1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for name in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[63, 1], &[0x80, 0]] {
        let reply = stage.exchange(&[&header, name, &[0, 1, 0, 1]].concat()).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::FormErr, "{name:?}");
    }
    stage.broker.until("the event", |state| {
        let malformed = |it: &Event| matches!(it, Event::Query(query) if query.outcome == Outcome::Malformed);
        (state.events.iter().filter(|it| malformed(it)).count() == 4).then_some(())
    });
    let socket = udp(SocketAddr::from(([127, 83, 1, 7], stage.ports.dns4_udp)));
    let mut seed = 7;
    for round in 0..2000 {
        let mut packet = query("www.test.", RecordType::A);
        match round % 3 {
            0 => packet = garbage(&mut seed, round % 700),
            1 => {
                let (at, to) = (round % packet.len(), garbage(&mut seed, 1)[0]);
                packet[at] = to;
            }
            _ => packet.truncate(round % packet.len()),
        }
        socket.send(&packet).unwrap();
    }
    // What found no room was dropped, as a resolver's client expects of datagrams.
    let reply = (0..3).find_map(|_| stage.exchange(&query("www.test.", RecordType::A))).expect("no reply");
    assert_eq!(reply.answers.len(), 1);
    assert_eq!((stage.pid(), stage.broker.with(|state| state.ended.len())), (before, 0));
}

#[test]
fn nobody_else_gets_an_answer() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    assert_eq!(stage.ask("www.test.", RecordType::A).answers.len(), 1);
    stage.broker.with(|state| state.origins.clear());
    let socket = udp(SocketAddr::from(([127, 83, 1, 7], stage.ports.dns4_udp)));
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send(&query("www.test.", RecordType::A)).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err(), "a stranger was answered");
    let mut stream = TcpStream::connect(("127.0.0.1", stage.ports.relay4)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    stage.broker.until("both strangers", |state| {
        let count = state.events.iter().filter(|it| matches!(it, Event::Stranger(_))).count();
        (count == 2).then_some(())
    });
}

#[test]
fn a_flood_of_lookups_is_bounded_and_told() {
    let stage = Stage::new();
    let upstream = FakeDns::new(|_| None);
    let socket = udp(SocketAddr::from(([127, 83, 1, 7], stage.ports.dns4_udp)));
    let begin = std::time::Instant::now();
    let limited = |event: &Event| match event {
        Event::Limited { what: Limit::Queries, count } => Some(*count),
        _ => None,
    };
    let count = (0_u32..).find_map(|round| {
        assert!(begin.elapsed() < Duration::from_secs(60), "no limit");
        // Others than those that arrive: the receive buffer is bounded too.
        socket.send(&query(&format!("n{round}.test."), RecordType::A)).unwrap();
        if round % 64 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        stage.broker.with(|state| state.events.iter().find_map(limited))
    });
    assert!(count > Some(0));
    drop(upstream);
    // Those in flight have ten seconds; then there is room again.
    let refused =
        (0..3).find_map(|_| stage.exchange(&query("other.example.", RecordType::A))).expect("no room");
    assert_eq!(refused.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn tcp_clients_that_dribble_or_say_nothing_hold_up_nobody() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", stage.ports.dns4_tcp)).unwrap();
        stream.write_all(&[0xff]).unwrap();
        silent.push(stream);
    }
    assert_eq!(stage.ask_over_tcp("www.test.", RecordType::A).answers.len(), 1);
    // After a while they are sent away.
    silent[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(silent[0].read(&mut [0; 1]), Ok(0) | Err(_)));
    let error = silent[0].read(&mut [0; 1]).err();
    assert_ne!(error.map(|it| it.kind()), Some(std::io::ErrorKind::WouldBlock));
}
