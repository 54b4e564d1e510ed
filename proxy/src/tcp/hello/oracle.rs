//! The ClientHello's parser beside rustls, for any bytes: shared by the tests and the fuzz target.

use std::io::Cursor;

use rustls::server::Acceptor;

use super::{Hello, MAX_HELLO, server_name};

/// Every byte of a short input is a cut; of a long one, one in so many.
const CUTS: usize = 600;

/// Checks the rules that hold for all bytes.
pub(crate) fn check(bytes: &[u8]) {
    let verdict = server_name(bytes);
    // Partial until it is certain, then the same for ever.
    let mut before = Hello::Partial;
    for cut in (0..bytes.len()).step_by(bytes.len() / CUTS + 1) {
        let now = server_name(&bytes[..cut]);
        assert!(before == Hello::Partial || now == before, "at {cut}");
        before = now;
    }
    assert!(before == Hello::Partial || verdict == before);
    if verdict == Hello::Partial {
        assert!(bytes.len() < MAX_HELLO);
    }
    if let Hello::Name(Some(name)) = &verdict {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        assert!(name.bytes().all(good) && !name.is_empty() && name.len() <= 253);
        assert!(!name.ends_with('.'));
    }
    // Where both find a hello, they find the same name. rustls refuses more, since it also looks at
    // what does not matter here, and takes what portico refuses on purpose: a list of names that goes
    // on behind the first, for one. What has to be taken say the other tests.
    if let Some(name) = other(bytes)
        && verdict != Hello::NotTls
    {
        assert_eq!(verdict, Hello::Name(name));
    }
}

/// What rustls makes of it: the name in a hello that it takes.
fn other(mut bytes: &[u8]) -> Option<Option<Box<str>>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        // It takes 4 KiB at a time.
        let mut chunk = Cursor::new(bytes);
        acceptor.read_tls(&mut chunk).ok()?;
        bytes = &bytes[chunk.position() as usize..];
        if let Some(accepted) = acceptor.accept().ok()? {
            let name = accepted.client_hello().server_name().map(str::to_lowercase);
            let name = name.map(|name| name.trim_end_matches('.').to_owned());
            return Some(name.map(Into::into));
        }
    }
    None
}
