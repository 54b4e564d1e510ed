//! Checks of the budgets of HTTP/2 connections: the same verdict for every cut of the input, and
//! agreement with their naive twin.

use portico_budget::*;

#[path = "../../proxy/src/http2/budget/oracle.rs"]
mod oracle;

/// Any bytes as a recipe for a connection.
pub fn budget(data: &[u8]) {
    oracle::check_bytes(data);
}

#[cfg(test)]
mod tests {
    use crate::run;

    #[test]
    fn budget() {
        let seeds: &[&[u8]] = &[
            // Which side the peer is; then what, type, flags, length, repeats, pause.
            b"\x00\xf2\x01\x04\x03\xff\x00\xf4\x03\x00\x04\xff\x01",
            b"\x01\x13\x01\x00\x40\x05\x00\x10\x01\x04\x40\x7f\x02",
            b"\x00\xf0\x06\x00\x08\xff\x01\x11\x00\x00\xff\x80\x00",
            b"\x00\xf0\x08\x00\x04\xff\x05\xf0\x04\x00\x00\x80\x80\xf0\x02\x00\x05\xff\x00",
            b"\x01\xf5\x03\x00\x04\x20\x01\xf0\xfb\x03\x20\x40\x10\x00\x09\x00\x00\x00\x00",
        ];
        run(super::budget, seeds, 3_000);
    }
}
