//! One JSON object a line (RFC 8259), in ASCII. What there is nothing to say about is left out.
//!
//! Every string of a client is escaped by `escape`; all others are words and numbers of portico's
//! own. The keys are documented in `docs/access-log.md`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use portico_config::LogAddress;

use super::clock::Clock;
use super::{escape, numbers};
use crate::telemetry::address;
use crate::telemetry::record::Record;

/// Appends the line of `record`.
pub(super) fn append(out: &mut Vec<u8>, record: &Record<'_>, mode: LogAddress, clock: &Clock) {
    out.extend_from_slice(br#"{"time":""#);
    clock.append_utc(out);
    out.extend_from_slice(br#"","id":""#);
    out.extend_from_slice(&record.id.text());
    out.extend_from_slice(br#"","client":""#);
    numbers::append_client(out, address::show(mode, record.client.address));
    out.push(b'"');
    append_request(out, record);
    number(out, r#","status":"#, record.logged_status().into());
    number(out, r#","received":"#, record.received);
    number(out, r#","sent":"#, record.sent);
    text(out, r#","referer":""#, record.text.referer);
    text(out, r#","user_agent":""#, record.text.user_agent);
    text(out, r#","tool":""#, record.tool.map(str::as_bytes));
    word(out, r#","route":""#, record.route.as_str());
    if let Some(reason) = record.reason {
        word(out, r#","reason":""#, reason.code());
    }
    append_backend(out, record);
    seconds(out, r#","duration":"#, Some(record.duration));
    seconds(out, r#","first_byte":"#, record.first_byte);
    append_tls(out, record);
    if let Some(failure) = record.failure {
        word(out, r#","failure":{"code":""#, failure.code);
        // Writing to memory does not fail.
        let _ = write!(out, r#","side":"{}"}}"#, failure.side);
    }
    word(out, r#","ending":""#, record.ending.as_str());
    out.extend_from_slice(b"}\n");
}

/// What was asked for: host, and method, target and version; of what is no request its first line.
fn append_request(out: &mut Vec<u8>, record: &Record<'_>) {
    text(out, r#","host":""#, record.host.map(str::as_bytes));
    let line = record.text.line;
    let words = record.version.and_then(|_| split(line));
    if let Some((method, target, version)) = words {
        text(out, r#","method":""#, Some(method));
        text(out, r#","target":""#, Some(target));
        text(out, r#","version":""#, Some(version));
    } else if !line.is_empty() {
        text(out, r#","line":""#, Some(line));
    }
}

/// The three words of a request line.
fn split(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = memchr::memchr(b' ', line)?;
    let last = memchr::memrchr(b' ', line)?;
    let target = line.get(first + 1..last)?;
    Some((&line[..first], target, &line[last + 1..]))
}

fn append_backend(out: &mut Vec<u8>, record: &Record<'_>) {
    seconds(out, r#","queued":"#, record.queued);
    if record.attempts == 0 && record.upstream.is_none() {
        return;
    }
    upstream(out, record.upstream);
    number(out, r#","attempts":"#, record.attempts.into());
    flag(out, r#","reused":"#, record.reused);
    seconds(out, r#","connect":"#, record.connect);
    seconds(out, r#","upstream_head":"#, record.upstream_head);
}

fn append_tls(out: &mut Vec<u8>, record: &Record<'_>) {
    if let Some(tls) = &record.client.tls {
        word(out, r#","tls":{"version":""#, tls.version);
        word(out, r#","cipher":""#, tls.cipher);
        flag(out, r#","resumed":"#, tls.resumed);
        out.push(b'}');
    }
}

// Each `key` brings what stands around it, up to the opening quote.

fn text(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        out.extend_from_slice(key.as_bytes());
        escape::json(out, value);
        out.push(b'"');
    }
}

/// A word of portico's own, which needs no escape.
fn word(out: &mut Vec<u8>, key: &str, word: &str) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    out.extend_from_slice(key.as_bytes());
    numbers::append(out, value);
}

fn flag(out: &mut Vec<u8>, key: &str, value: bool) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn seconds(out: &mut Vec<u8>, key: &str, value: Option<Duration>) {
    if let Some(value) = value {
        out.extend_from_slice(key.as_bytes());
        numbers::append_seconds(out, value);
    }
}

fn upstream(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    if let Some(address) = address {
        out.extend_from_slice(br#","upstream":""#);
        numbers::append_socket(out, address);
        out.push(b'"');
    }
}
