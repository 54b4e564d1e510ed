//! TLS: which certificate, which versions, resumption, and files that change while portico runs.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use portico_tests::client::{Client, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, program};
use portico_tests::stream::Stream;
use portico_tests::tls::Authority;
use portico_tests::{SOON, eventually};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup};

/// The TLS connection below a client, after its handshake.
fn shaken(client: &mut Client) -> &ClientConnection {
    client.send("");
    let Stream::TlsClient(tls) = &mut client.wire.stream else {
        panic!("not TLS");
    };
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).expect("a handshake");
    }
    &tls.conn
}

/// The certificate that portico shows for this name.
fn shown(portico: &Portico, config: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let mut client = Client::tls(portico.https, config, name);
    let connection = shaken(&mut client);
    connection.peer_certificates().expect("a chain")[0].to_vec()
}

fn der(pair: &portico_tests::tls::Pair) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pair.chain.as_bytes())
        .unwrap()
        .to_vec()
}

/// Settings that trust everybody: for names that no certificate has.
fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Anybody;
    impl rustls::client::danger::ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
    let mut config = (*authority.client_config(rustls::ALL_VERSIONS)).clone();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Anybody));
    Arc::new(config)
}

#[test]
fn the_certificate_follows_the_name() {
    let builder = Builder::new();
    let pairs = [
        builder.authority().issue(&["first.example"]),
        builder
            .authority()
            .issue(&["*.toolforge.org", "toolforge.org"]),
        builder.authority().issue(&["exact.toolforge.org"]),
        builder.authority().issue(&["tools.wmflabs.org"]),
    ];
    let portico = builder.certificates(&pairs).start();
    let config = trusting(&portico.authority);
    for (name, index) in [
        ("first.example", 0),
        ("toolforge.org", 1),
        ("any.toolforge.org", 1),
        ("ANY.Toolforge.org", 1),
        ("exact.toolforge.org", 2),
        ("tools.wmflabs.org", 3),
        // A wildcard stands for one label, and none matches: the first one.
        ("a.b.toolforge.org", 0),
        ("unknown.example", 0),
        // An address: no name is sent.
        ("127.0.0.1", 0),
    ] {
        assert!(
            shown(&portico, &config, name) == der(&pairs[index]),
            "{name} wants certificate {index}"
        );
    }
}

/// Keys as other programs write them.
#[test]
fn keys_of_all_usual_kinds_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // With its EC PARAMETERS block in front; SEC1; PKCS#8; RSA in PKCS#1 and PKCS#8.
    let commands: [(&str, &[&str]); 5] = [
        (
            "ec.key",
            &["ecparam", "-name", "prime256v1", "-genkey", "-out"],
        ),
        (
            "sec1.key",
            &["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out"],
        ),
        (
            "pkcs8.key",
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
            ],
        ),
        ("rsa1.key", &["genrsa", "-traditional", "-out"]),
        (
            "rsa8.key",
            &[
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
            ],
        ),
    ];
    for (name, words) in commands {
        let (key, chain) = (path(name), path("chain.crt"));
        let mut words = words.to_vec();
        words.push(&key);
        program("openssl", &words);
        program(
            "openssl",
            &[
                "req",
                "-x509",
                "-new",
                "-key",
                &key,
                "-out",
                &chain,
                "-days",
                "2",
                "-subj",
                "/CN=grid.toolforge.org",
            ],
        );
        let pair = portico_tests::tls::Pair {
            chain: std::fs::read_to_string(&chain).unwrap(),
            key: std::fs::read_to_string(&key).unwrap(),
        };
        let portico = Builder::new()
            .certificates(std::slice::from_ref(&pair))
            .start();
        let config = trusting(&portico.authority);
        assert!(shown(&portico, &config, HOST) == der(&pair), "{name}");
        let mut client = Client::tls(portico.https, &config, HOST);
        assert_eq!(
            client.exchange(get(HOST, "/.well-known/healthz")).status,
            200,
            "{name}"
        );
    }
}

#[test]
fn both_versions_are_spoken_and_the_newer_preferred() {
    let portico = Builder::new().start();
    for (versions, expected) in [
        (&[&TLS12][..], rustls::ProtocolVersion::TLSv1_2),
        (&[&TLS13][..], rustls::ProtocolVersion::TLSv1_3),
        (&[&TLS12, &TLS13][..], rustls::ProtocolVersion::TLSv1_3),
    ] {
        let config = portico.authority.client_config(versions);
        let mut client = Client::tls(portico.https, &config, HOST);
        assert_eq!(shaken(&mut client).protocol_version(), Some(expected));
        assert_eq!(
            client.exchange(get(HOST, "/.well-known/healthz")).status,
            200
        );
    }
}

#[test]
fn min_version_is_kept() {
    let portico = Builder::new().with("[tls]\nmin_version = '1.3'").start();
    let old = portico.authority.client_config(&[&TLS12]);
    let mut client = Client::tls(portico.https, &old, HOST);
    assert!(
        client
            .wire
            .stream
            .write_all(b"x")
            .and_then(|()| client.wire.read_some())
            .is_err()
    );
    assert_eq!(
        portico
            .tls()
            .exchange(get(HOST, "/.well-known/healthz"))
            .status,
        200
    );
}

#[test]
fn the_post_quantum_group_is_preferred() {
    let portico = Builder::new().start();
    let mut client = portico.tls();
    let group = shaken(&mut client)
        .negotiated_key_exchange_group()
        .map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
}

#[test]
fn alpn_names_http_1_1() {
    let portico = Builder::new().start();
    let mut config = (*portico.authority.client_config(rustls::ALL_VERSIONS)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = Client::tls(portico.https, &Arc::new(config), HOST);
    assert_eq!(shaken(&mut client).alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(
        client.exchange(get(HOST, "/.well-known/healthz")).status,
        200
    );
}

/// curl --http1.0 offers only this name (RFC 7301's registry has it).
#[test]
fn alpn_of_an_http_1_0_client_is_accepted() {
    let portico = Builder::new().start();
    let mut config = (*portico.authority.client_config(rustls::ALL_VERSIONS)).clone();
    config.alpn_protocols = vec![b"http/1.0".to_vec()];
    let mut client = Client::tls(portico.https, &Arc::new(config), HOST);
    let answer = client.exchange("GET /.well-known/healthz HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status, 200);
}

#[test]
fn sessions_are_resumed_by_every_worker() {
    let portico = Builder::new().with("[server]\nworkers = 4").start();
    for versions in [&[&TLS12][..], &[&TLS13][..]] {
        let config = portico.authority.client_config(versions);
        let kinds: Vec<Option<HandshakeKind>> = (0..12)
            .map(|_| {
                let mut client = Client::tls(portico.https, &config, HOST);
                // Tickets of TLS 1.3 come after the handshake, with the first answer at the latest.
                assert_eq!(
                    client.exchange(get(HOST, "/.well-known/healthz")).status,
                    200
                );
                shaken(&mut client).handshake_kind()
            })
            .collect();
        let resumed = kinds[1..]
            .iter()
            .filter(|kind| **kind == Some(HandshakeKind::Resumed))
            .count();
        // Whichever of the four workers takes the connection, it knows the ticket.
        assert_eq!(resumed, 11, "{versions:?}: {kinds:?}");
    }
}

#[test]
fn a_reload_changes_the_certificates_and_sessions_go_on() {
    let builder = Builder::new();
    let new = builder.authority().issue(&["*.toolforge.org"]);
    let (chain, key) = new.write(builder.folder(), "new");
    let mut portico = builder.start();
    let healthy = |client: &mut Client| {
        let answer = client.exchange(get(HOST, "/.well-known/healthz"));
        assert_eq!(answer.status, 200);
    };
    let config = portico.authority.client_config(rustls::ALL_VERSIONS);
    let mut open = Client::tls(portico.https, &config, HOST);
    healthy(&mut open);
    portico.change(&format!(
        "[tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]"
    ));
    assert!(portico.reload());
    let fresh = portico.authority.client_config(rustls::ALL_VERSIONS);
    assert!(shown(&portico, &fresh, HOST) == der(&new));
    healthy(&mut open);
    let mut again = Client::tls(portico.https, &config, HOST);
    let kind = shaken(&mut again).handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed), "ticket keys stay");
}

#[test]
fn changed_files_are_picked_up_and_no_connection_is_dropped() {
    let origin = Origin::echo("grid");
    let builder = Builder::new();
    let (old, new) = (
        builder.authority().issue(&["*.toolforge.org"]),
        builder.authority().issue(&["*.toolforge.org"]),
    );
    let portico = builder
        .certificates(std::slice::from_ref(&old))
        .route("grid", &origin.url())
        .start();
    let config = portico.authority.client_config(rustls::ALL_VERSIONS);
    let mut open = Client::tls(portico.https, &config, HOST);
    assert_eq!(open.exchange(get(HOST, "/")).status, 200);
    assert!(shown(&portico, &config, HOST) == der(&old));
    new.write(portico.folder.path(), "0");
    eventually("the new certificate is shown", SOON, || {
        // Fresh settings: a resumed session shows the old certificate.
        let config = portico.authority.client_config(rustls::ALL_VERSIONS);
        (shown(&portico, &config, HOST) == der(&new)).then_some(())
    });
    assert_eq!(
        open.exchange(get(HOST, "/")).status,
        200,
        "a connection from before the change"
    );
}

#[test]
fn a_broken_pair_keeps_the_old_one_and_is_said() {
    let builder = Builder::new();
    let old = builder.authority().issue(&["*.toolforge.org"]);
    let portico = builder.certificates(std::slice::from_ref(&old)).start();
    let folder = portico.folder.path();
    let fresh = || portico.authority.client_config(rustls::ALL_VERSIONS);
    let other = portico.authority.issue(&["*.toolforge.org"]);
    for (what, chain, key) in [
        ("a key of another certificate", &old.chain, &other.key),
        ("no certificate", &String::from("garbage"), &old.key),
        ("an empty file", &String::new(), &old.key),
    ] {
        let before = portico.stderr().len();
        std::fs::write(folder.join("0.crt"), chain).unwrap();
        std::fs::write(folder.join("0.key"), key).unwrap();
        eventually("the error is logged", SOON, || {
            let said = portico.stderr().split_off(before);
            (said.contains("0.crt") || said.contains("0.key")).then_some(())
        });
        assert!(shown(&portico, &fresh(), HOST) == der(&old), "{what}");
    }
    other.write(folder, "0");
    eventually("the mended pair is shown", SOON, || {
        (shown(&portico, &fresh(), HOST) == der(&other)).then_some(())
    });
}

#[test]
fn a_handshake_that_takes_too_long_is_cut() {
    let portico = Builder::new()
        .with("[timeouts]\nhandshake = '500ms'")
        .start();
    let mut silent = Client::tcp(portico.https);
    let mut slow = Client::tcp(portico.https);
    slow.send(b"\x16\x03\x01");
    for client in [&mut silent, &mut slow] {
        client.expect_closed();
    }
    assert_eq!(
        portico
            .tls()
            .exchange(get(HOST, "/.well-known/healthz"))
            .status,
        200
    );
}

#[test]
fn plain_http_on_the_tls_port_ends_the_connection() {
    let portico = Builder::new().start();
    let mut client = Client::tcp(portico.https);
    client.send(get(HOST, "/"));
    client.wire.stream.set_read_timeout(Duration::from_secs(20));
    // An alert, an answer or nothing; but an end.
    while client.wire.read_some().is_ok_and(|bytes| !bytes.is_empty()) {}
    assert_eq!(
        portico
            .tls()
            .exchange(get(HOST, "/.well-known/healthz"))
            .status,
        200
    );
}
