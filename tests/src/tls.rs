//! A certificate authority for the tests, and the TLS settings of their clients and origins.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// A fresh certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub pem: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub chain: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "portico tests");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("self-signed").pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// An ECDSA P-256 certificate for these names (or addresses), valid now.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    /// A certificate that is over since long.
    pub fn issue_expired(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let chain = params
            .signed_by(&key, &self.issuer)
            .expect("can be signed")
            .pem();
        Pair {
            chain,
            key: key.serialize_pem(),
        }
    }

    /// Client settings that trust this authority only, and speak these versions.
    pub fn client_config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate =
            CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("our own certificate");
        roots.add(certificate).expect("our own certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("supported versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

impl Pair {
    /// Writes `<name>.crt` and `<name>.key` into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let chain = folder.join(format!("{name}.crt"));
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&chain, &self.chain).expect("chain written");
        std::fs::write(&key, &self.key).expect("key written");
        // As an operator keeps it; portico warns of any other.
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("permissions set");
        (chain, key)
    }

    /// Server settings for an origin that speaks TLS.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .expect("our own chain");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("our own key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("default versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("key and chain match");
        Arc::new(config)
    }
}
