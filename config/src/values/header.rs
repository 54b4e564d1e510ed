//! Names and values of header fields, and patterns over them.

use crate::config::{HeaderTemplate, TemplatePart};
use crate::reader::{FromText, Mistake};

use super::quote;

/// Header fields that frame a message or speak about one connection only:
/// portico writes them itself.
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
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(TemplatePart::Text(literal.into()));
        }
        Ok(Self { parts })
    }
}

/// What follows a placeholder whose `{` has been read; `None` for a brace that is just a brace, as
/// in the JSON of `Report-To`. A lone word in braces is a placeholder that does not exist.
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
                // The last line of the parser's answer is the reason; the others
                // draw the expression.
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default().trim();
                Err(Mistake::new(
                    reason.strip_prefix("error: ").unwrap_or(reason),
                ))
            }
        }
    }
}

/// A media type, such as `text/html`; in lower case. A range such as `text/*` is none: it would look
/// right and match nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MediaType(pub(crate) Box<str>);

impl FromText for MediaType {
    fn allowed() -> String {
        "a media type such as \"text/html\", without parameters and *".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let valid = text
            .split_once('/')
            .is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
        (valid && !text.contains('*'))
            .then(|| Self(text.to_ascii_lowercase().into()))
            .ok_or_else(|| Mistake::new(format!("{} is no media type", quote(text))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::{bad, good};

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
    fn media_types() {
        good("Text/HTML", MediaType("text/html".into()));
        good("image/svg+xml", MediaType("image/svg+xml".into()));
        bad::<MediaType>("text", None);
        bad::<MediaType>("text/html; charset=utf-8", None);
        bad::<MediaType>("text/", None);
        bad::<MediaType>("text/*", None);
        bad::<MediaType>("*/*", None);
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

    proptest! {
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
