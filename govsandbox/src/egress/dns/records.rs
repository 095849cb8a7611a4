//! What of an answer the sandbox gets: the chain from the name that was asked to records of the type, and nothing beside.

use std::net::IpAddr;

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::svcb::{Mandatory, SVCB, SvcParamKey, SvcParamValue},
};

use super::question::text;
use crate::egress::channel::ADDRESSES_MAX;

/// CNAMEs in a row; resolvers follow 8 to 16.
const ALIASES_MAX: usize = 16;

/// The part of an answer that answers the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// CNAMEs in their order, then records of the type; at most [`ADDRESSES_MAX`] of these.
    pub(super) records: Vec<Record>,
    /// The names that the CNAMEs lead to.
    pub(super) aliases: Vec<String>,
}

impl Chain {
    /// Follows `name` through the records.
    pub(super) fn of(name: &Name, kind: RecordType, records: Vec<Record>) -> Self {
        let mut chain = Self::default();
        let mut current = name.clone();
        for _ in 0..ALIASES_MAX {
            if kind == RecordType::CNAME {
                break;
            }
            let alias = records.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == current => Some((record, target.0.clone())),
                _ => None,
            });
            let Some((record, target)) = alias else { break };
            chain.aliases.push(text(&target));
            chain.records.push(record.clone());
            current = target;
        }
        let answering =
            records.into_iter().filter(|record| record.name == current && record.record_type() == kind);
        chain.records.extend(answering.take(ADDRESSES_MAX).map(without_hints));
        chain
    }

    /// The addresses with their times to live.
    pub(super) fn addresses(&self) -> Vec<(IpAddr, u32)> {
        self.records.iter().filter_map(|record| Some((record.data.ip_addr()?, record.ttl))).collect()
    }

    /// Leaves out addresses that do not pass; CNAMEs and other records stay.
    pub(super) fn keep_addresses(&mut self, passes: impl Fn(IpAddr) -> bool) {
        self.records.retain(|record| record.data.ip_addr().is_none_or(&passes));
    }
}

/// HTTPS and SVCB records lose the keys by which clients would hide whom they talk to, and addresses that no rule has
/// seen (RFC 9460, 7.3; RFC 9848).
fn without_hints(mut record: Record) -> Record {
    match &mut record.data {
        RData::SVCB(svcb) => strip(svcb),
        RData::HTTPS(https) => strip(&mut https.0),
        _ => {}
    }
    record
}

fn strip(svcb: &mut SVCB) {
    let is_hint = |key: SvcParamKey| {
        matches!(key, SvcParamKey::EchConfigList | SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint)
    };
    svcb.svc_params.retain_mut(|(key, value)| {
        if let SvcParamValue::Mandatory(Mandatory(keys)) = value {
            keys.retain(|key| !is_hint(*key));
            return !keys.is_empty();
        }
        !is_hint(*key)
    });
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Message,
        rr::rdata::{
            A, CNAME, HTTPS,
            svcb::{Alpn, EchConfigList, IpHint},
        },
        serialize::binary::{BinDecodable as _, BinEncodable as _},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, last: u8) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A::new(192, 0, 2, last)))
    }

    fn cname(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
    }

    #[test]
    fn a_chain_is_followed_and_what_is_beside_it_left_out() {
        let records = vec![
            a("c.test.", 1),
            cname("b.test.", "c.test."),
            a("other.test.", 9),
            cname("a.test.", "b.test."),
            cname("x.test.", "y.test."),
        ];
        let chain = Chain::of(&name("A.test."), RecordType::A, records);
        assert_eq!(chain.aliases, ["b.test", "c.test"]);
        assert_eq!(chain.records.len(), 3);
        assert_eq!(chain.addresses(), [("192.0.2.1".parse().unwrap(), 60)]);
    }

    #[test]
    fn loops_end_and_thousands_are_bounded() {
        let around = vec![cname("a.test.", "b.test."), cname("b.test.", "a.test.")];
        assert_eq!(Chain::of(&name("a.test."), RecordType::A, around).records.len(), ALIASES_MAX);
        let many = (0..5000_u32)
            .map(|it| Record::from_rdata(name("a.test."), 1, RData::A(A(std::net::Ipv4Addr::from_bits(it)))));
        assert_eq!(Chain::of(&name("a.test."), RecordType::A, many.collect()).records.len(), ADDRESSES_MAX);
    }

    #[test]
    fn what_hides_the_name_is_taken_out_of_https_records() {
        let keys = vec![SvcParamKey::Alpn, SvcParamKey::EchConfigList];
        let params = vec![
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(keys))),
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()]))),
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(192, 0, 2, 1)]))),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        ];
        let record =
            Record::from_rdata(name("a.test."), 60, RData::HTTPS(HTTPS(SVCB::new(1, name("."), params))));
        let chain = Chain::of(&name("a.test."), RecordType::HTTPS, vec![record]);
        // As a client reads it.
        let mut message = Message::query();
        message.add_answers(chain.records);
        let read = Message::from_bytes(&message.to_bytes().unwrap()).unwrap();
        let RData::HTTPS(https) = &read.answers[0].data else { panic!() };
        let left: Vec<SvcParamKey> = https.0.svc_params.iter().map(|(key, _)| *key).collect();
        assert_eq!(left, [SvcParamKey::Mandatory, SvcParamKey::Alpn]);
        let SvcParamValue::Mandatory(mandatory) = &https.0.svc_params[0].1 else { panic!() };
        assert_eq!(mandatory.0, [SvcParamKey::Alpn]);
    }
}
