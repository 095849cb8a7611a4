use proptest::prelude::*;

use super::*;

fn named(speech: Speech, name: &str) -> Option<Hello> {
    Some(Hello::Named(speech, name.to_owned()))
}

/// A ClientHello with these extensions and those that every client sends, as one handshake message.
fn client_hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let usual = [(13, vec![0, 2, 4, 3]), (43, vec![2, 3, 4])];
    let mut list = Vec::new();
    for (kind, body) in extensions.iter().chain(&usual) {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        list.extend(body);
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

fn server_name(names: &[&str]) -> (u16, Vec<u8>) {
    let mut list = Vec::new();
    for name in names {
        list.push(0);
        list.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        list.extend(name.as_bytes());
    }
    (0, [&u16::try_from(list.len()).unwrap().to_be_bytes()[..], &list].concat())
}

fn in_records(message: &[u8], bytes: usize) -> Vec<u8> {
    let record =
        |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(bytes).flat_map(record).collect()
}

fn tls(extensions: &[(u16, Vec<u8>)]) -> Option<Hello> {
    read(&in_records(&client_hello(extensions), 16384))
}

#[test]
fn the_name_of_a_hello_is_read_however_it_is_cut() {
    let hello = client_hello(&[(0x4a4a, vec![]), server_name(&["API.example"])]);
    for bytes in [1, 2, 3, 4, 5, 40, 16384] {
        let whole = in_records(&hello, bytes);
        assert_eq!(read(&whole), named(Speech::Tls, "api.example"), "{bytes}");
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None, "{bytes} {cut}");
        }
        // Early data and whatever else comes behind.
        assert_eq!(read(&[&whole[..], b"\x17\x03\x03\0\x01x"].concat()), named(Speech::Tls, "api.example"));
    }
    let long = client_hello(&[server_name(&["api.example"]), (21, vec![0; 60_000])]);
    assert_eq!(read(&in_records(&long, 16384)), named(Speech::Tls, "api.example"));
}

#[test]
fn a_hello_that_names_nobody_or_two_or_nonsense_is_told_apart() {
    assert_eq!(tls(&[]), Some(Hello::Nameless(Speech::Tls)));
    assert_eq!(tls(&[server_name(&["192.0.2.1"])]), Some(Hello::Nameless(Speech::Tls)));
    for extensions in [
        vec![server_name(&["a.example", "b.example"])],
        vec![server_name(&["a.example"]), server_name(&["b.example"])],
        vec![server_name(&["a b"])],
        vec![server_name(&["a\0.example"])],
        vec![server_name(&[""])],
        vec![server_name(&["b\u{fc}cher.example"])],
        vec![(0, vec![0, 3, 0, 0, 9])],
    ] {
        assert_eq!(tls(&extensions), Some(Hello::Malformed), "{extensions:?}");
    }
    // Records of another kind before or between, an empty one, another message, one that is too long.
    let hello = in_records(&client_hello(&[server_name(&["a.example"])]), 20);
    for odd in [
        [&b"\x16\x03\x01\0\0"[..], &hello].concat(),
        [&hello[..25], b"\x15\x03\x01\0\x02\x01\x70", &hello[25..]].concat(),
        [&hello[..25], b"\x14\x03\x01\0\x01\x01", &hello[25..]].concat(),
        b"\x16\x03\x01\0\x04\x02\0\0\0".to_vec(),
        b"\x16\x03\x01\0\x04\x01\xff\xff\xff".to_vec(),
        b"\x16\x03\x01\xff\xff\x01".to_vec(),
    ] {
        assert_eq!(read(&odd), Some(Hello::Malformed), "{odd:?}");
    }
    assert_eq!(read(b"\x16\x02\x00"), Some(Hello::Other));
}

#[test]
fn the_host_of_a_request_is_read() {
    let http = |name| named(Speech::Http1, name);
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nHost: A.example\r\n\r\n", http("a.example")),
        ("GET / HTTP/1.1\nhost:a.example.:8080\n\n", http("a.example")),
        (
            "\r\n\r\nPOST /x HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
            http("a.example"),
        ),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", http("a.example")),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", http("a.example")),
        ("GET / HTTP/1.0\r\n\r\n", Some(Hello::Nameless(Speech::Http1))),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Some(Hello::Nameless(Speech::Http1))),
    ] {
        assert_eq!(read(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn a_request_that_servers_may_read_in_two_ways_is_malformed() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nhost : b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n b.example\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://b.example@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example@b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\0\r\n\r\n",
        "GET / HTTP/3.1\r\nHost: a.example\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /\tHTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET \x0b/\x0bhttp/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        assert_eq!(read(text.as_bytes()), Some(Hello::Malformed), "{text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(40_000));
    assert_eq!(read(long.as_bytes()), Some(Hello::Malformed));
}

/// The first bytes of curl with `--http2-prior-knowledge`: preface, SETTINGS, WINDOW_UPDATE, and HEADERS without Huffman
/// coding or the dynamic table.
fn http2(fields: &[(&str, &str)]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, u8::try_from(name.len()).unwrap()]);
        block.extend(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 2, 0, 0, 0]);
    let (half, rest) = block.split_at(block.len() / 2);
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        settings,
        frame(8, 0, 0, &[1, 0, 0, 0]),
        frame(1, 1, 1, half),
        frame(9, 4, 1, rest),
    ]
    .concat()
}

#[test]
fn the_authority_of_a_request_of_http2_is_read() {
    let request = |more: &[(&str, &str)]| {
        let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        http2(&[&usual, more].concat())
    };
    let h2 = |name| named(Speech::Http2, name);
    for (fields, expected) in [
        (&[(":authority", "A.example:80")][..], h2("a.example")),
        (&[(":authority", "a.example"), ("host", "a.example")], h2("a.example")),
        (&[("host", "a.example.")], h2("a.example")),
        (&[], Some(Hello::Nameless(Speech::Http2))),
        (&[(":authority", "a.example"), ("host", "b.example")], Some(Hello::Malformed)),
        (&[(":authority", "192.0.2.1:80"), ("host", "a.example")], Some(Hello::Malformed)),
        (&[("host", "a.example"), ("host", "b.example")], Some(Hello::Malformed)),
    ] {
        let bytes = request(fields);
        assert_eq!(read(&bytes), expected, "{fields:?}");
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), None, "{fields:?} {cut}");
        }
        // What comes behind changes nothing, nonsense neither.
        assert_eq!(read(&[&bytes[..], &[0xff; 200]].concat()), expected, "{fields:?}");
    }
    assert_eq!(read(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"), Some(Hello::Malformed));
    let mut long = request(&[]);
    long.truncate(45);
    // Settings again and again.
    while long.len() < 40_000 {
        long.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    }
    assert_eq!(read(&long), Some(Hello::Malformed));
}

#[test]
fn other_protocols_are_other() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"EHLO host\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"{\"json\":1}",
        b"a-method-that-is-longer-than-any-known ",
    ] {
        assert_eq!(read(bytes), Some(Hello::Other), "{bytes:?}");
    }
    for bytes in [&b""[..], b"G", b"GET", b"GET ", b"GET / HT", b"PRI * HTT", b"\x16", b"\x16\x03", b"\r\n"] {
        assert_eq!(read(bytes), None, "{bytes:?}");
    }
}

fn stays(bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = read(bytes);
    for cut in 0..bytes.len() {
        let part = read(&bytes[..cut]);
        prop_assert!(part.is_none() || part == whole, "{cut}: {part:?}, then {whole:?}");
    }
    Ok(())
}

proptest! {
    /// What the relay lets through by its first bytes is what the server reads with all of them.
    #[test]
    fn what_was_told_stays(
        head in "(GET|POST|CONNECT|X) (/|http://a\\.b/|c:1) HTTP/1\\.[01]\r?\n((Host|host|X): ?(a\\.b|c|)\r?\n){0,3}\r?\n[a-z\r\n]{0,8}"
    ) {
        stays(head.as_bytes())?;
    }

    #[test]
    fn any_bytes_are_read_without_a_fault(first in 0_u8..40, rest in proptest::collection::vec(any::<u8>(), 0..80)) {
        stays(&[&[first][..], &rest].concat())?;
        stays(&[&b"\x16\x03\x01\0\x30\x01"[..], &rest].concat())?;
    }

    #[test]
    fn a_damaged_hello_is_read_without_a_fault(at in 0_usize..160, to in any::<u8>(), bytes in 1_usize..90) {
        let mut hello = in_records(&client_hello(&[server_name(&["a.example"])]), bytes);
        if let Some(byte) = hello.get_mut(at) { *byte = to; }
        stays(&hello)?;
    }
}
