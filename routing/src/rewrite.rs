//! Small decisions about header values: Location rewriting, Via, comma lists.
//!
//! Does not build heads and does not touch buffers; answers are slices of what was given.

use crate::decide::push_uri_bytes;
use crate::host::Host;

/// When `value` is `http://<own host>[:80]rest`, the rest; the caller writes
/// `https://<own host>` before it.
///
/// `None`, which means "leave it alone", for other hosts, other ports, https, relative references,
/// and whatever is not a clean URL.
pub fn location<'a>(value: &'a [u8], host: &Host) -> Option<&'a [u8]> {
    let after_scheme = strip_prefix_ignore_case(value, b"http://")?;
    let after_host = strip_prefix_ignore_case(after_scheme, host.as_bytes())?;
    let rest = match after_host {
        [b':', b'8', b'0', rest @ ..] | [b':', rest @ ..] => rest,
        rest => rest,
    };
    // Anything else would make the own name a part of another host, or user information.
    let ends_host = matches!(rest.first(), None | Some(b'/' | b'?' | b'#'));
    let clean = !rest.iter().any(|byte| byte.is_ascii_control());
    (ends_host && clean).then_some(rest)
}

/// The same target over HTTPS: `https://<host><target>`; safe to write as a Location.
pub fn https_url(host: &Host, target: &[u8]) -> Vec<u8> {
    let mut location = Vec::with_capacity(8 + host.as_bytes().len() + 1 + target.len());
    location.extend_from_slice(b"https://");
    location.extend_from_slice(host.as_bytes());
    if target.first() != Some(&b'/') {
        location.push(b'/');
    }
    push_uri_bytes(&mut location, target, b"");
    location
}

/// Whether a Via value names `name` as a receiver (RFC 9110 section 7.6.3): the request
/// has been here before.
///
/// Commas in comments are taken for separators, so that an unclosed parenthesis sent by a
/// client cannot hide a name.
pub fn via_has(value: &[u8], name: &str) -> bool {
    value.split(|&byte| byte == b',').any(|element| {
        let mut words = element
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty());
        let received_by = words.nth(1).unwrap_or_default();
        strip_prefix_ignore_case(received_by, name.as_bytes())
            .is_some_and(|rest| matches!(rest.first(), None | Some(b':')))
    })
}

/// Whether a comma list (Connection, Upgrade, TE) has `token`, in any case.
pub fn list_has(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|element| trim(element).eq_ignore_ascii_case(token))
}

fn trim(mut element: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = element {
        element = rest;
    }
    element
}

fn strip_prefix_ignore_case<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_location(value: &str, expected: Option<&str>) {
        let host = Host::parse(b"grid.toolforge.org").unwrap();
        let rest = location(value.as_bytes(), &host);
        assert_eq!(rest, expected.map(str::as_bytes), "{value:?}");
    }

    #[test]
    fn locations() {
        check_location("http://grid.toolforge.org/y", Some("/y"));
        check_location("HTTP://Grid.Toolforge.org/Y?z#q", Some("/Y?z#q"));
        check_location("http://grid.toolforge.org", Some(""));
        check_location("http://grid.toolforge.org?x", Some("?x"));
        check_location("http://grid.toolforge.org:80/y", Some("/y"));
        check_location("http://grid.toolforge.org:/y", Some("/y"));
        check_location("http://grid.toolforge.org:80", Some(""));
        check_location("http://grid.toolforge.org:8080/y", None);
        check_location("http://grid.toolforge.org:800/y", None);
        check_location("http://grid.toolforge.org:443/y", None);
        check_location("http://grid.toolforge.org.evil.example/", None);
        check_location("http://grid.toolforge.org@evil.example/", None);
        check_location("http://grid.toolforge.org:80@evil.example/", None);
        check_location("http://grid.toolforge.org:@evil.example/", None);
        check_location("http://grid.toolforge.org\\@evil.example/", None);
        check_location("http://other.toolforge.org/y", None);
        check_location("https://grid.toolforge.org/y", None);
        check_location("//grid.toolforge.org/y", None);
        check_location("/y", None);
        check_location("", None);
        check_location("http://", None);
        check_location("http://grid.toolforge.org/a\r\nX: y", None);
        check_location("http://grid.toolforge.org/a\0", None);
    }

    #[test]
    fn location_of_an_address() {
        let host = Host::parse(b"[::1]:80").unwrap();
        assert_eq!(location(b"http://[::1]:80/x", &host), Some(&b"/x"[..]));
        assert_eq!(location(b"http://[::1]x/x", &host), None);
    }

    #[track_caller]
    fn check_via(value: &str, expected: bool) {
        assert_eq!(via_has(value.as_bytes(), "portico"), expected, "{value:?}");
    }

    #[test]
    fn vias() {
        check_via("1.1 portico", true);
        check_via("1.0 fred, 1.1 Portico", true);
        check_via("1.0 fred (a comment), HTTP/2 portico (x)", true);
        check_via(" \t2  portico:443 ", true);
        check_via("1.0 x (never closed, 1.1 portico", true);
        check_via("1.1 porticos", false);
        check_via("1.1 my-portico", false);
        check_via("portico", false);
        check_via("1.1 fred (portico)", false);
        check_via("", false);
        check_via(",,", false);
    }

    #[track_caller]
    fn check_list(value: &str, token: &str, expected: bool) {
        assert_eq!(
            list_has(value.as_bytes(), token.as_bytes()),
            expected,
            "{value:?}"
        );
    }

    #[test]
    fn lists() {
        check_list("close", "close", true);
        check_list("Keep-Alive,\t Close ", "close", true);
        check_list(",close,", "close", true);
        check_list("closed", "close", false);
        check_list("x-close", "close", false);
        check_list("clo se", "close", false);
        check_list("", "close", false);
    }

    proptest! {
        #[test]
        fn rewriting_never_lets_control_bytes_through(
            start in prop::sample::select(vec!["http://a", "http://a:80", "HTTP://A:", "http://b", ""]),
            rest in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'/'), Just(b'\n')], 0..12),
        ) {
            let host = Host::parse(b"a").unwrap();
            let value = [start.as_bytes(), &rest].concat();
            if let Some(rest) = location(&value, &host) {
                prop_assert!(!rest.iter().any(|byte| byte.is_ascii_control()));
                prop_assert!(value.ends_with(rest));
                prop_assert!(rest.is_empty() || b"/?#".contains(&rest[0]));
            }
        }

        #[test]
        fn lists_and_vias_never_panic(value in prop::collection::vec(any::<u8>(), 0..40), token in any::<String>()) {
            let _ = list_has(&value, token.as_bytes());
            let _ = via_has(&value, &token);
        }
    }
}
