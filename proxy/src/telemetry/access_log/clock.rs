//! The time of a line as text, made anew once a second.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The text of one second, in both formats.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Seconds since 1970; `None`: nothing was written yet.
    second: Option<u64>,
    local: Vec<u8>,
    utc: Vec<u8>,
    millis: u32,
}

impl Clock {
    /// Turns to `time`. The offset of `zone` is the one of that moment.
    pub(super) fn set(&mut self, time: SystemTime, zone: &TimeZone) {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        self.millis = since.subsec_millis();
        let second = since.as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            self.write(second, zone);
        }
    }

    /// nginx's `$time_local`: `20/Nov/2026:16:26:02 +0000`.
    pub(super) fn local(&self) -> &[u8] {
        &self.local
    }

    /// Appends RFC 3339 with milliseconds: `2026-11-20T16:26:02.123Z`.
    pub(super) fn append_utc(&self, out: &mut Vec<u8>) {
        let digit = |n: u32| b'0' + (n % 10) as u8;
        let millis = self.millis;
        out.extend_from_slice(&self.utc);
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis)]);
        out.push(b'Z');
    }

    fn write(&mut self, second: u64, zone: &TimeZone) {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let moment = i64::try_from(second)
            .ok()
            .and_then(|second| Timestamp::from_second(second).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let (here, there) = (zone.to_datetime(moment), TimeZone::UTC.to_datetime(moment));
        let month = usize::try_from(here.month() - 1).unwrap_or(0) % MONTHS.len();
        let offset = zone.to_offset(moment).seconds() / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        self.local.clear();
        self.utc.clear();
        // Writing to memory does not fail.
        let _ = write!(
            self.local,
            "{:02}/{}/{}:{:02}:{:02}:{:02} {sign}{:02}{:02}",
            here.day(),
            MONTHS[month],
            here.year(),
            here.hour(),
            here.minute(),
            here.second(),
            offset.abs() / 60,
            offset.abs() % 60,
        );
        let _ = write!(
            self.utc,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            there.year(),
            there.month(),
            there.day(),
            there.hour(),
            there.minute(),
            there.second(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(clock: &mut Clock, zone: &str, millis: u64, local: &str, utc: &str) {
        let zone = TimeZone::posix(zone).unwrap();
        clock.set(
            SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            &zone,
        );
        let mut out = Vec::new();
        clock.append_utc(&mut out);
        assert_eq!(str::from_utf8(clock.local()).unwrap(), local);
        assert_eq!(str::from_utf8(&out).unwrap(), utc);
    }

    #[test]
    fn times_are_written_as_nginx_and_rfc_3339_have_them() {
        const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
        let utc = &mut Clock::default();
        check(
            utc,
            "UTC0",
            7,
            "01/Jan/1970:00:00:00 +0000",
            "1970-01-01T00:00:00.007Z",
        );
        check(
            utc,
            "UTC0",
            1_795_191_962_123,
            "20/Nov/2026:16:26:02 +0000",
            "2026-11-20T16:26:02.123Z",
        );
        check(
            utc,
            "UTC0",
            1_795_191_962_999,
            "20/Nov/2026:16:26:02 +0000",
            "2026-11-20T16:26:02.999Z",
        );
        // The end of summer time: the same hour twice.
        let berlin = &mut Clock::default();
        check(
            berlin,
            BERLIN,
            1_792_889_999_000,
            "25/Oct/2026:02:59:59 +0200",
            "2026-10-25T00:59:59.000Z",
        );
        check(
            berlin,
            BERLIN,
            1_792_890_000_000,
            "25/Oct/2026:02:00:00 +0100",
            "2026-10-25T01:00:00.000Z",
        );
        let west = &mut Clock::default();
        check(
            west,
            "<-0330>3:30",
            0,
            "31/Dec/1969:20:30:00 -0330",
            "1970-01-01T00:00:00.000Z",
        );
    }
}
