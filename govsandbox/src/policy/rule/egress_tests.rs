//! The grammar of `network.*`.

use super::*;

fn allowed(text: &str) -> Result<EgressPattern, EgressError> {
    EgressPattern::check(&RawEgressRule::Text(text.to_owned()), EgressList::Allow)
}

/// Host and ports as they come out: `Name("a") 443`.
fn read(text: &str) -> String {
    let pattern = allowed(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let ports: Vec<_> = pattern.ports().iter().map(ToString::to_string).collect();
    let host = match pattern.host() {
        HostPattern::Network { address, prefix_bits } => format!("{address}/{prefix_bits}"),
        other => format!("{other:?}"),
    };
    format!("{host} {}", ports.join(","))
}

#[test]
fn hosts_and_ports_read_as_the_grammar_says() {
    for (text, meaning) in [
        ("api.example.com", r#"Name("api.example.com") 443"#),
        ("api.example.com:80,8000-8010", r#"Name("api.example.com") 80,8000-8010"#),
        ("*.example.com:*", r#"Below("example.com") *"#),
        ("localhost", "Localhost *"),
        ("localhost:5432", "Localhost 5432"),
        ("*", "Any *"),
        ("*:443", "Any 443"),
        ("10.1.2.3", "10.1.2.3/32 *"),
        ("10.20.0.0/16:5432", "10.20.0.0/16 5432"),
        ("::1", "::1/128 *"),
        ("2001:db8::/32", "2001:db8::/32 *"),
        ("[2001:db8::/32]:443", "2001:db8::/32 443"),
        ("[::1]", "::1/128 *"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8 *"),
        ("[::ffff:10.1.2.3]:80", "10.1.2.3/32 80"),
        ("::/0", "::/0 *"),
        ("xn--bcher-kva.example", r#"Name("xn--bcher-kva.example") 443"#),
    ] {
        assert_eq!(read(text), meaning, "{text}");
    }
}

#[test]
fn nonsense_is_refused() {
    type Is = fn(&EgressError) -> bool;
    let cases: [(&str, Is); 24] = [
        ("", |e| matches!(e, EgressError::Empty)),
        (":443", |e| matches!(e, EgressError::Empty)),
        ("https://a.example/x", |e| matches!(e, EgressError::Url { host, .. } if host == "a.example")),
        ("A.example", |e| matches!(e, EgressError::UpperCase { lower, .. } if lower == "a.example")),
        ("a.example.", |e| matches!(e, EgressError::TrailingDot { .. })),
        ("bücher.example", |e| matches!(e, EgressError::NotAscii { .. })),
        ("a.*.example", |e| matches!(e, EgressError::InnerWildcard { .. })),
        ("*a.example", |e| matches!(e, EgressError::InnerWildcard { .. })),
        ("a..b", |e| matches!(e, EgressError::Host { .. })),
        ("-a.example", |e| matches!(e, EgressError::Host { .. })),
        ("a b", |e| matches!(e, EgressError::Host { .. })),
        ("10.0.0.300", |e| matches!(e, EgressError::Address { .. })),
        ("10.0.1", |e| matches!(e, EgressError::Address { .. })),
        ("010.0.0.1", |e| matches!(e, EgressError::Address { .. })),
        ("10.0.0.0/33", |e| matches!(e, EgressError::Prefix { max: 32, .. })),
        ("10.0.0.0/+8", |e| matches!(e, EgressError::Prefix { .. })),
        (
            "10.0.0.1/8",
            |e| matches!(e, EgressError::HostBits { network, .. } if network.to_string() == "10.0.0.0"),
        ),
        ("[::1", |e| matches!(e, EgressError::Bracket { .. })),
        ("[::1]443", |e| matches!(e, EgressError::Bracket { .. })),
        ("a.example:0", |e| matches!(e, EgressError::Port { .. })),
        ("a.example:70000", |e| matches!(e, EgressError::Port { .. })),
        ("a.example:+80", |e| matches!(e, EgressError::Port { .. })),
        ("a.example:90-80", |e| matches!(e, EgressError::PortRange { first: 90, last: 80 })),
        ("a.example:80,", |e| matches!(e, EgressError::Port { .. })),
    ];
    for (text, is) in cases {
        let error = allowed(text).expect_err(text);
        assert!(is(&error), "{text}: {error:?}");
    }
}

#[test]
fn denied_is_denied_on_every_port_and_protocol() {
    let raw = RawEgressRule::Text("a.example".to_owned());
    let denied = EgressPattern::check(&raw, EgressList::Deny).unwrap();
    assert_eq!((denied.ports(), denied.protocol()), (&[ALL_PORTS][..], Protocol::Any));
}

#[test]
fn a_wildcard_below_a_top_level_domain_is_remarked_on() {
    assert!(allowed("*.com").unwrap().warning().is_some());
    assert!(allowed("*.example.com").unwrap().warning().is_none());
}

#[test]
fn a_deny_of_loopback_covers_the_unspecified_address() {
    let network =
        |address: &str, prefix_bits| HostPattern::Network { address: address.parse().unwrap(), prefix_bits };
    for (address, bits) in
        [("127.0.0.1", 32), ("127.0.0.2", 32), ("127.0.0.0", 8), ("0.0.0.0", 0), ("::1", 128)]
    {
        assert_eq!(network(address, bits).detours().len(), 2, "{address}/{bits}");
    }
    for (address, bits) in [("128.0.0.1", 32), ("10.0.0.0", 8), ("2001:db8::", 32), ("::2", 128)] {
        assert_eq!(network(address, bits).detours(), [], "{address}/{bits}");
    }
}
