//! Points in time as JSON has them (RFC 3339, UTC).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-20T16:37:14Z`
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a number of days since 1970 (H. Hinnant, "chrono-compatible low-level date
/// algorithms", civil_from_days, for days after 1970).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, year) = match month_from_march {
        0..10 => (month_from_march + 3, year_of_era + era * 400),
        _ => (month_from_march - 9, year_of_era + era * 400 + 1),
    };
    (year, month, day)
}

/// `3d 04h`, `5h 06m`, `7m 08s`, `9s`.
pub(super) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600, seconds / 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {:02}h", hours % 24),
        (_, 1.., _) => format!("{hours}h {:02}m", minutes % 60),
        (_, _, 1..) => format!("{minutes}m {:02}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(seconds: u64, expected: &str) {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
    }

    #[test]
    fn dates() {
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_700_000_000, "2023-11-14T22:13:20Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }

    #[test]
    fn spans() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(words(9), "9s");
        assert_eq!(words(428), "7m 08s");
        assert_eq!(words(18_365), "5h 06m");
        assert_eq!(words(3 * 86_400 + 4 * 3600), "3d 04h");
    }

    proptest! {
        /// The twin is httpdate, whose form is another.
        #[test]
        fn as_httpdate(seconds in 0_u64..253_402_300_800) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let ours = rfc3339(time);
            let twin = httpdate::fmt_http_date(time);
            let parts: Vec<&str> = twin.split(' ').collect();
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let month = months.iter().position(|month| *month == parts[2]).unwrap() + 1;
            prop_assert_eq!(ours, format!("{}-{month:02}-{}T{}Z", parts[3], parts[1], parts[4]));
        }
    }
}
