//! What the measuring programs share: a TLS client that trusts any certificate, and the room
//! for file descriptors.
//!
//! The programs are in `src/bin`; the scripts `compare`, `memory` and `routes` start them. Nothing
//! here is part of the proxy, and nothing of the proxy is linked here, but for `lookups`: what
//! is measured is a process of its own.

pub mod http1;

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// A TLS client for one ALPN protocol: trusts any certificate, and never resumes a session,
/// so that every connection costs the server a full handshake and holds what a full
/// handshake leaves behind.
pub fn tls_client(alpn: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trust_any = Arc::new(TrustAny(provider.signature_verification_algorithms));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(trust_any)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(Arc::new(config))
}

/// Raises the soft limit of open files to `needed`, and the hard one with it where the process may.
///
/// # Errors
/// The sentence to show when the hard limit stands in the way.
pub fn allow_open_files(needed: u64) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    limit.current = Some(needed);
    limit.maximum = limit.maximum.map(|hard| hard.max(needed));
    setrlimit(Resource::Nofile, limit).map_err(|error| {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let error = io::Error::from(error);
        format!(
            "{needed} open files are needed and the hard limit is {hard} ({error}): run `ulimit -Hn {needed}` as root first"
        )
    })
}

/// Checks signatures (the work a real client does) but takes whatever certificate comes: ours
/// is made for the run.
#[derive(Debug)]
struct TrustAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
