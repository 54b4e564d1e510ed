//! A reverse proxy as one writes it with pingora: its HTTP proxy service with rustls, and callbacks for what a peer has to do.
//!
//! It does what `checks.check` asks of a peer. It has no limits beyond pingora's own, no error pages, no metrics and no
//! reload.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::listeners::tls::TlsSettings;
use pingora::modules::http::HttpModules;
use pingora::modules::http::compression::ResponseCompressionBuilder;
use pingora::prelude::{Error, HttpPeer, ProxyHttp, Server, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;

#[path = "../../common.rs"]
mod common;
use common::{Line, Routes, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests at once on one connection to a gRPC backend; one unless told.
const GRPC_STREAMS: usize = 128;

fn main() -> common::Result<()> {
    let (settings, routes) = Settings::parse()?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut server = Server::new_with_opt_and_conf(
        None,
        ServerConf {
            threads: settings.workers,
            work_stealing: settings.workers > 1,
            upstream_keepalive_pool_size: common::UPSTREAM_CONNECTIONS,
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(0),
            ..ServerConf::default()
        },
    );
    server.bootstrap();
    let settings = Arc::new(settings);
    let proxy = Proxy {
        settings: Arc::clone(&settings),
        routes,
    };
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&settings.http.to_string());
    let mut tls = TlsSettings::intermediate(&settings.certificate, &settings.key)?;
    tls.enable_h2();
    service.add_tls_with_settings(&settings.https.to_string(), None, tls);
    server.add_service(service);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(common::LOG_INTERVAL);
            settings.log.flush();
        }
    });
    server.run_forever()
}

struct Proxy {
    settings: Arc<Settings>,
    routes: Routes<SocketAddr>,
}

/// What the callbacks of one request tell each other.
#[derive(Default)]
struct Context {
    backend: Option<SocketAddr>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(ResponseCompressionBuilder::enable(common::GZIP_LEVEL));
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        _: &mut Context,
    ) -> pingora::Result<bool> {
        if session
            .req_header()
            .headers
            .contains_key(header::USER_AGENT)
        {
            return Ok(false);
        }
        session.respond_error(403).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        let backend = self.routes.find(host(session.req_header()));
        context.backend = Some(*backend.address);
        let mut peer = HttpPeer::new(*backend.address, false, String::new());
        peer.options.idle_timeout = Some(self.settings.idle);
        if backend.grpc {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = GRPC_STREAMS;
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut Context,
    ) -> pingora::Result<()> {
        let address = |address: Option<&pingora::protocols::l4::socket::SocketAddr>| {
            address.and_then(|address| address.as_inet()).copied()
        };
        let port = address(session.server_addr()).map_or(0, |address| address.port());
        let host = HeaderValue::from_str(host(session.req_header()))
            .map_err(|_| Error::new_str("host"))?;
        for name in &common::TO_DROP {
            request.remove_header(name);
        }
        request.insert_header(common::X_FORWARDED_PROTO, common::scheme(tls(session)))?;
        request.insert_header(common::X_FORWARDED_HOST, host)?;
        request.insert_header(common::X_FORWARDED_PORT, HeaderValue::from(port))?;
        let path = session
            .req_header()
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        request.insert_header(common::X_ORIGINAL_URI, path)?;
        request.insert_header(header::VIA, HeaderValue::from_static("1.1 pingora"))?;
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _: &mut Context,
    ) -> pingora::Result<()> {
        if tls(session) {
            response.insert_header(
                header::STRICT_TRANSPORT_SECURITY,
                common::TRANSPORT_SECURITY,
            )?;
        } else {
            response.remove_header(&header::STRICT_TRANSPORT_SECURITY);
        }
        for (name, value) in [common::CLACKS, common::PERMISSIONS] {
            response.insert_header(name, value)?;
        }
        Ok(())
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Context) {
        let request = session.req_header();
        let client = session
            .client_addr()
            .and_then(|address| address.as_inet())
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        self.settings.log.write(&Line {
            host: host(request),
            client,
            request: format_args!("{} {} {:?}", request.method, request.uri, request.version),
            status: session
                .response_written()
                .map_or(0, |response| response.status.as_u16()),
            bytes: session.body_bytes_sent() as u64,
            headers: &request.headers,
            backend: context.backend,
        });
    }
}

/// With its port.
fn host(request: &RequestHeader) -> &str {
    let field = request
        .headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    field
        .or_else(|| request.uri.authority().map(|authority| authority.as_str()))
        .unwrap_or_default()
}

fn tls(session: &Session) -> bool {
    session
        .digest()
        .is_some_and(|digest| digest.ssl_digest.is_some())
}
