//! The head that goes to the backend, always written anew.
//!
//! What the client sent about itself or about the way here is removed, with the fields of one
//! connection and those that Connection names; what tools may rely on is added: Host
//! (canonical), X-Forwarded-Host, -Port, -Proto, X-Original-URI, Via. The client's address is
//! added only where `[headers]` says so. Few fields on purpose: small header buffers of tools
//! have overflowed (T428159).

use std::io::Write;

use portico_config::ClientAddress;
use portico_routing::field::Field;
use portico_routing::host::Host;

use super::destination::Destination;
use crate::client::ClientInfo;
use crate::context::Request;
use crate::http1::{Framing, RequestHead, Version, copy_field, write_field};

/// Appends the whole head, its empty line included.
pub(crate) fn write(
    out: &mut Vec<u8>,
    buf: &[u8],
    head: &RequestHead,
    request: &Request,
    client: &ClientInfo,
    destination: &Destination,
) {
    let target = head.target.of(buf);
    let slash: &[u8] = if head.needs_slash(buf) { b"/" } else { b"" };
    let base = match destination {
        Destination::Tool(backend) => backend.base.as_bytes(),
        Destination::Fallback(fallback) => fallback.backend.base.as_bytes(),
        Destination::Ingress(_) => b"",
    };
    for part in [
        head.method_name.of(buf),
        b" ",
        base,
        slash,
        target,
        b" HTTP/1.1\r\n",
    ] {
        out.extend_from_slice(part);
    }
    let host = request.host.as_ref().map_or(&b""[..], Host::as_bytes);
    write_field(out, b"Host", host);
    for field in &head.fields {
        if passes(field.field) && !head.nominated(buf, field) {
            copy_field(out, buf, field);
        }
    }
    if destination.speaks_http2() {
        // Whatever the client said: portico takes them itself (RFC 9110, section 10.1.4), and gRPC
        // insists on it.
        write_field(out, b"TE", b"trailers");
    }
    match head.framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => write_number(out, b"Content-Length", length),
        Framing::Chunked => write_field(out, b"Transfer-Encoding", b"chunked"),
    }
    if request.upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    write_field(out, b"X-Forwarded-Host", host);
    write_number(out, b"X-Forwarded-Port", u64::from(client.port));
    out.extend_from_slice(match client.over_tls {
        true => &b"X-Forwarded-Proto: https\r\nX-Original-URI: "[..],
        false => b"X-Forwarded-Proto: http\r\nX-Original-URI: ",
    });
    out.extend_from_slice(slash);
    out.extend_from_slice(target);
    out.extend_from_slice(b"\r\n");
    let headers = &request.snapshot.config.headers;
    // The fallback is not the tool, whatever the request was for.
    let tool = match destination {
        Destination::Tool(_) | Destination::Ingress(_) => request.tool.as_ref(),
        Destination::Fallback(_) => None,
    };
    if headers.client_address == ClientAddress::Forwarded
        || !headers.client_address_for.is_empty()
            && tool.is_some_and(|tool| headers.client_address_for.contains(tool.as_str()))
    {
        // Into the head itself, which cannot fail.
        let _ = write!(out, "X-Forwarded-For: {}\r\n", client.address);
    }
    if let Some(name) = &headers.via {
        out.extend_from_slice(match request.version {
            Version::Http10 => b"Via: 1.0 ",
            Version::Http11 => b"Via: 1.1 ",
            Version::Http2 => b"Via: 2.0 ",
        });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a field of the client's may go on, as far as its name decides.
fn passes(field: Field) -> bool {
    !field.hop_by_hop()
        && !field.never_from_client()
        && !matches!(field, Field::Host | Field::ContentLength | Field::Expect)
}

fn write_number(out: &mut Vec<u8>, name: &[u8], number: u64) {
    let mut digits = itoa::Buffer::new();
    write_field(out, name, digits.format(number).as_bytes());
}
