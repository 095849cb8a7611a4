//! What the performer of notified calls tells of a refusal: read, or no packet; then told as an event.
#![no_main]

use govsandbox::backend::perform::refusal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(told) = refusal(data, None) else { return };
    assert!(told.path.len() + told.target.len() < data.len());
    assert!(data.ends_with(&[told.path, told.target].concat()));
});
