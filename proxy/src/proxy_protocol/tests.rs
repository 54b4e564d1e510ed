use super::header::{Ends, HeaderError, MAX_HEADER, Parsed, parse};
use super::oracle;
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 192.0.2.1:1000 to 192.0.2.2:443.
const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0x01, 0xbb];

fn v2(command: u8, family: u8, held: &[u8]) -> Vec<u8> {
    let length = u16::try_from(held.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, held].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

/// The verdict, with and without something behind the header.
#[track_caller]
fn check(bytes: &[u8], expected: Result<Option<Ends>, HeaderError>) {
    let expected = expected.map(|ends| Parsed::Complete {
        len: bytes.len(),
        ends,
    });
    assert_eq!(parse(bytes), expected, "{}", bytes.escape_ascii());
    if expected.is_ok() {
        let more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(parse(&more), expected, "{}", bytes.escape_ascii());
        let less = &bytes[..bytes.len() - 1];
        assert_eq!(parse(less), Ok(Parsed::Partial), "{}", less.escape_ascii());
    }
    oracle::check(bytes);
}

#[test]
fn lines() {
    let ok = |line: &str, found| check(line.as_bytes(), Ok(found));
    ok(
        "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n",
        ends("192.0.2.1:1000", "192.0.2.2:443"),
    );
    ok(
        "PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n",
        ends("255.255.255.255:65535", "0.0.0.0:0"),
    );
    ok(
        "PROXY TCP6 2001:db8::1 ::1 1000 443\r\n",
        ends("[2001:db8::1]:1000", "[::1]:443"),
    );
    ok(
        "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
        ends("[::ffff:192.0.2.1]:1", "[::1]:2"),
    );
    ok("PROXY UNKNOWN\r\n", None);
    ok("PROXY UNKNOWN whatever it\tsays\r\n", None);
    let longest = format!(
        "PROXY UNKNOWN {0} {0} 65535 65535\r\n",
        ["ffff"; 8].join(":")
    );
    assert_eq!(longest.len(), 107);
    ok(&longest, None);
}

#[test]
fn lines_that_are_none() {
    let bad = |line: &str| check(line.as_bytes(), Err(HeaderError::BadLine));
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 1000 443 \r\n");
    bad("PROXY TCP4  192.0.2.1 192.0.2.2 1000 443\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 1000 443 5\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 1000\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 01000 443\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 +1000 443\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n");
    bad("PROXY TCP4 192.0.2.1 192.0.2.2  443\r\n");
    bad("PROXY TCP4 192.0.2.01 192.0.2.2 1000 443\r\n");
    bad("PROXY TCP4 192.0.2 192.0.2.2 1000 443\r\n");
    bad("PROXY TCP4 2001:db8::1 ::1 1000 443\r\n");
    bad("PROXY TCP6 192.0.2.1 192.0.2.2 1000 443\r\n");
    bad("PROXY TCP6 fe80::1%eth0 ::1 1000 443\r\n");
    bad("PROXY TCP5 192.0.2.1 192.0.2.2 1000 443\r\n");
    bad("PROXY tcp4 192.0.2.1 192.0.2.2 1000 443\r\n");
    bad("PROXY UNKNOWNS\r\n");
    bad("PROXY \r\n");
    bad("PROXY UNKNOWN\n");
    check(
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 \xb2\r\n",
        Err(HeaderError::BadLine),
    );
    let long = |n: usize| format!("PROXY UNKNOWN {}", "x".repeat(n - 14));
    check(long(107).as_bytes(), Err(HeaderError::TooLong));
    check(
        format!("{}\r\n", long(106)).as_bytes(),
        Err(HeaderError::TooLong),
    );
    assert_eq!(parse(long(106).as_bytes()), Ok(Parsed::Partial));
}

#[test]
fn other_bytes_are_refused_at_once() {
    let none = |bytes: &[u8]| check(bytes, Err(HeaderError::NoHeader));
    none(b"GET / HTTP/1.1\r\n");
    none(b"G");
    none(b"PROXYX");
    none(b"POST ");
    none(b"proxy TCP4");
    // TLS, and HTTP/2's preface.
    none(&[0x16, 0x03, 0x01]);
    none(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    none(b"\r\n\r\nGET");
    none(b"\n");
    assert_eq!(parse(b""), Ok(Parsed::Partial));
    assert_eq!(parse(b"PROXY"), Ok(Parsed::Partial));
    assert_eq!(parse(b"\r\n\r\n"), Ok(Parsed::Partial));
}

#[test]
fn blocks() {
    let found = ends("192.0.2.1:1000", "192.0.2.2:443");
    check(&v2(0x21, 0x11, V4), Ok(found));
    let v6 = "20010db800000000000000000000000100000000000000000000000000000001";
    let mut v6: Vec<u8> = (0..32)
        .map(|i| u8::from_str_radix(&v6[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    v6.extend([0x03, 0xe8, 0x01, 0xbb]);
    check(
        &v2(0x21, 0x21, &v6),
        Ok(ends("[2001:db8::1]:1000", "[::1]:443")),
    );
    // The balancer itself, whatever else it says.
    check(&v2(0x20, 0x00, &[]), Ok(None));
    check(&v2(0x20, 0x11, V4), Ok(None));
    check(&v2(0x20, 0xff, b"xyz"), Ok(None));
    // Nobody with an IP address and a TCP connection.
    check(&v2(0x21, 0x00, b"xyz"), Ok(None));
    check(&v2(0x21, 0x12, V4), Ok(None));
    check(&v2(0x21, 0x22, &v6), Ok(None));
    check(&v2(0x21, 0x31, &[b'/'; 216]), Ok(None));
    check(&v2(0x21, 0x32, &[]), Ok(None));
}

#[test]
fn blocks_that_are_none() {
    for (command, family) in [
        (0x22, 0x11),
        (0x2f, 0x11),
        (0x11, 0x11),
        (0x31, 0x11),
        (0x21, 0x01),
        (0x21, 0x10),
        (0x21, 0x13),
        (0x21, 0x33),
        (0x21, 0x41),
    ] {
        check(&v2(command, family, V4), Err(HeaderError::Unknown));
    }
    check(&v2(0x21, 0x11, &V4[..11]), Err(HeaderError::BadLength));
    check(&v2(0x21, 0x21, V4), Err(HeaderError::BadLength));
    let room = MAX_HEADER - 16;
    check(&v2(0x20, 0x00, &vec![0; room]), Ok(None));
    let long = v2(0x20, 0x00, &vec![0; room + 1]);
    check(&long, Err(HeaderError::TooLong));
    assert_eq!(parse(&long[..16]), Err(HeaderError::TooLong));
}

#[test]
fn additional_fields() {
    let found = ends("192.0.2.1:1000", "192.0.2.2:443");
    let with = |tlvs: &[u8]| v2(0x21, 0x11, &[V4, tlvs].concat());
    let alpn = tlv(0x01, b"h2");
    let authority = tlv(0x02, b"toolforge.org");
    check(&with(&[&alpn[..], &authority].concat()), Ok(found));
    check(&with(&tlv(0xee, b"")), Ok(found));
    check(&with(&alpn[..4]), Err(HeaderError::BadLength));
    check(&with(&alpn[..2]), Err(HeaderError::BadLength));
    check(&with(&tlv(0x03, b"123")), Err(HeaderError::BadLength));
    check(&with(&tlv(0x03, &[0; 4])), Err(HeaderError::BadChecksum));
    // As HAProxy 2.6 sends it: send-proxy-v2 proxy-v2-options crc32c.
    let mut signed = with(&[&tlv(0x03, &[0; 4])[..], &authority].concat());
    let crc = naive_crc32c(&signed);
    signed[16 + 12 + 3..][..4].copy_from_slice(&crc.to_be_bytes());
    check(&signed, Ok(found));
    signed[17] ^= 1;
    check(&signed, Err(HeaderError::BadChecksum));
}

/// By polynomial division of the mirrored bits.
fn naive_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            let top = crc >> 31;
            crc = (crc << 1) ^ (0x1edc_6f41 * top);
        }
    }
    !crc.reverse_bits()
}

#[test]
fn the_checksum_is_crc32c() {
    // The check value of the catalogue of CRC algorithms.
    assert_eq!(naive_crc32c(b"123456789"), 0xe306_9283);
}

/// Headers, good and slightly bad.
fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "(TCP4|TCP6|UNKNOWN|PROXY| |\r|\n|\r\n)",
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}",
        "[0-9a-f:]{2,20}",
        "[+]?[0-9]{1,6}",
    ];
    let line = proptest::collection::vec(word, 0..8)
        .prop_map(|words| format!("PROXY {}\r\n", words.join(" ")).into_bytes());
    let good =
        (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<[u16; 2]>()).prop_map(|(a, b, [c, d])| {
            let [a, b] = [a, b].map(std::net::Ipv4Addr::from);
            format!("PROXY TCP4 {a} {b} {c} {d}\r\n").into_bytes()
        });
    let block = (
        prop_oneof![Just(0x20u8), Just(0x21), any::<u8>()],
        prop_oneof![Just(0x11u8), Just(0x21), Just(0x00), any::<u8>()],
        proptest::collection::vec(any::<u8>(), 0..80),
    )
        .prop_map(|(command, family, held)| v2(command, family, &held));
    let fields = proptest::collection::vec((0u8..5, "[a-z]{0,6}"), 0..4).prop_map(|tlvs| {
        let tlvs: Vec<u8> = tlvs
            .iter()
            .flat_map(|(kind, value)| tlv(*kind, value.as_bytes()))
            .collect();
        v2(0x21, 0x11, &[V4, &tlvs].concat())
    });
    prop_oneof![line, good, block, fields]
}

proptest! {
    #[test]
    fn no_cut_changes_the_verdict_and_another_parser_agrees(
        mut bytes in near_headers(),
        behind in proptest::collection::vec(any::<u8>(), 0..40),
        flip in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        bytes.extend(behind);
        if let Some((at, byte)) = flip {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        oracle::check(&bytes);
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        oracle::check(&bytes);
    }
}
