//! Handshakes: in memory with rustls as the client, over loopback with `openssl s_client`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use portico_config::TlsVersion;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
    SupportedProtocolVersion,
};

use super::testing::{Directory, Kind, Pem, VALID, authority, pem};
use super::{CertificateStore, client_config_with, server_config};

/// A server with some certificates; the directory lives as long as it does.
struct Server {
    directory: Directory,
    pems: Vec<Pem>,
    store: Arc<CertificateStore>,
    config: Arc<ServerConfig>,
}

fn server(certificates: &[(&[&str], Kind)], minimum: TlsVersion) -> Server {
    let directory = Directory::new();
    let pems: Vec<Pem> = certificates
        .iter()
        .map(|(names, kind)| pem(names, *kind, VALID))
        .collect();
    let files: Vec<_> = pems
        .iter()
        .enumerate()
        .map(|(place, pem)| directory.put(&place.to_string(), pem))
        .collect();
    let store = CertificateStore::load(&files).unwrap();
    let config = server_config(Arc::clone(&store), minimum, None).unwrap();
    Server {
        directory,
        pems,
        store,
        config,
    }
}

/// Believes every certificate, so that tests can look at any; claims to know some schemes only.
#[derive(Debug)]
struct Believe(Vec<SignatureScheme>);

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

const RSA: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];
const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const BOTH: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn client(
    versions: &[&'static SupportedProtocolVersion],
    schemes: &[SignatureScheme],
) -> ClientConfig {
    client_with_groups(versions, schemes, aws_lc_rs::DEFAULT_KX_GROUPS)
}

fn client_with_groups(
    versions: &[&'static SupportedProtocolVersion],
    schemes: &[SignatureScheme],
    groups: &[&'static dyn SupportedKxGroup],
) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups.to_vec();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believe(schemes.to_vec())))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(16);
    config
}

/// Both ends of a finished handshake, tickets delivered.
struct Shaken {
    client: ClientConnection,
    server: ServerConnection,
}

impl Shaken {
    fn kind(&self) -> HandshakeKind {
        assert_eq!(self.client.handshake_kind(), self.server.handshake_kind());
        self.server.handshake_kind().unwrap()
    }

    fn certificate(&self) -> &CertificateDer<'static> {
        &self.client.peer_certificates().unwrap()[0]
    }

    /// One message each way.
    fn talk(&mut self) {
        self.client.writer().write_all(b"ping").unwrap();
        self.server.writer().write_all(b"pong").unwrap();
        pump(&mut self.client, &mut self.server).unwrap();
        let mut got = [0; 4];
        self.server.reader().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ping");
        self.client.reader().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"pong");
    }
}

fn pump(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

fn shake(server: &Server, client: &Arc<ClientConfig>, host: &str) -> Result<Shaken, rustls::Error> {
    // An address as the name: the client then sends no SNI.
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(&server.config))?;
    pump(&mut client, &mut server)?;
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Shaken { client, server })
}

#[test]
fn the_certificate_fits_name_and_client_in_both_versions() {
    let server = server(
        &[
            (&["toolforge.org", "*.toolforge.org"], Kind::Rsa),
            (&["toolforge.org", "*.toolforge.org"], Kind::Ecdsa),
            (&["tools.wmflabs.org"], Kind::Ecdsa),
        ],
        TlsVersion::V1_2,
    );
    for version in VERSIONS {
        for (host, schemes, expected) in [
            ("toolforge.org", BOTH, Some(1)),
            ("Tool.Toolforge.org", BOTH, Some(1)),
            ("tool.toolforge.org", RSA, Some(0)),
            ("tool.toolforge.org", ECDSA, Some(1)),
            ("tools.wmflabs.org", BOTH, Some(2)),
            ("tools.wmflabs.org", RSA, None),
            ("a.b.toolforge.org", BOTH, Some(0)),
            ("evil.com", BOTH, Some(0)),
            ("192.0.2.1", BOTH, Some(0)),
            ("192.0.2.1", ECDSA, Some(1)),
        ] {
            let client = Arc::new(client(&[version], schemes));
            let what = format!("{host} {version:?} {schemes:?}");
            match (shake(&server, &client, host), expected) {
                (Ok(mut shaken), Some(expected)) => {
                    let place = server
                        .pems
                        .iter()
                        .position(|pem| &pem.leaf == shaken.certificate());
                    assert_eq!(place, Some(expected), "{what}");
                    assert_eq!(
                        shaken.client.protocol_version(),
                        Some(version.version),
                        "{what}"
                    );
                    shaken.talk();
                }
                (Err(_), None) => {}
                (result, _) => panic!("{what}: {:?}", result.map(|_| "shaken")),
            }
        }
    }
}

#[test]
fn hosts_that_a_certificate_names_are_covered() {
    let server = server(
        &[
            (&["toolforge.org", "*.toolforge.org"], Kind::Ecdsa),
            (&["Tools.Wmflabs.org"], Kind::Ecdsa),
        ],
        TlsVersion::V1_2,
    );
    for (host, expected) in [
        ("toolforge.org", true),
        ("tool.toolforge.org", true),
        ("a.b.toolforge.org", false),
        ("Tool.Toolforge.ORG", true),
        ("tools.wmflabs.org", true),
        ("any.tools.wmflabs.org", false),
        ("evil.com", false),
    ] {
        assert_eq!(server.store.covers(host), expected, "{host}");
    }
}

/// TLS 1.2 ties the suite to the key: an old client may know ECDSA signatures but no ECDSA suite.
#[test]
fn the_suites_of_tls_1_2_count_too() {
    let server = server(
        &[(&["a.org"], Kind::Ecdsa), (&["a.org"], Kind::Rsa)],
        TlsVersion::V1_2,
    );
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believe(BOTH.to_vec())))
        .with_no_client_auth();
    let shaken = shake(&server, &Arc::new(client), "a.org").unwrap();
    assert_eq!(shaken.certificate(), &server.pems[1].leaf);
}

#[test]
fn versions() {
    for (minimum, offered, expected) in [
        (
            TlsVersion::V1_2,
            &VERSIONS[..],
            Some(ProtocolVersion::TLSv1_3),
        ),
        (TlsVersion::V1_2, &[&TLS12], Some(ProtocolVersion::TLSv1_2)),
        (
            TlsVersion::V1_3,
            &VERSIONS[..],
            Some(ProtocolVersion::TLSv1_3),
        ),
        (TlsVersion::V1_3, &[&TLS12], None),
    ] {
        let server = server(&[(&["a.org"], Kind::Ecdsa)], minimum);
        let shaken = shake(&server, &Arc::new(client(offered, BOTH)), "a.org");
        let version = shaken
            .ok()
            .and_then(|shaken| shaken.client.protocol_version());
        assert_eq!(version, expected, "{minimum:?} {offered:?}");
    }
}

#[test]
fn key_exchange_groups() {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let server = server(&[(&["a.org"], Kind::Ecdsa)], TlsVersion::V1_2);
    let hybrid = NamedGroup::X25519MLKEM768;
    for (version, groups, expected) in [
        (
            &TLS13,
            &[X25519MLKEM768, X25519, SECP256R1][..],
            Some(hybrid),
        ),
        (&TLS13, &[SECP384R1, X25519MLKEM768], Some(hybrid)),
        (&TLS13, &[X25519, SECP256R1], Some(NamedGroup::X25519)),
        (&TLS13, &[SECP256R1], Some(NamedGroup::secp256r1)),
        (&TLS13, &[SECP384R1], None),
        (
            &TLS12,
            &[X25519MLKEM768, SECP256R1],
            Some(NamedGroup::secp256r1),
        ),
        (&TLS12, &[X25519], Some(NamedGroup::X25519)),
    ] {
        let client = client_with_groups(&[version], BOTH, groups);
        let shaken = shake(&server, &Arc::new(client), "a.org").ok();
        let group = shaken.map(|shaken| {
            shaken
                .server
                .negotiated_key_exchange_group()
                .unwrap()
                .name()
        });
        assert_eq!(group, expected, "{version:?} {groups:?}");
    }
}

#[test]
fn application_protocols() {
    let server = server(&[(&["a.org"], Kind::Ecdsa)], TlsVersion::V1_2);
    for (offered, expected) in [
        (&[][..], Ok(None)),
        (&["http/1.1"], Ok(Some("http/1.1"))),
        (&["http/1.1", "h2"], Ok(Some("h2"))),
        (&["h2"], Ok(Some("h2"))),
        (&["h3"], Err(())),
    ] {
        let mut client = client(&VERSIONS, BOTH);
        client.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let shaken = shake(&server, &Arc::new(client), "a.org");
        let chosen = shaken
            .map(|shaken| shaken.server.alpn_protocol().map(<[u8]>::to_vec))
            .map_err(drop);
        assert_eq!(
            chosen,
            expected.map(|name| name.map(|name| name.as_bytes().to_vec()))
        );
    }
}

#[test]
fn sessions_resume_in_both_versions_and_over_a_reload() {
    for version in VERSIONS {
        let mut server = server(&[(&["a.org", "*.a.org"], Kind::Ecdsa)], TlsVersion::V1_2);
        let client = Arc::new(client(&[version], BOTH));
        let mut open = shake(&server, &client, "a.org").unwrap();
        assert_eq!(open.kind(), HandshakeKind::Full, "{version:?}");
        for _ in 0..3 {
            let mut shaken = shake(&server, &client, "a.org").unwrap();
            assert_eq!(shaken.kind(), HandshakeKind::Resumed, "{version:?}");
            shaken.talk();
        }
        // The session of one host is not for another.
        let shaken = shake(&server, &client, "b.a.org").unwrap();
        assert_eq!(shaken.kind(), HandshakeKind::Full, "{version:?}");
        // A new certificate: open connections and sessions live on, new clients see it.
        let renewed = pem(&["a.org"], Kind::Ecdsa, VALID);
        server.directory.put("0", &renewed);
        server.pems.push(renewed);
        server.store.reload_changed();
        assert_eq!(server.store.reload_changed().replaced, 1);
        open.talk();
        let shaken = shake(&server, &client, "a.org").unwrap();
        assert_eq!(shaken.kind(), HandshakeKind::Resumed, "{version:?}");
        let stranger = Arc::new(super::tests::client(&[version], BOTH));
        let shaken = shake(&server, &stranger, "a.org").unwrap();
        assert_eq!(shaken.kind(), HandshakeKind::Full, "{version:?}");
        assert_eq!(shaken.certificate(), &server.pems[1].leaf);
        // Another process has other ticket keys.
        server.config = server_config(Arc::clone(&server.store), TlsVersion::V1_2, None).unwrap();
        let shaken = shake(&server, &client, "a.org").unwrap();
        assert_eq!(shaken.kind(), HandshakeKind::Full, "{version:?}");
    }
}

#[test]
fn one_ticket_for_a_handshake_and_no_early_data() {
    let server = server(&[(&["a.org"], Kind::Ecdsa)], TlsVersion::V1_2);
    let tickets = Arc::new(ClientSessionMemoryCache::new(8));
    let mut config = client(&[&TLS13], BOTH);
    config.resumption = Resumption::store(Arc::clone(&tickets) as Arc<dyn ClientSessionStore>);
    config.enable_early_data = true;
    let client = Arc::new(config);
    let name = ServerName::try_from("a.org").unwrap();
    for _ in 0..2 {
        drop(shake(&server, &client, "a.org").unwrap());
        let again = shake(&server, &client, "a.org").unwrap();
        assert_eq!(again.kind(), HandshakeKind::Resumed);
        assert!(!again.client.is_early_data_accepted());
        // A ticket is taken by the resumption and one is given by it.
        assert!(tickets.take_tls13_ticket(&name).is_some());
        assert!(tickets.take_tls13_ticket(&name).is_none());
    }
    drop(shake(&server, &client, "a.org").unwrap());
    let mut offering = ClientConnection::new(Arc::clone(&client), name.clone()).unwrap();
    assert!(offering.early_data().is_none());
}

#[test]
fn backends_are_verified_against_the_roots() {
    let server = server(&[(&["a.org"], Kind::Ecdsa)], TlsVersion::V1_2);
    let mut roots = RootCertStore::empty();
    roots.add(authority().der.clone()).unwrap();
    let trusting = client_config_with(roots).unwrap();
    let shaken = shake(&server, &trusting, "a.org").unwrap();
    assert_eq!(shaken.client.alpn_protocol(), Some(&b"http/1.1"[..]));
    // The certificate is shown for any name, but is not good for it.
    assert!(shake(&server, &trusting, "b.org").is_err());
    let system = super::client_config().unwrap();
    assert!(shake(&server, &system, "a.org").is_err());
    assert!(Arc::ptr_eq(&system, &super::client_config().unwrap()));
}

/// Serves TLS connections one after the other until the process of the tests ends.
fn listen(config: Arc<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // A client may go away at any point; the next one is served all the same.
            let _ = connection.complete_io(&mut socket);
            let _ = rustls::Stream::new(&mut connection, &mut socket).write_all(b"hello\n");
            connection.send_close_notify();
            let _ = connection.complete_io(&mut socket);
            let _ = socket.read(&mut [0; 64]);
        }
    });
    port
}

/// What `openssl s_client` prints; `None` where openssl is not installed.
fn s_client(port: u16, arguments: &[&str]) -> Option<String> {
    let output = Command::new("openssl")
        .args(["s_client", "-ign_eof", "-servername", "a.org", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = output
        .stdout
        .iter()
        .chain(&output.stderr)
        .copied()
        .collect();
    Some(String::from_utf8(text).unwrap())
}

#[test]
fn openssl_resumes_in_both_versions() {
    let server = server(&[(&["a.org"], Kind::Ecdsa)], TlsVersion::V1_2);
    let port = listen(Arc::clone(&server.config));
    let Some(reconnects) = s_client(port, &["-tls1_2", "-reconnect"]) else {
        eprintln!("not tested: openssl is not installed");
        return;
    };
    assert_eq!(
        reconnects.matches("New, TLSv1.2").count(),
        1,
        "{reconnects}"
    );
    assert_eq!(
        reconnects.matches("Reused, TLSv1.2").count(),
        5,
        "{reconnects}"
    );
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let session = server.directory.path(name);
        let session: &Path = &session;
        let session = session.to_str().unwrap();
        let first = s_client(port, &[version, "-sess_out", session]).unwrap();
        assert!(first.contains(&format!("New, {name}")), "{first}");
        let second = s_client(port, &[version, "-sess_in", session]).unwrap();
        assert!(second.contains(&format!("Reused, {name}")), "{second}");
    }
}
