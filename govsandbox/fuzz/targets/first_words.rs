//! What the relay reads of a connection's first bytes: the same, however they come in pieces.
#![no_main]

use govsandbox::egress::relay::hello::{Hello, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = read(data);
    if let Some(Hello::Named(_, name)) = &whole {
        assert!(govsandbox_ebpf::decide::name::is_name(name.as_bytes()));
    }
    for cut in (0..data.len()).rev().take(64) {
        let part = read(&data[..cut]);
        assert!(part.is_none() || part == whole);
    }
});
