//! `/proc/PID/mountinfo`: mount points are named by whoever may mount.
#![no_main]

use govsandbox::sys::mountinfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for mount in mountinfo::parse(data) {
        assert!(mount.point.as_os_str().len() <= data.len());
    }
});
