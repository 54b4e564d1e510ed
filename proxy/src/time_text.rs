//! Points in time as JSON has them (RFC 3339, UTC), and spans as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// `2026-11-20T16:37:14Z`
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let time = i64::try_from(seconds).map(Timestamp::from_second);
    // The last year of all is 9999.
    time.ok()
        .and_then(Result::ok)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

/// `3d 04h`, `5h 06m`, `7m 08s`, `9s`.
pub(crate) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600, seconds / 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {:02}h", hours % 24),
        (_, 1.., _) => format!("{hours}h {:02}m", minutes % 60),
        (_, _, 1..) => format!("{minutes}m {:02}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

/// `250 ms`, `2.5 s`, `45 s`; from two minutes on as [`in_words`].
pub(crate) fn exact(span: Duration) -> String {
    match (span.as_secs(), span.subsec_millis()) {
        (0, millis @ 1..) => format!("{millis} ms"),
        (120.., _) => in_words(span),
        (seconds, 0..100) => format!("{seconds} s"),
        (seconds, millis) => format!("{seconds}.{} s", millis / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn exact_spans() {
        let words = |millis| exact(Duration::from_millis(millis));
        assert_eq!(words(0), "0 s");
        assert_eq!(words(250), "250 ms");
        assert_eq!(words(2_550), "2.5 s");
        assert_eq!(words(45_099), "45 s");
        assert_eq!(words(119_000), "119 s");
        assert_eq!(words(160_000), "2m 40s");
        assert_eq!(words(10_923_400), "3h 02m");
    }
}
