//! What the hyper and the pingora proxy share: arguments, route table, access log, header fields.
//!
//! Not a crate: each of them takes it in by `#[path]`, so that neither is in portico's workspace.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// As many bytes of the access log are written at once; less when a second is over.
const LOG_BYTES: usize = 32 * 1024;
pub const LOG_INTERVAL: Duration = Duration::from_secs(1);

pub const UPSTREAM_CONNECTIONS: usize = 1024;
pub const GZIP_LEVEL: u32 = 5;

/// The command line: `--name value`, all of them required.
pub struct Settings {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub certificate: String,
    pub key: String,
    pub workers: usize,
    pub idle: Duration,
    pub log: Log,
}

impl Settings {
    /// The settings, and the route table with addresses of the kind that the proxy wants.
    pub fn parse<A>() -> Result<(Settings, Routes<A>)>
    where
        A: FromStr<Err: Error + Send + Sync + 'static>,
    {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let value = |name: &str| {
            let pair = words.chunks_exact(2).find(|pair| pair[0] == name);
            pair.map(|pair| pair[1].as_str())
                .ok_or_else(|| format!("{name} is missing"))
        };
        let mut hosts = HashMap::new();
        for line in std::fs::read_to_string(value("--routes")?)?.lines() {
            if let Some((host, address)) = line.split_once(' ') {
                hosts.insert(host.to_owned(), address.parse()?);
            }
        }
        let routes = Routes {
            hosts,
            ingress: value("--ingress")?.parse()?,
            grpc_host: value("--grpc-host")?.to_owned(),
            grpc: value("--grpc")?.parse()?,
        };
        let settings = Settings {
            http: value("--http")?.parse()?,
            https: value("--https")?.parse()?,
            certificate: value("--certificate")?.to_owned(),
            key: value("--key")?.to_owned(),
            workers: value("--workers")?.parse()?,
            idle: Duration::from_secs(value("--idle")?.parse()?),
            log: Log::create(value("--log")?)?,
        };
        Ok((settings, routes))
    }
}

/// Which backend a host has.
pub struct Routes<A> {
    hosts: HashMap<String, A>,
    ingress: A,
    grpc_host: String,
    grpc: A,
}

pub struct Backend<'a, A> {
    pub address: &'a A,
    pub grpc: bool,
}

impl<A> Routes<A> {
    /// `host` may carry a port.
    pub fn find(&self, host: &str) -> Backend<'_, A> {
        let mut host = host.split(':').next().unwrap_or_default();
        let lower;
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            host = &lower;
        }
        let grpc = host == self.grpc_host;
        let address = match self.hosts.get(host) {
            _ if grpc => &self.grpc,
            Some(address) => address,
            None => &self.ingress,
        };
        Backend { address, grpc }
    }
}

// --- header fields ----------------------------------------------------------------------------

pub const TO_DROP: [HeaderName; 4] = [
    HeaderName::from_static("proxy"),
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
pub const CLACKS: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-clacks-overhead"),
    HeaderValue::from_static("GNU Terry Pratchett"),
);
pub const PERMISSIONS: (HeaderName, HeaderValue) = (
    HeaderName::from_static("permissions-policy"),
    HeaderValue::from_static("browsing-topics=()"),
);
pub const TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31622400");

pub fn scheme(tls: bool) -> HeaderValue {
    HeaderValue::from_static(if tls { "https" } else { "http" })
}

// --- access log ---------------------------------------------------------------------------------

/// nginx's line, written in batches.
pub struct Log(Mutex<Buffer>);

struct Buffer {
    file: File,
    lines: Vec<u8>,
    second: u64,
    /// How that second is written.
    time: String,
}

/// What one line tells.
pub struct Line<'a, R, S> {
    pub host: &'a str,
    pub client: IpAddr,
    /// `GET / HTTP/1.1`
    pub request: R,
    pub status: u16,
    pub bytes: u64,
    pub headers: &'a HeaderMap,
    pub backend: Option<S>,
}

impl Log {
    fn create(path: &str) -> Result<Log> {
        Ok(Log(Mutex::new(Buffer {
            file: File::options().create(true).append(true).open(path)?,
            lines: Vec::with_capacity(2 * LOG_BYTES),
            second: 0,
            time: String::new(),
        })))
    }

    pub fn write(&self, line: &Line<'_, impl Display, impl Display>) {
        let text = |name| {
            line.headers
                .get(name)
                .map_or(&b"-"[..], HeaderValue::as_bytes)
        };
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if now != buffer.second {
            buffer.second = now;
            buffer.time = jiff::Zoned::now()
                .strftime("%d/%b/%Y:%H:%M:%S %z")
                .to_string();
        }
        let Buffer { lines, time, .. } = &mut *buffer;
        // Writing to memory does not fail.
        let _ = write!(
            lines,
            "{} {} - - [{time}] \"{}\" {} {} \"",
            line.host, line.client, line.request, line.status, line.bytes
        );
        lines.extend_from_slice(text(header::REFERER));
        lines.extend_from_slice(b"\" \"");
        lines.extend_from_slice(text(header::USER_AGENT));
        let _ = match &line.backend {
            Some(backend) => writeln!(lines, "\" (backend {backend})"),
            None => writeln!(lines, "\" (backend -)"),
        };
        if lines.len() >= LOG_BYTES {
            buffer.flush();
        }
    }

    /// To be called once in every `LOG_INTERVAL`.
    pub fn flush(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush();
    }
}

impl Buffer {
    fn flush(&mut self) {
        if let Err(error) = self.file.write_all(&self.lines) {
            let _ = writeln!(std::io::stderr(), "access log: {error}");
        }
        self.lines.clear();
    }
}
