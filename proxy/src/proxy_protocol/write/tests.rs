use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::super::header::{Ends, Parsed, parse};
use super::{MAX_LEN, header_v2};

/// The header, read by portico's own parser and by the `ppp` crate: the whole of it, and these ends.
#[track_caller]
fn check(source: SocketAddr, destination: SocketAddr, expected: [SocketAddr; 2]) {
    let header = header_v2(source, destination);
    let [source, destination] = expected;
    let ends = Ends {
        source,
        destination,
    };
    let len = header.len();
    assert!(len <= MAX_LEN);
    let ends = Some(ends);
    assert_eq!(parse(&header), Ok(Parsed::Complete { len, ends }));
    let other = ppp::v2::Header::try_from(&header[..]).unwrap();
    assert_eq!(other.len(), len);
    let expected = ppp::v2::Addresses::from((source, destination));
    assert_eq!(other.addresses, expected);
    assert_eq!(other.tlvs().count(), 0);
}

fn both(source: &str, destination: &str, expected: [&str; 2]) {
    let [source, destination] = [source, destination].map(|end| end.parse().unwrap());
    check(
        source,
        destination,
        expected.map(|end| end.parse().unwrap()),
    );
}

#[test]
fn bytes() {
    let header = header_v2(
        "192.0.2.1:1000".parse().unwrap(),
        "192.0.2.2:443".parse().unwrap(),
    );
    let expected =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x03\xe8\x01\xbb";
    assert_eq!(*header, *expected);
    assert_eq!(
        *header_v2("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap()),
        *b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\x01\0\x02",
    );
}

#[test]
fn families() {
    both(
        "192.0.2.1:1000",
        "192.0.2.2:443",
        ["192.0.2.1:1000", "192.0.2.2:443"],
    );
    both(
        "[2001:db8::1]:1000",
        "[2001:db8::2]:443",
        ["[2001:db8::1]:1000", "[2001:db8::2]:443"],
    );
    // As an IPv6 socket gives the ends of an IPv4 connection.
    both(
        "[::ffff:192.0.2.1]:1000",
        "[::ffff:192.0.2.2]:443",
        ["192.0.2.1:1000", "192.0.2.2:443"],
    );
    both(
        "192.0.2.1:1000",
        "[::ffff:192.0.2.2]:443",
        ["192.0.2.1:1000", "192.0.2.2:443"],
    );
    // Of two families.
    both(
        "192.0.2.1:1000",
        "[2001:db8::2]:443",
        ["[::ffff:192.0.2.1]:1000", "[2001:db8::2]:443"],
    );
    both(
        "[2001:db8::1]:1000",
        "192.0.2.2:443",
        ["[2001:db8::1]:1000", "[::ffff:192.0.2.2]:443"],
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read(ips in any::<[IpAddr; 2]>(), ports in any::<[u16; 2]>()) {
        let ends = [0, 1].map(|end| SocketAddr::new(ips[end], ports[end]));
        let canonical = ips.map(|ip| ip.to_canonical());
        let v4 = canonical.iter().all(IpAddr::is_ipv4);
        let expected = [0, 1].map(|end| {
            let ip = match canonical[end] {
                IpAddr::V4(ip) if !v4 => IpAddr::V6(ip.to_ipv6_mapped()),
                ip => ip,
            };
            SocketAddr::new(ip, ports[end])
        });
        check(ends[0], ends[1], expected);
    }
}
