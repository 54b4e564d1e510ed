//! WebSocket over HTTP/2 (RFC 8441): the two lines of the HTTP/1.1 handshake that HTTP/2 leaves
//! out, and that portico speaks with the backend in the client's place (RFC 6455, section 4).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::request;

/// What the server appends to the key (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A `Sec-WebSocket-Key`: 16 random bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 24]);

impl Key {
    /// A new one, if the request asks for a WebSocket (RFC 8441, section 5). Without randomness
    /// there is none.
    pub fn for_request(request: &request::Parts) -> Option<Self> {
        let protocol = request.extensions.get::<Protocol>()?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return None;
        }
        Self::new()
    }

    fn new() -> Option<Self> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).ok()?;
        let mut text = [0; 24];
        STANDARD.encode_slice(nonce, &mut text).ok()?;
        Some(Self(text))
    }

    /// Its text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The `Sec-WebSocket-Accept` that a server has to answer to a key (RFC 6455, section 4.2.2).
pub fn accept(key: &[u8]) -> String {
    let both = [key, GUID].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &both))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn keys_are_16_bytes_and_never_the_same() {
        let (a, b) = (Key::new().unwrap(), Key::new().unwrap());
        assert_ne!(a, b);
        assert_eq!(STANDARD.decode(a.as_bytes()).unwrap().len(), 16);
    }
}
