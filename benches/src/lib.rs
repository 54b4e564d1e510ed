//! What the measuring programs share: how they run, TLS connections that trust any certificate, how long a step of one
//! may take, one request of HTTP/1.1, and what they say of themselves.
//!
//! The programs are in `src/bin`; the scripts `compare`, `memory`, `routes` and others start them. Nothing
//! here is part of the proxy, and nothing of the proxy is linked here, but for `lookups`: what
//! is measured is a process of its own.

pub mod http1;
pub mod websocket;

use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, LocalSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Descriptors for everything that is not a connection.
const SPARE_FILES: u64 = 64;
/// A step of a connection that is not done by then never will be.
const STALL: Duration = Duration::from_secs(20);

/// Does the work of a program that opens so many connections, on this thread alone.
///
/// # Errors
/// Those of the work, or that so many files may not be open.
pub fn block_on<T>(
    connections: usize,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    allow_open_files(connections as u64 + SPARE_FILES)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

/// Raises the soft limit of open files to `needed`, and the hard one with it where the process may.
fn allow_open_files(needed: u64) -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    limit.current = Some(needed);
    limit.maximum = limit.maximum.map(|hard| hard.max(needed));
    setrlimit(Resource::Nofile, limit).map_err(|error| {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let error = io::Error::from(error);
        anyhow!(
            "{needed} open files are needed and the hard limit is {hard} ({error}): run `ulimit -Hn {needed}` as root first"
        )
    })
}

/// One step of a connection, which fails when it takes too long: a proxy that has lost something must not hold a
/// measurement for ever.
///
/// # Errors
/// Those of the step, or that it timed out.
pub async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(STALL, step)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A TCP connection that sends what it is given at once.
///
/// # Errors
/// When nobody takes it.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where TLS connections go, and how.
pub struct TlsTo {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl TlsTo {
    /// # Errors
    /// When `host` is no name for SNI.
    pub fn new(
        address: SocketAddr,
        host: &str,
        config: Arc<ClientConfig>,
    ) -> anyhow::Result<TlsTo> {
        Ok(TlsTo {
            address,
            name: ServerName::try_from(host.to_string()).context("not a host name")?,
            connector: TlsConnector::from(config),
        })
    }

    /// A new connection, after its handshake.
    ///
    /// # Errors
    /// When nobody takes it, or the handshake fails.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = connect(self.address).await?;
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// A TLS client for one ALPN protocol: trusts any certificate, and never resumes a session,
/// so that every connection costs the server a full handshake and holds what a full
/// handshake leaves behind.
///
/// # Errors
/// None in practice: the provider knows the protocol versions.
pub fn tls_client(alpn: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
    client(default_provider(), Signatures::Checked, alpn).map(Arc::new)
}

/// A TLS 1.3 client for many handshakes: it does not check the server's signature, which would
/// cost its core more than the server pays for making it. It resumes nothing unless its
/// `resumption` is set.
///
/// # Errors
/// None in practice: the provider knows the protocol version.
pub fn cheap_tls_client(key_exchange: KeyExchange) -> Result<ClientConfig, rustls::Error> {
    let mut provider = default_provider();
    if key_exchange == KeyExchange::X25519 {
        provider.kx_groups = vec![kx_group::X25519];
    }
    client(provider, Signatures::Taken, "http/1.1")
}

/// What a client offers in its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyExchange {
    /// X25519 alone, which every server knows: the same work for all.
    X25519,
    /// Shares of X25519MLKEM768 and X25519, as browsers do: each server takes the best it knows.
    Browser,
}

fn client(
    provider: CryptoProvider,
    signatures: Signatures,
    alpn: &str,
) -> Result<ClientConfig, rustls::Error> {
    let trust_any = TrustAny {
        algorithms: provider.signature_verification_algorithms,
        signatures,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let mut config = match signatures {
        Signatures::Checked => builder.with_safe_default_protocol_versions()?,
        Signatures::Taken => builder.with_protocol_versions(&[&rustls::version::TLS13])?,
    }
    .dangerous()
    .with_custom_certificate_verifier(Arc::new(trust_any))
    .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(config)
}

/// Says `ready` and waits for a line on standard input: what came before is not measured. Nothing else
/// happens in this thread meanwhile.
///
/// # Errors
/// When nobody reads or answers.
pub fn ready() -> anyhow::Result<()> {
    say("ready")?;
    if io::stdin().lock().read_line(&mut String::new())? == 0 {
        bail!("standard input ended before the run");
    }
    Ok(())
}

/// Writes a line to standard output at once.
///
/// # Errors
/// When nobody reads it.
pub fn say(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// What a client has done, and what ended it before its time.
pub type Done = (u64, Option<io::Error>);

/// Waits for all clients and says what they did together: `{"units":N,"seconds":N,"errors":N}`, and the last error
/// on standard error. What a client counts is so many units.
///
/// # Errors
/// When a client panicked, or nobody reads it.
pub async fn say_total(
    clients: Vec<JoinHandle<Done>>,
    unit: f64,
    start: Instant,
) -> anyhow::Result<()> {
    let (mut done, mut errors, mut last) = (0, 0, None);
    for client in clients {
        let (by_one, failed) = client.await.context("a client ended")?;
        done += by_one;
        errors += u32::from(failed.is_some());
        last = failed.or(last);
    }
    if let Some(error) = last {
        writeln!(io::stderr(), "the last error: {error}")?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let units = done as f64 * unit;
    say(serde_json::json!({ "units": units, "seconds": seconds, "errors": errors }))?;
    Ok(())
}

/// Takes whatever certificate comes: ours is made for the run.
#[derive(Debug)]
struct TrustAny {
    algorithms: WebPkiSupportedAlgorithms,
    signatures: Signatures,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signatures {
    /// The work that a real client does.
    Checked,
    /// Believed unseen.
    Taken,
}

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
        if self.signatures == Signatures::Taken {
            return Ok(HandshakeSignatureValid::assertion());
        }
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.signatures == Signatures::Taken {
            return Ok(HandshakeSignatureValid::assertion());
        }
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
