//! The cases of `vectors.toml`: request and expected behaviour, as data.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::http2::Head;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// In the file's order.
    #[serde(rename = "vector")]
    pub vectors: Vec<Vector>,
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// Its name.
    pub id: String,
    /// `h1`: cannot be said in HTTP/2.
    pub only: Option<String>,
    /// What the client sends.
    pub request: Request,
    /// What must happen.
    pub expect: Expect,
}

/// What the client sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `https` or `http`.
    pub scheme: String,
    /// GET unless given.
    pub method: String,
    /// `/` unless given.
    pub target: String,
    /// Host field; none unless given.
    pub host: Option<String>,
    /// HTTP version.
    pub version: String,
    /// More fields.
    pub headers: BTreeMap<String, String>,
    /// Sent with its Content-Length.
    pub body: Option<String>,
    /// Exact bytes, instead of all that.
    pub raw: Option<String>,
    /// Whether a User-Agent is sent.
    pub ua: bool,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            scheme: "https".into(),
            method: "GET".into(),
            target: "/".into(),
            host: None,
            version: "1.1".into(),
            headers: BTreeMap::new(),
            body: None,
            raw: None,
            ua: true,
        }
    }
}

/// What must happen.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// `gridA`, `gridB`, `ingress`, or `none` when no origin may see the request;
    /// unchecked when absent.
    pub backend: Option<String>,
    /// Of the answer; 200 unless given.
    pub status: u16,
    /// What the origin got.
    pub target: Option<String>,
    /// What the origin got.
    pub host: Option<String>,
    /// Fields that the origin got.
    pub has: Vec<String>,
    /// Fields that the origin must not get.
    pub lacks: Vec<String>,
    /// Fields of the answer: the value contains this, in any case.
    pub response: BTreeMap<String, String>,
    /// Fields that the answer must not have.
    pub response_lacks: Vec<String>,
    /// Of the answer, exactly.
    pub location: Option<String>,
    /// What the answer's body contains.
    pub body: Option<String>,
}

impl Default for Expect {
    fn default() -> Self {
        Expect {
            backend: None,
            status: 200,
            target: None,
            host: None,
            has: Vec::new(),
            lacks: Vec::new(),
            response: BTreeMap::new(),
            response_lacks: Vec::new(),
            location: None,
            body: None,
        }
    }
}

/// Parses the file and expands `{a*N}` in it.
pub fn parse(text: &str) -> Vec<Vector> {
    let file: File = toml::from_str(&expand(text)).unwrap_or_else(|error| panic!("{error}"));
    file.vectors
}

impl Request {
    /// The bytes to send over HTTP/1.
    pub fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone().into_bytes();
        }
        let mut out = format!("{} {} HTTP/{}\r\n", self.method, self.target, self.version);
        let mut field = |name: &str, value: &str| {
            out.push_str(&format!("{name}: {value}\r\n"));
        };
        if let Some(host) = &self.host {
            field("Host", host);
        }
        if self.ua {
            field("User-Agent", "t");
        }
        for (name, value) in &self.headers {
            field(name, value);
        }
        if let Some(body) = &self.body {
            field("Content-Length", &body.len().to_string());
        }
        out.push_str("\r\n");
        out.push_str(self.body.as_deref().unwrap_or_default());
        out.into_bytes()
    }
}

impl Request {
    /// The same over HTTP/2: the head, and the body if there is one.
    pub fn http2(&self) -> (Head, String) {
        let text = String::from_utf8(self.bytes()).expect("vectors are text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.split("\r\n");
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, _version] = words[..] else {
            panic!("no request line in {text}")
        };
        let mut out = Head::default()
            .with(":method", method)
            .with(":scheme", &self.scheme)
            .with(":path", target);
        let mut fields = Head::default();
        for line in lines {
            let (name, value) = line.split_once(':').expect("a field");
            let (name, value) = (name.to_ascii_lowercase(), value.trim());
            // One Host is the authority; another has no other place than a field.
            if name == "host" && !out.0.iter().any(|(name, _)| name == b":authority") {
                out = out.with(":authority", value);
            } else {
                fields = fields.with(name, value);
            }
        }
        out.0.extend(fields.0);
        (out, body.to_owned())
    }
}

/// Whether RFC 9113 forbids a head (8.2, 8.3) in itself, whatever HTTP/1.1 says of it: such a
/// request ends with a stream error, or with 400.
pub fn forbidden_in_http2(head: &Head) -> bool {
    let hop = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    let authority = head.0.iter().any(|(name, _)| name == b":authority");
    let mut lengths = 0;
    head.0.iter().any(|(name, value)| {
        let name = String::from_utf8_lossy(name);
        lengths += usize::from(name == "content-length");
        hop.contains(&&*name)
            || name.contains(' ')
            || name == "host" && authority
            || name == ":authority" && (value.is_empty() || value.iter().any(|b| b"@%".contains(b)))
            || name == ":path" && !value.starts_with(b"/") && value != b"*"
            || lengths > 1
    })
}

/// `{a*N}` stands for N times the letter a.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{a*") {
        out.push_str(before);
        match after.split_once('}') {
            Some((count, after)) if count.parse::<usize>().is_ok() => {
                out.push_str(&"a".repeat(count.parse().unwrap_or_default()));
                rest = after;
            }
            _ => {
                out.push_str("{a*");
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(expand(text), expected);
    }

    #[test]
    fn letters_are_repeated() {
        check("x{a*3}y", "xaaay");
        check("{a*N} and {a*2}", "{a*N} and aa");
        check("nothing", "nothing");
        check("{a*", "{a*");
    }

    #[test]
    fn the_file_parses() {
        let vectors = parse(include_str!("../vectors.toml"));
        assert!(vectors.len() > 70, "{} vectors", vectors.len());
    }
}
