//! What a packet asks for.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};

use crate::egress::channel::Outcome;

/// Header of a message (RFC 1035, 4.1.1).
const HEADER_BYTES: usize = 12;
/// Bit of the third octet: this is a response.
const IS_RESPONSE: u8 = 0x80;
/// What a client may take that says nothing (RFC 1035, 4.2.1).
pub(super) const PAYLOAD_BYTES_PLAIN: u16 = 512;
/// Types that stand for others or for a transaction, 128 to 255 (RFC 6895, 3.1), and OPT.
const META_TYPES: std::ops::RangeInclusive<u16> = 128..=255;
const OPT: u16 = 41;

/// A packet, as far as it can be understood.
#[derive(Debug)]
pub(super) enum Parsed {
    /// No query, and nothing to reply to.
    Nothing,
    /// A query that gets this code.
    Refused(Head, ResponseCode, Outcome),
    /// A question, for its name to be judged.
    Question(Head, Question),
}

/// What a reply repeats.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: u16,
    pub(super) operation: OpCode,
    pub(super) recursion_desired: bool,
    /// As it was spelled, upper case and all (draft-vixie-dnsext-dns0x20).
    pub(super) query: Option<Query>,
    /// Longest datagram that the client takes; `None`: it does not speak EDNS.
    pub(super) edns_payload: Option<u16>,
}

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Lower case, with its root.
    pub(super) name: Name,
    pub(super) kind: RecordType,
}

/// Reads a packet.
pub(super) fn parse(packet: &[u8]) -> Parsed {
    let Some(header) = packet.get(..HEADER_BYTES) else { return Parsed::Nothing };
    let [id_high, id_low, flags, ..] = *header else { return Parsed::Nothing };
    if flags & IS_RESPONSE != 0 {
        return Parsed::Nothing; // replying to replies goes on for ever
    }
    let Ok(message) = Message::from_vec(packet) else {
        let id = u16::from_be_bytes([id_high, id_low]);
        let head =
            Head { id, operation: OpCode::Query, recursion_desired: false, query: None, edns_payload: None };
        return Parsed::Refused(head, ResponseCode::FormErr, Outcome::Malformed);
    };
    if message.metadata.message_type != MessageType::Query {
        return Parsed::Nothing;
    }
    let head = Head {
        id: message.metadata.id,
        operation: message.metadata.op_code,
        recursion_desired: message.metadata.recursion_desired,
        query: message.queries.first().cloned(),
        edns_payload: message.edns.as_ref().map(|edns| edns.max_payload().max(PAYLOAD_BYTES_PLAIN)),
    };
    if message.metadata.op_code != OpCode::Query {
        return Parsed::Refused(head, ResponseCode::NotImp, Outcome::RefusedKind);
    }
    if message.edns.is_some_and(|edns| edns.version() > 0) {
        return Parsed::Refused(head, ResponseCode::BADVERS, Outcome::Malformed);
    }
    let [query] = message.queries.as_slice() else {
        return Parsed::Refused(head, ResponseCode::FormErr, Outcome::Malformed);
    };
    let kind = query.query_type();
    let number = u16::from(kind);
    if query.query_class() != DNSClass::IN || META_TYPES.contains(&number) || number == OPT || number == 0 {
        return Parsed::Refused(head, ResponseCode::Refused, Outcome::RefusedKind);
    }
    let mut name = query.name().to_lowercase();
    name.set_fqdn(true);
    Parsed::Question(head, Question { name, kind })
}

/// A name as events and rules have it: no dot at the end, odd bytes escaped (so that no rule holds for it).
pub(super) fn text(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::egress::names::{NameRule, Names, Pattern, Ports, Transport};

    fn packet(change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.add_query(Query::query(Name::from_ascii("WWW.Example.").unwrap(), RecordType::A));
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn refusal(packet: &[u8]) -> Option<(ResponseCode, Outcome)> {
        match parse(packet) {
            Parsed::Refused(head, code, outcome) => {
                assert_eq!(head.id, 7);
                Some((code, outcome))
            }
            Parsed::Nothing | Parsed::Question(..) => None,
        }
    }

    #[test]
    fn a_question_is_folded_and_its_spelling_kept() {
        let Parsed::Question(head, question) = parse(&packet(|_| {})) else { panic!() };
        assert_eq!((text(&question.name).as_str(), question.kind), ("www.example", RecordType::A));
        assert_eq!(head.query.unwrap().name().to_ascii(), "WWW.Example.");
    }

    #[test]
    fn what_nobody_needs_is_refused() {
        for kind in
            [RecordType::ANY, RecordType::AXFR, RecordType::IXFR, RecordType::TSIG, RecordType::from(253)]
        {
            let packet = packet(|it| it.queries[0].query_type = kind);
            assert_eq!(refusal(&packet), Some((ResponseCode::Refused, Outcome::RefusedKind)), "{kind}");
        }
        let chaos = packet(|it| it.queries[0].query_class = DNSClass::CH);
        assert_eq!(refusal(&chaos), Some((ResponseCode::Refused, Outcome::RefusedKind)));
        let update = packet(|it| it.metadata.op_code = OpCode::Notify);
        assert_eq!(refusal(&update), Some((ResponseCode::NotImp, Outcome::RefusedKind)));
        let two = packet(|it| {
            it.add_query(Query::query(Name::root(), RecordType::A));
        });
        assert_eq!(refusal(&two), Some((ResponseCode::FormErr, Outcome::Malformed)));
        let none = packet(|it| it.queries.clear());
        assert_eq!(refusal(&none), Some((ResponseCode::FormErr, Outcome::Malformed)));
    }

    #[test]
    fn hostile_packets_are_malformed_or_nothing() {
        // A name that points at itself, one that points ahead, a label that goes past the end, 65535 questions.
        let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for name in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[63, 1], &[0x80, 0], &[]] {
            let packet = [&header, name, &[0, 1, 0, 1]].concat();
            assert_eq!(refusal(&packet), Some((ResponseCode::FormErr, Outcome::Malformed)), "{name:?}");
        }
        let many = [0, 7, 1, 0, 255, 255, 0, 0, 0, 0, 0, 0];
        assert_eq!(refusal(&many), Some((ResponseCode::FormErr, Outcome::Malformed)));
        for cut in 0..12 {
            assert!(matches!(parse(&packet(|_| {})[..cut]), Parsed::Nothing), "{cut}");
        }
        let response = packet(|it| it.metadata.message_type = MessageType::Response);
        assert!(matches!(parse(&response), Parsed::Nothing));
    }

    #[test]
    fn no_odd_byte_makes_a_name_that_a_rule_holds_for() {
        let any = NameRule {
            pattern: Pattern::Below("example".to_owned()),
            ports: vec![Ports { first: 0, last: u16::MAX }],
            transport: None,
            effect: crate::policy::compile::EgressEffect::Allow,
            rule: 1,
        };
        let names = Names::new(vec![vec![any]]);
        let odd: [&[u8]; 5] = [b"a.b", b"a\0", b"a b", b"\xff", b"a\\"];
        for label in odd {
            let name = Name::from_labels([label, b"example"]).unwrap();
            assert!(!names.decide(&text(&name), 443, Transport::Tcp).allow, "{label:?}");
        }
        let plain = Name::from_labels([b"a".as_slice(), b"example"]).unwrap();
        assert!(names.decide(&text(&plain), 443, Transport::Tcp).allow);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_fault(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            parse(&packet);
        }

        #[test]
        fn a_damaged_query_is_read_without_a_fault(at in 0_usize..40, to in any::<u8>(), cut in 0_usize..40) {
            let mut packet = packet(|_| {});
            if let Some(byte) = packet.get_mut(at) { *byte = to; }
            packet.truncate(packet.len().saturating_sub(cut));
            parse(&packet);
        }
    }
}
