//! Keeps out web pages: a browser on the same machine, or in the same network, can be made to send
//! requests here by any page that it shows.
//!
//! Two ways are closed. DNS rebinding (the page's own name now leads here, so that the page may read
//! the answers): the Host must be an address, `localhost`, or what this machine is called. Cross-site
//! requests (a form that posts to `http://127.0.0.1:9113/reload`): browsers say where a request comes
//! from, in Origin and Sec-Fetch-Site. Programs send neither, and no browser connects to unix sockets.
//!
//! Pure: no clock, no state.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Method, Request};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who can connect at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Programs on this machine, browsers among them, or in a network.
    Network,
    /// Programs that may open the file of the socket.
    File,
}

/// What this machine is called: Prometheus comes by name.
#[derive(Debug)]
pub(super) struct Names<'a> {
    configured: Option<&'a str>,
    host: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Host,
    Origin,
    Site,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => {
                "the Host must be an IP address, localhost, or what this machine is called (server.name)"
            }
            Self::Origin => "the request comes from a web page of another site (Origin)",
            Self::Site => "the request comes from a web page of another site (Sec-Fetch-Site)",
        })
    }
}

impl<'a> Names<'a> {
    pub(super) fn new(configured: Option<&'a str>) -> Self {
        let system = rustix::system::uname();
        Self {
            configured,
            host: system.nodename().to_string_lossy().into_owned(),
        }
    }

    fn contain(&self, name: &str) -> bool {
        let own = [Some(self.host.as_str()), self.configured];
        own.into_iter()
            .flatten()
            .any(|own| !own.is_empty() && own.eq_ignore_ascii_case(name))
    }
}

/// Whether a request may be answered.
pub(super) fn check<B>(
    request: &Request<B>,
    reach: Reach,
    names: &Names<'_>,
) -> Result<(), Refused> {
    let fields = request.headers();
    if reach == Reach::Network {
        let mut authorities = authorities(request);
        if !authorities.all(|authority| host_of(authority).is_some_and(|host| is_own(host, names)))
        {
            return Err(Refused::Host);
        }
    }
    for origin in fields.get_all(ORIGIN) {
        let own = fields
            .get(HOST)
            .map(|host| [b"http://", host.as_bytes()].concat());
        if own.is_none_or(|own| !origin.as_bytes().eq_ignore_ascii_case(&own)) {
            return Err(Refused::Origin);
        }
    }
    check_site(fields, request.method())
}

/// A page on another port of the same machine is of the same site: it may link here, no more.
fn check_site(fields: &HeaderMap, method: &Method) -> Result<(), Refused> {
    for site in fields.get_all(SEC_FETCH_SITE) {
        match site.as_bytes() {
            b"same-origin" | b"none" => {}
            b"same-site" if method == Method::GET || method == Method::HEAD => {}
            _ => return Err(Refused::Site),
        }
    }
    Ok(())
}

/// What the request says whom it is for. A request of HTTP/1.0 may say nothing; browsers always do.
fn authorities<B>(request: &Request<B>) -> impl Iterator<Item = &[u8]> {
    let hosts = request.headers().get_all(HOST).iter();
    let target = request.uri().authority();
    hosts
        .map(HeaderValue::as_bytes)
        .chain(target.map(|target| target.as_str().as_bytes()))
}

/// The host of `host:port`; strict, because what is not understood is not our own.
fn host_of(authority: &[u8]) -> Option<&str> {
    let authority = std::str::from_utf8(authority).ok()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "0"),
    };
    port.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(host)
}

/// Exactly one of the names that are fine, so that no trick in how it is written can matter.
fn is_own(host: &str, names: &Names<'_>) -> bool {
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
        || host.eq_ignore_ascii_case("localhost")
        || names.contain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_fields(method: &str, fields: &[(&str, &str)], expected: Result<(), Refused>) {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let names = Names {
            configured: Some("proxy-5.example.org"),
            host: "proxy-5".to_owned(),
        };
        let result = check(&request, Reach::Network, &names);
        assert_eq!(result, expected, "{method} {fields:?}");
    }

    #[track_caller]
    fn check_host(host: &str, good: bool) {
        check_fields(
            "GET",
            &[("Host", host)],
            good.then_some(()).ok_or(Refused::Host),
        );
    }

    #[test]
    fn hosts() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9113",
            "[::1]:9113",
            "[::1]",
            "192.0.2.7:80",
            "localhost",
            "LocalHost:9113",
            "proxy-5",
            "Proxy-5.example.org:9113",
        ] {
            check_host(host, true);
        }
        for host in [
            "evil.example",
            "evil.example:9113",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "proxy-5.evil.example",
            "a.localhost",
            "[::1].evil.example",
            "[evil]",
            "0x7f000001",
            "2130706433",
            "",
            " ",
            "a b",
        ] {
            check_host(host, false);
        }
    }

    #[test]
    fn every_host_counts() {
        check_fields("GET", &[], Ok(()));
        let two = [("Host", "127.0.0.1"), ("Host", "evil.example")];
        check_fields("GET", &two, Err(Refused::Host));
        let names = Names::new(None);
        let absolute = Request::get("http://evil.example/").header("Host", "127.0.0.1");
        let absolute = absolute.body(()).unwrap();
        assert_eq!(check(&absolute, Reach::Network, &names), Err(Refused::Host));
        assert_eq!(check(&absolute, Reach::File, &names), Ok(()));
    }

    #[track_caller]
    fn check_page(method: &str, name: &str, value: &str, expected: Result<(), Refused>) {
        check_fields(
            method,
            &[("Host", "127.0.0.1:9113"), (name, value)],
            expected,
        );
    }

    #[test]
    fn pages() {
        check_page("POST", "Origin", "http://127.0.0.1:9113", Ok(()));
        for other in [
            "http://127.0.0.1:3000",
            "https://127.0.0.1:9113",
            "http://evil.example",
            "null",
            "",
        ] {
            check_page("POST", "Origin", other, Err(Refused::Origin));
            check_page("GET", "Origin", other, Err(Refused::Origin));
        }
        check_page("POST", "Sec-Fetch-Site", "same-origin", Ok(()));
        check_page("GET", "Sec-Fetch-Site", "none", Ok(()));
        check_page("GET", "Sec-Fetch-Site", "same-site", Ok(()));
        check_page("POST", "Sec-Fetch-Site", "same-site", Err(Refused::Site));
        check_page("GET", "Sec-Fetch-Site", "cross-site", Err(Refused::Site));
        check_page("POST", "Sec-Fetch-Site", "cross-site", Err(Refused::Site));
        check_page("GET", "Sec-Fetch-Site", "whatever", Err(Refused::Site));
    }
}
