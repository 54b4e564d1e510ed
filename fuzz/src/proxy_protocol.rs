//! Checks of the PROXY protocol's parser: the same verdict for every cut of the input, and agreement
//! with the `ppp` crate on what both accept.

#[path = "../../proxy/src/proxy_protocol/header.rs"]
pub mod header;

#[path = "../../proxy/src/proxy_protocol/oracle.rs"]
mod oracle;

/// Any bytes as the beginning of a connection.
pub fn header(data: &[u8]) {
    oracle::check(data);
}

#[cfg(test)]
mod tests {
    use crate::run;

    #[test]
    fn header() {
        let seeds: &[&[u8]] = &[
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n",
            b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\nGET / HTTP/1.1\r\n",
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x03\xe8\x01\xbb\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x1a\xc0\0\x02\x01\xc0\0\x02\x02\x03\xe8\x01\xbb\x03\0\x04crc?\x01\0\x02h2\x04\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24123456789abcdef0123456789abcdef0pppp",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x31\xff\xff",
            b"+0 \r\n01 TCP4  \n",
        ];
        run(super::header, seeds, 100_000);
    }
}
