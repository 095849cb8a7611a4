//! hosts(5): names that the C library knows without asking anybody, so that no lookup tells which addresses they have.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use govsandbox_ebpf::decide::name::is_name;

use crate::bpf::egress::Network;

/// Addresses with a name each, at most, of those that rules let be looked up: lists that block advertisements have some
/// 200,000 lines, whose addresses lead nowhere.
pub(super) const FILED_MAX: usize = 4096;

/// Addresses with their names.
pub(super) type Filed = BTreeSet<(IpAddr, Arc<str>)>;

/// What the file says of addresses that names may lead to and of names that may be looked up; `true`: all of it. Where that
/// is too much, what is near this machine is left out first, for a name adds nothing to what rules say of it.
pub(super) fn read(
    text: &str,
    leads: impl Fn(IpAddr) -> bool,
    allows: impl Fn(&str) -> bool,
) -> (Filed, bool) {
    let (mut far, mut near) = (Filed::new(), Filed::new());
    let mut all = true;
    for line in text.lines() {
        let said = line.split_once('#').map_or(line, |(said, _)| said);
        let mut words = said.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        let address = address.to_canonical();
        // Loopback is no matter of names.
        if address.is_loopback() || address.is_unspecified() || !leads(address) {
            continue;
        }
        let filed = if Network::host(address).is_public() { &mut far } else { &mut near };
        for name in words {
            let name = name.to_ascii_lowercase();
            if !is_name(name.as_bytes()) || !allows(&name) {
                continue;
            }
            if filed.len() >= FILED_MAX {
                all = false;
                break;
            }
            filed.insert((address, name.into()));
        }
    }
    let room = FILED_MAX - far.len();
    all &= near.len() <= room;
    far.extend(near.into_iter().take(room));
    (far, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (Vec<String>, bool) {
        let near = |address: IpAddr| address.to_string().starts_with("10.");
        let leads = |address| Network::host(address).is_public() || near(address);
        let (filed, all) = read(text, leads, |name| name.ends_with("test"));
        (filed.iter().map(|(address, name)| format!("{address} {name}")).collect(), all)
    }

    #[test]
    fn names_are_those_that_the_c_library_reads() {
        let text = "# 192.0.2.9 no.test\n192.0.2.1\tAPI.Test  www.test # other.test\n\n  2001:db8::1 api.test\r\n\
                    192.0.2.2 elsewhere.example b\u{e4}r.test -- a..test .test test.\n\
                    127.0.0.1 localhost.test\n0.0.0.0 ads.test\n::1 six.test\nfe80::1%eth0 near.test\n192.0.2 short.test\n\
                    192.168.1.1 router.test\n10.0.0.1 db.test\n::ffff:192.0.2.3 mapped.test\n192.0.2.4\nx";
        let expected = [
            "10.0.0.1 db.test",
            "192.0.2.1 api.test",
            "192.0.2.1 www.test",
            "192.0.2.3 mapped.test",
            "2001:db8::1 api.test",
        ];
        assert_eq!(said(text), (expected.map(str::to_owned).to_vec(), true));
        assert_eq!(said(""), (Vec::new(), true));
    }

    #[test]
    fn a_list_that_blocks_hosts_leaves_room_for_those_that_have_an_address() {
        let mut text: String = (0..200_000).map(|it| format!("0.0.0.0 ads{it}.test\n")).collect();
        text.extend((0..FILED_MAX + 1).map(|it| format!("10.0.0.1 near{it}.test\n")));
        text += "192.0.2.1 last.test\n";
        let (names, all) = said(&text);
        assert_eq!((names.len(), all), (FILED_MAX, false));
        assert!(names.contains(&"192.0.2.1 last.test".to_owned()));
    }
}
