//! Replies as bytes.

use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::Record,
};

use super::question::{Head, PAYLOAD_BYTES_PLAIN};
use crate::egress::names::Transport;

/// What we take over UDP, and send at most: loopback has no smaller packets than this.
const PAYLOAD_BYTES_MAX: u16 = 4096;

/// The reply with these records: what does not fit in a datagram is left out, so that the client asks again over TCP.
/// `None`: not even that can be written.
pub(super) fn encode(
    head: &Head,
    code: ResponseCode,
    records: Vec<Record>,
    transport: Transport,
) -> Option<Vec<u8>> {
    let most = match (transport, head.edns_payload) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, payload) => payload.unwrap_or(PAYLOAD_BYTES_PLAIN).min(PAYLOAD_BYTES_MAX),
    };
    let whole = write(head, code, records, false);
    match whole.filter(|bytes| bytes.len() <= usize::from(most)) {
        Some(bytes) => Some(bytes),
        None if transport == Transport::Udp => write(head, code, Vec::new(), true),
        None => write(head, ResponseCode::ServFail, Vec::new(), false),
    }
}

fn write(head: &Head, code: ResponseCode, records: Vec<Record>, truncated: bool) -> Option<Vec<u8>> {
    let mut message = Message::response(head.id, head.operation);
    message.metadata.recursion_desired = head.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.truncation = truncated;
    message.metadata.response_code = code;
    message.add_queries(head.query.clone());
    message.add_answers(records);
    if head.edns_payload.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES_MAX);
        edns.set_rcode_high(code.high());
        message.set_edns(edns);
    }
    message.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{OpCode, Query},
        rr::{Name, RData, RecordType, rdata::A},
    };

    use super::*;

    fn head(edns_payload: Option<u16>) -> Head {
        let query = Query::query(Name::from_ascii("WWW.example.").unwrap(), RecordType::A);
        Head { id: 7, operation: OpCode::Query, recursion_desired: true, query: Some(query), edns_payload }
    }

    fn records(count: u32) -> Vec<Record> {
        let address = |it| RData::A(A(std::net::Ipv4Addr::from_bits(it)));
        (0..count)
            .map(|it| Record::from_rdata(Name::from_ascii("www.example.").unwrap(), 60, address(it)))
            .collect()
    }

    fn read(head: &Head, count: u32, transport: Transport) -> Message {
        let bytes = encode(head, ResponseCode::NoError, records(count), transport).unwrap();
        Message::from_vec(&bytes).unwrap()
    }

    #[test]
    fn what_does_not_fit_comes_over_tcp() {
        let plain = read(&head(None), 256, Transport::Udp);
        assert!(plain.metadata.truncation && plain.answers.is_empty() && plain.edns.is_none());
        let small = read(&head(Some(1232)), 60, Transport::Udp);
        assert!(!small.metadata.truncation && small.answers.len() == 60 && small.edns.is_some());
        assert!(read(&head(Some(u16::MAX)), 256, Transport::Udp).metadata.truncation);
        let tcp = read(&head(None), 256, Transport::Tcp);
        assert!(!tcp.metadata.truncation && tcp.answers.len() == 256);
    }

    #[test]
    fn a_reply_repeats_the_question_as_it_was_spelled() {
        let reply = read(&head(None), 1, Transport::Udp);
        assert_eq!(reply.queries[0].name().to_ascii(), "WWW.example.");
        assert_eq!((reply.metadata.id, reply.metadata.recursion_desired), (7, true));
        assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
    }

    #[test]
    fn a_code_of_edns_arrives_whole() {
        let bytes = encode(&head(Some(1232)), ResponseCode::BADVERS, Vec::new(), Transport::Udp).unwrap();
        let read = Message::from_vec(&bytes).unwrap();
        assert_eq!(read.edns.unwrap().rcode_high(), 1);
    }
}
