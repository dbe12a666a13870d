//! Wall-clock times of events, which carry nanoseconds since boot.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Nanoseconds since boot (CLOCK_BOOTTIME).
    pub boot_ns: u64,
    /// Nanoseconds since 1970 at boot, as the wall clock stands now.
    offset_ns: u64,
}

impl Clock {
    /// Reads both clocks. The wall clock may be set at any time: whoever converts times for long reads them again.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        let boot_ns = (boot.tv_sec as u64)
            .saturating_mul(1_000_000_000)
            .saturating_add(boot.tv_nsec as u64);
        let real = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let real_ns = u64::try_from(real.as_nanos()).unwrap_or(u64::MAX);
        Self {
            boot_ns,
            offset_ns: real_ns.saturating_sub(boot_ns),
        }
    }

    /// Clocks that differ by so much.
    #[cfg(test)]
    pub fn with_offset(offset_ns: u64) -> Self {
        Self {
            boot_ns: 0,
            offset_ns,
        }
    }

    /// Nanoseconds since 1970 of a moment in nanoseconds since boot.
    pub fn real_ns(self, boot_ns: u64) -> u64 {
        self.offset_ns.saturating_add(boot_ns)
    }

    /// The moment at which the clocks were read.
    pub fn now_ns(self) -> u64 {
        self.real_ns(self.boot_ns)
    }
}

/// Nanoseconds since 1970 as RFC 3339 has them, in UTC.
pub fn utc(ns: u64) -> String {
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days of eras of 400 years that begin on March 1st (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_796_083_199, "2026-11-30T23:59:59.000000000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(utc(seconds * 1_000_000_000), text);
        }
        assert_eq!(utc(1), "1970-01-01T00:00:00.000000001Z");
    }
}
