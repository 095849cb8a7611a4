//! Whether a connection may go on, by what it says.

use super::*;

/// By full names too what is said on the ports of TLS and HTTP is heard; there it may be left out.
#[test]
fn where_a_full_name_has_an_address_alone_another_name_is_refused_and_none_is_not() {
    let rules = [("one.example", 443, true), ("two.example", 443, true), ("*.wide.example", 443, true)];
    let mut bed = Bed::new(&rules, Verify::WhereShared);
    bed.enter("one.example", A);
    assert_eq!(bed.way(A, 443), '~');
    let strict = |bed: &Bed, port| bed.addresses.is_strict(A.parse().unwrap(), port);
    let silent = |bed: &Bed, speech| bed.addresses.verify(A.parse().unwrap(), 443, None, speech).allow;
    assert!(!strict(&bed, 443) && !strict(&bed, 22));
    assert!(bed.verify(A, "one.example") && !bed.verify(A, "two.example") && !bed.verify(A, "cdn.test"));
    assert!(silent(&bed, Speech::Tls) && silent(&bed, Speech::Other));
    // Another that has it too, or a wildcard: then it counts who is meant.
    bed.enter("two.example", A);
    assert!(strict(&bed, 443) && !silent(&bed, Speech::Tls) && !silent(&bed, Speech::Other));
    assert!(bed.verify(A, "one.example") && bed.verify(A, "two.example"));
    for (rules, verify) in [
        (vec![("one.example", 443, true), ("*.example", 443, true)], Verify::WhereShared),
        (vec![("one.example", 443, true)], Verify::Sni),
    ] {
        let mut bed = Bed::new(&rules, verify);
        bed.enter("one.example", A);
        assert!(strict(&bed, 443) && !silent(&bed, Speech::Tls) && !silent(&bed, Speech::Other), "{rules:?}");
    }
    let mut bed = Bed::new(&[("one.example", 443, true), ("bad.example", 0, false)], Verify::WhereShared);
    bed.enter("one.example", A);
    bed.deny("bad.example", A);
    assert!(strict(&bed, 443) && !silent(&bed, Speech::Tls) && bed.verify(A, "one.example"));
}

#[test]
fn a_connection_names_one_that_has_the_address_and_is_allowed() {
    let mut bed = Bed::new(&[("*.example", 443, true), ("bad.example", 0, false)], Verify::Sni);
    bed.enter("a.example", A);
    bed.enter("b.example", "192.0.2.2");
    assert!(bed.verify(A, "a.example"));
    for name in ["b.example", "bad.example", "other.test", "example"] {
        assert!(!bed.verify(A, name), "{name}");
    }
    let other = |port| bed.addresses.verify(A.parse().unwrap(), port, None, Speech::Other).allow;
    assert!(!other(443) && !other(22), "a rule for 443 is for no other port");
    let nameless = bed.addresses.verify(A.parse().unwrap(), 443, None, Speech::Tls);
    assert_eq!((nameless.allow, nameless.names), (false, vec!["a.example".to_owned()]));
}

#[test]
fn what_speaks_neither_tls_nor_http_goes_by_address() {
    let mut bed = Bed::new(&[("*.example", 22, true)], Verify::WhereShared);
    bed.enter("git.example", A);
    assert!(bed.addresses.verify(A.parse().unwrap(), 22, None, Speech::Other).allow);
    assert!(!bed.addresses.verify(A.parse().unwrap(), 22, Some("x.test"), Speech::Tls).allow);
}
