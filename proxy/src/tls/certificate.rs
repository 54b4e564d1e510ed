//! One certificate chain with its private key, from two PEM files.
//!
//! Everything that can be wrong with the two files is found in one pass and said in one sentence
//! each, with the path and what to do. Errors never quote the files: a damaged key file would put
//! key bytes into the log.
//!
//! Not here: when files are read again, and which certificate a client gets.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_config::CertificateFiles;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Error};
use x509_parser::time::ASN1Time;

/// A chain or key file larger than this is a mistake, and is not read into memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why a certificate cannot be used. `Display` is one sentence with the path and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Nothing is configured although TLS is asked for.
    #[error("no certificate is configured: fill certificates under [tls]")]
    NoneConfigured,
    /// The path leads nowhere.
    #[error("{path}: no such file (or a symbolic link that points nowhere)", path = .0.display())]
    NotFound(PathBuf),
    /// The process may not read the file. The words say whose it is, who we are and what to change.
    #[error("{path}: permission denied: {1}", path = .0.display())]
    PermissionDenied(PathBuf, String),
    /// Reading failed in another way, in the operating system's words.
    #[error("{path}: cannot be read: {1}", path = .0.display())]
    Unreadable(PathBuf, String),
    /// A directory, a pipe or a device.
    #[error("{path}: is not a regular file; give the path of a PEM file", path = .0.display())]
    NotAFile(PathBuf),
    /// Larger than any chain or key.
    #[error("{path}: is larger than 1 MiB and so no certificate chain or key", path = .0.display())]
    TooLarge(PathBuf),
    /// The PEM armour is damaged, as in a file that is half written.
    #[error("{path}: broken PEM ({1}); write the file again, whole", path = .0.display())]
    BrokenPem(PathBuf, &'static str),
    /// The chain file has no `BEGIN CERTIFICATE` section; the hint is what it
    /// seems to hold instead.
    #[error("{path}: holds no PEM certificate{1}", path = .0.display())]
    NoCertificate(PathBuf, &'static str),
    /// A certificate of the chain (counted from 1) is not X.509, in the parser's words.
    #[error("{path}: certificate number {1} cannot be parsed ({2}); fetch the chain again", path = .0.display())]
    BadCertificate(PathBuf, usize, String),
    /// The server's own certificate is out of date, since this time in UTC.
    #[error("{path}: the certificate expired on {1}; renew it", path = .0.display())]
    Expired(PathBuf, String),
    /// The server's own certificate is valid only from this time in UTC.
    #[error("{path}: the certificate is valid only from {1}; check this machine's clock", path = .0.display())]
    NotYetValid(PathBuf, String),
    /// The key file has no private key; the hint is what it seems to hold instead.
    #[error("{path}: holds no PEM private key{1}", path = .0.display())]
    NoKey(PathBuf, &'static str),
    /// The key needs a passphrase, and nobody is there to type it.
    #[error(
        "{path}: the private key is encrypted; store it without a passphrase (openssl pkey -in OLD -out NEW)",
        path = .0.display()
    )]
    EncryptedKey(PathBuf),
    /// The key is of a kind or size that TLS here does not use.
    #[error(
        "{path}: the private key is damaged or of an unsupported kind; use ECDSA (P-256, P-384), RSA of 2048 bits or more, or Ed25519",
        path = .0.display()
    )]
    BadKey(PathBuf),
    /// Key and certificate are not a pair; the hint says where the key does match.
    #[error("{}: does not match the first certificate in {}{hint}", key.display(), chain.display())]
    KeyMismatch {
        /// The chain file.
        chain: PathBuf,
        /// The key file.
        key: PathBuf,
        /// Which certificate it matches, or why it may match none.
        hint: String,
    },
}

/// A chain and its key, checked and ready to be served.
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// DNS names of the subjectAltName: lower case, no trailing dot, wildcards as `*.parent`.
    pub(super) names: Vec<Box<str>>,
    pub(super) not_after: SystemTime,
    /// `not_after` in words, UTC.
    pub(super) expires: String,
    /// One sentence each: what works but should be mended.
    pub(super) warnings: Vec<String>,
}

impl Certificate {
    /// Reads and checks both files. `now` decides about validity.
    pub(super) fn load(
        files: &CertificateFiles,
        now: SystemTime,
    ) -> Result<Certificate, Vec<CertificateError>> {
        let mut warnings = Vec::new();
        let chain = read(&files.chain)
            .map_err(|error| vec![error])
            .and_then(|(text, _)| Chain::parse(&files.chain, &text, now, &mut warnings));
        let key = read(&files.key).and_then(|(text, metadata)| {
            warnings.extend(exposed(&files.key, metadata.mode()));
            private_key(&files.key, &text)
        });
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (Ok(chain), Err(error)) => return Err(with(chain.errors, error)),
            (Err(errors), Ok(_)) => return Err(errors),
            (Err(errors), Err(error)) => return Err(with(errors, error)),
        };
        let Chain {
            certificates,
            names,
            not_after,
            expires,
            mut errors,
        } = chain;
        if let Some(hint) = mismatch(&certificates, &key) {
            errors.push(CertificateError::KeyMismatch {
                chain: files.chain.clone(),
                key: files.key.clone(),
                hint,
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Certificate {
            key: Arc::new(CertifiedKey::new(certificates, key)),
            names,
            not_after,
            expires,
            warnings,
        })
    }
}

/// What the chain file says; `errors` are about validity, so that a wrong key is reported as well.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    names: Vec<Box<str>>,
    not_after: SystemTime,
    expires: String,
    errors: Vec<CertificateError>,
}

impl Chain {
    fn parse(
        path: &Path,
        text: &[u8],
        now: SystemTime,
        warnings: &mut Vec<String>,
    ) -> Result<Chain, Vec<CertificateError>> {
        let certificates = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| vec![broken_pem(path, &error)])?;
        let mut parsed = Vec::new();
        let mut errors = Vec::new();
        for (index, certificate) in certificates.iter().enumerate() {
            let accepted = match index {
                0 => rustls_accepts(certificate),
                _ => Ok(()),
            };
            match accepted.and_then(|()| parse_certificate(certificate)) {
                Ok(certificate) => parsed.push(certificate),
                Err(reason) => errors.push(CertificateError::BadCertificate(
                    path.to_path_buf(),
                    index + 1,
                    reason,
                )),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let Some(own) = parsed.first() else {
            return Err(vec![CertificateError::NoCertificate(
                path.to_path_buf(),
                instead_of_certificate(text),
            )]);
        };
        let validity = own.validity();
        if system_time(validity.not_after) < now {
            errors.push(CertificateError::Expired(
                path.to_path_buf(),
                in_words(validity.not_after),
            ));
        }
        if system_time(validity.not_before) > now {
            errors.push(CertificateError::NotYetValid(
                path.to_path_buf(),
                in_words(validity.not_before),
            ));
        }
        let names = dns_names(own);
        if names.is_empty() {
            warnings.push(format!(
                "{}: the certificate names no host (no DNS name in its subjectAltName); \
                 clients see it only when it is the first one, and will not trust it",
                path.display()
            ));
        }
        warnings.extend(chain_warnings(path, &parsed, now));
        Ok(Chain {
            names,
            not_after: system_time(validity.not_after),
            expires: in_words(validity.not_after),
            errors,
            certificates,
        })
    }
}

fn parse_certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| X509Error::from(error).to_string())?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate".to_owned());
    }
    Ok(certificate)
}

/// rustls reads a server's own certificate with a parser of its own: what that one refuses must be
/// found now and not in a handshake. Certificates further up go to the client unread.
fn rustls_accepts(own: &CertificateDer<'_>) -> Result<(), String> {
    rustls::server::ParsedCertificate::try_from(own)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The names a certificate is for. The subject's common name is not one: no client looks at it.
fn dns_names(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let mut names: Vec<Box<str>> = Vec::new();
    for name in &extension.value.general_names {
        if let GeneralName::DNSName(name) = name {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if !name.is_empty() && !names.iter().any(|known| **known == *name) {
                names.push(name.into());
            }
        }
    }
    names
}

/// Clients rarely repair a chain; a server that sends a wrong one works here and fails there.
fn chain_warnings(path: &Path, chain: &[X509Certificate<'_>], now: SystemTime) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, pair) in chain.windows(2).enumerate() {
        if let [child, parent] = pair {
            let number = index + 2;
            if child.issuer().as_raw() != parent.subject().as_raw() {
                warnings.push(format!(
                    "{}: certificate number {number} is not the issuer of the one before it; \
                     the order is: own certificate, then each one's issuer",
                    path.display()
                ));
            }
            if system_time(parent.validity().not_after) < now {
                warnings.push(format!(
                    "{}: certificate number {number} (an intermediate) expired on {}",
                    path.display(),
                    in_words(parent.validity().not_after)
                ));
            }
        }
    }
    warnings
}

fn private_key(path: &Path, text: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateError> {
    let path = path.to_path_buf();
    // PKCS #8 has a label of its own for it, the older forms a header line (RFC 1421) that a
    // reader without passphrases would take for broken base64.
    if contains(text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::EncryptedKey(path));
    }
    let key = match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            return Err(CertificateError::NoKey(path, instead_of_key(text)));
        }
        Err(error) => return Err(broken_pem(&path, &error)),
    };
    aws_lc_rs::sign::any_supported_type(&key).map_err(|_| CertificateError::BadKey(path))
}

/// `None` when the key belongs to the first certificate, else a hint where it does belong.
fn mismatch(chain: &[CertificateDer<'static>], key: &Arc<dyn SigningKey>) -> Option<String> {
    let matches = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], Arc::clone(key))
            .keys_match()
            .is_ok()
    };
    match chain.iter().position(matches) {
        Some(0) => None,
        Some(index) => Some(format!(
            " but number {}; put the server's own certificate first",
            index + 1
        )),
        None => Some("; they are from different requests, or only one of them was renewed".into()),
    }
}

/// The file's bytes, bounded, and what the open file says about itself.
fn read(path: &Path) -> Result<(Vec<u8>, Metadata), CertificateError> {
    // Asked before opening: opening a pipe would wait for its writer.
    let about = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !about.is_file() {
        return Err(CertificateError::NotAFile(path.to_path_buf()));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let about = file.metadata().map_err(|error| unreadable(path, &error))?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| unreadable(path, &error))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(CertificateError::TooLarge(path.to_path_buf()));
    }
    Ok((text, about))
}

fn unreadable(path: &Path, error: &std::io::Error) -> CertificateError {
    let path = path.to_path_buf();
    match error.kind() {
        ErrorKind::NotFound => CertificateError::NotFound(path),
        ErrorKind::PermissionDenied => {
            let owner = std::fs::metadata(&path)
                .ok()
                .map(|about| (about.uid(), about.gid(), about.mode()));
            let hint = permission_hint(rustix::process::geteuid().as_raw(), owner);
            CertificateError::PermissionDenied(path, hint)
        }
        _ => CertificateError::Unreadable(path, error.to_string()),
    }
}

/// `owner` is the file's user, group and mode, or `None` when not even those may be seen.
fn permission_hint(user: u32, owner: Option<(u32, u32, u32)>) -> String {
    match owner {
        Some((owner, group, mode)) => format!(
            "portico runs as user {user}, the file belongs to user {owner}, group {group}, with mode {:04o}; \
             give portico's group the file and mode 0640",
            mode & 0o7777
        ),
        None => format!(
            "portico runs as user {user}, which may not enter one of the directories above the file"
        ),
    }
}

/// A warning when users who are neither owner nor group reach the private key.
fn exposed(path: &Path, mode: u32) -> Option<String> {
    (mode & 0o006 != 0).then(|| {
        format!(
            "{}: everybody on this machine may read or change the private key (mode {:04o}); chmod o= it",
            path.display(),
            mode & 0o7777
        )
    })
}

/// The parser's own words would quote the file.
fn broken_pem(path: &Path, error: &pem::Error) -> CertificateError {
    let reason = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is damaged",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::SectionTooLarge => "a section is too large",
        _ => "it cannot be parsed",
    };
    CertificateError::BrokenPem(path.to_path_buf(), reason)
}

fn instead_of_certificate(text: &[u8]) -> &'static str {
    if text.is_empty() {
        "; it is empty"
    } else if contains(text, b"PRIVATE KEY-----") {
        " but a private key; are chain and key exchanged?"
    } else if contains(text, b"CERTIFICATE REQUEST-----") {
        " but a signing request; give the certificate that the authority made of it"
    } else if text.first() == Some(&0x30) {
        "; it seems to be DER: convert it (openssl x509 -inform der -in OLD -out NEW)"
    } else {
        ""
    }
}

fn instead_of_key(text: &[u8]) -> &'static str {
    if text.is_empty() {
        "; it is empty"
    } else if contains(text, b"BEGIN CERTIFICATE-----") {
        " but a certificate; are chain and key exchanged?"
    } else if text.first() == Some(&0x30) {
        "; it seems to be DER: convert it (openssl pkey -inform der -in OLD -out NEW)"
    } else {
        ""
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

fn with(mut errors: Vec<CertificateError>, error: CertificateError) -> Vec<CertificateError> {
    errors.push(error);
    errors
}

/// Times before 1970 count as 1970.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn in_words(time: ASN1Time) -> String {
    let time = time.to_datetime();
    format!(
        "{} {:02}:{:02} UTC",
        time.date(),
        time.hour(),
        time.minute()
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Directory, EXPIRED, FUTURE, Kind, VALID, authority, now, pem};
    use super::*;

    fn put(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> (Directory, CertificateFiles) {
        use std::os::unix::fs::PermissionsExt;
        let directory = Directory::new();
        directory.write("a.crt", chain);
        directory.write("a.key", key);
        let files = directory.files("a");
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
        (directory, files)
    }

    /// Loading fails with exactly these mistakes, each told with its file and these words.
    #[track_caller]
    fn check_errors(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>, expected: &[(&str, &str)]) {
        let key_text = String::from_utf8_lossy(key.as_ref()).into_owned();
        let (_directory, files) = put(chain, key);
        check_errors_of(&files, &key_text, expected);
    }

    #[track_caller]
    fn check_errors_of(files: &CertificateFiles, key_text: &str, expected: &[(&str, &str)]) {
        let errors = Certificate::load(files, now()).err().expect("must fail");
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (told, (file, words)) in told.iter().zip(expected) {
            assert!(
                told.contains(&format!("/{file}: ")),
                "{told}: not about {file}"
            );
            assert!(told.contains(words), "{told}: does not say {words:?}");
            assert!(!told.contains('\n'), "{told}: more than one line");
        }
        // Neither Display nor Debug may carry key material.
        let all = format!("{told:?}{errors:?}");
        for line in key_text.split(['\n', ' ', '-']) {
            assert!(
                line.len() < 24 || !all.contains(line),
                "the key leaks: {all}"
            );
        }
    }

    #[test]
    fn good_pairs() {
        for kind in [Kind::Ecdsa, Kind::Rsa] {
            let made = pem(
                &["A.Example.org", "*.example.org.", "a.example.org"],
                kind,
                VALID,
            );
            // Tools write parameters before an EC key, and text before a certificate.
            let key = format!(
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{}",
                made.key
            );
            let (_directory, files) = put(format!("subject=leaf\r\n{}", made.chain), key);
            let loaded =
                Certificate::load(&files, now()).unwrap_or_else(|errors| panic!("{errors:?}"));
            let names: Vec<&str> = loaded.names.iter().map(AsRef::as_ref).collect();
            assert_eq!(names, ["a.example.org", "*.example.org"]);
            assert_eq!(loaded.warnings, Vec::<String>::new());
            assert_eq!(loaded.expires, "2200-01-01 00:00 UTC");
            assert!(loaded.not_after > now());
            assert_eq!(loaded.key.cert.len(), 2);
        }
    }

    #[test]
    fn mistakes_in_the_chain() {
        let good = pem(&["a.org"], Kind::Ecdsa, VALID);
        let expired = pem(&["a.org"], Kind::Ecdsa, EXPIRED);
        let future = pem(&["a.org"], Kind::Ecdsa, FUTURE);
        let half = &good.chain[..good.chain.len() - 200];
        check_errors(
            "",
            &good.key,
            &[("a.crt", "holds no PEM certificate; it is empty")],
        );
        check_errors("hello", &good.key, &[("a.crt", "holds no PEM certificate")]);
        check_errors(
            good.leaf.as_ref(),
            &good.key,
            &[("a.crt", "seems to be DER")],
        );
        check_errors(
            &good.key,
            &good.key,
            &[("a.crt", "are chain and key exchanged?")],
        );
        check_errors(
            half,
            &good.key,
            &[("a.crt", "broken PEM (a section has no END line)")],
        );
        check_errors(
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            &good.key,
            &[("a.crt", "broken PEM (a section is not base64)")],
        );
        check_errors(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &good.key,
            &[("a.crt", "certificate number 1 cannot be parsed")],
        );
        check_errors(
            format!(
                "{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                good.chain
            ),
            &good.key,
            &[("a.crt", "certificate number 3 cannot be parsed")],
        );
        check_errors(
            &expired.chain,
            &expired.key,
            &[("a.crt", "expired on 2020-01-01 00:00 UTC; renew it")],
        );
        check_errors(
            &future.chain,
            &future.key,
            &[("a.crt", "valid only from 2190-01-01 00:00 UTC")],
        );
        check_errors(
            vec![b'x'; 1024 * 1024 + 1],
            &good.key,
            &[("a.crt", "larger than 1 MiB")],
        );
    }

    #[test]
    fn mistakes_in_the_key() {
        let good = pem(&["a.org"], Kind::Ecdsa, VALID);
        let other = pem(&["a.org"], Kind::Rsa, VALID);
        let expired = pem(&["a.org"], Kind::Ecdsa, EXPIRED);
        let one_line = good.key.replace('\n', "");
        let cut = &good.key[..good.key.len() / 2];
        check_errors(
            &good.chain,
            "",
            &[("a.key", "holds no PEM private key; it is empty")],
        );
        check_errors(
            &good.chain,
            &good.chain,
            &[("a.key", "are chain and key exchanged?")],
        );
        check_errors(&good.chain, &one_line, &[("a.key", "broken PEM")]);
        check_errors(
            &good.chain,
            cut,
            &[("a.key", "broken PEM (a section has no END line)")],
        );
        check_errors(
            &good.chain,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            &[("a.key", "damaged or of an unsupported kind")],
        );
        check_errors(
            &good.chain,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            &[("a.key", "is encrypted; store it without a passphrase")],
        );
        check_errors(
            &good.chain,
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            &[("a.key", "is encrypted")],
        );
        check_errors(
            &good.chain,
            &other.key,
            &[("a.key", "a.crt; they are from different requests")],
        );
        // Everything at once.
        check_errors(
            &expired.chain,
            &other.key,
            &[("a.crt", "expired"), ("a.key", "does not match")],
        );
        check_errors(
            "",
            "",
            &[("a.crt", "it is empty"), ("a.key", "it is empty")],
        );
    }

    #[test]
    fn issuer_first_is_told_as_such() {
        let good = pem(&["a.org"], Kind::Ecdsa, VALID);
        let at = good.chain.find(&authority().pem).unwrap();
        let turned = authority().pem.clone() + &good.chain[..at];
        check_errors(
            turned,
            &good.key,
            &[(
                "a.key",
                "but number 2; put the server's own certificate first",
            )],
        );
    }

    #[test]
    fn files_that_cannot_be_read() {
        let good = pem(&["a.org"], Kind::Ecdsa, VALID);
        let (directory, files) = put(&good.chain, &good.key);
        let missing = CertificateFiles {
            chain: directory.path("none.crt"),
            key: directory.path("none.key"),
        };
        check_errors_of(
            &missing,
            "",
            &[("none.crt", "no such file"), ("none.key", "no such file")],
        );
        directory.link("dangling.key", Path::new("nowhere"));
        std::fs::create_dir(directory.path("dir.crt")).unwrap();
        let odd = CertificateFiles {
            chain: directory.path("dir.crt"),
            key: directory.path("dangling.key"),
        };
        check_errors_of(
            &odd,
            "",
            &[
                ("dir.crt", "is not a regular file"),
                ("dangling.key", "symbolic link"),
            ],
        );
        // Root reads everything: as root, only the words can be tested (below).
        if !rustix::process::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o000)).unwrap();
            check_errors_of(
                &files,
                &good.key,
                &[("a.key", "permission denied: portico runs as")],
            );
        }
        let denied = permission_hint(998, Some((0, 42, 0o100_600)));
        assert!(denied.contains("runs as user 998"), "{denied}");
        assert!(
            denied.contains("user 0, group 42, with mode 0600"),
            "{denied}"
        );
        assert!(permission_hint(998, None).contains("directories above"));
    }

    #[test]
    fn warnings() {
        let authority = authority();
        let named = pem(&["a.org"], Kind::Ecdsa, VALID);
        let nameless = pem(&["192.0.2.1"], Kind::Ecdsa, VALID);
        let stranger = pem(&["b.org"], Kind::Ecdsa, EXPIRED);
        let alone = named.chain.replace(&authority.pem, "");
        for (chain, key, mode, expected) in [
            (&named.chain, &named.key, 0o640, &[][..]),
            (
                &named.chain,
                &named.key,
                0o644,
                &["private key (mode 0644)"][..],
            ),
            (
                &named.chain,
                &named.key,
                0o602,
                &["private key (mode 0602)"],
            ),
            (&nameless.chain, &nameless.key, 0o600, &["names no host"]),
            (&alone, &named.key, 0o600, &[]),
            (
                &(alone.clone() + &stranger.chain),
                &named.key,
                0o600,
                &[
                    "number 2 is not the issuer",
                    "number 2 (an intermediate) expired",
                ],
            ),
        ] {
            use std::os::unix::fs::PermissionsExt;
            let (_directory, files) = put(chain, key);
            std::fs::set_permissions(&files.key, PermissionsExt::from_mode(mode)).unwrap();
            let loaded =
                Certificate::load(&files, now()).unwrap_or_else(|errors| panic!("{errors:?}"));
            assert_eq!(
                loaded.warnings.len(),
                expected.len(),
                "{:#?}",
                loaded.warnings
            );
            for (told, words) in loaded.warnings.iter().zip(expected) {
                assert!(told.contains(words), "{told}: does not say {words:?}");
            }
        }
    }

    /// Keys and self-signed certificates as operators make them, in every form of PEM.
    #[test]
    fn what_openssl_writes() {
        let directory = Directory::new();
        let openssl = |arguments: &str| {
            let status = std::process::Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(directory.path(""))
                .stderr(std::process::Stdio::null())
                .status();
            status.is_ok_and(|status| status.success())
        };
        if !openssl("version") {
            eprintln!("not tested: openssl is not installed");
            return;
        }
        let both_forms = &["", " -traditional"][..];
        for (kind, forms) in [
            ("ec -pkeyopt ec_paramgen_curve:P-256", both_forms),
            ("ec -pkeyopt ec_paramgen_curve:P-384", both_forms),
            ("rsa:2048", both_forms),
            ("ed25519", &[""]),
        ] {
            let made = openssl(&format!(
                "req -x509 -nodes -newkey {kind} -keyout a.key -out a.crt -days 30 -subj /CN=a \
                 -addext subjectAltName=DNS:a.org"
            ));
            assert!(made, "{kind}");
            let files = |key: &str| CertificateFiles {
                chain: directory.path("a.crt"),
                key: directory.path(key),
            };
            for form in forms {
                assert!(openssl(&format!("pkey -in a.key -out b.key{form}")));
                let loaded = Certificate::load(&files("b.key"), now());
                let loaded = loaded.unwrap_or_else(|errors| panic!("{kind}{form}: {errors:?}"));
                assert_eq!(loaded.names, [Box::<str>::from("a.org")]);
                let encrypt = "pkey -in a.key -aes256 -passout pass:secret -out c.key";
                assert!(openssl(&format!("{encrypt}{form}")));
                check_errors_of(&files("c.key"), "", &[("c.key", "is encrypted")]);
            }
        }
    }
}
