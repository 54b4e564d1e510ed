//! WebSocket frames by hand (RFC 6455, section 5.2): enough to see that bytes pass
//! unchanged in both directions.
//!
//! No extensions, no fragments, no UTF-8 checks.

use std::io;

use crate::client::Client;
use crate::origin::Connection;
use crate::wire::{self, Wire};

/// The handshake of RFC 6455, section 1.3, whose accept value is known.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Opcode of a text frame.
pub const TEXT: u8 = 1;
/// Opcode of a binary frame.
pub const BINARY: u8 = 2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;

/// The upgrade request.
pub fn handshake(host: &str, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: t\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// Upgrades a connection; panics when the answer is not a 101.
#[track_caller]
pub fn upgrade(client: &mut Client, host: &str, target: &str) {
    let answer = client.exchange(handshake(host, target));
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(
        answer.field("sec-websocket-accept"),
        Some(ACCEPT),
        "{answer:?}"
    );
    let upgrade = answer.field("upgrade").unwrap_or_default();
    assert!(upgrade.eq_ignore_ascii_case("websocket"), "{answer:?}");
    let connection = answer.field("connection").unwrap_or_default();
    assert!(
        connection.to_ascii_lowercase().contains("upgrade"),
        "{answer:?}"
    );
}

/// One frame; clients must mask (RFC 6455, 5.3).
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    let bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..=125 => out.push(bit | length as u8),
        length @ 126..=65535 => {
            out.push(bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if masked {
        let mask = [0x12, 0x34, 0x56, 0x78];
        out.extend_from_slice(&mask);
        out.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
    } else {
        out.extend_from_slice(payload);
    }
    out
}

/// Reads one frame, unmasked: opcode and payload.
pub fn read_frame(wire: &mut Wire) -> io::Result<(u8, Vec<u8>)> {
    let head = take(wire, 2)?;
    let masked = head[1] & 0x80 != 0;
    let length = match head[1] & 0x7f {
        126 => take(wire, 2)?
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        127 => take(wire, 8)?
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        short => u64::from(short),
    };
    let mask = if masked { take(wire, 4)? } else { vec![0; 4] };
    let payload = take(wire, length)?;
    let plain = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    Ok((head[0] & 0x0f, plain))
}

/// An origin's script: accepts the upgrade and echoes frames until a close frame, which it answers.
pub fn echo(connection: &mut Connection) {
    let Some(request) = connection.read_request() else {
        return;
    };
    if !wire::field(&request.fields, "upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
    {
        connection.send_text("a plain request\n");
        return;
    }
    connection.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    ));
    while let Ok((opcode, payload)) = read_frame(&mut connection.wire) {
        connection.send(frame(opcode, &payload, false));
        if opcode == CLOSE {
            return;
        }
    }
}

fn take(wire: &mut Wire, count: u64) -> io::Result<Vec<u8>> {
    let mut body = wire::Body::default();
    wire.read_counted(count, &mut body)?;
    Ok(body.bytes)
}
