//! A rule about hosts: read or refused; what is read has ports and targets.
#![no_main]

use govsandbox::policy::{
    raw::RawEgressRule,
    rule::egress::{EgressList, EgressPattern},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let list = if first & 1 == 0 { EgressList::Allow } else { EgressList::Deny };
    let raw = RawEgressRule::Text(text.to_owned());
    match EgressPattern::check(&raw, list) {
        Ok(pattern) => {
            assert!(!pattern.ports().is_empty());
            assert!(pattern.ports().iter().all(|ports| ports.first <= ports.last));
            drop((pattern.host().targets(), pattern.host().detours(), pattern.warning()));
        }
        Err(error) => drop(error.to_string()),
    }
});
