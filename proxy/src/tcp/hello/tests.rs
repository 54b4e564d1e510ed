use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{Hello, MAX_HELLO, oracle, server_name};

/// `openssl s_client -servername API.Example -tls1_2` of OpenSSL 3.0, and with `-noservername`.
const OPENSSL: &str = "16030100cb010000c703035e538f16067776a652cdd0b7cbd0568bcffc098da6c62edd62586995c1fd37a7000038c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff0100006600000010000e00000b4150492e4578616d706c65000b000403000102000a000c000a001d0017001e00190018002300000016000000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602";
const OPENSSL_WITHOUT: &str = "16030100b7010000b30303bd38823dd719ee45873ca0ae66311328043d87df3dfb8181acd8ad1e95dee01f000038c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff01000052000b000403000102000a000c000a001d0017001e00190018002300000016000000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602";
/// `curl https://localhost`, TLS 1.3 in a record of TLS 1.0.
const CURL: &str = "1603010200010001fc030308ccf9d76a1d2d2c07e17c0af173c54e6969fdd1065c98a4cb458e51dd6d8ab6204d0c14530382ac442a2ab7cc1fe2b072bad689aea70e93208875ab4d60986864003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010001750000000e000c0000096c6f63616c686f7374000b000403000102000a00160014001d0017001e00190018010001010102010301040010000e000c02683208687474702f312e31001600000017000000310000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602002b0009080304030303020301002d00020101003300260024001d002088c263f5508231c70f534e221916c5137e0b3654de26f9d7cb51b38ebea5667a001500b4000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn named(name: &str) -> Hello {
    Hello::Name(Some(name.into()))
}

/// Content behind its length of `N` bytes.
fn vector<const N: usize>(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - N..], content].concat()
}

/// An extension.
fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector::<2>(content)].concat()
}

/// The extension `server_name`, with names of any kind.
fn names(names: &[(u8, &str)]) -> Vec<u8> {
    let names = names.iter();
    let list: Vec<u8> = names
        .flat_map(|(kind, name)| [vec![*kind], vector::<2>(name.as_bytes())].concat())
        .collect();
    extension(0, &vector::<2>(&list))
}

/// What rustls wants to see besides: signature algorithms, groups, and key shares of TLS 1.2.
fn usual() -> Vec<u8> {
    let parts = [
        extension(13, &vector::<2>(&[4, 3])),
        extension(10, &vector::<2>(&[0, 29])),
        extension(11, &vector::<1>(&[0])),
    ];
    parts.concat()
}

/// The parts of a hello's body.
struct Body {
    version: [u8; 2],
    session: Vec<u8>,
    ciphers: Vec<u8>,
    compressions: Vec<u8>,
    /// With their length, if at all.
    extensions: Vec<u8>,
    after: Vec<u8>,
}

impl Body {
    fn with(extensions: &[&[u8]]) -> Body {
        Body {
            version: [3, 3],
            session: vec![7; 32],
            ciphers: vec![0xc0, 0x2b],
            compressions: vec![0],
            extensions: vector::<2>(&extensions.concat()),
            after: Vec::new(),
        }
    }

    /// The handshake message.
    fn message(&self) -> Vec<u8> {
        let parts = [
            self.version.to_vec(),
            vec![9; 32],
            vector::<1>(&self.session),
            vector::<2>(&self.ciphers),
            vector::<1>(&self.compressions),
            self.extensions.clone(),
            self.after.clone(),
        ];
        [vec![1], vector::<3>(&parts.concat())].concat()
    }

    /// In a single record.
    fn record(&self) -> Vec<u8> {
        record(&self.message())
    }
}

fn record(payload: &[u8]) -> Vec<u8> {
    [vec![22, 3, 1], vector::<2>(payload)].concat()
}

/// A message in records of this size.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// The hello's name, whatever follows it; each part of it is partial.
#[track_caller]
fn check(hello: &[u8], expected: Hello) {
    assert_eq!(server_name(hello), expected);
    for cut in 0..hello.len() {
        assert_eq!(server_name(&hello[..cut]), Hello::Partial, "{cut} bytes");
    }
    let more = [hello, b"anything"].concat();
    assert_eq!(server_name(&more), expected);
    oracle::check(hello);
}

/// No hello, whatever follows.
#[track_caller]
fn refused(bytes: &[u8]) {
    assert_eq!(server_name(bytes), Hello::NotTls);
    oracle::check(bytes);
}

fn of_rustls(name: &'static str, config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn hellos_of_real_clients() {
    check(&bytes(OPENSSL), named("api.example"));
    check(&bytes(OPENSSL_WITHOUT), Hello::Name(None));
    check(&bytes(CURL), named("localhost"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    for versions in [rustls::ALL_VERSIONS, &[&rustls::version::TLS12]] {
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut config = config;
        let check_all = |config: ClientConfig| {
            let config = Arc::new(config);
            check(&of_rustls("k8s.example", &config), named("k8s.example"));
            check(&of_rustls("a.b.example.", &config), named("a.b.example"));
            check(&of_rustls("192.0.2.1", &config), Hello::Name(None));
        };
        check_all(config.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        check_all(config.clone());
        config.enable_sni = false;
        let hello = of_rustls("k8s.example", &Arc::new(config));
        check(&hello, Hello::Name(None));
    }
}

#[test]
fn records_may_end_anywhere() {
    for hello in [OPENSSL, CURL] {
        let hello = bytes(hello);
        let (message, expected) = (&hello[5..], server_name(&hello));
        for size in [1, 2, 3, 4, 5, 50, 100, message.len() - 1, message.len()] {
            check(&records(message, size), expected.clone());
        }
    }
}

#[test]
fn what_makes_no_difference() {
    let ok = |body: Body, expected| check(&body.record(), expected);
    let name = names(&[(0, "a.example")]);
    // GREASE (RFC 8701), an unknown extension, the name at the end.
    let grease = [extension(0x0a0a, &[]), extension(0xfafa, &[0])].concat();
    ok(Body::with(&[&grease, &usual(), &name]), named("a.example"));
    ok(Body::with(&[&name, &usual(), &grease]), named("a.example"));
    // No extension at all, of two kinds.
    ok(Body::with(&[]), Hello::Name(None));
    let old = Body {
        version: [3, 0],
        session: Vec::new(),
        extensions: Vec::new(),
        ..Body::with(&[])
    };
    ok(old, Hello::Name(None));
    // Versions to come, of the record and of the hello.
    let mut newer = Body {
        version: [9, 9],
        ..Body::with(&[&name])
    }
    .record();
    newer[2] = 7;
    check(&newer, named("a.example"));
}

#[test]
fn names_in_their_canonical_form() {
    let check = |name: &str, expected| {
        check(
            &Body::with(&[&usual(), &names(&[(0, name)])]).record(),
            expected,
        );
    };
    check("Api.EXAMPLE", named("api.example"));
    check("api.example.", named("api.example"));
    check("ru_monuments.example", named("ru_monuments.example"));
    check("xn--bcher-kva.example", named("xn--bcher-kva.example"));
    check("localhost", named("localhost"));
    // No names (RFC 6066 section 3), but some clients send them all the same.
    check("192.0.2.1", Hello::Name(None));
    check("2001:db8::1", Hello::Name(None));
    let long = format!("{}.{}", vec!["a".repeat(62); 3].join("."), "b".repeat(63));
    assert_eq!(long.len(), 252);
    check(&long, named(&long));
}

#[test]
fn names_that_are_none() {
    let long = vec!["a".repeat(50); 5].join(".");
    assert_eq!(long.len(), 254);
    let label = format!("{}.example", "a".repeat(64));
    for name in [
        "",
        ".",
        ".example",
        "a..example",
        "a.example..",
        "a b.example",
        "a.example\0",
        "a.example\0.evil.example",
        "*.example",
        "a.example:443",
        "[2001:db8::1]",
        "b\u{fc}cher.example",
        "https://a.example",
        &long,
        &label,
    ] {
        refused(&Body::with(&[&usual(), &names(&[(0, name)])]).record());
    }
}

#[test]
fn what_could_be_read_in_two_ways() {
    let (a, b) = (names(&[(0, "a.example")]), names(&[(0, "b.example")]));
    refused(&Body::with(&[&a, &b]).record());
    refused(&Body::with(&[&a, &usual(), &a]).record());
    refused(&Body::with(&[&names(&[(0, "a.example"), (0, "b.example")])]).record());
    // Names of another kind, which not everybody can skip.
    refused(&Body::with(&[&names(&[(7, "x")])]).record());
    refused(&Body::with(&[&names(&[(0, "a.example"), (7, "b.example")])]).record());
    refused(&Body::with(&[&names(&[(7, "b.example"), (0, "a.example")])]).record());
    // Two hellos in one record, and one that goes on.
    let message = Body::with(&[&a]).message();
    refused(&record(
        &[&message[..], &Body::with(&[&b]).message()].concat(),
    ));
    refused(&record(&[&message[..], &[0]].concat()));
    // The same over two records.
    let (one, two) = message.split_at(20);
    refused(&[record(one), record(&[two, &[0]].concat())].concat());
}

#[test]
fn lengths_that_do_not_fit() {
    let name = names(&[(0, "a.example")]);
    let good = Body::with(&[&name]).record();
    check(&good, named("a.example"));
    // Each length of the hello, one too much and one too little.
    let at = |offset: usize| good.len() - offset;
    let extensions = name.len() + 2;
    for (what, offset) in [
        ("message", good.len() - 8),
        ("session", good.len() - 5 - 4 - 2 - 32),
        ("ciphers", extensions + 2 + 2 + 1 + 1),
        ("compressions", extensions + 2),
        ("extensions", extensions - 1),
        ("extension", name.len() - 3),
        ("list", name.len() - 5),
        ("name", name.len() - 8),
    ] {
        for change in [1, 255] {
            let mut bad = good.clone();
            let byte = &mut bad[at(offset)];
            *byte = byte.wrapping_add(change);
            let verdict = server_name(&bad);
            let waits = what == "message" && change == 1;
            let expected = if waits { Hello::Partial } else { Hello::NotTls };
            assert_eq!(verdict, expected, "{what} {change}");
            oracle::check(&bad);
        }
    }
    let bad = |change: fn(&mut Body)| {
        let mut body = Body::with(&[&names(&[(0, "a.example")])]);
        change(&mut body);
        refused(&body.record());
    };
    bad(|body| body.session = vec![7; 33]);
    bad(|body| body.ciphers = Vec::new());
    bad(|body| body.ciphers = vec![1, 2, 3]);
    bad(|body| body.compressions = Vec::new());
    bad(|body| body.after = vec![0]);
    bad(|body| body.extensions = vec![0]);
    refused(&Body::with(&[&extension(0, &[])]).record());
    refused(&Body::with(&[&extension(0, &[0, 0])]).record());
    refused(&Body::with(&[&extension(0, &[0, 1, 0])]).record());
    refused(&Body::with(&[&name[..name.len() - 1]]).record());
    // The list ends before its extension does.
    refused(&Body::with(&[&extension(0, &[&name[4..], &[0]].concat())]).record());
}

#[test]
fn other_protocols_are_refused_by_their_first_bytes() {
    refused(b"G");
    refused(b"GET / HTTP/1.1\r\n");
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    refused(b"SSH-2.0-OpenSSH_9.2\r\n");
    refused(b"\r\n\r\n\0\r\nQUIT\n");
    refused(b"\n");
    // A hello of SSL 2.0.
    refused(&[0x80, 0x2e, 1, 3, 1]);
    // Another major version, an alert, application data, another handshake message, an empty record, one
    // that is too long.
    refused(&[22, 2]);
    refused(&[21, 3, 1, 0, 2, 2, 40]);
    refused(&[23, 3, 3]);
    refused(&[22, 3, 3, 0, 4, 2]);
    refused(&[22, 3, 1, 0, 0]);
    refused(&[22, 3, 1, 0x40, 1]);
    // Another record between those of a hello.
    refused(&[&record(&[1, 0])[..], &[20, 3, 3, 0, 1, 1]].concat());
}

#[test]
fn a_hello_has_a_bound() {
    let name = names(&[(0, "a.example")]);
    let padded = |padding: usize| Body::with(&[&extension(21, &vec![0; padding]), &name]);
    let room = MAX_HELLO - padded(0).record().len();
    assert_eq!(server_name(&padded(room).record()), named("a.example"));
    let long = padded(room + 1).record();
    // Known as soon as the length is.
    assert_eq!(server_name(&long[..8]), Hello::Partial);
    assert_eq!(server_name(&long[..9]), Hello::NotTls);
    assert_eq!(server_name(&long), Hello::NotTls);
    // Heads of records count.
    let tiny = records(&padded(room / 4).message(), 1);
    assert_eq!(server_name(&tiny[..MAX_HELLO - 1]), Hello::Partial);
    assert_eq!(server_name(&tiny[..MAX_HELLO]), Hello::NotTls);
    assert_eq!(server_name(&tiny), Hello::NotTls);
}

/// A hello by its parts, and the name in it.
fn hellos() -> impl Strategy<Value = (Vec<u8>, Option<String>)> {
    let name = "[a-z0-9]{1,10}(\\.[a-zA-Z0-9]{1,10}){0,3}\\.[a-zA-Z]{1,5}";
    let other = (1u16..70, proptest::collection::vec(any::<u8>(), 0..20));
    let others = proptest::collection::btree_map(other.0, other.1, 0..6);
    let parts = (
        proptest::option::of(name),
        others,
        any::<proptest::sample::Index>(),
    );
    parts.prop_map(|(name, others, at)| {
        let others = others.into_iter();
        let mut all: Vec<_> = others.map(|(kind, held)| extension(kind, &held)).collect();
        if let Some(name) = &name {
            all.insert(at.index(all.len() + 1), names(&[(0, name)]));
        }
        let message = Body::with(&[&all.concat()]).message();
        (message, name.map(|name| name.to_ascii_lowercase()))
    })
}

proptest! {
    #[test]
    fn the_name_is_found_however_the_hello_is_cut(
        (message, name) in hellos(),
        mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5),
    ) {
        cuts.sort_by_key(|cut| cut.index(message.len()));
        let (mut bytes, mut from) = (Vec::new(), 0);
        for to in cuts.iter().map(|cut| cut.index(message.len())).chain([message.len()]) {
            if to > from {
                bytes.extend(record(&message[from..to]));
                from = to;
            }
        }
        check(&bytes, Hello::Name(name.map(Into::into)));
    }

    #[test]
    fn bytes_that_are_changed_agree_with_another_parser(
        which in 0usize..4,
        size in 1usize..300,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let name = Body::with(&[&usual(), &names(&[(0, "a.example")])]).message();
        let hex = [OPENSSL, OPENSSL_WITHOUT, CURL].get(which);
        let message = hex.map_or(name, |hex| bytes(hex)[5..].to_vec());
        let mut bytes = records(&message, size);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        oracle::check(&bytes[..cut.index(bytes.len() + 1)]);
        oracle::check(&bytes);
    }

    #[test]
    fn any_bytes_are_safe(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        oracle::check(&bytes);
        oracle::check(&record(&[&[1, 0, 0, payload.len() as u8], &payload[..]].concat()));
    }
}
