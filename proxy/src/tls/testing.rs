//! Certificates made on the spot, for the tests of this module.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use portico_config::CertificateFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

/// What a certificate's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ecdsa,
    Rsa,
}

/// Years in which a certificate is valid, from and until 1 January.
pub(super) type Years = (i32, i32);

pub(super) const VALID: Years = (2020, 2200);
pub(super) const EXPIRED: Years = (2019, 2020);
pub(super) const FUTURE: Years = (2190, 2200);

/// A chain (own certificate, then its issuer) and its key as PEM.
#[derive(Debug, Clone)]
pub(super) struct Pem {
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) leaf: CertificateDer<'static>,
}

pub(super) fn pem(names: &[&str], kind: Kind, years: Years) -> Pem {
    let key = match kind {
        Kind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        Kind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    };
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let authority = authority();
    let leaf = params.signed_by(&key, &authority.issuer).unwrap();
    Pem {
        chain: leaf.pem() + &authority.pem,
        key: key.serialize_pem(),
        leaf: leaf.der().clone(),
    }
}

/// The certificate authority that signs everything here.
pub(super) struct Authority {
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root");
        let root = params.self_signed(&key).unwrap();
        Authority {
            pem: root.pem(),
            der: root.der().clone(),
            issuer: Issuer::new(params, key),
        }
    })
}

/// A directory with certificate files in it.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Directory {
        Directory(TempDir::new().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub(super) fn put(&self, name: &str, pem: &Pem) -> CertificateFiles {
        use std::os::unix::fs::PermissionsExt;
        let files = self.files(name);
        self.write(&format!("{name}.crt"), &pem.chain);
        self.write(&format!("{name}.key"), &pem.key);
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
        files
    }

    pub(super) fn files(&self, name: &str) -> CertificateFiles {
        CertificateFiles {
            chain: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
        }
    }

    /// Makes `name` a symbolic link in one step, as `ln -sfn` and the ACME clients do.
    pub(super) fn link(&self, name: &str, target: &Path) {
        let temporary = self.path("link.new");
        std::os::unix::fs::symlink(target, &temporary).unwrap();
        std::fs::rename(&temporary, self.path(name)).unwrap();
    }
}

pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
