//! Numbers and addresses as text, without the machinery of `fmt` where a line has many of them.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::telemetry::address::Shown;

/// Appends `number`.
pub(super) fn append(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends seconds with six places: `0.001234`.
pub(super) fn append_seconds(out: &mut Vec<u8>, duration: Duration) {
    append(out, duration.as_secs());
    let mut places = *b".000000";
    let mut micros = duration.subsec_micros();
    for place in places.iter_mut().skip(1).rev() {
        *place = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    out.extend_from_slice(&places);
}

/// Appends the address of a client.
pub(super) fn append_client(out: &mut Vec<u8>, shown: Shown) {
    match shown {
        Shown::Address(address) => append_ip(out, address),
        Shown::Hash(digits) => out.extend_from_slice(&digits),
        Shown::Nothing => out.push(b'-'),
    }
}

/// Appends address and port.
pub(super) fn append_socket(out: &mut Vec<u8>, address: SocketAddr) {
    if address.is_ipv6() {
        // Writing to memory does not fail.
        let _ = write!(out, "{address}");
        return;
    }
    append_ip(out, address.ip());
    out.push(b':');
    append(out, address.port().into());
}

fn append_ip(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _ = write!(out, "{address}");
        return;
    };
    // In one piece: each line has two of them.
    let mut text = [b'.'; "255.255.255.255".len()];
    let mut end = 0;
    for (place, octet) in address.octets().into_iter().enumerate() {
        // Behind the point that stands there.
        end += usize::from(place > 0);
        for (power, digit) in [(100, octet / 100), (10, octet / 10), (1, octet)] {
            if octet >= power || power == 1 {
                text[end] = b'0' + digit % 10;
                end += 1;
            }
        }
    }
    out.extend_from_slice(&text[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = Vec::new();
        written(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn numbers_are_written_plainly() {
        check(|out| append(out, 0), "0");
        check(|out| append(out, u64::MAX), &u64::MAX.to_string());
        check(|out| append_seconds(out, Duration::ZERO), "0.000000");
        check(
            |out| append_seconds(out, Duration::from_nanos(1_234_567)),
            "0.001234",
        );
        check(
            |out| append_seconds(out, Duration::from_millis(3_600_500)),
            "3600.500000",
        );
        for octet in 0..=255 {
            let ip = IpAddr::from([octet, 255 - octet, 0, octet]);
            check(|out| append_ip(out, ip), &ip.to_string());
        }
        for address in [
            "0.0.0.0:1",
            "255.254.3.20:65535",
            "[2001:db8::1]:8000",
            "[::]:1",
        ] {
            let socket: SocketAddr = address.parse().unwrap();
            check(|out| append_socket(out, socket), address);
            check(
                |out| append_client(out, Shown::Address(socket.ip())),
                &socket.ip().to_string(),
            );
        }
        check(
            |out| append_client(out, Shown::Hash(*b"0123456789abcdef")),
            "0123456789abcdef",
        );
    }
}
