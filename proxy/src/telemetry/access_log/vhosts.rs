//! The line of the legacy system, byte for byte what its nginx wrote:
//!
//! ```text
//! $host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent
//! "$http_referer" "$http_user_agent" (backend $upstream_addr)
//! ```
//!
//! In one line, with nginx's own escapes, and `-` for what there is not. `$remote_user` is always
//! `-`: portico does not read Authorization, which is between the client and the tool. Unlike nginx,
//! a request without a host has the host `-` and not the name of some server, `$body_bytes_sent`
//! has no chunk sizes in it, and `$upstream_addr` is the last one that was tried, not all of them.

use std::net::SocketAddr;

use portico_config::LogAddress;

use super::clock::Clock;
use super::{escape, numbers};
use crate::telemetry::address;
use crate::telemetry::record::Record;

/// Appends the line of `record`.
pub(super) fn append(out: &mut Vec<u8>, record: &Record<'_>, mode: LogAddress, clock: &Clock) {
    match record.host {
        Some(host) => escape::nginx(out, host.as_bytes()),
        None => out.push(b'-'),
    }
    out.push(b' ');
    numbers::append_client(out, address::show(mode, record.client.address));
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(clock.local());
    out.extend_from_slice(b"] \"");
    let line = record.text.line;
    append_field(out, (!line.is_empty()).then_some(line));
    out.extend_from_slice(b"\" ");
    append_status(out, record.logged_status());
    out.push(b' ');
    numbers::append(out, record.sent);
    out.extend_from_slice(b" \"");
    append_field(out, record.text.referer);
    out.extend_from_slice(b"\" \"");
    append_field(out, record.text.user_agent);
    out.extend_from_slice(b"\" (backend ");
    append_upstream(out, record.upstream);
    out.extend_from_slice(b")\n");
}

fn append_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(value) => escape::nginx(out, value),
        None => out.push(b'-'),
    }
}

/// Three digits, also of 0.
fn append_status(out: &mut Vec<u8>, status: u16) {
    if status < 100 {
        out.extend_from_slice(if status < 10 { b"00" } else { b"0" });
    }
    numbers::append(out, status.into());
}

fn append_upstream(out: &mut Vec<u8>, upstream: Option<SocketAddr>) {
    match upstream {
        Some(address) => numbers::append_socket(out, address),
        None => out.push(b'-'),
    }
}
