//! The head that goes to the client: what of the backend's fields stays, what portico adds.
//!
//! Removed: fields of one connection, fields that a Connection field names, `headers.hide`, on legacy hosts
//! `headers.hide_on_legacy`, and the tool's own copy of every field in `headers.set`. Changed: a Location that points at
//! the request's own host over plain HTTP, when the client came over TLS. Added: `headers.set`
//! (Strict-Transport-Security over TLS only: RFC 6797 section 7.2), Connection where it is needed.
//!
//! Framing fields are not decided here: the caller knows how the body will be sent.

use portico_config::{HeaderTemplate, Headers, TemplatePart};
use portico_routing::field::Field;
use portico_routing::host::Host;
use portico_routing::rewrite;

use crate::http1::{HeaderField, ResponseHead, write_field};

/// The name that is set over TLS only.
const HSTS: &str = "Strict-Transport-Security";

/// The configured changes to answers, prepared so that a request copies bytes and compares a few short names.
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

    /// Appends the fields of a backend's answer that the client may see, changed where needed, and what portico adds.
    /// Content-Length is left out, and so is Transfer-Encoding.
    pub fn write_fields(
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
        self.write_set(out, client);
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
