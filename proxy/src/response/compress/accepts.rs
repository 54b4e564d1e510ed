//! What a client accepts: Accept-Encoding against the configured order (RFC 9110 section 12.5.3).
//!
//! Works on the bytes of the head and allocates nothing.

use portico_config::Algorithm;
use portico_routing::field::Field;

use super::has_item;
use crate::http1::{RequestHead, Version};

/// What of a request decides on the compression of its answer; it outlives the bytes of the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepts {
    /// The encoding that the client likes best, the first of the configured among equals. None: it
    /// gets answers as they are. So do HTTP/1.0 clients, since they cannot be sent a body of unknown
    /// length on a connection that stays open, and those that forbid changes (RFC 9111 section
    /// 5.2.1.6).
    pub encoding: Option<Algorithm>,
    /// It has a variant with a weak ETag, and asks with If-None-Match whether that is still good.
    pub has_weak: bool,
}

impl Accepts {
    /// Reads a request; `algorithms` in their order of preference.
    pub fn new(head: &RequestHead, buf: &[u8], algorithms: &[Algorithm]) -> Self {
        if algorithms.is_empty() {
            return Self::default();
        }
        let mut weights = Weights::default();
        let mut unchanged = head.version == Version::Http10;
        let mut has_weak = false;
        for field in &head.fields {
            let value = field.value.of(buf);
            match field.field {
                Field::AcceptEncoding => weights.add(value),
                Field::CacheControl => unchanged |= has_item(value, b"no-transform"),
                Field::IfNoneMatch => has_weak |= has_weak_tag(value),
                _ => {}
            }
        }
        let encoding = weights.best(algorithms).filter(|_| !unchanged);
        Self { encoding, has_weak }
    }
}

/// Whether a weak tag is in the list. One that holds a comma may be taken for two: a strong one
/// would have to look weak behind it.
fn has_weak_tag(list: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|tag| tag.trim_ascii().starts_with(b"W/\""))
}

/// The weights that a client gave, in thousandths. A coding that it names twice has the lower one.
#[derive(Debug, Default)]
struct Weights {
    zstd: Option<u16>,
    br: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    /// `*`
    any: Option<u16>,
}

impl Weights {
    /// Adds the codings of one field.
    fn add(&mut self, list: &[u8]) {
        for item in list.split(|&byte| byte == b',') {
            let (name, weight) = match memchr::memchr(b';', item) {
                None => (item, 1000),
                // A weight that cannot be read is none that one could rely on.
                Some(at) => (&item[..at], parse_weight(&item[at + 1..]).unwrap_or(0)),
            };
            let name = name.trim_ascii();
            let is = |coding: &[u8]| coding.eq_ignore_ascii_case(name);
            let slot = if is(b"gzip") || is(b"x-gzip") {
                &mut self.gzip
            } else if is(b"br") {
                &mut self.br
            } else if is(b"zstd") {
                &mut self.zstd
            } else if is(b"identity") {
                &mut self.identity
            } else if is(b"*") {
                &mut self.any
            } else {
                continue;
            };
            *slot = Some(slot.map_or(weight, |other| other.min(weight)));
        }
    }

    /// `*` speaks for gzip alone: any coding would be right, and of those who write it few know the
    /// newer two. `identity` wins only if it is named and has the greater weight; where it is
    /// forbidden and nothing else is possible, the answer goes as it is (RFC 9110 section 12.5.3).
    fn best(&self, algorithms: &[Algorithm]) -> Option<Algorithm> {
        let weight = |algorithm| match algorithm {
            Algorithm::Zstd => self.zstd,
            Algorithm::Br => self.br,
            Algorithm::Gzip => self.gzip.or(self.any),
        };
        let mut best = None;
        let mut best_weight = 0;
        for &algorithm in algorithms {
            let weight = weight(algorithm).unwrap_or(0);
            if weight > best_weight {
                (best, best_weight) = (Some(algorithm), weight);
            }
        }
        best.filter(|_| best_weight >= self.identity.unwrap_or(0))
    }
}

/// `q=0.5` in thousandths (RFC 9110 section 12.4.2).
fn parse_weight(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), rest @ ..] = parameter.trim_ascii() else {
        return None;
    };
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let mut weight = u16::from(whole - b'0');
    for place in 0..3 {
        let digit = match digits.get(place) {
            None => 0,
            Some(digit) if digit.is_ascii_digit() => u16::from(digit - b'0'),
            Some(_) => return None,
        };
        weight = weight * 10 + digit;
    }
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http1::{HeadLimits, Parsed, RequestParser};

    const ALL: [Algorithm; 3] = [Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip];

    fn of_request(request: &str, algorithms: &[Algorithm]) -> Accepts {
        let mut parser = RequestParser::new(HeadLimits {
            head: 65536,
            target: 100,
            fields: 64,
        });
        assert_eq!(parser.parse(request.as_bytes()), Ok(Parsed::Complete));
        Accepts::new(parser.head(), request.as_bytes(), algorithms)
    }

    fn of_fields(fields: &str, algorithms: &[Algorithm]) -> Option<Algorithm> {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        of_request(&request, algorithms).encoding
    }

    fn of(value: &str) -> Option<Algorithm> {
        of_fields(&format!("Accept-Encoding: {value}\r\n"), &ALL)
    }

    #[track_caller]
    fn check(value: &str, expected: &str) {
        let got = of(value).map_or("", Algorithm::as_str);
        assert_eq!(got, expected, "{value:?}");
    }

    #[test]
    fn the_best_weight_wins_then_the_configured_order() {
        check("gzip, deflate, br, zstd", "zstd");
        check("gzip, deflate, br", "br");
        check("gzip, br;q=0.9, zstd;q=0.8", "gzip");
        check("gzip;q=0.001", "gzip");
        check("gzip;q=0.5, br;q=0.501", "br");
        check("GZip", "gzip");
        check("x-gzip", "gzip");
        check(" , gzip ,", "gzip");
        check("gzip ; q=0.5 , br\t;\tQ=0.50", "br");
        check("deflate, compress, gzipped", "");
        check("", "");
    }

    #[test]
    fn refusals() {
        check("gzip;q=0", "");
        check("gzip;q=0.000, br", "br");
        check("gzip, x-gzip;q=0", "");
        check("gzip;q=0, gzip", "");
        check("*;q=0", "");
        check("*;q=0, br", "br");
    }

    #[test]
    fn any_is_gzip() {
        check("*", "gzip");
        check("br;q=0.5, *", "gzip");
        check("br, *;q=0.5", "br");
        check("gzip;q=0, *", "");
        check("*;q=0.5, identity;q=0", "gzip");
    }

    #[test]
    fn identity() {
        check("identity", "");
        check("identity, gzip;q=0.5", "");
        check("identity;q=0.5, gzip;q=0.5", "gzip");
        check("identity;q=0.5, gzip", "gzip");
        check("identity;q=0", "");
        check("gzip;q=0.1, identity;q=0", "gzip");
    }

    #[test]
    fn what_cannot_be_read_is_not_accepted() {
        for bad in [
            "gzip;q=",
            "gzip;q",
            "gzip;",
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.5555",
            "gzip;q=.5",
            "gzip;q=-1",
            "gzip;q=0,5x",
            "gzip;q = 1",
            "gzip;q=1;a=b",
            "gzip;level=9",
            "gzip q=1",
            "\"gzip\"",
            "gzip;q=0.x",
            "gzip;q=1.0000",
            "gzip;q=\u{661}",
        ] {
            check(bad, "");
        }
        check("gzip;q=x, br", "br");
        check("gzip;q=x, *", "");
        for good in [
            "gzip;q=1.",
            "gzip;q=1.000",
            "gzip;q=0.5",
            "gzip;q=0.",
            "gzip;q=0.001",
        ] {
            check(good, if good == "gzip;q=0." { "" } else { "gzip" });
        }
    }

    #[test]
    fn the_whole_request() {
        let accept = "Accept-Encoding: gzip\r\n";
        let gzip = Some(Algorithm::Gzip);
        assert_eq!(of_fields("", &ALL), None);
        assert_eq!(of_fields(accept, &ALL), gzip);
        assert_eq!(of_fields(accept, &[]), None);
        assert_eq!(of_fields(accept, &[Algorithm::Br]), None);
        let two = "Accept-Encoding: gzip\r\naccept-encoding: br\r\n";
        assert_eq!(of_fields(two, &ALL), Some(Algorithm::Br));
        assert_eq!(of_fields(two, &[Algorithm::Gzip, Algorithm::Br]), gzip);
        let no_transform = format!("{accept}Cache-Control: max-age=0, No-Transform\r\n");
        assert_eq!(of_fields(&no_transform, &ALL), None);
        let old = format!("GET / HTTP/1.0\r\nHost: a\r\n{accept}\r\n");
        assert_eq!(of_request(&old, &ALL).encoding, None);
    }

    #[test]
    fn weak_tags() {
        #[track_caller]
        fn check(tags: &str, expected: bool) {
            for version in ["1.0", "1.1"] {
                let request =
                    format!("GET / HTTP/{version}\r\nHost: a\r\nIf-None-Match: {tags}\r\n\r\n");
                assert_eq!(of_request(&request, &ALL).has_weak, expected, "{tags}");
                assert!(!of_request(&request, &[]).has_weak);
            }
        }
        check("W/\"x\"", true);
        check("\"a\" ,\tW/\"x\"", true);
        check("\"a\"\r\nIf-None-Match: W/\"x\"", true);
        check("\"x\"", false);
        check("*", false);
        check("w/\"x\"", false);
        check("\"W/\"", false);
        check("", false);
    }

    /// The same from the grammar by splitting strings, with all weights as numbers.
    fn naive(value: &str, algorithms: &[Algorithm]) -> Option<Algorithm> {
        let mut weights: Vec<(String, f64)> = Vec::new();
        for item in value.split(',') {
            let (name, weight) = match item.split_once(';') {
                None => (item, 1.0),
                Some((name, parameter)) => {
                    let text = parameter.trim().to_ascii_lowercase();
                    let number = text.strip_prefix("q=").unwrap_or("x");
                    let shape = number.len() <= 5
                        && (number.len() == 1 || number.as_bytes().get(1) == Some(&b'.'))
                        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
                    let weight = number.parse::<f64>().ok();
                    let weight = weight.filter(|q| shape && *q <= 1.0);
                    (name, weight.unwrap_or(0.0))
                }
            };
            let name = name.trim().to_ascii_lowercase();
            weights.push((
                if name == "x-gzip" {
                    "gzip".into()
                } else {
                    name
                },
                weight,
            ));
        }
        let weight = |name: &str| {
            weights
                .iter()
                .filter(|(other, _)| other == name)
                .map(|(_, weight)| *weight)
                .reduce(f64::min)
        };
        let of = |a: &Algorithm| match a {
            Algorithm::Gzip => weight("gzip").or(weight("*")).unwrap_or(0.0),
            other => weight(other.as_str()).unwrap_or(0.0),
        };
        let best = algorithms.iter().map(of).fold(0.0, f64::max);
        (best > 0.0 && best >= weight("identity").unwrap_or(0.0))
            .then(|| algorithms.iter().copied().find(|a| of(a) == best))
            .flatten()
    }

    fn items() -> impl Strategy<Value = String> {
        let name = "gzip|x-gzip|br|zstd|identity|\\*|deflate|GZIP| br |";
        let weight = "|;q=0|;q=1|;q=0\\.[0-9]{0,4}|; Q=1\\.0{0,3}|;q=[0-9.]{0,6}|;x=1|;q=x";
        let item = (name, weight).prop_map(|(name, weight)| name + &weight);
        prop::collection::vec(item, 0..6).prop_map(|items| items.join(","))
    }

    proptest! {
        #[test]
        fn as_the_naive_twin(
            value in prop_oneof![items(), "[gzip,;q=01. *xbr]{0,30}"],
            algorithms in Just(ALL.to_vec()).prop_shuffle(),
            count in 0..=3_usize,
        ) {
            let algorithms = &algorithms[..count];
            let got = of_fields(&format!("Accept-Encoding: {value}\r\n"), algorithms);
            prop_assert_eq!(got, naive(&value, algorithms));
        }
    }
}
