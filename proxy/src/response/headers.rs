//! The head that goes to the client: what of the backend's fields stays, what portico adds.
//!
//! Removed: fields of one connection, fields that a Connection field names, `headers.hide`, on
//! legacy hosts `headers.hide_on_legacy`, and the tool's own copy of every field in `headers.set`.
//! Changed: a Location that points at the request's own host over plain HTTP, when the client came
//! over TLS; what a [`Plan`] for compression asks for (ETag, Vary). Added: `headers.set`
//! (Strict-Transport-Security over TLS only: RFC 6797 section 7.2), Content-Encoding.
//!
//! Framing fields, Date and Connection are not decided here: the caller knows how the body will be
//! sent, and whether the connection goes on.

use portico_config::{HeaderTemplate, Headers, TemplatePart};
use portico_routing::field::Field;
use portico_routing::host::Host;
use portico_routing::rewrite;

use super::compress::{Plan, has_item, is_digest};
use crate::http1::{HeaderField, ResponseHead, copy_field, write_field};

/// The name that is set over TLS only.
const HSTS: &str = "Strict-Transport-Security";

/// The configured changes to answers, prepared so that a request copies bytes and
/// compares a few short names.
#[derive(Debug, Default)]
pub struct ResponseEditor {
    /// Names whose own value never reaches the client, those of `set` among them.
    hide: Names,
    hide_on_legacy: Names,
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
            hide_on_legacy: Names::new(&headers.hide_on_legacy),
            hide: Names::new(&headers.hide),
            ..Self::default()
        };
        for (name, template) in &headers.set {
            editor.hide.add(name);
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
    /// what portico adds. Content-Length is left out, and so is Transfer-Encoding; the tool's length
    /// does not hold where [`Plan::replaces_bytes`].
    pub fn write_fields(
        &self,
        out: &mut Vec<u8>,
        buf: &[u8],
        head: &ResponseHead,
        client: &ClientView<'_>,
        plan: Plan,
    ) {
        let mut vary = plan.varies() && !self.says_vary(buf, head, client);
        for field in &head.fields {
            if self.passes(buf, head, field, client) {
                write_planned(out, buf, field, client, plan, &mut vary);
            }
        }
        if vary {
            write_field(out, b"Vary", b"Accept-Encoding");
        }
        if let Some(encoding) = plan.encoding() {
            write_field(out, b"Content-Encoding", encoding.as_str().as_bytes());
        }
        self.write_set(out, client);
    }

    /// The fields of an interim answer (103): what is hidden stays hidden, and nothing is added,
    /// since that comes with the final answer.
    pub fn write_interim_fields(
        &self,
        out: &mut Vec<u8>,
        buf: &[u8],
        head: &ResponseHead,
        client: &ClientView<'_>,
    ) {
        for field in &head.fields {
            if self.passes(buf, head, field, client) {
                write_passed(out, buf, field, client);
            }
        }
    }

    /// Whether the tool itself says that the answer depends on Accept-Encoding, or on anything.
    fn says_vary(&self, buf: &[u8], head: &ResponseHead, client: &ClientView<'_>) -> bool {
        head.fields.iter().any(|field| {
            let value = field.value.of(buf);
            field.field == Field::Vary
                && self.passes(buf, head, field, client)
                && (has_item(value, b"accept-encoding") || has_item(value, b"*"))
        })
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
        !(self.hide.has(name) || (client.shared_host && self.hide_on_legacy.has(name)))
    }
}

/// Names of fields.
#[derive(Debug, Default)]
struct Names {
    names: Vec<Box<str>>,
    /// A bit for each length that one of them has; the last one for all that are longer. One look
    /// rules most other names out.
    lengths: u64,
}

impl Names {
    fn new(names: &[Box<str>]) -> Self {
        let mut list = Self::default();
        names.iter().for_each(|name| list.add(name));
        list
    }

    fn add(&mut self, name: &str) {
        self.names.push(name.into());
        self.lengths |= Self::bit(name.len());
    }

    fn has(&self, name: &[u8]) -> bool {
        let mut names = self.names.iter().map(|own| own.as_bytes());
        self.lengths & Self::bit(name.len()) != 0 && names.any(|own| own.eq_ignore_ascii_case(name))
    }

    fn bit(length: usize) -> u64 {
        1 << length.min(63)
    }
}

/// A field that the client may see.
fn write_passed(out: &mut Vec<u8>, buf: &[u8], field: &HeaderField, client: &ClientView<'_>) {
    let (name, value) = (field.name.of(buf), field.value.of(buf));
    let rest = match (field.field, client.host) {
        (Field::Location, Some(host)) if client.over_tls => {
            rewrite::location(value, host).map(|rest| (host, rest))
        }
        _ => None,
    };
    match rest {
        Some((host, rest)) => {
            for part in [name, b": https://", host.as_bytes(), rest, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        None => copy_field(out, buf, field),
    }
}

/// A field that the client may see, as the plan has it. The first Vary takes up `vary`, if that is
/// still to be said.
fn write_planned(
    out: &mut Vec<u8>,
    buf: &[u8],
    field: &HeaderField,
    client: &ClientView<'_>,
    plan: Plan,
    vary: &mut bool,
) {
    let (name, value) = (field.name.of(buf), field.value.of(buf));
    match field.field {
        Field::Vary if *vary && !value.is_empty() => {
            *vary = false;
            for part in [name, b": ", value, b", Accept-Encoding\r\n"] {
                out.extend_from_slice(part);
            }
        }
        Field::ETag if plan.replaces_bytes() => match value {
            [b'"', ..] => {
                for part in [name, b": W/", value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
            [b'W', b'/', b'"', ..] => write_field(out, name, value),
            // Not an entity tag: it cannot be made weak.
            _ => {}
        },
        // If there is an encoding, it says `identity`: else the plan were another.
        Field::AcceptRanges | Field::ContentEncoding if plan.replaces_bytes() => {}
        Field::Other if plan.replaces_bytes() && is_digest(name) => {}
        _ => write_passed(out, buf, field, client),
    }
}

#[cfg(test)]
mod tests {
    use portico_config::Algorithm;

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
    fn edited(fields: &str, client: &ClientView<'_>, plan: Plan) -> String {
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
        editor.write_fields(&mut out, &head, parser.head(), &view, plan);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(fields: &str, client: &ClientView<'_>, expected: &str) {
        check_plan(fields, client, Plan::Untouched, expected);
    }

    #[track_caller]
    fn check_plan(fields: &str, client: &ClientView<'_>, plan: Plan, expected: &str) {
        let got = edited(fields, client, plan);
        let own = edited("", client, Plan::Untouched);
        let got = got.strip_suffix(&own).unwrap();
        assert_eq!(got, expected, "{fields:?}");
    }

    #[test]
    fn what_portico_adds() {
        let over_tls = edited("", &TLS, Plan::Untouched);
        assert!(over_tls.contains("Strict-Transport-Security: max-age=31622400\r\n"));
        assert!(over_tls.contains("X-Clacks-Overhead: GNU Terry Pratchett\r\n"));
        assert!(over_tls.contains("Report-Only: default-src wss://t.toolforge.org\r\n"));
        let plain = ClientView {
            over_tls: false,
            ..TLS
        };
        assert!(!edited("", &plain, Plan::Untouched).contains("Strict-Transport"));
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

    #[test]
    fn the_head_of_each_variant() {
        const FIELDS: &str = "Content-Type: text/css\r\nETag: \"x\"\r\nAccept-Ranges: bytes\r\n\
             Content-MD5: 1\r\nDigest: 2\r\nContent-Digest: 3\r\nRepr-Digest: 4\r\n\
             Content-Encoding: identity\r\nContent-Length: 5\r\nLast-Modified: z\r\n";
        const KEPT: &str = "Content-Type: text/css\r\nETag: W/\"x\"\r\nLast-Modified: z\r\n";
        let vary = "Vary: Accept-Encoding\r\n";
        let whole = FIELDS.replace("Content-Length: 5\r\n", "");
        check(FIELDS, &TLS, &whole);
        check_plan(FIELDS, &TLS, Plan::Identity, &format!("{whole}{vary}"));
        check_plan(FIELDS, &TLS, Plan::NotModified, &format!("{KEPT}{vary}"));
        for (algorithm, name) in [
            (Algorithm::Zstd, "zstd"),
            (Algorithm::Br, "br"),
            (Algorithm::Gzip, "gzip"),
        ] {
            let expected = format!("{KEPT}{vary}Content-Encoding: {name}\r\n");
            check_plan(FIELDS, &TLS, Plan::Encode(algorithm), &expected);
        }
    }

    #[test]
    fn vary_is_joined_to_the_tools_own() {
        #[track_caller]
        fn check_vary(fields: &str, expected: &str) {
            check(fields, &TLS, fields);
            for plan in [Plan::Identity, Plan::NotModified] {
                check_plan(fields, &TLS, plan, expected);
            }
        }
        let own = "Vary: Accept-Encoding\r\n";
        check_vary("", own);
        check_vary("vary: Cookie\r\n", "vary: Cookie, Accept-Encoding\r\n");
        check_vary(
            "Vary: A\r\nVary: B\r\n",
            "Vary: A, Accept-Encoding\r\nVary: B\r\n",
        );
        let empty = "Vary: \r\n";
        check_vary(empty, &format!("{empty}{own}"));
        for said in [
            "Vary: *\r\n",
            "Vary: accept-encoding\r\n",
            "Vary: Cookie ,ACCEPT-ENCODING, Origin\r\n",
            "Vary: Cookie\r\nVary: Accept-Encoding\r\n",
        ] {
            check_vary(said, said);
        }
        let other = "Vary: X-Accept-Encoding\r\n";
        check_vary(other, "Vary: X-Accept-Encoding, Accept-Encoding\r\n");
    }

    #[test]
    fn entity_tags() {
        #[track_caller]
        fn check_etag(etag: &str, expected: &str) {
            let fields = format!("ETag: {etag}\r\n");
            let plan = Plan::Encode(Algorithm::Gzip);
            let rest = "Vary: Accept-Encoding\r\nContent-Encoding: gzip\r\n";
            check_plan(&fields, &TLS, plan, &format!("{expected}{rest}"));
        }
        check_etag("\"\"", "ETag: W/\"\"\r\n");
        check_etag("\"a b\"", "ETag: W/\"a b\"\r\n");
        check_etag("W/\"x\"", "ETag: W/\"x\"\r\n");
        check_etag("x", "");
        check_etag("w/\"x\"", "");
        check_etag("W/x", "");
        check_etag("", "");
    }
}
