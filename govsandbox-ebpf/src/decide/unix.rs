//! Unix sockets of processes outside.

use super::Decision;
use crate::abi::exec::ExecHits;

/// May a socket be reached that the sandbox did not make? `hits`: what the table says of its name; `required`: the lists
/// that there are.
#[inline(always)]
#[must_use]
pub fn decide_unix(required: u16, hits: ExecHits) -> Decision {
    if required != 0 && hits.allow & required == required {
        Decision { allow: true, rule: hits.deny }
    } else {
        Decision::DENY_DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_must_have_it_and_there_must_be_one() {
        let hits = |allow| ExecHits { allow, deny: 7, ..ExecHits::NONE };
        assert_eq!(decide_unix(0b11, hits(0b11)), Decision { allow: true, rule: 7 });
        for (required, allow) in [(0b11, 0b10), (1, 0), (0, 0), (0, 1)] {
            assert_eq!(decide_unix(required, hits(allow)), Decision::DENY_DEFAULT);
        }
    }
}
