//! From the kernel's time since boot to UTC.

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long a measured offset serves: in this time a clock that `adjtime(2)` slews by 500 ppm moves 1 ms.
const MEASURE_EVERY_NS: u64 = 2_000_000_000;

/// The distance of `CLOCK_REALTIME` from `CLOCK_BOOTTIME`, measured anew as time goes on: someone may set the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset_ns: i128,
    measured_boot_ns: u64,
}

impl Clock {
    /// Measures now.
    pub(crate) fn measured() -> Self {
        let before = ns(clock_gettime(ClockId::Boottime));
        let real = ns(clock_gettime(ClockId::Realtime));
        let after = ns(clock_gettime(ClockId::Boottime));
        Self {
            offset_ns: real - i128::midpoint(before, after),
            measured_boot_ns: u64::try_from(after).unwrap_or(0),
        }
    }

    /// When that was. A record that is younger than the last measurement by [`MEASURE_EVERY_NS`] brings a new one.
    pub(crate) fn utc(&mut self, boot_ns: u64) -> Timestamp {
        if boot_ns > self.measured_boot_ns.saturating_add(MEASURE_EVERY_NS) {
            *self = Self::measured();
        }
        // All of u64 is 584 years: it ends before the type's last year does.
        Timestamp::from_nanosecond(i128::from(boot_ns) + self.offset_ns).unwrap_or(Timestamp::MAX)
    }
}

fn ns(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_ns() -> u64 {
        u64::try_from(ns(clock_gettime(ClockId::Boottime))).unwrap()
    }

    #[test]
    fn now_since_boot_is_now() {
        let mut clock = Clock::measured();
        let (before, boot, after) = (Timestamp::now(), boot_ns(), Timestamp::now());
        let slack = jiff::SignedDuration::from_millis(100);
        let utc = clock.utc(boot);
        assert!(before - slack <= utc && utc <= after + slack, "{before} {utc} {after}");
    }

    #[test]
    fn a_clock_that_was_set_is_followed_and_not_before_its_time() {
        let wrong = Clock { offset_ns: 0, measured_boot_ns: boot_ns() };
        let soon = wrong.measured_boot_ns + 1_000_000;
        let late = wrong.measured_boot_ns + MEASURE_EVERY_NS + 1;
        let mut clock = wrong;
        assert_eq!(clock.utc(soon).as_nanosecond(), i128::from(soon));
        assert!(clock.utc(late) > Timestamp::now());
        assert!(clock.offset_ns > 0);
    }

    #[test]
    fn no_time_of_a_record_is_out_of_range() {
        let mut clock = Clock::measured();
        assert!(clock.utc(0) < Timestamp::now());
        assert!(clock.utc(u64::MAX) > Timestamp::now());
    }
}
