//! The one WebSocket frame that is measured (RFC 6455): binary, 125 bytes, in one piece; masked by the client, echoed
//! without a mask.

/// The longest that needs no further length field.
pub const PAYLOAD_BYTES: usize = 125;
/// A frame of the client: head, mask, payload.
pub const CLIENT_FRAME_BYTES: usize = 6 + PAYLOAD_BYTES;
/// A frame of the server: head, payload.
pub const SERVER_FRAME_BYTES: usize = 2 + PAYLOAD_BYTES;
/// What a message says.
pub type Payload = [u8; PAYLOAD_BYTES];

/// The last fragment, binary.
const FIN_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// Key and answer of RFC 6455, 1.3: with one key for all connections nobody needs SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The whole answer of the server to `upgrade_request`.
pub const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What opens a connection.
#[must_use]
pub fn upgrade_request(host: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portico-benches\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// Another message for each number.
#[must_use]
pub fn payload(number: u32) -> Payload {
    let mut payload = [0; PAYLOAD_BYTES];
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte = number.to_le_bytes()[at % 4] ^ at as u8;
    }
    payload
}

/// The client's frame.
#[must_use]
pub fn masked(payload: &Payload, mask: [u8; 4]) -> [u8; CLIENT_FRAME_BYTES] {
    let mut frame = [0; CLIENT_FRAME_BYTES];
    frame[..2].copy_from_slice(&[FIN_BINARY, MASKED | PAYLOAD_BYTES as u8]);
    frame[2..6].copy_from_slice(&mask);
    for (at, byte) in payload.iter().enumerate() {
        frame[6 + at] = byte ^ mask[at % 4];
    }
    frame
}

/// The server's frame.
#[must_use]
pub fn unmasked(payload: &Payload) -> [u8; SERVER_FRAME_BYTES] {
    let mut frame = [0; SERVER_FRAME_BYTES];
    frame[..2].copy_from_slice(&[FIN_BINARY, PAYLOAD_BYTES as u8]);
    frame[2..].copy_from_slice(payload);
    frame
}

/// The answer to a client's frame; `None` to anything else, the end of the connection among it.
#[must_use]
pub fn echo(frame: &[u8; CLIENT_FRAME_BYTES]) -> Option<[u8; SERVER_FRAME_BYTES]> {
    if frame[..2] != [FIN_BINARY, MASKED | PAYLOAD_BYTES as u8] {
        return None;
    }
    let mut payload = [0; PAYLOAD_BYTES];
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte = frame[6 + at] ^ frame[2 + at % 4];
    }
    Some(unmasked(&payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_the_message_without_its_mask() {
        let said = payload(7);
        let mut frame = masked(&said, [1, 2, 3, 4]);
        assert_eq!(frame[6], said[0] ^ 1);
        assert_eq!(echo(&frame), Some(unmasked(&said)));
        frame[0] = 0x88;
        assert_eq!(echo(&frame), None);
    }
}
