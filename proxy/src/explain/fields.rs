//! How heads change on their way: what `forward` and `response` write, compared with what came.

use serde::Serialize;

use super::{Case, text_of};
use crate::forward::{self, Destination};
use crate::http1::{HeadLimits, RequestKind, ResponseHead, ResponseParser, write_field};
use crate::http2::repeated::RepeatedFields;
use crate::response::compress::{self, Plan};
use crate::upstream::h2c::stream::read_request;

/// How the head of a request changes.
#[derive(Debug, Clone, Serialize)]
pub struct Changes {
    /// The request line that the backend gets.
    pub line: String,
    /// Fields that pass as they are.
    pub kept: Vec<FieldLine>,
    /// Fields whose value becomes another.
    pub replaced: Vec<Replaced>,
    /// Fields that the backend does not get.
    pub removed: Vec<FieldLine>,
    /// Fields that portico adds.
    pub added: Vec<FieldLine>,
}

/// How the head of a backend's answer changes.
#[derive(Debug, Clone, Serialize)]
pub struct ToClient {
    /// Fields that every answer gets, in place of the backend's own.
    pub set: Vec<FieldLine>,
    /// Names whose fields the client does not get, beside those that are `set`.
    pub hidden: Vec<String>,
    /// What a Location to the own host over plain HTTP becomes.
    pub location: Option<Replaced>,
    /// Whether the answer is compressed.
    pub compression: Compression,
    /// The file that portico gives when the backend has none (404).
    pub default_file: Option<String>,
}

/// Whether an answer is compressed.
#[derive(Debug, Clone, Serialize)]
pub struct Compression {
    /// By what, if its type and size are worth it.
    pub encoding: Option<&'static str>,
    /// Why.
    pub text: String,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldLine {
    /// As written.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A field whose value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// As written.
    pub name: String,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
}

/// The head that the backend gets, compared with the client's.
pub(super) fn to_backend(case: &Case<'_>, destination: &Destination) -> Changes {
    let mut out = Vec::new();
    forward::head::write(
        &mut out,
        case.buf,
        case.head,
        case.request,
        case.client,
        destination,
    );
    let (line, fields) = match destination.speaks_http2() {
        true => over_http2(&out).unwrap_or_default(),
        false => (first_line(&out), lines(&out)),
    };
    let mut changes = compare(lines(case.buf), fields);
    changes.line = line;
    changes
}

/// What HTTP/2 makes of a head; the host is `:authority` there.
fn over_http2(text: &[u8]) -> Option<(String, Vec<FieldLine>)> {
    let request = read_request(text, &RepeatedFields::default())?;
    let target = request.uri().path_and_query()?;
    let line = format!("{} {target} HTTP/2", request.method());
    let host = FieldLine {
        name: "Host".to_owned(),
        value: request.uri().authority()?.to_string(),
    };
    let others = request.headers().iter().map(|(name, value)| FieldLine {
        name: name.to_string(),
        value: text_of(value.as_bytes()),
    });
    Some((line, std::iter::once(host).chain(others).collect()))
}

fn compare(before: Vec<FieldLine>, mut after: Vec<FieldLine>) -> Changes {
    let mut changes = Changes {
        line: String::new(),
        kept: Vec::new(),
        replaced: Vec::new(),
        removed: Vec::new(),
        added: Vec::new(),
    };
    let mut gone = Vec::new();
    for field in before {
        let same = |other: &FieldLine| {
            other.name.eq_ignore_ascii_case(&field.name) && other.value == field.value
        };
        match after.iter().position(same) {
            Some(at) => {
                after.remove(at);
                changes.kept.push(field);
            }
            None => gone.push(field),
        }
    }
    for field in gone {
        let same_name = |other: &FieldLine| other.name.eq_ignore_ascii_case(&field.name);
        match after.iter().position(same_name) {
            Some(at) => changes.replaced.push(Replaced {
                name: field.name,
                from: field.value,
                to: after.remove(at).value,
            }),
            None => changes.removed.push(field),
        }
    }
    changes.added = after;
    changes
}

/// What becomes of an answer: of one that has every field that portico knows how to change.
pub(super) fn to_client(case: &Case<'_>, destination: &Destination) -> ToClient {
    let headers = &case.snapshot.config.headers;
    let editor = &case.snapshot.response;
    let view = case.request.client_view(case.client);
    let mut set = Vec::new();
    editor.write_set(&mut set, &view);
    let host = view.host.map(ToString::to_string).unwrap_or_default();
    let location = format!("http://{host}/");

    let mut sample = b"HTTP/1.1 200 OK\r\n".to_vec();
    let hidden = headers.hide.iter().chain(&headers.hide_on_legacy);
    let names = hidden.chain(headers.set.iter().map(|(name, _)| name));
    for name in names {
        write_field(&mut sample, name.as_bytes(), b"x");
    }
    write_field(&mut sample, b"Location", location.as_bytes());
    sample.extend_from_slice(b"\r\n");
    let mut edited = Vec::new();
    with_head(&mut sample, |head, buf| {
        editor.write_fields(&mut edited, buf, head, &view, Plan::Untouched);
    });

    let set = lines_of(&set);
    let edited = lines_of(&edited);
    let mut changes = compare(lines(&sample), edited);
    let is_location = |field: &Replaced| field.name.eq_ignore_ascii_case("Location");
    let is_set = |name: &str| {
        set.iter()
            .any(|field| field.name.eq_ignore_ascii_case(name))
    };
    let removed = changes.removed.into_iter().map(|field| field.name);
    let mut hidden: Vec<String> = removed.filter(|name| !is_set(name)).collect();
    hidden.sort_unstable();
    hidden.dedup();
    let at = changes.replaced.iter().position(is_location);
    ToClient {
        hidden,
        location: at.map(|at| changes.replaced.swap_remove(at)),
        set,
        compression: compression(case),
        default_file: case
            .request
            .default_file
            .map(|_| text_of(case.target()))
            .filter(|_| case.is_for_tool(destination)),
    }
}

/// What the client would get of an answer that is worth compressing.
fn compression(case: &Case<'_>) -> Compression {
    let config = &case.snapshot.config.compression;
    let media_type = config.types.first().map_or("text/html", |first| first);
    let mut sample = format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\r\n").into_bytes();
    let mut plan = Plan::Untouched;
    with_head(&mut sample, |head, buf| {
        plan = compress::plan(config, case.tool(), case.request.accepts, head, buf);
    });
    let off_for = case.tool().filter(|tool| config.off_for.contains(*tool));
    let text = match (plan, off_for) {
        (Plan::Encode(algorithm), _) => format!(
            "Answers of the types in compression.types, of at least {} bytes or of unknown length, are compressed with {}.",
            config.min_size,
            algorithm.as_str()
        ),
        (_, Some(tool)) => format!("{tool} is in compression.off_for: answers go as they are."),
        (_, None) if config.algorithms.is_empty() => "compression.algorithms is empty.".to_owned(),
        (_, None) => {
            "The client accepts none of compression.algorithms (Accept-Encoding).".to_owned()
        }
    };
    Compression {
        encoding: plan.encoding().map(|algorithm| algorithm.as_str()),
        text,
    }
}

/// Reads the head of an answer as that of a backend is read.
fn with_head(sample: &mut [u8], look: impl FnOnce(&ResponseHead, &[u8])) {
    let limits = HeadLimits {
        head: sample.len(),
        target: 0,
        fields: sample.len(),
    };
    let mut parser = ResponseParser::new(limits);
    if parser.parse(sample, RequestKind::default()).is_ok() {
        look(parser.head(), sample);
    }
}

fn first_line(head: &[u8]) -> String {
    let end = head.iter().position(|byte| *byte == b'\r');
    text_of(head.get(..end.unwrap_or(head.len())).unwrap_or_default())
}

/// The fields of a head.
pub(super) fn lines(head: &[u8]) -> Vec<FieldLine> {
    let start = head.iter().position(|byte| *byte == b'\n');
    let fields = head.get(start.map_or(0, |at| at + 1)..);
    lines_of(fields.unwrap_or_default())
}

fn lines_of(fields: &[u8]) -> Vec<FieldLine> {
    let lines = fields.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        Some(FieldLine {
            name: text_of(name),
            value: text_of(value.get(1..).unwrap_or_default().trim_ascii()),
        })
    });
    pairs.collect()
}
