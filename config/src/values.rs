//! The kinds of values that a configuration holds: numbers, sizes, durations, addresses, names, URLs, header fields.
//!
//! Each says what may stand for it and reads it; none knows where it is used. A password of a URL is never
//! quoted in a mistake.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use portico_routing::backend::Backend;
use portico_routing::host::Host;
use portico_routing::table::valid_tool;
use toml::de::DeValue;

use crate::config::{HeaderTemplate, NodeAddress, SecretUrl, TemplatePart, blank_password};
use crate::diagnostic::nearest;
use crate::reader::{FromText, FromToml, Mistake, Place, Reader};

/// The text as TOML would write it, shortened when it is long. A URL with a password may have got anywhere: it is
/// blanked.
pub(crate) fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    let text = &if text.contains('@') {
        blank_password(text)
    } else {
        text.to_owned()
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

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

/// The units of durations, longest first, with their milliseconds and the other words that people write for them.
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

fn no_duration(text: &str, number: &str, unit: &str, alone: bool) -> Mistake {
    let unit = unit.trim().to_lowercase();
    let meant = DURATION_UNITS
        .iter()
        .find(|(name, _, others)| *name == unit || others.contains(&unit.as_str()))
        .filter(|_| alone && !number.is_empty());
    Mistake::new(format!("{} is no duration", quote(text)))
        .suggest(meant.map(|(name, _, _)| format!("\"{number}{name}\"")))
}

impl FromText for SocketAddr {
    fn allowed() -> String {
        "an IP address and a port, such as \"[::]:443\" or \"127.0.0.1:9113\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        text.parse().map_err(|_| {
            let meant = match text.rsplit_once(':') {
                Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
                    Some(format!("\"[::]:{port}\""))
                }
                Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
                    Some(format!("\"127.0.0.1:{port}\""))
                }
                _ if text.parse::<u16>().is_ok() => Some(format!("\"[::]:{text}\"")),
                _ => None,
            };
            Mistake::new(format!("{} is no address with a port", quote(text))).suggest(meant)
        })
    }

    fn suggest_for(value: &DeValue<'_>) -> Option<String> {
        let port = value.as_integer()?.as_str().parse::<u16>().ok()?;
        Some(format!("\"[::]:{port}\""))
    }
}

impl FromText for IpNet {
    fn allowed() -> String {
        "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or one address".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::from(address));
        }
        let net = text
            .parse::<Self>()
            .map_err(|_| Mistake::new(format!("{} is no network", quote(text))))?;
        if net.trunc() == net {
            return Ok(net);
        }
        // Either the address or the length is a slip; guessing would let in or keep out too many.
        Err(Mistake::new(format!(
            "{} has bits set behind its prefix length",
            quote(text)
        ))
        .suggest(Some(format!("\"{}\"", net.trunc()))))
    }
}

impl FromText for PathBuf {
    fn allowed() -> String {
        "the path of a file; a relative one starts at the working directory".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "" => Err(Mistake::new("the path is empty")),
            _ if text.contains('\0') => {
                Err(Mistake::new(format!("{} holds a NUL byte", quote(text))))
            }
            _ => Ok(Self::from(text)),
        }
    }
}

/// The first label of a host: a tool, a reserved label; also what pools and listeners may be called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(pub(crate) Box<str>);

impl FromText for Name {
    fn allowed() -> String {
        "a name of 1 to 63 lower-case letters, digits, - and _".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if valid_tool(text) {
            return Ok(Self(text.into()));
        }
        let lower = text.trim().to_lowercase().replace([' ', '.'], "-");
        Err(Mistake::new(format!("{} is no valid name", quote(text)))
            .suggest(valid_tool(&lower).then(|| format!("{lower:?}"))))
    }
}

/// A domain in canonical form: lower case, no port, no trailing dot, no IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain(pub(crate) Box<str>);

impl FromText for Domain {
    fn allowed() -> String {
        "a host name such as \"toolforge.org\", without scheme, port and path".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if valid_host_name(name) {
            return Ok(Self(name.into()));
        }
        let bare = name
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_start_matches("*.");
        let bare = bare.split(['/', ':']).next().unwrap_or_default();
        let meant = (bare != name && !name.contains('@') && valid_host_name(bare))
            .then(|| format!("{bare:?}"));
        Err(Mistake::new(format!("{} is no host name", quote(text))).suggest(meant))
    }
}

/// Whether this is a host name as routing knows it, in its canonical form, and no IP address.
fn valid_host_name(name: &str) -> bool {
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    Host::parse_name(name.as_bytes()).is_ok_and(|host| host.as_str() == name)
        && !name.rsplit('.').next().is_some_and(number)
}

impl FromText for NodeAddress {
    fn allowed() -> String {
        "an address or a host name, and a port, such as \"192.0.2.1:30000\" or \"[2001:db8::1]:30000\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let no_node = || Mistake::new(format!("{} is no server address", quote(text)));
        let no_zero = || Mistake::new("no server listens on port 0");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(no_zero())
            } else {
                Ok(Self::Ip(address))
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(no_node());
        };
        let lower = host.to_ascii_lowercase();
        let host = lower.strip_suffix('.').unwrap_or(&lower);
        match port.parse::<u16>() {
            Ok(0) => Err(no_zero()),
            Ok(port) if valid_host_name(host) => Ok(Self::Name {
                host: host.into(),
                port,
            }),
            _ => {
                let meant = text
                    .strip_prefix("http://")
                    .map(|rest| rest.trim_end_matches('/'));
                let meant = meant.filter(|meant| Self::from_text(meant).is_ok());
                Err(no_node().suggest(meant.map(|meant| format!("{meant:?}"))))
            }
        }
    }
}

impl FromText for Backend {
    fn allowed() -> String {
        "a URL such as \"http://192.0.2.10:8000\" or \"https://host.example/base\", without user, query and fragment"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        Self::parse(text).map_err(|error| Mistake::new(format!("no backend URL: {error}")))
    }
}

/// The URL of a backend, or nothing.
#[derive(Debug)]
pub(crate) struct MaybeBackend;

impl FromText for MaybeBackend {
    fn allowed() -> String {
        format!("\"\", or {}", <Backend as FromText>::allowed())
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if !text.is_empty() {
            Backend::from_text(text).map_err(|mistake| Mistake {
                allowed: None,
                ..mistake
            })?;
        }
        Ok(Self)
    }
}

/// The URL of a page for people, or nothing.
#[derive(Debug)]
pub(crate) struct MaybePage(pub(crate) Option<String>);

impl FromText for MaybePage {
    fn allowed() -> String {
        "\"\", or a URL that starts with http:// or https://".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        check_page_url(text)?;
        Ok(Self(Some(text.to_owned())))
    }
}

/// What the bare canonical domain is.
#[derive(Debug)]
pub(crate) enum ApexWord {
    Ingress,
    Redirect(Box<str>),
}

impl FromText for ApexWord {
    fn allowed() -> String {
        "\"ingress\", or a URL that starts with http:// or https:// to redirect to".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text == "ingress" {
            return Ok(Self::Ingress);
        }
        if !text.contains("://") {
            let meant = nearest(text, ["ingress"]).map(|word| format!("{word:?}"));
            let message = format!("{} is neither the word ingress nor a URL", quote(text));
            return Err(Mistake::new(message).suggest(meant));
        }
        check_page_url(text)?;
        Ok(Self::Redirect(text.into()))
    }
}

/// A URL that may stand in a Location header and in a page: absolute, http or https, printable ASCII, nobody's password.
fn check_page_url(text: &str) -> Result<(), Mistake> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err(Mistake::new("no URL of the web"));
    };
    if !text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b))
    {
        return Err(Mistake::new(
            "a URL holds no spaces, control characters, quotes or other letters than ASCII",
        ));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Mistake::new(
            "a URL that everybody gets to see holds no user or password",
        ));
    }
    // A page URL may name an IP address; the backend's parser knows all forms of a host.
    Backend::parse(&format!("http://{authority}"))
        .map(|_| ())
        .map_err(|_| Mistake::new("the URL's host is not valid"))
}

/// The host of a URL that [`check_page_url`] accepts, in lower case.
pub(crate) fn page_host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl FromText for SecretUrl {
    fn allowed() -> String {
        "redis://[user:password@]host[:port][/database], rediss://... (TLS), unix:///path/of/socket"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Mistake::new("the URL has no scheme, such as redis://"));
        };
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Mistake::new(
                "the URL holds a space or a control character (write it as %20, %0A ...)",
            ));
        }
        match scheme {
            "redis" | "rediss" => check_redis_authority(rest, true)?,
            // Behind the hosts stands the name of the master.
            "redis+sentinel" => check_redis_authority(rest, false)?,
            "unix" | "redis+unix" if !rest.starts_with('/') => {
                return Err(Mistake::new(
                    "the path of a unix socket is absolute: three slashes follow the colon",
                ));
            }
            "unix" | "redis+unix" => {}
            _ => {
                let meant = nearest(scheme, ["redis", "rediss", "unix", "redis+unix"]);
                let meant = meant.map(|scheme| format!("{scheme}://"));
                return Err(Mistake::new("portico does not know this scheme").suggest(meant));
            }
        }
        Ok(Self::new(text))
    }
}

/// Checks `[user:password@]host[:port][/database]`; several hosts with commas between them for Sentinel.
fn check_redis_authority(rest: &str, has_database: bool) -> Result<(), Mistake> {
    let rest = rest.split('?').next().unwrap_or_default();
    // The user information ends at the last `@`; a password that holds a `/` has to write it as %2F.
    let (user, rest) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(user, rest)| (Some(user), rest));
    if user.is_some_and(|user| user.contains(['/', '@', '#'])) {
        return Err(Mistake::new(
            "in the password /, @ and # are written %2F, %40 and %23",
        ));
    }
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    for host in hosts.split(',') {
        Backend::parse(&format!("http://{host}"))
            .map_err(|_| Mistake::new("the URL's host or port is not valid"))?;
    }
    if has_database && !database.is_empty() && database.parse::<u32>().is_err() {
        return Err(Mistake::new(
            "the database behind the last slash is a number",
        ));
    }
    Ok(())
}

/// Header fields that frame a message or speak about one connection only: portico writes them itself.
const OWN_FIELDS: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "sec-websocket-accept",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The name of a response header that may be set and hidden, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderName(pub(crate) Box<str>);

impl FromText for HeaderName {
    fn allowed() -> String {
        "the name of a response header, but none that frames a message, such as Content-Length"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let name = "the name of a header: letters, digits and - (RFC 9110, 5.1)";
        if !is_token(text) {
            let meant = text.trim_end_matches([':', ' ']);
            let meant = (meant != text && is_token(meant)).then(|| format!("{meant:?}"));
            return Err(Mistake::new(format!("{} is no header name", quote(text)))
                .allowed(name)
                .suggest(meant));
        }
        if OWN_FIELDS.contains(&text.to_ascii_lowercase().as_str()) {
            return Err(Mistake::new(format!(
                "{text} frames the message and is portico's own to write"
            )));
        }
        Ok(Self(text.into()))
    }
}

/// A token of RFC 9110, 5.6.2, of bounded length.
fn is_token(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(byte)
}

impl FromText for HeaderTemplate {
    fn allowed() -> String {
        "the value of a header: printable ASCII, {host} for the host of the request; \"\": not set"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if let Some(bad) = text
            .chars()
            .find(|c| !(c.is_ascii_graphic() || *c == ' ' || *c == '\t'))
        {
            return Err(Mistake::new(format!(
                "a header may not hold the character {bad:?}"
            )));
        }
        if text.trim() != text {
            return Err(
                Mistake::new("a header neither starts nor ends with a space")
                    .suggest(Some(format!("{:?}", text.trim()))),
            );
        }
        if text.len() > 8192 {
            return Err(Mistake::new("the header is longer than 8,192 bytes"));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            literal.push_str(before);
            match placeholder(after)? {
                Some(tail) => {
                    if !literal.is_empty() {
                        parts.push(TemplatePart::Text(std::mem::take(&mut literal).into()));
                    }
                    parts.push(TemplatePart::Host);
                    rest = tail;
                }
                None => {
                    literal.push('{');
                    rest = after;
                }
            }
        }
        let _ = literal.write_str(rest);
        if !literal.is_empty() {
            parts.push(TemplatePart::Text(literal.into()));
        }
        Ok(Self { parts })
    }
}

/// What follows a placeholder whose `{` has been read; `None` for a brace that is just a brace, as in the JSON of
/// `Report-To`. A lone word in braces is a placeholder that does not exist.
fn placeholder(text: &str) -> Result<Option<&str>, Mistake> {
    let Some((word, tail)) = text.split_once('}') else {
        return Ok(None);
    };
    let is_word = !word.is_empty()
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match word {
        "host" => Ok(Some(tail)),
        _ if is_word => Err(Mistake::new(format!("there is no placeholder {{{word}}}"))
            .allowed("{host}")
            .suggest(Some("{host}"))),
        _ => Ok(None),
    }
}

/// The name in the Via header, or none.
#[derive(Debug)]
pub(crate) struct ViaName(pub(crate) Option<Box<str>>);

impl FromText for ViaName {
    fn allowed() -> String {
        "\"\", or a name of letters, digits, - . and _".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "" => Ok(Self(None)),
            _ if is_token(text) => Ok(Self(Some(text.into()))),
            _ => Err(Mistake::new(format!(
                "{} cannot stand in a Via header",
                quote(text)
            ))),
        }
    }
}

/// A regular expression over a header, case-insensitive; empty: none.
#[derive(Debug)]
pub(crate) struct HeaderPattern;

impl FromText for HeaderPattern {
    fn allowed() -> String {
        "\"\" (off), or a regular expression (https://docs.rs/regex/#syntax: no look-around, no back-references)"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let built = regex::bytes::RegexBuilder::new(text)
            .case_insensitive(true)
            .size_limit(1 << 20)
            .build();
        match built {
            Ok(regex) if !text.is_empty() && regex.is_match(b"") => Err(Mistake::new(
                "the expression matches the empty text, and so every request",
            )),
            Ok(_) => Ok(Self),
            Err(error) => {
                // The last line of the parser's answer is the reason; the others draw the expression.
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default().trim();
                Err(Mistake::new(
                    reason.strip_prefix("error: ").unwrap_or(reason),
                ))
            }
        }
    }
}

/// Where the access log goes.
#[derive(Debug)]
pub(crate) struct LogTarget;

impl FromText for LogTarget {
    fn allowed() -> String {
        "\"off\", \"stderr\", or the path of a file, with at least one slash".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let known =
            matches!(text, "off" | "stderr") || (text.contains('/') && !text.contains('\0'));
        let meant = || nearest(text, ["off", "stderr"]).map(|word| format!("{word:?}"));
        known.then_some(Self).ok_or_else(|| {
            Mistake::new(format!("{} is no log target", quote(text))).suggest(meant())
        })
    }
}

/// A media type, such as `text/html`.
#[derive(Debug)]
pub(crate) struct MediaType;

impl FromText for MediaType {
    fn allowed() -> String {
        "a media type such as \"text/html\", without parameters".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let valid = text
            .split_once('/')
            .is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
        valid
            .then_some(Self)
            .ok_or_else(|| Mistake::new(format!("{} is no media type", quote(text))))
    }
}

/// The path and query of a request, such as `/healthz`.
#[derive(Debug)]
pub(crate) struct RequestPath;

impl FromText for RequestPath {
    fn allowed() -> String {
        "a path such as \"/healthz\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let valid =
            text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        valid.then_some(Self).ok_or_else(|| {
            let meant =
                (!text.starts_with('/') && !text.is_empty()).then(|| format!("\"/{text}\""));
            Mistake::new(format!("{} is no path", quote(text))).suggest(meant)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    /// The text is read, and as this.
    #[track_caller]
    fn good<T: FromText + Debug + PartialEq>(text: &str, expected: T) {
        assert_eq!(T::from_text(text), Ok(expected));
    }

    /// The text is refused, with this suggestion.
    #[track_caller]
    fn bad<T: FromText + Debug>(text: &str, suggestion: Option<&str>) {
        let mistake = T::from_text(text).expect_err("a mistake");
        assert_eq!(mistake.suggestion.as_deref(), suggestion, "{mistake:?}");
    }

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

    #[test]
    fn addresses_and_networks() {
        good("[::]:80", SocketAddr::from(([0u16; 8], 80)));
        good("127.0.0.1:9113", SocketAddr::from(([127, 0, 0, 1], 9113)));
        bad::<SocketAddr>(":80", Some("\"[::]:80\""));
        bad::<SocketAddr>("*:80", Some("\"[::]:80\""));
        bad::<SocketAddr>("localhost:80", Some("\"127.0.0.1:80\""));
        bad::<SocketAddr>("127.0.0.1", None);
        bad::<SocketAddr>("127.0.0.1:65536", None);
        good("192.0.2.0/24", "192.0.2.0/24".parse::<IpNet>().unwrap());
        good("192.0.2.1", "192.0.2.1/32".parse::<IpNet>().unwrap());
        good("2001:db8::1", "2001:db8::1/128".parse::<IpNet>().unwrap());
        bad::<IpNet>("10.1.2.3/8", Some("\"10.0.0.0/8\""));
        bad::<IpNet>("10.0.0.0/33", None);
        bad::<IpNet>("all", None);
    }

    #[test]
    fn servers() {
        let name = |host: &str, port| NodeAddress::Name {
            host: host.into(),
            port,
        };
        good(
            "192.0.2.1:30000",
            NodeAddress::Ip("192.0.2.1:30000".parse().unwrap()),
        );
        good(
            "[2001:db8::1]:1",
            NodeAddress::Ip("[2001:db8::1]:1".parse().unwrap()),
        );
        good("Node-1.example.:80", name("node-1.example", 80));
        bad::<NodeAddress>("node", None);
        bad::<NodeAddress>("node:0", None);
        bad::<NodeAddress>("192.0.2.1:0", None);
        bad::<NodeAddress>("192.0.2.256:80", None);
        bad::<NodeAddress>("2001:db8::1:80", None);
        bad::<NodeAddress>("http://node:80/", Some("\"node:80\""));
        bad::<NodeAddress>("http://user:secret@node:80/", None);
    }

    #[test]
    fn names_and_domains() {
        good("ru_monuments", Name("ru_monuments".into()));
        bad::<Name>("Tool", Some("\"tool\""));
        bad::<Name>("my tool", Some("\"my-tool\""));
        bad::<Name>("", None);
        bad::<Name>(&"a".repeat(64), None);
        good("Toolforge.ORG.", Domain("toolforge.org".into()));
        good("localhost", Domain("localhost".into()));
        bad::<Domain>("https://toolforge.org/x", Some("\"toolforge.org\""));
        bad::<Domain>("*.toolforge.org", Some("\"toolforge.org\""));
        bad::<Domain>("toolforge.org:443", Some("\"toolforge.org\""));
        bad::<Domain>("192.0.2.1", None);
        bad::<Domain>("a..b", None);
        bad::<Domain>("", None);
        bad::<Domain>("b\u{fc}cher.example", None);
    }

    #[test]
    fn registry_urls() {
        for url in [
            "redis://127.0.0.1:6379/0",
            "redis://h",
            "rediss://user:p%40ss@h.example:6380/1",
            "redis://:pw@[::1]:6379",
            "unix:///run/redis.sock",
            "redis+unix:///run/redis.sock?db=1",
            "redis+sentinel://a:1,b:2/mymaster/0",
        ] {
            good(url, SecretUrl::new(url));
        }
        bad::<SecretUrl>("127.0.0.1:6379", None);
        bad::<SecretUrl>("reddis://h", Some("redis://"));
        bad::<SecretUrl>("http://h", None);
        bad::<SecretUrl>("redis://h:99999", None);
        bad::<SecretUrl>("redis://h/zero", None);
        bad::<SecretUrl>("redis://", None);
        bad::<SecretUrl>("redis://:a/b@h", None);
        bad::<SecretUrl>("redis://h /0", None);
        bad::<SecretUrl>("unix://run/redis.sock", None);
    }

    #[track_caller]
    fn check_page(url: &str, valid: bool) {
        assert_eq!(MaybePage::from_text(url).is_ok(), valid);
    }

    #[test]
    fn pages() {
        check_page("", true);
        check_page(
            "https://wikitech.wikimedia.org/wiki/Help:Toolforge?a=b#c",
            true,
        );
        check_page("http://[2001:db8::1]:8080/", true);
        check_page("/help", false);
        check_page("javascript:alert(1)", false);
        check_page("https://", false);
        check_page("https://h/\r\nX: y", false);
        check_page("https://h/<script>", false);
        check_page("https://user:pw@h/", false);
        assert_eq!(page_host("https://ToolForge.org.:443/x"), "toolforge.org");
    }

    #[track_caller]
    fn check_template(text: &str, expected: &[&str]) {
        let parts = HeaderTemplate::from_text(text).unwrap().parts;
        let shown: Vec<&str> = parts
            .iter()
            .map(|part| match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Host => "HOST",
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn header_values() {
        check_template("", &[]);
        check_template("max-age=1", &["max-age=1"]);
        check_template("{host}", &["HOST"]);
        check_template("wss://{host}/ {host}", &["wss://", "HOST", "/ ", "HOST"]);
        check_template(r#"{"group":"a"}"#, &[r#"{"group":"a"}"#]);
        check_template(r#"{"h":"{host}"}"#, &[r#"{"h":""#, "HOST", r#""}"#]);
        check_template("{", &["{"]);
        check_template("{}{{host}", &["{}{", "HOST"]);
        bad::<HeaderTemplate>("{hots}", Some("{host}"));
        bad::<HeaderTemplate>("{Host}", Some("{host}"));
        bad::<HeaderTemplate>(" a", Some("\"a\""));
        bad::<HeaderTemplate>("a\r\nb", None);
        bad::<HeaderTemplate>("\u{fc}", None);
    }

    #[test]
    fn header_names() {
        good("X-Frame-Options", HeaderName("X-Frame-Options".into()));
        bad::<HeaderName>("X-Frame-Options:", Some("\"X-Frame-Options\""));
        bad::<HeaderName>("X Y", None);
        bad::<HeaderName>("", None);
        for name in [
            "Content-Length",
            "TRANSFER-ENCODING",
            "connection",
            "Keep-Alive",
            "Upgrade",
            "Content-Encoding",
        ] {
            bad::<HeaderName>(name, None);
        }
    }

    #[test]
    fn patterns() {
        assert!(HeaderPattern::from_text("").is_ok());
        assert!(HeaderPattern::from_text("^(bad|worse)bot/").is_ok());
        bad::<HeaderPattern>("(", None);
        bad::<HeaderPattern>("bot|", None);
        bad::<HeaderPattern>(".*", None);
        bad::<HeaderPattern>("(?=x)", None);
        bad::<HeaderPattern>("(a{1000}){1000}", None);
    }

    #[test]
    fn quoted_values_hide_passwords() {
        assert_eq!(quote("redis://u:secret@h"), "\"redis://u:***@h\"");
        assert_eq!(quote(&"x".repeat(100)), format!("{:?}...", "x".repeat(80)));
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

        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC*") {
            let _ = (Duration::from_text(&text), parse_size(&text), SocketAddr::from_text(&text));
            let _ = (IpNet::from_text(&text), Name::from_text(&text), Domain::from_text(&text));
            let _ = (NodeAddress::from_text(&text), SecretUrl::from_text(&text), HeaderTemplate::from_text(&text));
            let _ = (ApexWord::from_text(&text), MaybePage::from_text(&text), HeaderName::from_text(&text));
            let _ = (HeaderPattern::from_text(&text), LogTarget::from_text(&text), RequestPath::from_text(&text));
            let _ = (SecretUrl::new(text.as_str()).to_string(), quote(&text));
        }

        /// A template says what was written.
        #[test]
        fn a_template_keeps_the_text(text in "[a-z {}\"]{0,20}") {
            if let Ok(template) = HeaderTemplate::from_text(&text) {
                let back: String = template.parts.iter().map(|part| match part {
                    TemplatePart::Text(text) => &**text,
                    TemplatePart::Host => "{host}",
                }).collect();
                prop_assert_eq!(back, text);
            }
        }
    }
}
