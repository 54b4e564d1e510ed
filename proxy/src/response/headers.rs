//! The head that goes to the client: what of the backend's fields stays, what portico adds.
//!
//! Removed: fields of one connection, fields that a Connection field names, `headers.hide`, on
//! legacy hosts `headers.hide_on_legacy`, and the tool's own copy of every field in `headers.set`.
//! Changed: a Location that points at the request's own host over plain HTTP, when the client came
//! over TLS. Added: `headers.set` (Strict-Transport-Security over TLS only: RFC 6797 section 7.2).
//!
//! Framing fields, Date and Connection are not decided here: the caller knows how the body will be
//! sent, and whether the connection goes on.

use portico_config::{HeaderTemplate, Headers, TemplatePart};
use portico_routing::field::Field;
use portico_routing::host::Host;
use portico_routing::rewrite;

use crate::http1::{HeaderField, ResponseHead, write_field};

/// The name that is set over TLS only.
const HSTS: &str = "Strict-Transport-Security";

/// The configured changes to answers, prepared so that a request copies bytes and
/// compares a few short names.
#[derive(Debug, Default)]
pub struct ResponseEditor {
    /// Names whose own value never reaches the client, those of `set` among them.
    hide: Vec<Box<str>>,
    hide_on_legacy: Vec<Box<str>>,
    /// Fields without placeholders, ready to be copied.
    fixed: Vec<u8>,
    /// The same for TLS: with Strict-Transport-Security.
    fixed_tls: Vec<u8>,
    /// Fields with placeholders.
    templates: Vec<(Box<str>, HeaderTemplate)>,
}

/// What the edit of an answer depends on.
#[derive(Debug, Clone)]
pub struct ClientView<'a> {
    /// The request's host.
    pub host: Option<&'a Host>,
    /// The client came over TLS.
    pub over_tls: bool,
    /// Tools share the host.
    pub shared_host: bool,
}

impl ResponseEditor {
    /// Prepares `[headers]`.
    pub fn new(headers: &Headers) -> Self {
        let mut editor = Self {
            hide: headers.hide.clone(),
            hide_on_legacy: headers.hide_on_legacy.clone(),
            ..Self::default()
        };
        for (name, template) in &headers.set {
            editor.hide.push(name.clone());
            let tls_only = name.eq_ignore_ascii_case(HSTS);
            match template.parts.as_slice() {
                [TemplatePart::Text(value)] => {
                    write_field(&mut editor.fixed_tls, name.as_bytes(), value.as_bytes());
                    if !tls_only {
                        write_field(&mut editor.fixed, name.as_bytes(), value.as_bytes());
                    }
                }
                _ => editor.templates.push((name.clone(), template.clone())),
            }
        }
        editor
    }

    /// Appends the fields of a backend's answer that the client may see, changed where needed, and
    /// what portico adds. Content-Length is left out, and so is Transfer-Encoding.
    pub fn write_fields(
        &self,
        out: &mut Vec<u8>,
        buf: &[u8],
        head: &ResponseHead,
        client: &ClientView<'_>,
    ) {
        self.write_interim_fields(out, buf, head, client);
        self.write_set(out, client);
    }

    /// The same for an interim answer (103): what is hidden stays hidden, and nothing is added,
    /// since that comes with the final answer.
    pub fn write_interim_fields(
        &self,
        out: &mut Vec<u8>,
        buf: &[u8],
        head: &ResponseHead,
        client: &ClientView<'_>,
    ) {
        for field in &head.fields {
            if !self.passes(buf, head, field, client) {
                continue;
            }
            let (name, value) = (field.name.of(buf), field.value.of(buf));
            match (field.field, client.host) {
                (Field::Location, Some(host)) if client.over_tls => {
                    match rewrite::location(value, host) {
                        Some(rest) => {
                            for part in [name, b": https://", host.as_bytes(), rest, b"\r\n"] {
                                out.extend_from_slice(part);
                            }
                        }
                        None => write_field(out, name, value),
                    }
                }
                _ => write_field(out, name, value),
            }
        }
    }

    /// Appends `headers.set`: on every answer, portico's own among them.
    pub fn write_set(&self, out: &mut Vec<u8>, client: &ClientView<'_>) {
        out.extend_from_slice(if client.over_tls {
            &self.fixed_tls
        } else {
            &self.fixed
        });
        for (name, template) in &self.templates {
            if name.eq_ignore_ascii_case(HSTS) && !client.over_tls {
                continue;
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            for part in &template.parts {
                match part {
                    TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
                    TemplatePart::Host => {
                        out.extend_from_slice(client.host.map_or(b"", Host::as_bytes));
                    }
                }
            }
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The same for an answer of portico's own, whose head so far is `out`: a field that it says
    /// itself is left out.
    pub fn write_set_beside(&self, out: &mut Vec<u8>, client: &ClientView<'_>) {
        let start = out.len();
        self.write_set(out, client);
        let set = out.split_off(start);
        for line in set.split_inclusive(|byte| *byte == b'\n') {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let said = out.split(|byte| *byte == b'\n').any(|own| {
                own.split_at_checked(name.len()).is_some_and(|(own, rest)| {
                    rest.starts_with(b":") && own.eq_ignore_ascii_case(name)
                })
            });
            if !said {
                out.extend_from_slice(line);
            }
        }
    }

    fn passes(
        &self,
        buf: &[u8],
        head: &ResponseHead,
        field: &HeaderField,
        client: &ClientView<'_>,
    ) -> bool {
        if field.field.hop_by_hop()
            || field.field == Field::ContentLength
            || head.nominated(buf, field)
        {
            return false;
        }
        let name = field.name.of(buf);
        let listed = |list: &[Box<str>]| {
            list.iter()
                .any(|hidden| hidden.as_bytes().eq_ignore_ascii_case(name))
        };
        !(listed(&self.hide) || (client.shared_host && listed(&self.hide_on_legacy)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, Parsed, RequestKind, ResponseParser};

    const CONFIG: &str = r#"
        [listen]
        https = []
        redirect = false
        [domains]
        canonical = "toolforge.org"
        [headers]
        hide = ["X-Secret"]
        [headers.set]
        Content-Security-Policy-Report-Only = "default-src wss://{host}"
    "#;

    const TLS: ClientView<'_> = ClientView {
        host: None,
        over_tls: true,
        shared_host: false,
    };

    /// What becomes of an answer's fields for a client at `t.toolforge.org`.
    fn edited(fields: &str, client: &ClientView<'_>) -> String {
        let config = portico_config::parse("test", CONFIG).unwrap().config;
        let editor = ResponseEditor::new(&config.headers);
        let mut head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes();
        let mut parser = ResponseParser::new(HeadLimits {
            head: 4096,
            target: 0,
            fields: 32,
        });
        let parsed = parser.parse(&mut head, RequestKind::default());
        assert_eq!(parsed, Ok(Parsed::Complete));
        let host = Host::parse(b"t.toolforge.org").unwrap();
        let view = ClientView {
            host: Some(&host),
            ..client.clone()
        };
        let mut out = Vec::new();
        editor.write_fields(&mut out, &head, parser.head(), &view);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(fields: &str, client: &ClientView<'_>, expected: &str) {
        let got = edited(fields, client);
        let own = edited("", client);
        let got = got.strip_suffix(&own).unwrap();
        assert_eq!(got, expected, "{fields:?}");
    }

    #[test]
    fn what_portico_adds() {
        let over_tls = edited("", &TLS);
        assert!(over_tls.contains("Strict-Transport-Security: max-age=31622400\r\n"));
        assert!(over_tls.contains("X-Clacks-Overhead: GNU Terry Pratchett\r\n"));
        assert!(over_tls.contains("Report-Only: default-src wss://t.toolforge.org\r\n"));
        let plain = ClientView {
            over_tls: false,
            ..TLS
        };
        assert!(!edited("", &plain).contains("Strict-Transport"));
    }

    #[test]
    fn what_of_the_tool_stays() {
        check("A: b\r\nServer: x\r\n", &TLS, "A: b\r\nServer: x\r\n");
        check("x-secret: 1\r\nA: b\r\n", &TLS, "A: b\r\n");
        check("Strict-Transport-Security: max-age=0\r\n", &TLS, "");
        check("permissions-policy: camera=()\r\n", &TLS, "");
        check("Content-Length: 5\r\nA: b\r\n", &TLS, "A: b\r\n");
        check("Transfer-Encoding: chunked\r\n", &TLS, "");
        check(
            "Connection: X-Hop\r\nX-Hop: 1\r\nA: b\r\n",
            &TLS,
            "A: b\r\n",
        );
        check("Keep-Alive: timeout=5\r\nUpgrade: h2c\r\n", &TLS, "");
    }

    #[test]
    fn shared_hosts_hide_more() {
        let shared = ClientView {
            shared_host: true,
            ..TLS
        };
        let field = "Service-Worker-Allowed: /\r\n";
        check(field, &TLS, field);
        check(field, &shared, "");
    }

    #[test]
    fn a_location_of_the_own_host_becomes_https() {
        let own = "Location: http://t.toolforge.org/y\r\n";
        check(own, &TLS, "Location: https://t.toolforge.org/y\r\n");
        let other = "Location: http://u.toolforge.org/y\r\n";
        check(other, &TLS, other);
        let plain = ClientView {
            over_tls: false,
            ..TLS
        };
        check(own, &plain, own);
    }
}
