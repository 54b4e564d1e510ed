//! Numbers, sizes and durations.

use std::time::Duration;

use toml::de::DeValue;

use super::quote;
use crate::reader::{FromText, FromToml, Mistake, Place, Reader};

/// `1234567` as `1,234,567`.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    /// The number in a type that holds `MAX`.
    pub(crate) fn get<T: TryFrom<u64>>(self) -> Option<T> {
        T::try_from(self.0).ok()
    }
}

impl<const MIN: u64, const MAX: u64> FromToml for Number<MIN, MAX> {
    fn allowed() -> String {
        format!(
            "a whole number from {} to {}",
            with_commas(MIN),
            with_commas(MAX)
        )
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        let Some(integer) = value.as_integer() else {
            let meant = value.as_str().and_then(|text| text.parse::<u64>().ok());
            reader.wrong_type(
                value,
                at,
                Self::allowed(),
                meant.map(|number| number.to_string()),
            );
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                reader.error(
                    at,
                    Mistake::new(format!("{integer} is out of range")).allowed(Self::allowed()),
                );
                None
            }
        }
    }
}

const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// `8192` as `8KiB`.
fn format_size(bytes: u64) -> String {
    let exact = SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    exact.map_or_else(
        || format!("{bytes}B"),
        |(unit, factor)| format!("{}{unit}", bytes / factor),
    )
}

/// A number of bytes from `MIN` to `MAX`: a string with a binary unit, or a bare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> FromToml for Size<MIN, MAX> {
    fn allowed() -> String {
        format!(
            "a size from {:?} to {:?}: a number with the unit B, KiB, MiB, GiB or TiB, or bytes as a bare number",
            format_size(MIN),
            format_size(MAX)
        )
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        let parsed = match value {
            DeValue::String(text) => parse_size(text),
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix())
                .map_err(|_| Mistake::new(format!("{integer} is out of range"))),
            _ => {
                reader.wrong_type(value, at, Self::allowed(), None);
                return None;
            }
        };
        let checked = parsed.and_then(|bytes| match bytes {
            _ if (MIN..=MAX).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(Mistake::new(format!(
                "{} is out of range",
                format_size(bytes)
            ))),
        });
        match checked {
            Ok(size) => Some(size),
            Err(mistake) => {
                reader.error(at, mistake.allowed(Self::allowed()));
                None
            }
        }
    }
}

fn parse_size(text: &str) -> Result<u64, Mistake> {
    let (number, unit) = split_unit(text);
    let no_size = || Mistake::new(format!("{} is no size", quote(text)));
    let Ok(number) = number.parse::<u64>() else {
        return Err(no_size());
    };
    match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => number
            .checked_mul(*factor)
            .ok_or_else(|| Mistake::new(format!("{} is out of range", quote(text)))),
        None => {
            let first = unit.trim().chars().next().map(|c| c.to_ascii_uppercase());
            let meant = SIZE_UNITS
                .iter()
                .find(|(name, _)| first.is_some() && name.chars().next() == first);
            let meant = meant.filter(|_| unit.trim().len() <= 3);
            Err(no_size().suggest(meant.map(|(name, _)| format!("\"{number}{name}\""))))
        }
    }
}

/// Leading digits, and what follows.
fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// No duration of a proxy is longer: a longer one is a mistake in the unit.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The units of durations, longest first, with their milliseconds and the other words that
/// people write for them.
const DURATION_UNITS: [(&str, u64, &[&str]); 5] = [
    ("d", 86_400_000, &["day", "days"]),
    ("h", 3_600_000, &["hr", "hrs", "hour", "hours"]),
    ("m", 60_000, &["min", "mins", "minute", "minutes"]),
    ("s", 1_000, &["", "sec", "secs", "second", "seconds"]),
    (
        "ms",
        1,
        &["msec", "msecs", "millis", "millisecond", "milliseconds"],
    ),
];

impl FromText for Duration {
    fn allowed() -> String {
        "a duration such as \"250ms\", \"10s\", \"1m30s\" or \"1h\", above 0 and up to 7 days"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let mut rest = text;
        let mut total = Some(0u64);
        let mut units = DURATION_UNITS.iter();
        while !rest.is_empty() {
            let (number, tail) = split_unit(rest);
            let unit = tail
                .split(|c: char| c.is_ascii_digit())
                .next()
                .unwrap_or_default();
            // Units only get smaller: "30s1m" is more likely a slip than a wish.
            let Some((_, millis, _)) = units.find(|(name, _, _)| *name == unit) else {
                return Err(no_duration(text, number, unit, rest.len() == text.len()));
            };
            if number.is_empty() {
                return Err(no_duration(text, "", "", false));
            }
            let part = number
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(*millis));
            total = total
                .zip(part)
                .and_then(|(sum, part)| sum.checked_add(part));
            rest = tail.get(unit.len()..).unwrap_or_default();
        }
        match total.map(Self::from_millis) {
            _ if text.is_empty() => Err(no_duration(text, "", "", false)),
            Some(duration) if duration <= LONGEST && !duration.is_zero() => Ok(duration),
            _ => Err(Mistake::new(format!("{} is out of range", quote(text)))),
        }
    }

    fn suggest_for(value: &DeValue<'_>) -> Option<String> {
        let seconds = value.as_integer()?.as_str().parse::<u64>().ok()?;
        Some(format!("\"{seconds}s\""))
    }
}

/// A duration that may be zero, which is then a way to switch something off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DurationOrZero(pub(crate) Duration);

impl FromText for DurationOrZero {
    fn allowed() -> String {
        "\"0s\", or a duration such as \"250ms\", \"10s\", \"1m30s\" or \"1h\", up to 7 days"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "0s" => Ok(Self(Duration::ZERO)),
            _ => Duration::from_text(text).map(Self),
        }
    }

    fn suggest_for(value: &DeValue<'_>) -> Option<String> {
        Duration::suggest_for(value)
    }
}

fn no_duration(text: &str, number: &str, unit: &str, alone: bool) -> Mistake {
    let unit = unit.trim().to_lowercase();
    let meant = DURATION_UNITS
        .iter()
        .find(|(name, _, others)| *name == unit || others.contains(&unit.as_str()))
        .filter(|_| alone && !number.is_empty());
    Mistake::new(format!("{} is no duration", quote(text)))
        .suggest(meant.map(|(name, _, _)| format!("\"{number}{name}\"")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::{bad, good};

    #[test]
    fn durations() {
        good("250ms", Duration::from_millis(250));
        good("10s", Duration::from_secs(10));
        good("1m30s", Duration::from_secs(90));
        good("1h", Duration::from_secs(3600));
        good("1d2h3m4s5ms", Duration::from_millis(93_784_005));
        good("7d", LONGEST);
        good("604800s", LONGEST);
        bad::<Duration>("7d1ms", None);
        bad::<Duration>("0s", None);
        bad::<Duration>("", None);
        bad::<Duration>("10", Some("\"10s\""));
        bad::<Duration>("10 s", Some("\"10s\""));
        bad::<Duration>("10S", Some("\"10s\""));
        bad::<Duration>("5 minutes", Some("\"5m\""));
        bad::<Duration>("30s1m", None);
        bad::<Duration>("1s1s", None);
        bad::<Duration>("s", None);
        bad::<Duration>("1.5s", None);
        bad::<Duration>("-1s", None);
        bad::<Duration>("99999999999999999999d", None);
        bad::<Duration>("18446744073709551615h", None);
    }

    #[test]
    fn durations_that_may_be_zero() {
        good("0s", DurationOrZero(Duration::ZERO));
        good("60s", DurationOrZero(Duration::from_secs(60)));
        bad::<DurationOrZero>("0", Some("\"0s\""));
        bad::<DurationOrZero>("8d", None);
    }

    #[track_caller]
    fn check_size(text: &str, expected: Result<u64, Option<&str>>) {
        let parsed = parse_size(text).map_err(|mistake| mistake.suggestion);
        assert_eq!(
            parsed,
            expected.map_err(|suggestion| suggestion.map(str::to_owned))
        );
    }

    #[test]
    fn sizes() {
        check_size("0B", Ok(0));
        check_size("8KiB", Ok(8192));
        check_size("128MiB", Ok(128 << 20));
        check_size("1TiB", Ok(1 << 40));
        check_size("8KB", Err(Some("\"8KiB\"")));
        check_size("8 kib", Err(Some("\"8KiB\"")));
        check_size("8m", Err(Some("\"8MiB\"")));
        check_size("8", Err(None));
        check_size("", Err(None));
        check_size("1.5MiB", Err(None));
        check_size("-1B", Err(None));
        check_size("18446744073709551615KiB", Err(None));
        assert_eq!(format_size(0), "0B");
        assert_eq!(format_size(1536), "1536B");
        assert_eq!(format_size(8192), "8KiB");
        assert_eq!(with_commas(65_535), "65,535");
        assert_eq!(with_commas(100), "100");
    }

    proptest! {
        #[test]
        fn a_duration_reads_as_it_is_written(millis in 1u64..604_800_000) {
            let (s, ms) = (millis / 1000, millis % 1000);
            let text = match (s, ms) {
                (0, ms) => format!("{ms}ms"),
                (s, 0) => format!("{s}s"),
                (s, ms) => format!("{s}s{ms}ms"),
            };
            prop_assert_eq!(Duration::from_text(&text), Ok(Duration::from_millis(millis)));
        }
    }
}
