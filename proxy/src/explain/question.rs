//! From a URL to the head that a client would send for it, and from the query of `/explain` to a
//! question.
//!
//! Like curl with `--path-as-is`: the path goes out as it is written, since that is what is asked
//! about. What no client sends (line breaks in a field) is a mistake in the question; what a client
//! may send, however wrong, is for portico's own parser to judge.

use std::net::{IpAddr, Ipv4Addr};

use portico_config::Listen;

use crate::client::ClientInfo;
use crate::percent::encode;

/// Bytes of a question in all. Larger ones could be asked of portico, but not by a person.
const MAX_QUESTION: usize = 256 * 1024;
/// Who asks, where that is not said: an address for documentation (RFC 5737).
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// What clients send that say nothing else.
const DEFAULTS: [(&str, &str); 2] = [("User-Agent", "curl/8"), ("Accept", "*/*")];

/// A request to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// An absolute URL; its scheme says whether the request comes over TLS.
    pub url: String,
    /// The method.
    pub method: String,
    /// More fields. One that a client sends by itself (User-Agent, Accept, Host) is replaced; an
    /// empty value means that it is not sent.
    pub headers: Vec<(String, String)>,
    /// The client's address.
    pub client: Option<IpAddr>,
}

/// Why a question is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// No scheme.
    #[error("the URL has no scheme; write https://{0}")]
    NoScheme(String),
    /// Another scheme.
    #[error("the scheme {0}:// is not served here; write http:// or https://")]
    BadScheme(String),
    /// `https:///path`
    #[error("the URL names no host")]
    NoHost,
    /// `https://user@host/`
    #[error(
        "the URL has user information; leave it out, or send it as clients do: --header 'Authorization: Basic ...'"
    )]
    UserInfo,
    /// Clients translate such names.
    #[error("the host has characters outside of ASCII; write it as clients send it: xn--...")]
    NotAscii,
    /// A space or a control character.
    #[error("the host has a space or a control character")]
    BadHost,
    /// Not a token.
    #[error("{0:?} is not a method")]
    BadMethod(String),
    /// No colon, no name, or a line break.
    #[error("a header is 'Name: value', in one line")]
    BadField,
    /// [`MAX_QUESTION`]
    #[error("the question is longer than {MAX_QUESTION} bytes")]
    TooLong,
}

/// What a client would send.
pub(super) struct Sent {
    pub(super) head: Vec<u8>,
    pub(super) client: ClientInfo,
    /// Path and query, for people.
    pub(super) target: String,
    pub(super) notes: Vec<String>,
}

impl Question {
    /// GET, with what clients send.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            method: "GET".to_owned(),
            headers: Vec::new(),
            client: None,
        }
    }

    /// `Name: value`, as on the command line.
    ///
    /// # Errors
    /// [`QuestionError::BadField`]
    pub fn add_header(&mut self, line: &str) -> Result<(), QuestionError> {
        let (name, value) = line.split_once(':').ok_or(QuestionError::BadField)?;
        let value = value.trim_matches([' ', '\t']);
        if name.is_empty() || line.contains(['\r', '\n', '\0']) {
            return Err(QuestionError::BadField);
        }
        self.headers.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether it can be asked at all, wherever that is.
    pub(super) fn check(&self) -> Result<(), QuestionError> {
        let url = Url::parse(&self.url)?;
        let target = url.target(&mut Vec::new());
        self.head(url.authority, &target).map(|_| ())
    }

    /// The question in the query of `/explain`.
    pub(crate) fn to_query(&self) -> String {
        let mut query = format!("url={}&method=", encode(&self.url));
        query.push_str(&encode(&self.method));
        for (name, value) in &self.headers {
            query.push_str("&header=");
            query.push_str(&encode(&format!("{name}: {value}")));
        }
        if let Some(client) = &self.client {
            query.push_str(&format!("&client={}", encode(&client.to_string())));
        }
        query
    }

    /// The head that a client sends, to the listener that it would reach.
    pub(super) fn send(&self, listen: &Listen) -> Result<Sent, QuestionError> {
        let url = Url::parse(&self.url)?;
        let mut notes = Vec::new();
        let target = url.target(&mut notes);
        let client = self.client_info(&url, listen, &mut notes);
        Ok(Sent {
            head: self.head(url.authority, &target)?,
            client,
            target,
            notes,
        })
    }

    fn head(&self, authority: &str, target: &str) -> Result<Vec<u8>, QuestionError> {
        let fields = self.headers.iter();
        let length: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        if length + self.url.len() + self.method.len() > MAX_QUESTION {
            return Err(QuestionError::TooLong);
        }
        let is_token = |byte: u8| byte.is_ascii_graphic();
        if self.method.is_empty() || !self.method.bytes().all(is_token) {
            return Err(QuestionError::BadMethod(self.method.clone()));
        }
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        let defaults = std::iter::once(("Host", authority)).chain(DEFAULTS);
        for (name, value) in defaults {
            let said = |(own, _): &(String, String)| own.eq_ignore_ascii_case(name);
            if !self.headers.iter().any(said) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        for (name, value) in &self.headers {
            if format!("{name}{value}").contains(['\r', '\n', '\0']) || name.is_empty() {
                return Err(QuestionError::BadField);
            }
            if !value.is_empty() {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("\r\n");
        Ok(head.into_bytes())
    }

    fn client_info(&self, url: &Url<'_>, listen: &Listen, notes: &mut Vec<String>) -> ClientInfo {
        let (listeners, name) = match url.over_tls {
            true => (&listen.https, "https"),
            false => (&listen.http, "http"),
        };
        let usual = if url.over_tls { 443 } else { 80 };
        let ports: Vec<u16> = listeners.iter().map(|address| address.port()).collect();
        // Clients may see another port than portico: a load balancer stands in between.
        let port = match (url.port(), ports.first()) {
            (Some(port), _) if ports.contains(&port) => port,
            (None, _) if ports.contains(&usual) => usual,
            (port, None) => {
                notes.push(format!(
                    "portico has no listener for {name}:// (listen.{name} is empty): no such request reaches it."
                ));
                port.unwrap_or(usual)
            }
            (port, Some(&first)) => {
                if let Some(port) = port {
                    notes.push(format!(
                        "No address in listen.{name} has the port {port}; explained for {first}."
                    ));
                }
                first
            }
        };
        ClientInfo {
            address: self.client.unwrap_or(CLIENT),
            over_tls: url.over_tls,
            tls: None,
            port,
        }
    }
}

/// A URL in its parts.
struct Url<'a> {
    over_tls: bool,
    /// Host and perhaps port, not checked.
    authority: &'a str,
    /// From the path on.
    rest: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, QuestionError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(QuestionError::NoScheme(text.to_owned()));
        };
        let over_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            // `grid.toolforge.org/?to=https://...`
            _ if scheme.contains(['/', '?', '#', '.']) => {
                return Err(QuestionError::NoScheme(text.to_owned()));
            }
            _ => return Err(QuestionError::BadScheme(scheme.to_owned())),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.is_empty() {
            return Err(QuestionError::NoHost);
        }
        if authority.contains('@') {
            return Err(QuestionError::UserInfo);
        }
        if !authority.is_ascii() {
            return Err(QuestionError::NotAscii);
        }
        if !authority.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(QuestionError::BadHost);
        }
        Ok(Self {
            over_tls,
            authority,
            rest,
        })
    }

    /// The port that the URL names.
    fn port(&self) -> Option<u16> {
        let (_, port) = self.authority.rsplit_once(':')?;
        port.parse().ok()
    }

    /// Path and query as clients send them: no fragment, nothing but visible ASCII.
    fn target(&self, notes: &mut Vec<String>) -> String {
        let (rest, fragment) = match self.rest.split_once('#') {
            Some((rest, _)) => (rest, true),
            None => (self.rest, false),
        };
        if fragment {
            notes.push("Clients keep what follows the # to themselves.".to_owned());
        }
        let mut target = String::with_capacity(rest.len() + 1);
        if !rest.starts_with('/') {
            target.push('/');
        }
        let before = rest.len();
        for byte in rest.bytes() {
            match byte.is_ascii_graphic() {
                true => target.push(char::from(byte)),
                false => target.push_str(&format!("%{byte:02X}")),
            }
        }
        if target.len() > before + 1 {
            notes.push(
                "Spaces and what is not ASCII were percent-encoded, as clients do.".to_owned(),
            );
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> Listen {
        Listen {
            http: vec!["[::]:80".parse().unwrap()],
            redirect: true,
            https: vec![
                "[::]:443".parse().unwrap(),
                "127.0.0.1:8443".parse().unwrap(),
            ],
            admin: None,
            proxy_protocol_from: Vec::new(),
        }
    }

    #[track_caller]
    fn check(url: &str, headers: &[&str], head: &str, port: u16) {
        let mut question = Question::new(url);
        for header in headers {
            question.add_header(header).unwrap();
        }
        let sent = question.send(&listen()).unwrap();
        assert_eq!(String::from_utf8(sent.head).unwrap(), head);
        assert_eq!(sent.client.port, port);
    }

    #[test]
    fn what_a_client_sends() {
        const MORE: &str = "User-Agent: curl/8\r\nAccept: */*\r\n";
        let head = |target: &str, host: &str, more: &str| {
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
        };
        check("https://a.b", &[], &head("/", "a.b", MORE), 443);
        check("HTTP://A.b?x", &[], &head("/?x", "A.b", MORE), 80);
        check(
            "https://a.b:8443/x/../y#z",
            &[],
            &head("/x/../y", "a.b:8443", MORE),
            8443,
        );
        check("https://a.b:1/", &[], &head("/", "a.b:1", MORE), 443);
        check(
            "https://[::1]/\u{e9} x",
            &[],
            &head("/%C3%A9%20x", "[::1]", MORE),
            443,
        );
        check(
            "https://a.b/a%2fb&c+d",
            &["user-agent:", "Accept: a", "X: y z"],
            &head("/a%2fb&c+d", "a.b", "Accept: a\r\nX: y z\r\n"),
            443,
        );
        check(
            "https://a.b/",
            &["Host: other"],
            "GET / HTTP/1.1\r\nUser-Agent: curl/8\r\nAccept: */*\r\nHost: other\r\n\r\n",
            443,
        );
    }

    #[track_caller]
    fn check_wrong(url: &str, expected: &str) {
        let error = Question::new(url).send(&listen()).err().unwrap();
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }

    #[test]
    fn what_is_no_url() {
        check_wrong("grid.toolforge.org/x", "write https://grid.toolforge.org/x");
        check_wrong("grid.toolforge.org/?to=http://x", "write https://grid");
        check_wrong("", "no scheme");
        check_wrong("ftp://a.b/", "ftp://");
        check_wrong("https:///x", "names no host");
        check_wrong("https://u:p@a.b/", "user information");
        check_wrong("https://b\u{fc}cher.example/", "xn--");
        check_wrong("https://a b/", "space");
        check_wrong(&format!("https://a/{}", "x".repeat(MAX_QUESTION)), "longer");
    }

    #[test]
    fn what_is_no_question() {
        let mut question = Question::new("https://a/");
        question.method = "GET /x".to_owned();
        assert!(question.send(&listen()).is_err());
    }
}
