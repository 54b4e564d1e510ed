//! In which form a client wants a page, by its `Accept` fields (RFC 9110 section 12.5.1).
//!
//! Of all ranges that match a form the most specific counts, the first among equals. The form with
//! the highest quality wins; then the one that was named more precisely, then earlier, then the
//! plainer one. Ranges that break the grammar are passed over, parameters other than `q` have no
//! meaning. A client that takes nothing of what there is gets text: RFC 9110 leaves that choice to
//! the server, and an error without a page would help nobody.
//!
//! Nothing is allocated. What browsers and JSON clients send is known by its first bytes.

use portico_routing::field::Field;

use crate::http1::RequestHead;

/// The form of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `text/plain`: for terminals, and whoever says nothing.
    #[default]
    Text,
    /// `text/html`
    Html,
    /// `application/problem+json` (RFC 9457), also for other `application/...+json`.
    Problem,
    /// The same as `application/json`, for clients that ask for just that.
    Json,
}

/// All forms; the plainer ones first.
const FORMATS: [Format; 4] = [Format::Text, Format::Html, Format::Problem, Format::Json];

impl Format {
    /// What the client of a complete head wants.
    #[inline]
    pub fn of_head(head: &RequestHead, buf: &[u8]) -> Self {
        let accept = head.fields.iter().filter(|f| f.field == Field::Accept);
        Self::choose(accept.map(|field| field.value.of(buf)))
    }

    /// The same for a head that broke off or breaks the rules: by the lines that came.
    pub fn of_broken_head(bytes: &[u8]) -> Self {
        const NAME: &[u8] = b"accept:";
        let lines = bytes.split(|byte| *byte == b'\n').skip(1);
        Self::choose(lines.filter_map(|line| {
            let (name, value) = line.split_at_checked(NAME.len())?;
            name.eq_ignore_ascii_case(NAME).then_some(value)
        }))
    }

    /// By the values of all `Accept` fields.
    #[inline]
    pub fn choose<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Self {
        let Some(first) = values.next() else {
            return Self::Text;
        };
        // Named precisely, first and with the highest quality: nothing behind it can win.
        let begins = |range: &[u8]| {
            first
                .strip_prefix(range)
                .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b','))
        };
        if begins(b"text/html") {
            return Self::Html;
        }
        if begins(b"application/json") {
            return Self::Json;
        }
        if first == b"*/*" {
            // Most others. More fields are rare enough to be read.
            return match values.next() {
                None => Self::Text,
                Some(second) => ranked([first, second].into_iter().chain(values)),
            };
        }
        ranked(std::iter::once(first).chain(values))
    }
}

/// The range that counts for a form.
#[derive(Debug, Clone, Copy)]
struct Rank {
    /// In thousandths.
    quality: u16,
    precision: Precision,
    /// Which range it is, from 0.
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    Anything,
    Type,
    Exact,
}

#[cold]
fn ranked<'a>(values: impl Iterator<Item = &'a [u8]>) -> Format {
    let mut ranks: [Option<Rank>; FORMATS.len()] = [None; FORMATS.len()];
    let ranges = values.flat_map(|value| value.split(|byte| *byte == b','));
    for (index, range) in ranges.filter_map(Range::parse).enumerate() {
        for (format, rank) in FORMATS.iter().zip(&mut ranks) {
            if let Some(precision) = range.precision(*format)
                && rank.is_none_or(|rank| precision > rank.precision)
            {
                *rank = Some(Rank {
                    quality: range.quality,
                    precision,
                    index,
                });
            }
        }
    }
    let mut best: Option<(Format, Rank)> = None;
    for (format, rank) in FORMATS.iter().zip(ranks) {
        let Some(rank) = rank.filter(|rank| rank.quality > 0) else {
            continue;
        };
        let key = |rank: Rank| (rank.quality, rank.precision, usize::MAX - rank.index);
        if best.is_none_or(|(_, other)| key(rank) > key(other)) {
            best = Some((*format, rank));
        }
    }
    best.map_or(Format::Text, |(format, _)| format)
}

/// One media range with its quality.
#[derive(Debug)]
struct Range<'a> {
    kind: &'a [u8],
    subtype: &'a [u8],
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(element: &'a [u8]) -> Option<Self> {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next()?;
        let slash = range.iter().position(|byte| *byte == b'/')?;
        let (kind, subtype) = (range.get(..slash)?, range.get(slash + 1..)?);
        let valid = is_token(kind) && is_token(subtype) && (kind != b"*" || subtype == b"*");
        let weight = parts.find_map(|part| match part {
            [b'q' | b'Q', b'=', value @ ..] => Some(quality(value)),
            _ => None,
        });
        Some(Self {
            kind: valid.then_some(kind)?,
            subtype,
            quality: weight.unwrap_or(Some(1000))?,
        })
    }

    fn precision(&self, format: Format) -> Option<Precision> {
        let (kind, subtype): (&[u8], &[u8]) = match format {
            Format::Text => (b"text", b"plain"),
            Format::Html => (b"text", b"html"),
            Format::Problem => (b"application", b"+json"),
            Format::Json => (b"application", b"json"),
        };
        if self.kind == b"*" {
            return Some(Precision::Anything);
        }
        if !self.kind.eq_ignore_ascii_case(kind) {
            return None;
        }
        let named = match format {
            Format::Problem => self
                .subtype
                .len()
                .checked_sub(subtype.len())
                .and_then(|start| self.subtype.get(start..)),
            Format::Text | Format::Html | Format::Json => Some(self.subtype),
        };
        match named {
            _ if self.subtype == b"*" => Some(Precision::Type),
            Some(name) if name.eq_ignore_ascii_case(subtype) => Some(Precision::Exact),
            _ => None,
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

/// A qvalue (RFC 9110 section 12.4.2) in thousandths.
fn quality(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole @ (b'0' | b'1')] => (*whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] => (*whole, digits),
        _ => return None,
    };
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let fraction = digits
        .iter()
        .zip([100, 10, 1])
        .map(|(digit, value)| u16::from(digit - b'0') * value)
        .sum::<u16>();
    match (whole, fraction) {
        (b'0', _) => Some(fraction),
        (_, 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Format) {
        let chosen = Format::choose(accept.split('\n').map(str::as_bytes));
        assert_eq!(chosen, expected, "{accept:?}");
    }

    #[test]
    fn real_clients() {
        use Format::{Html, Json, Problem, Text};
        // Firefox and Chromium for a page, Chromium for an image, Safari, Java, curl, wget, axios,
        // jQuery, the GitHub client.
        check(
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            Html,
        );
        check(
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
            Html,
        );
        check(
            "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
            Text,
        );
        check("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", Html);
        check("*/*", Text);
        check("application/json, text/plain, */*", Json);
        check("application/json, text/javascript, */*; q=0.01", Json);
        check("application/vnd.github+json", Problem);
        check("application/problem+json, application/json", Problem);
        check("text/css,*/*;q=0.1", Text);
        check("text/event-stream", Text);
    }

    #[test]
    fn the_rules() {
        use Format::{Html, Json, Problem, Text};
        assert_eq!(Format::choose(std::iter::empty()), Text);
        check("", Text);
        check("nonsense", Text);
        check("application/xml;q=0.9", Text);
        check("text/html;q=0.5, application/json;q=0.6", Json);
        check("text/html;q=0.5, application/json", Json);
        check("TEXT/HTML;Q=1.000", Html);
        check("text/html;level=1;q=0.4, text/plain;q=0.3", Html);
        // The most specific range counts, not the best.
        check("text/html;q=0.1, */*;q=0.5", Text);
        check("text/plain;q=0, text/*", Html);
        check("*/*, text/plain;q=0, text/html;q=0", Problem);
        check("*/*, text/html", Html);
        check("*/*\ntext/html", Html);
        check("application/*", Problem);
        check("text/*, application/json;q=0.9", Text);
        check("text/html;q=0", Text);
        // A broken range is passed over.
        for bad in ["q=2", "q=1.001", "q=0.1234", "q=", "q=-1", "q=.5", "q=1e0"] {
            check(&format!("text/html;{bad}, application/json;q=0.1"), Json);
        }
        check("*/html, application/json;q=0.1", Json);
        check("text/, /html, text/h tml, application/json;q=0.1", Json);
        check("text/htmlx", Text);
        check("application/jsonx", Text);
        check("application/x+xml", Text);
    }

    #[test]
    fn broken_heads_are_read_by_line() {
        let head = b"GET /text/html HTTP/1.1\r\nX-Accept: application/json\r\naccept:  text/html \r\nCookie: a";
        assert_eq!(Format::of_broken_head(head), Format::Html);
        assert_eq!(
            Format::of_broken_head(b"accept: text/html\r\n"),
            Format::Text
        );
        assert_eq!(Format::of_broken_head(b""), Format::Text);
    }

    /// By the words of RFC 9110, with strings, floats and sorting.
    fn naive(values: &[String]) -> Format {
        let joined = values.join(",");
        let mut ranges = Vec::new();
        for element in joined.split(',') {
            let words: Vec<&str> = element.split(';').map(|w| w.trim_matches(blank)).collect();
            let Some((kind, subtype)) = words[0].split_once('/') else {
                continue;
            };
            let is_token = |word: &str| {
                !word.is_empty()
                    && word
                        .chars()
                        .all(|c| c.is_ascii_graphic() && !"\"(),/:;<=>?@[\\]{}".contains(c))
            };
            if !is_token(kind) || !is_token(subtype) || (kind == "*" && subtype != "*") {
                continue;
            }
            let weight = words[1..]
                .iter()
                .find(|word| word.to_lowercase().starts_with("q="));
            let quality: f64 = match weight {
                None => 1.0,
                Some(word) => {
                    let value = &word[2..];
                    let digits = value.get(2..).unwrap_or("");
                    let fits = digits.len() <= 3 && digits.chars().all(|c| c.is_ascii_digit());
                    let zero = value == "0" || (value.starts_with("0.") && fits);
                    let zeros = digits.chars().all(|c| c == '0');
                    let one = value == "1" || (value.starts_with("1.") && fits && zeros);
                    if !zero && !one {
                        continue;
                    }
                    value.trim_end_matches('.').parse().unwrap()
                }
            };
            ranges.push((kind.to_lowercase(), subtype.to_lowercase(), quality));
        }
        let mut found = Vec::new();
        for (order, format) in FORMATS.iter().enumerate() {
            let precision = |kind: &str, subtype: &str| match (format, kind, subtype) {
                (_, "*", "*") => 1,
                (Format::Text | Format::Html, "text", "*") => 2,
                (Format::Problem | Format::Json, "application", "*") => 2,
                (Format::Text, "text", "plain") | (Format::Html, "text", "html") => 3,
                (Format::Json, "application", "json") => 3,
                (Format::Problem, "application", name) if name.ends_with("+json") => 3,
                _ => 0,
            };
            let mut matching: Vec<_> = ranges
                .iter()
                .enumerate()
                .map(|(index, (kind, subtype, q))| (precision(kind, subtype), index, *q))
                .filter(|(precision, ..)| *precision > 0)
                .collect();
            matching.sort_by_key(|(precision, index, _)| (-precision, *index));
            if let Some((precision, index, q)) = matching.first()
                && *q > 0.0
            {
                found.push((-(q * 1000.0).round() as i64, -precision, *index, order));
            }
        }
        found.sort_unstable();
        found.first().map_or(Format::Text, |best| FORMATS[best.3])
    }

    fn blank(c: char) -> bool {
        c.is_ascii_whitespace()
    }

    proptest! {
        #[test]
        fn as_the_naive_twin(values in prop::collection::vec(
            prop::collection::vec(
                "(text|application|\\*|TEXT|)/(html|plain|json|problem\\+json|x\\+JSON|\\*|)( ?; ?(level=1|[qQ]=(0|1|0\\.[0-9]{0,4}|1\\.0{0,2}|2)|q|x)){0,2} ?",
                0..4,
            ),
            0..3,
        )) {
            let values: Vec<String> = values.iter().map(|ranges| ranges.join(",")).collect();
            let chosen = Format::choose(values.iter().map(String::as_bytes));
            prop_assert_eq!(chosen, naive(&values), "{:?}", values);
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            Format::choose(std::iter::once(&bytes[..]));
            Format::of_broken_head(&bytes);
        }
    }
}
