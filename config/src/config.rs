//! The checked configuration: what the rest of portico runs on.
//!
//! Plain data, typed and consistent: pools that are named exist, names are valid, values are within
//! their bounds. What was written and what was a default says [`Settings`] alone. It holds nothing of
//! what is not built yet. It reads no file but the configuration itself: whether certificates are
//! any good is for the TLS part to find out.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portico_routing::backend::Backend;
use portico_routing::decide::Rules;

use crate::settings::Settings;
use crate::values::SentinelUrl;

/// A whole configuration that has passed every check.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`: threads and stopping.
    pub server: Server,
    /// `[listen]`: the addresses that portico answers on.
    pub listen: Listen,
    /// `[tls]`: certificates and versions.
    pub tls: Tls,
    /// `[domains]` and the static `[routes]`, as the routing crate wants them.
    pub rules: Arc<Rules>,
    /// `[registry]`: the redis that holds the routes; `None` when the table is left out.
    pub registry: Option<Registry>,
    /// `[pools.<name>]`: balanced groups of servers, by name.
    pub pools: BTreeMap<Box<str>, Pool>,
    /// `[ingress]`: the pools for tools that nothing else routes, with their shares of the tools;
    /// always keys of `pools`, in their order. Empty: such requests get the fallback answer (404).
    pub ingress: Vec<Share>,
    /// `[[tcp]]`: layer 4 listeners, their names different.
    pub tcp: Vec<TcpListener>,
    /// `[fallback]`: what nothing else answers.
    pub fallback: Fallback,
    /// `[pages]`: what portico's own pages look like.
    pub pages: Pages,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[limits]`.
    pub limits: Limits,
    /// `[http2]`.
    pub http2: Http2,
    /// `[refuse]`: requests that are refused outright.
    pub refuse: Refuse,
    /// `[headers]` and `[headers.set]`.
    pub headers: Headers,
    /// `[compression]`.
    pub compression: Compression,
    /// `[log]`.
    pub log: Log,
    /// The same as text: what every key holds, and whether somebody wrote it.
    pub settings: Settings,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Serving threads; 0 stands for one for each CPU and is resolved by the proxy.
    pub workers: usize,
    /// How long requests in flight may finish when portico stops.
    pub drain: Duration,
    /// What pages call this machine; `None`: its host name.
    pub name: Option<Box<str>>,
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Plain HTTP listeners.
    pub http: Vec<SocketAddr>,
    /// Whether the plain listeners only answer health checks and redirect to HTTPS.
    pub redirect: bool,
    /// TLS listeners. Not empty only if there is a certificate.
    pub https: Vec<SocketAddr>,
    /// Where the administration answers; `None`: nowhere.
    pub admin: Option<AdminAddress>,
    /// Networks whose connections to these listeners begin with a PROXY protocol header.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// Where the administration answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address of this machine.
    Tcp(SocketAddr),
    /// The file of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates chosen by SNI; the first when none matches.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest TLS version that is spoken.
    pub min_version: TlsVersion,
}

/// The two PEM files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A version of TLS that portico speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246)
    V1_2,
    /// TLS 1.3 (RFC 8446)
    V1_3,
}

/// `[registry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Where redis is; may hold a password.
    pub url: SecretUrl,
    /// File of the last known good table.
    pub snapshot: PathBuf,
    /// When a vanishing table is not believed at once.
    pub mass_removal: MassRemoval,
    /// Networks that routes of the registry may point at; empty: any.
    pub backends: Vec<IpNet>,
}

/// `registry.mass_removal`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassRemoval {
    /// More than this share of the table (0 to 100) vanishing at once is held back.
    pub percent: u8,
    /// How long it is held back.
    pub grace: Duration,
}

/// A URL that may hold a password. `Debug` and `Display` show `***` in its place, so
/// that it reaches no log.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL; any text is valid here, the reader of the configuration checks it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for the client that connects with it and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The parts of a URL of Sentinel; `None` if it is of another kind. Of a checked
    /// configuration it is never an error.
    ///
    /// # Errors
    /// What is wrong, without a part of the URL.
    pub fn sentinel(&self) -> Option<Result<SentinelUrl, String>> {
        let read = SentinelUrl::parse(&self.0)?;
        Some(read.map_err(|mistake| mistake.message))
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blank_password(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({:?})", blank_password(&self.0))
    }
}

/// `url` with the password of its user information replaced by `***`, as is that of a
/// query (`?pass=...`).
///
/// The user information ends at the last `@`: a password with a stray `/` or `@` in it
/// must not show either. Of a query only the names are kept, because unix socket URLs
/// and those of Sentinel carry a password there.
pub(crate) fn blank_password(url: &str) -> String {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let (base, query) = match url.split_once('?') {
        // Either may hold the password; such a URL of Sentinel is refused.
        Some((_, query)) if query.contains('@') && query.contains("password=") => {
            return scheme.map_or("***".to_owned(), |scheme| format!("{scheme}://***"));
        }
        // An `@` behind the `?` means that the password itself holds a `?`.
        Some((base, query)) if !query.contains('@') => (base, Some(query)),
        _ => (url, None),
    };
    let mut shown = match (base.find("://"), base.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            let user = base[scheme + 3..at].split(':').next().unwrap_or_default();
            // Without a colon all of it may be a token.
            let user = if base[scheme + 3..at].contains(':') {
                user
            } else {
                ""
            };
            format!("{}{user}:***{}", &base[..scheme + 3], &base[at..])
        }
        (None, Some(at)) => format!("***{}", &base[at..]),
        _ => base.to_owned(),
    };
    if let Some(query) = query {
        let names = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{name}=***"),
            None => "***".to_owned(),
        });
        shown.push('?');
        shown.push_str(&names.collect::<Vec<_>>().join("&"));
    }
    shown
}

/// `[pools.<name>]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The name, as in `[pools.<name>]`.
    pub name: Box<str>,
    /// Its servers: at least one, no address twice.
    pub nodes: Vec<Node>,
    /// How a server is chosen.
    pub balance: Balance,
    /// How long a server that comes back takes to get its full share; zero: none.
    pub slow_start: Duration,
    /// Requests (or TCP connections) in flight at one server, over all workers; at least 1.
    pub max_connections: u32,
    /// Requests that wait for each server, when all have as many as they may; 0: none waits.
    pub max_queue: u32,
    /// How long a request waits.
    pub queue_timeout: Duration,
    /// How it is found out that a server is there.
    pub check: Check,
}

/// One server of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it is.
    pub address: NodeAddress,
    /// Its share of the work, relative to its peers; 1 to 1,000.
    pub weight: u32,
}

/// The address of a server: an IP address or a name to resolve, and a port (never 0).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeAddress {
    /// `192.0.2.1:30000`, `[2001:db8::1]:30000`
    Ip(SocketAddr),
    /// `node-1.example:30000`; the name is valid and in lower case.
    Name {
        /// The name to resolve.
        host: Box<str>,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// How a pool chooses the server for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One after the other, by weight.
    RoundRobin,
    /// Of two that are drawn by weight, the one with fewer requests in flight.
    LeastRequests,
}

/// How a pool finds out whether a server is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What counts as being there.
    pub kind: CheckKind,
    /// Between two checks of a server that is up.
    pub interval: Duration,
    /// Between two checks of a server that is down.
    pub down_interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// So many good checks in a row bring a server up.
    pub rise: u32,
    /// So many bad checks in a row take a server down.
    pub fall: u32,
    /// The port to check, when it is not the one that serves.
    pub port: Option<u16>,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// A TCP connection that is accepted is good.
    Tcp,
    /// A request that is answered as expected.
    Http(HttpCheck),
    /// The same over TLS.
    Https {
        /// The request.
        http: HttpCheck,
        /// Whether the certificate has to be valid.
        verify: bool,
        /// The name that is asked for, and verified, or an IP address, which is only verified; `None`:
        /// the server's own name or address. Without `sni` in the file it is the host of the check.
        sni: Option<Box<str>>,
    },
}

/// The request of a check, and the answer that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// The Host field, valid as it is; `None`: the server's address and port, as configured.
    pub host: Option<Box<str>>,
    /// The target: a path and perhaps a query, printable ASCII; starts with a slash.
    pub path: Box<str>,
    /// The status; 200 to 599.
    pub expect: u16,
}

/// A pool of `[ingress]` and its part of the tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The pool; always a key of [`Config::pools`].
    pub pool: Box<str>,
    /// 0 to 100; those of all pools add up to 100.
    pub percent: u8,
}

/// A table of `[[tcp]]`: connections that are passed on byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpListener {
    /// The name in logs and metrics.
    pub name: Box<str>,
    /// The addresses to answer on; at least one.
    pub listen: Vec<SocketAddr>,
    /// The pool that connections go to, but for those of `server_names`. `None`: others are closed.
    pub pool: Option<Box<str>>,
    /// Pools by the name that the client's TLS asks for (SNI), no pattern twice. Empty: nobody looks.
    pub server_names: Vec<(NamePattern, Box<str>)>,
    /// Networks that may connect; empty: everybody.
    pub allow: Vec<IpNet>,
    /// Silence both ways after which a connection is closed.
    pub idle_timeout: Duration,
    /// Networks whose connections begin with a PROXY protocol header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Whether the server gets a PROXY protocol header, version 2.
    pub send_proxy_protocol: bool,
}

/// A host name, or all names one label below one: `k8s.example`, `*.example`. In lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamePattern {
    /// The name, without `*.`.
    pub name: Box<str>,
    /// Whether it began with `*.`.
    pub wildcard: bool,
}

/// `[fallback]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The backend that makes 404 pages; none of portico's own listeners.
    pub backend: Option<Backend>,
    /// A page for people who need help, shown on the pages that portico makes. Printable ASCII
    /// without spaces; starts with http:// or https://.
    pub help_url: Option<String>,
}

/// `[pages]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    /// A directory with templates; `None`: the built-in page.
    pub templates: Option<PathBuf>,
}

/// `[timeouts]`; none is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole request head, from its first byte.
    pub header: Duration,
    /// Between two reads of a request body.
    pub body_idle: Duration,
    /// An idle client connection.
    pub keep_alive: Duration,
    /// Connecting to a backend.
    pub connect: Duration,
    /// Silence of a backend.
    pub response: Duration,
    /// The TLS handshake of a client.
    pub handshake: Duration,
    /// A client that takes nothing.
    pub write: Duration,
    /// An idle pooled connection to a backend.
    pub upstream_idle: Duration,
    /// Silence on a tunnel (WebSocket), both ways.
    pub tunnel: Duration,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request body, in bytes: 413 above.
    pub body: u64,
    /// Request head, in bytes: 431 above.
    pub header: usize,
    /// Request target, in bytes, at most `header`: 414 above.
    pub uri: usize,
    /// Client connections of the whole process.
    pub connections: usize,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// Requests of one tool in flight: 503 above.
    pub in_flight_per_tool: u32,
}

/// `[http2]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2 {
    /// WebSockets over HTTP/2 (RFC 8441).
    pub websocket: bool,
}

/// `[refuse]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuse {
    /// 403 for requests whose User-Agent is missing or empty.
    pub empty_user_agent: bool,
    /// Count and log, refuse nothing.
    pub dry_run: bool,
}

/// `[headers]` and `[headers.set]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Response headers of tools that never reach the client, in lower case.
    pub hide: Vec<Box<str>>,
    /// Whether tools get the address of the client.
    pub client_address: ClientAddress,
    /// Tools that get it in any case.
    pub client_address_for: HashSet<Box<str>>,
    /// Response headers hidden on the legacy domains, where tools share one host; in lower case.
    pub hide_on_legacy: Vec<Box<str>>,
    /// The name in the `Via` request header; `None`: no such header, and loops are not noticed.
    pub via: Option<Box<str>>,
    /// Headers of every answer, in place of the tool's own: the name as
    /// written, unique in any case.
    pub set: Vec<(Box<str>, HeaderTemplate)>,
}

/// Whether tools get the address of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// Never: what clients send about themselves is removed as well.
    Hidden,
    /// In `X-Forwarded-For`.
    Forwarded,
}

/// The value of a header with its placeholders. The text is visible ASCII, spaces and tabs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTemplate {
    /// The parts in their order; neighbours are never both text.
    pub parts: Vec<TemplatePart>,
}

/// A part of a [`HeaderTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Bytes to copy.
    Text(Box<str>),
    /// `{host}`: the host of the request.
    Host,
}

/// `[compression]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// In order of preference, each once; empty: off.
    pub algorithms: Vec<Algorithm>,
    /// How hard they try.
    pub levels: Levels,
    /// Answers of a known length below this many bytes are left alone.
    pub min_size: u64,
    /// Tools whose answers are left alone.
    pub off_for: HashSet<Box<str>>,
    /// Media types without parameters, in lower case.
    pub types: Vec<Box<str>>,
}

/// An encoding of answers (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Zstandard
    Zstd,
    /// Brotli
    Br,
    /// gzip
    Gzip,
}

impl Algorithm {
    /// Its name as a content coding.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// `compression.level`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// 1 to 9.
    pub gzip: u32,
    /// 0 to 6.
    pub br: u32,
    /// 1 to 9.
    pub zstd: u32,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Where the access log goes.
    pub access: LogTarget,
    /// What its lines look like.
    pub format: LogFormat,
    /// How the addresses of clients are written, there and in diagnostics.
    pub client_address: LogAddress,
    /// The least severe diagnostics that are written.
    pub level: LogLevel,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// To standard error, between the diagnostics.
    Stderr,
    /// To a file, or a named pipe; the path is absolute.
    File(PathBuf),
}

/// What a line of the access log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// The line of the legacy system's nginx.
    Vhosts,
    /// One JSON object a line.
    Json,
}

/// How the address of a client is written in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogAddress {
    /// As it is.
    Full,
    /// Its network: /24 of IPv4, /48 of IPv6.
    Masked,
    /// A keyed hash, good for a day.
    Hashed,
}

/// How much portico says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what is broken.
    Error,
    /// And what will be.
    Warn,
    /// And what changed.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word of the configuration, which is also that of the logging crates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_blank(url: &str, shown: &str) {
        assert_eq!(SecretUrl::new(url).to_string(), shown);
        assert_eq!(SecretUrl::new(url).expose(), url);
    }

    #[test]
    fn passwords_are_blanked() {
        check_blank("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0");
        check_blank("redis://:s3cret@h:1/0", "redis://:***@h:1/0");
        check_blank("redis://user:s3cret@h", "redis://user:***@h");
        check_blank("redis://s3cret@h", "redis://:***@h");
        check_blank("redis://user:s3/cr@et?@h", "redis://user:***@h");
        check_blank("user:s3cret@h", "***@h");
        check_blank(
            "unix:///run/r.sock?db=1&pass=s3cret",
            "unix:///run/r.sock?db=***&pass=***",
        );
        check_blank(
            "redis+sentinel://u:s3cret@a:1,[::1]:2/m/0?sentinel_user=u&sentinel_password=s3cret",
            "redis+sentinel://u:***@a:1,[::1]:2/m/0?sentinel_user=***&sentinel_password=***",
        );
        check_blank(
            "rediss+sentinel://a/m?sentinel_password=s3cret",
            "rediss+sentinel://a/m?sentinel_password=***",
        );
        check_blank(
            "redis+sentinel://a/m?sentinel_password=s3@cret",
            "redis+sentinel://***",
        );
        assert!(!format!("{:?}", SecretUrl::new("redis://u:s3cret@h")).contains("s3cret"));
    }
}
