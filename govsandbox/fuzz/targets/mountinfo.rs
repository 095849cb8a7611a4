//! `/proc/PID/mountinfo`: mount points are named by whoever may mount.
#![no_main]

use govsandbox::{launch::mount::table::MountTable, sys::mountinfo};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for mount in mountinfo::parse(data) {
        assert!(mount.point.as_os_str().len() <= data.len());
    }
    let Ok(table) = MountTable::parse(data) else { return };
    for mount in table.mounts() {
        let holding = table.holding(&mount.point).expect("a mount's own point lies on a mount");
        assert!(mount.point.starts_with(&holding.point));
        for alias in table.aliases(&mount.point) {
            assert!(!alias.starts_with(&mount.point));
        }
    }
});
