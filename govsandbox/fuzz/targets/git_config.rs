//! An agent's edit of a protected git config: merged or refused; what was merged brings no key that is closed.
#![no_main]

use govsandbox::policy::git_config::{self, Keys};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(cut) = data.iter().position(|byte| *byte == 0) else { return };
    let (old, new) = (&data[..cut], &data[cut + 1..]);
    let keys = Keys::parse(["branch.*", "remote.*.fetch"]).expect("keys that may be opened");
    let Ok(merged) = git_config::merged(old, new, &keys) else { return };
    // What came out is accepted once more, and changes nothing.
    assert_eq!(git_config::merged(&merged, &merged, &keys).as_ref(), Ok(&merged));
});
