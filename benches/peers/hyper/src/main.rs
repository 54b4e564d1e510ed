//! A reverse proxy as one writes it with hyper: one runtime on a thread for each worker, hyper's HTTP/1.1 and HTTP/2 server,
//! the pool of hyper-util's client, rustls.
//!
//! It does what `checks.check` asks of a peer. It has no limits, no body deadlines, no error pages, no metrics and no
//! reload.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[path = "../../common.rs"]
mod common;
use common::{Line, Result, Routes, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of a request's head, and of a TLS handshake.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing smaller is compressed.
const GZIP_MIN_BYTES: u64 = 1024;
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn main() -> Result<()> {
    let (settings, routes) = Settings::parse()?;
    let tls = tls_config(&settings)?;
    let shared = Arc::new((settings, routes));
    let workers: Vec<_> = (0..shared.0.workers)
        .map(|_| {
            let (shared, tls) = (Arc::clone(&shared), Arc::clone(&tls));
            std::thread::spawn(move || -> Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(serve(shared, tls))
            })
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn tls_config(settings: &Settings) -> Result<Arc<rustls::ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(&settings.certificate)?
        .collect::<std::result::Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

struct Worker {
    shared: Arc<(Settings, Routes<Authority>)>,
    client: Client<HttpConnector, Incoming>,
    grpc: Client<HttpConnector, Incoming>,
}

/// What a request needs to know of its connection.
#[derive(Clone, Copy)]
struct Origin {
    tls: bool,
    client: IpAddr,
    port: u16,
}

async fn serve(
    shared: Arc<(Settings, Routes<Authority>)>,
    tls: Arc<rustls::ServerConfig>,
) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let mut client = Client::builder(TokioExecutor::new());
    client
        .pool_max_idle_per_host(common::UPSTREAM_CONNECTIONS)
        .pool_idle_timeout(shared.0.idle)
        .pool_timer(TokioTimer::new());
    let worker = Arc::new(Worker {
        client: client.build(connector.clone()),
        grpc: client.http2_only(true).build(connector),
        shared,
    });
    let (plain, secure) = (
        listen(worker.shared.0.http)?,
        listen(worker.shared.0.https)?,
    );
    tokio::spawn(accept(plain, Arc::clone(&worker), None));
    tokio::spawn(accept(secure, Arc::clone(&worker), Some(tls.into())));
    let mut turn = tokio::time::interval(common::LOG_INTERVAL);
    loop {
        turn.tick().await;
        worker.shared.0.log.flush();
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept(listener: TcpListener, worker: Arc<Worker>, tls: Option<TlsAcceptor>) {
    let mut h1 = http1::Builder::new();
    h1.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let mut h2 = http2::Builder::new(TokioExecutor::new());
    h2.timer(TokioTimer::new()).max_concurrent_streams(128);
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let port = stream.local_addr().map_or(0, |address| address.port());
        let origin = Origin {
            tls: tls.is_some(),
            client: address.ip(),
            port,
        };
        let (worker, h1, h2, tls) = (Arc::clone(&worker), h1.clone(), h2.clone(), tls.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(request, Arc::clone(&worker), origin));
            // A client that goes away ends its connection and nothing else.
            let Some(tls) = tls else {
                let _ = h1
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
                return;
            };
            let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)).await
            else {
                return;
            };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let _ = h2.serve_connection(TokioIo::new(stream), service).await;
            } else {
                let _ = h1
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            }
        });
    }
}

async fn handle(
    mut request: Request<Incoming>,
    worker: Arc<Worker>,
    origin: Origin,
) -> Result<Response<Outgoing>> {
    let host = match (
        request.headers().get(header::HOST),
        request.uri().authority(),
    ) {
        (Some(host), _) => host.clone(),
        (None, Some(authority)) => HeaderValue::from_str(authority.as_str())?,
        (None, None) => HeaderValue::from_static(""),
    };
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut entry = Entry {
        worker: Arc::clone(&worker),
        client: origin.client,
        method: request.method().clone(),
        path: path.clone(),
        version: request.version(),
        host: host.clone(),
        headers: HeaderMap::with_capacity(2),
        status: StatusCode::FORBIDDEN,
        backend: None,
    };
    for name in [header::USER_AGENT, header::REFERER] {
        if let Some(value) = request.headers().get(&name) {
            entry.headers.insert(name, value.clone());
        }
    }
    if !entry.headers.contains_key(header::USER_AGENT) {
        return Ok(answer(entry));
    }
    let backend = worker.shared.1.find(host.to_str().unwrap_or_default());
    entry.backend = Some(backend.address.clone());
    let gzip = request
        .headers()
        .get(header::ACCEPT_ENCODING)
        .is_some_and(|value| value.to_str().is_ok_and(|value| value.contains("gzip")));
    let upgrade = request
        .headers()
        .get(header::UPGRADE)
        .filter(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        .cloned();
    let from_client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));

    *request.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(backend.address.clone())
        .path_and_query(path.clone())
        .build()?;
    edit_request(
        request.headers_mut(),
        host,
        path,
        upgrade,
        backend.grpc,
        origin,
    )?;
    let sent = if backend.grpc {
        *request.version_mut() = Version::HTTP_2;
        worker.grpc.request(request).await
    } else {
        *request.version_mut() = Version::HTTP_11;
        worker.client.request(request).await
    };
    let Ok(mut response) = sent else {
        entry.status = StatusCode::BAD_GATEWAY;
        return Ok(answer(entry));
    };
    entry.status = response.status();
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(from_client)) = (response.status(), from_client) {
        let from_backend = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(from_client, from_backend));
    } else {
        remove_hop_by_hop(response.headers_mut());
    }
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    edit_response(&mut parts.headers, origin.tls);
    let encoder = (gzip && compressible(&parts.headers, &body)).then(|| {
        parts.headers.remove(header::CONTENT_LENGTH);
        parts
            .headers
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts
            .headers
            .append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        GzEncoder::new(Vec::new(), Compression::new(common::GZIP_LEVEL))
    });
    Ok(Response::from_parts(
        parts,
        Outgoing {
            body: Some(body),
            encoder,
            entry,
            bytes: 0,
        },
    ))
}

fn edit_request(
    headers: &mut HeaderMap,
    host: HeaderValue,
    path: PathAndQuery,
    upgrade: Option<HeaderValue>,
    grpc: bool,
    origin: Origin,
) -> Result<()> {
    remove_hop_by_hop(headers);
    for name in &common::TO_DROP {
        headers.remove(name);
    }
    headers.insert(common::X_FORWARDED_PROTO, common::scheme(origin.tls));
    headers.insert(common::X_FORWARDED_HOST, host.clone());
    headers.insert(common::X_FORWARDED_PORT, HeaderValue::from(origin.port));
    headers.insert(
        common::X_ORIGINAL_URI,
        HeaderValue::from_str(path.as_str())?,
    );
    headers.insert(header::VIA, HeaderValue::from_static("1.1 hyper"));
    headers.insert(header::HOST, host);
    if grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    Ok(())
}

fn edit_response(headers: &mut HeaderMap, tls: bool) {
    if tls {
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            common::TRANSPORT_SECURITY,
        );
    } else {
        headers.remove(header::STRICT_TRANSPORT_SECURITY);
    }
    for (name, value) in [common::CLACKS, common::PERMISSIONS] {
        headers.insert(name, value);
    }
}

/// The connection's own fields, and those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(value) = headers.get(header::CONNECTION).cloned() {
        for name in value.to_str().unwrap_or_default().split(',') {
            if let Ok(name) = name.trim().parse::<HeaderName>() {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn compressible(headers: &HeaderMap, body: &Incoming) -> bool {
    let json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    json && !headers.contains_key(header::CONTENT_ENCODING)
        && body
            .size_hint()
            .upper()
            .is_none_or(|size| size >= GZIP_MIN_BYTES)
}

async fn tunnel(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    if let (Ok(client), Ok(backend)) = (client.await, backend.await) {
        let _ =
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend))
                .await;
    }
}

/// An answer of the proxy's own, without a body.
fn answer(entry: Entry) -> Response<Outgoing> {
    let status = entry.status;
    let mut response = Response::new(Outgoing {
        body: None,
        encoder: None,
        entry,
        bytes: 0,
    });
    *response.status_mut() = status;
    response
}

/// The body to the client; its end is the end of the request, which is then logged.
struct Outgoing {
    body: Option<Incoming>,
    encoder: Option<GzEncoder<Vec<u8>>>,
    entry: Entry,
    bytes: u64,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        loop {
            let Some(body) = &mut self.body else {
                return Poll::Ready(None);
            };
            let frame = match std::task::ready!(Pin::new(body).poll_frame(context)).transpose()? {
                Some(frame) => frame,
                None => {
                    self.body = None;
                    match self.encoder.take() {
                        Some(encoder) => Frame::data(encoder.finish()?.into()),
                        None => return Poll::Ready(None),
                    }
                }
            };
            let frame = match (&mut self.encoder, frame.into_data()) {
                (Some(encoder), Ok(data)) => {
                    encoder.write_all(&data)?;
                    Frame::data(std::mem::take(encoder.get_mut()).into())
                }
                (None, Ok(data)) => Frame::data(data),
                (_, Err(trailers)) => trailers,
            };
            let Some(data) = frame.data_ref() else {
                return Poll::Ready(Some(Ok(frame)));
            };
            if !data.is_empty() {
                self.bytes += data.len() as u64;
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.encoder) {
            (None, None) => SizeHint::with_exact(0),
            (Some(body), None) => body.size_hint(),
            (_, Some(_)) => SizeHint::default(),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let entry = &self.entry;
        entry.worker.shared.0.log.write(&Line {
            host: entry.host.to_str().unwrap_or("-"),
            client: entry.client,
            request: format_args!("{} {} {:?}", entry.method, entry.path, entry.version),
            status: entry.status.as_u16(),
            bytes: self.bytes,
            headers: &entry.headers,
            backend: entry.backend.as_ref(),
        });
    }
}

/// What the access log will say.
struct Entry {
    worker: Arc<Worker>,
    client: IpAddr,
    method: Method,
    path: PathAndQuery,
    version: Version,
    host: HeaderValue,
    headers: HeaderMap,
    status: StatusCode,
    backend: Option<Authority>,
}
