//! Checks of the ClientHello's parser: the same verdict for every cut of the input, and agreement
//! with rustls on what that takes.

pub use portico_hello::{Hello, MAX_HELLO, server_name};

#[path = "../../proxy/src/tcp/hello/oracle.rs"]
mod oracle;

/// Any bytes as the beginning of a connection.
pub fn hello(data: &[u8]) {
    oracle::check(data);
}

#[cfg(test)]
mod tests {
    use super::{Hello, server_name};
    use crate::run;

    /// A hello that rustls takes, for `a.example`: with its record's head of 5 bytes and the message's of 4.
    const HELLO: &[u8] = b"\x16\x03\x01\x00\x60\x01\0\0\x5c\x03\x03rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr\0\0\x02\xc0\x2b\x01\0\
        \0\x31\0\0\0\x0e\0\x0c\0\0\x09a.example\0\x0d\0\x04\0\x02\x04\x03\0\x0a\0\x04\0\x02\0\x1d\0\x0b\0\x02\x01\0\0\x17\0\0\x0a\x0a\0\x01\0";

    #[test]
    fn hello() {
        let Hello::Name(Some(name)) = server_name(HELLO) else {
            panic!("{:?}", server_name(HELLO));
        };
        assert_eq!(&*name, "a.example");
        let (one, two) = HELLO[5..].split_at(70);
        let cut = [b"\x16\x03\x01\0\x46", one, b"\x16\x03\x01\0\x1a", two].concat();
        assert!(matches!(server_name(&cut), Hello::Name(Some(_))));
        let seeds: &[&[u8]] = &[
            HELLO,
            &cut,
            b"\x16\x03\x01\0\x01\x01\x16\x03\x03\0\x04\0\0\x5c\x03",
            b"\0\0\0\x1b\0\x19\0\0\x09a.example\0\0\x0a192.0.2.1.",
            b"\x16\x03\x03\x40\x01",
            b"GET / HTTP/1.1\r\n",
            b"\x80\x2e\x01\x03\x01",
        ];
        run(super::hello, seeds, 100_000);
    }
}
