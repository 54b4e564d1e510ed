//! TLS: which certificate a client sees, how sessions resume, and how files on disk become both.
//!
//! [`server_config`] is what every worker's acceptor uses, [`client_config`] what connections to
//! `https://` backends use, [`check_config`] what checks of nodes use, and [`CertificateStore`] the
//! certificates with their reload.
//!
//! Not here: sockets, handshake timeouts and everything HTTP. Nothing waits: files are only
//! read in [`CertificateStore::load`] and [`CertificateStore::reload_changed`], which the
//! control thread calls.
//!
//! Invariants: early data (0-RTT) stays off, because a replayed request is a second request to a
//! tool; private keys never reach a log or an error; a store always has a certificate to show.

mod certificate;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unverified;

use std::sync::{Arc, OnceLock};

use portico_config::TlsVersion;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::client::TlsSession;

pub use certificate::CertificateError;
pub use store::{CertificateExpiry, CertificateStore, RELOAD_INTERVAL, ReloadOutcome};

/// What the listeners offer by ALPN (RFC 7301), best first; `curl --http1.0` offers nothing but the
/// last.
pub const SERVER_PROTOCOLS: &[&[u8]] = &[HTTP2, b"http/1.1", b"http/1.0"];

/// The name of HTTP/2 in ALPN (RFC 9113, section 3.2).
pub const HTTP2: &[u8] = b"h2";

/// What connections to `https://` backends offer by ALPN.
pub const CLIENT_PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// The TLS side of clients.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The certificates, which the control thread keeps fresh.
    pub certificates: Arc<CertificateStore>,
    /// What acceptors use.
    pub config: Arc<ServerConfig>,
}

/// TLS could not be set up at all: the machine gives no randomness, or the
/// build lacks cryptography.
#[derive(Debug, Clone, thiserror::Error)]
#[error("TLS cannot be set up")]
pub struct TlsError(#[from] rustls::Error);

/// The settings that every worker's acceptor shares. One value for the process: it owns the ticket
/// keys, so that a session made on one worker resumes on any other.
///
/// - Key exchange: X25519MLKEM768, X25519, P-256. Among those the client's order decides (as rustls
///   has it), and clients that know X25519MLKEM768 name it first.
/// - Tickets in both versions; their keys change every 6 hours and are forgotten after 12. One
///   ticket for each TLS 1.3 handshake: a browser asks for a new one with each connection anyway.
/// - No session cache beside the tickets: it would be one lock for all workers and would grow.
///
/// `previous`: what was in force before a reload, whose ticket keys stay, so that its sessions resume.
///
/// # Errors
/// [`TlsError`] when no ticket key can be made.
pub fn server_config(
    store: Arc<CertificateStore>,
    minimum: TlsVersion,
    previous: Option<&ServerConfig>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&SupportedProtocolVersion] = match minimum {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(server_provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = SERVER_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    config.ticketer = match previous {
        Some(previous) => Arc::clone(&previous.ticketer),
        None => aws_lc_rs::Ticketer::new()?,
    };
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// What a finished handshake agreed on, in the words of OpenSSL.
pub fn session(connection: &rustls::ServerConnection) -> Option<TlsSession> {
    let version = match connection.protocol_version()? {
        rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
        rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => return None,
    };
    let suite = connection.negotiated_cipher_suite()?.suite();
    Some(TlsSession {
        version,
        cipher: suite.as_str().unwrap_or("unknown"),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    })
}

/// The settings of connections to `https://` backends: certificates are verified against the
/// system's roots. Built once; later calls return the same value. Without any root every such
/// backend fails with an unknown issuer: see [`root_warnings`].
///
/// # Errors
/// [`TlsError`] when the build lacks the cryptography.
pub fn client_config() -> Result<Arc<ClientConfig>, TlsError> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, TlsError>> = OnceLock::new();
    CONFIG
        .get_or_init(|| client_config_with(system_roots().0.clone()))
        .clone()
}

/// The settings of checks by HTTPS. No session is resumed: then the node would not show its
/// certificate, and a check would not see that it is over.
///
/// # Errors
/// [`TlsError`] when the build lacks the cryptography.
pub fn check_config(verify: bool) -> Result<Arc<ClientConfig>, TlsError> {
    static VERIFIED: OnceLock<Result<Arc<ClientConfig>, TlsError>> = OnceLock::new();
    static UNVERIFIED: OnceLock<Result<Arc<ClientConfig>, TlsError>> = OnceLock::new();
    let config = if verify { &VERIFIED } else { &UNVERIFIED };
    let make = || {
        let mut config = (*client_config()?).clone();
        config.resumption = Resumption::disabled();
        if !verify {
            unverified::accept_any_certificate(&mut config);
        }
        Ok(Arc::new(config))
    };
    config.get_or_init(make).clone()
}

/// What is odd about the system's roots, one sentence each. Nothing logs it here: they are loaded
/// before there is a log, and `check` says it, too.
pub fn root_warnings() -> &'static [String] {
    &system_roots().1
}

fn client_config_with(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = CLIENT_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

fn system_roots() -> &'static (RootCertStore, Vec<String>) {
    static ROOTS: OnceLock<(RootCertStore, Vec<String>)> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut warnings = Vec::new();
        for problem in &found.errors {
            warnings.push(format!(
                "a system root certificate could not be loaded: {problem}"
            ));
        }
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if ignored > 0 {
            warnings.push(format!(
                "{ignored} system root certificates could not be parsed and are not trusted"
            ));
        }
        if added == 0 {
            warnings.push(
                "no system root certificate was found: every https backend will be refused; \
                 install the package ca-certificates"
                    .to_owned(),
            );
        }
        (roots, warnings)
    })
}

fn server_provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}
