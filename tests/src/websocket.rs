//! WebSocket frames by hand (RFC 6455, section 5.2): enough to see that bytes pass
//! unchanged in both directions.
//!
//! No extensions, no fragments, no UTF-8 checks.

use std::io;

use crate::client::Client;
use crate::origin::{Connection, Received};
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
    serve(connection, &request);
}

/// The part of [`echo`] behind the request.
pub fn serve(connection: &mut Connection, request: &Received) {
    let accept = accept(request.field("sec-websocket-key").unwrap_or_default());
    connection.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
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

/// What a server answers to this key (RFC 6455, 4.2.2).
pub fn accept(key: &str) -> String {
    base64(&sha1(
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    ))
}

/// RFC 3174, for the handshake only.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let mut bytes = message.to_vec();
    bytes.push(0x80);
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    if bytes.len() < message.len() + 9 {
        bytes.resize(bytes.len() + 64, 0);
    }
    let end = bytes.len() - 8;
    bytes[end..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in bytes.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, four) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = four.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        }
        for at in 16..80 {
            let mixed = words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16];
            words[at] = mixed.rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (round, word) in words.iter().enumerate() {
            let (mix, constant) = match round / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let sum = a.rotate_left(5).wrapping_add(mix).wrapping_add(e);
            let sum = sum.wrapping_add(constant).wrapping_add(*word);
            (a, b, c, d, e) = (sum, a, b.rotate_left(30), c, d);
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d, e]) {
            *old = old.wrapping_add(new);
        }
    }
    let mut out = [0; 20];
    for (four, word) in out.chunks_exact_mut(4).zip(state) {
        four.copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three
            .iter()
            .fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_rfc_6455_has_its_answer() {
        assert_eq!(accept(KEY), ACCEPT);
    }
}
