//! How many files this process may have open: raised to hold what rules name, and given back before the command begins.

use std::{io, sync::OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What held when this process began, once it is changed.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit to `wanted` if it is lower, the hard one too where that may be, or as far as it goes. Who then opens
/// too many is told so by the open.
pub fn raise(wanted: u64) {
    let before = getrlimit(Resource::Nofile);
    if before.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let at_hand = before.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let higher = before.maximum.map(|maximum| maximum.max(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: higher })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: Some(at_hand), maximum: before.maximum }));
    if raised.is_ok() {
        BEFORE.get_or_init(|| before);
    }
}

/// Gives a forked child the limits that this process began with.
///
/// # Errors
/// What setrlimit(2) answers.
pub fn restore() -> io::Result<()> {
    BEFORE.get().map_or(Ok(()), |before| Ok(setrlimit(Resource::Nofile, *before)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_as_far_as_it_goes_and_given_back() {
        let usual = getrlimit(Resource::Nofile);
        let low = Rlimit { current: usual.maximum.map(|maximum| maximum - 1), ..usual };
        setrlimit(Resource::Nofile, low).unwrap();
        raise(low.current.unwrap() - 1);
        assert_eq!(getrlimit(Resource::Nofile), low, "a higher one stays");
        raise(1 << 62); // more than any kernel lets one process have
        assert_eq!(getrlimit(Resource::Nofile).current, usual.maximum);
        restore().unwrap();
        assert_eq!(getrlimit(Resource::Nofile), low);
        setrlimit(Resource::Nofile, usual).unwrap();
    }
}
