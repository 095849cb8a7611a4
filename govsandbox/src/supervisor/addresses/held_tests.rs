//! Names of the host's file, and what happens where there is no room for more.

use super::*;
use crate::supervisor::held::ADDRESSES_MAX;

#[test]
fn names_of_the_hosts_file_have_their_addresses_without_a_lookup_and_for_as_long_as_they_stand_there() {
    let rules = [
        ("api.test", 443, true),
        ("db.test", 5432, true),
        ("10.1.0.0/16", 5432, true),
        ("bad.test", 0, false),
        ("*.test", 80, true),
        ("198.51.100.0/24", 0, false),
    ];
    let mut bed = Bed::new(&rules, Verify::WhereShared);
    bed.set_hosts(
        "192.0.2.1 API.test\n192.0.2.2 bad.test\n192.0.2.3 elsewhere.example\n10.1.0.1 db.test\n10.2.0.1 api.test\n\
         169.254.169.254 api.test\n127.0.0.1 api.test\n198.51.100.1 api.test\n2001:db8::1 api.test\n",
    );
    let ways = |bed: &Bed, port| -> String {
        let places = [
            A,
            "192.0.2.2",
            "192.0.2.3",
            "10.1.0.1",
            "10.2.0.1",
            "169.254.169.254",
            "127.0.0.1",
            "198.51.100.1",
            "2001:db8::1",
        ];
        places.iter().map(|address| bed.way(address, port)).collect()
    };
    assert_eq!((ways(&bed, 443), ways(&bed, 5432)), ("~-------~".to_owned(), "---+-----".to_owned()));
    // By a wildcard, and so compared, as an answer would be.
    assert_eq!(ways(&bed, 80), "~-------~");
    let verdict = bed.addresses.verify(A.parse().unwrap(), 80, Some("api.test"), Speech::Http1);
    assert!(verdict.allow && verdict.others == ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    assert!(!bed.verify(A, "other.test") && bed.verify(A, "api.test"));
    bed.expire(1_000_000);
    assert_eq!(ways(&bed, 443), "~-------~", "no time ends it");
    // An answer by DNS that says the same adds nothing that stays.
    assert!(bed.enter("api.test", A) && bed.enter("api.test", "192.0.2.9"));
    bed.set_hosts("192.0.2.4 api.test\n");
    assert_eq!((bed.way(A, 443), bed.way("192.0.2.4", 443), bed.way("192.0.2.9", 443)), ('-', '~', '~'));
    bed.enter("api.test", "192.0.2.5");
    bed.set_hosts("192.0.2.5 api.test\n");
    bed.set_hosts("");
    assert_eq!((bed.way("192.0.2.5", 443), bed.way("192.0.2.4", 443)), ('~', '-'), "answered besides");
    bed.expire(u64::from(TTL_S));
    assert_eq!(bed.way("192.0.2.5", 443), '-');
    assert_eq!(bed.kernel, bed.addresses.tables().unwrap(), "nothing is left");
}

#[test]
fn a_name_of_the_hosts_file_that_is_asked_about_has_its_address_while_somebody_allows_it() {
    let mut bed = Bed::asking(&[("api.example", 443, true)]);
    bed.set_hosts(&format!("{A} new.example api.example\n192.0.2.2 new.example\n10.0.0.1 new.example\n"));
    let told = |bed: &Bed, address: &str| -> Vec<String> {
        bed.addresses.names_told_of(address.parse().unwrap()).map(str::to_owned).collect()
    };
    assert_eq!((bed.standing(A, 443), bed.standing(A, 22)), (Standing::Allowed(ASKS), Standing::Open(ASKS)));
    assert_eq!(bed.standing("192.0.2.2", 443), Standing::Open(ASKS));
    assert!(bed.verify(A, "api.example") && !bed.verify(A, "new.example"));
    // Who is asked about the address learns of the name, and once.
    assert_eq!(
        (told(&bed, A), told(&bed, "192.0.2.2")),
        (vec!["api.example".to_owned(), "new.example".to_owned()], vec!["new.example".to_owned()])
    );
    assert!(told(&bed, "10.0.0.1").is_empty());
    let until = bed.now + Duration::from_secs(60);
    bed.consent(Asked::Name("new.example".to_owned()), Some(until));
    assert_eq!(bed.standing("192.0.2.2", 443), Standing::Allowed(ASKS));
    assert!(bed.verify(A, "new.example") && bed.verify("192.0.2.2", "new.example"));
    assert!(!bed.verify("10.0.0.1", "new.example"), "no range has it");
    assert_eq!(told(&bed, A), ["api.example", "new.example"]);
    bed.expire(60);
    assert_eq!(bed.standing("192.0.2.2", 443), Standing::Open(ASKS));
    assert!(bed.verify(A, "api.example") && !bed.verify(A, "new.example"));
    bed.consent(Asked::Name("new.example".to_owned()), None);
    bed.expire(1_000_000);
    assert!(bed.verify("192.0.2.2", "new.example"));
}

#[test]
fn ten_thousand_names_of_one_address_are_reached_each_after_it_was_looked_up() {
    let rules: Vec<EgressRule> =
        (0..10_000).map(|it| rule(&format!("n{it}.example"), 443, true, it + 1)).collect();
    let lists = vec![EgressLists { rules }];
    let mut bed = Bed::of(lists, Verify::WhereShared, NetworkNamespace::Host);
    bed.set_hosts(&format!("{A} n5.example\n"));
    for number in 0..10_000 {
        let name = format!("n{number}.example");
        assert!(bed.enter(&name, A) && bed.verify(A, &name), "{name}");
    }
    assert_eq!(bed.way(A, 443), '~');
    assert!(bed.verify(A, "n5.example"), "what the hosts file has is not forgotten for another");
    assert!(bed.verify(A, "n9200.example") && !bed.verify(A, "n8000.example"));
    assert!(bed.enter("n8000.example", A) && bed.verify(A, "n8000.example"));
}

#[test]
fn names_with_more_ports_than_an_address_has_room_for_take_turns() {
    let rules: Vec<EgressRule> =
        (0..60).map(|it| rule(&format!("n{it}.example"), 1000 + it, true, it + 1)).collect();
    let mut bed = Bed::of(vec![EgressLists { rules }], Verify::WhereShared, NetworkNamespace::Host);
    bed.set_hosts(&format!("{A} n3.example\n"));
    for number in 0..60 {
        assert!(bed.enter(&format!("n{number}.example"), A), "{number}");
        assert_eq!((bed.way(A, 1000 + number), bed.way(A, 1003)), ('~', '~'), "{number}");
    }
    assert_eq!((bed.way(A, 1000), bed.way(A, 1040)), ('-', '~'));
    // Held by the file they stay, and one more finds no room; the address is no less open for that.
    let filed: String = (0..32).map(|it| format!("192.0.2.2 n{it}.example\n")).collect();
    bed.set_hosts(&filed);
    let found = [("192.0.2.2".parse().unwrap(), TTL_S)];
    let (entered, changes) = bed.addresses.enter("n50.example", &found, bed.now);
    bed.write(changes);
    assert_eq!(entered, Entered { allowed: Vec::new(), full: true });
    assert_eq!((bed.way("192.0.2.2", 1000), bed.way("192.0.2.2", 1050)), ('~', '-'));
}

#[test]
fn an_address_that_finds_no_room_is_said_to_be_so_and_no_private_one() {
    let mut bed = Bed::new(&[("*.example", 443, true)], Verify::WhereShared);
    let mut full = false;
    for number in 0..=ADDRESSES_MAX as u32 {
        assert!(!full, "{number}");
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + number));
        let (entered, _) = bed.addresses.enter("a.example", &[(address, TTL_S)], bed.now);
        assert_eq!(entered.allowed.is_empty(), entered.full);
        full = entered.full;
        assert!(!full || number == ADDRESSES_MAX as u32);
    }
    assert!(full);
    let near = [("10.0.0.1".parse().unwrap(), TTL_S)];
    assert_eq!(bed.addresses.enter("a.example", &near, bed.now).0, Entered::default());
    bed.expire(u64::from(TTL_S));
    assert!(bed.enter("b.example", A));
}
