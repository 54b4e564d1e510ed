//! `portico demo`: all of portico on loopback in one command, with nothing to set up.
//!
//! A certificate of its own, two sample tools and an ingress of two nodes as small HTTP servers, an embedded
//! configuration, and curl lines to paste. Names under `.localhost` lead to loopback (RFC 6761
//! section 6.3) for curl and browsers alike.
//!
//! Not for production, and not a second way to start: it goes through `start` and `run`
//! like everything else.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::logging;
use crate::run::{self, RunError};
use crate::start::{self, StartError};

/// The domain under which the demo's tools live.
const DOMAIN: &str = "demo.localhost";

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// As `portico run`.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The port has no two successors, or is 0.
    #[error(
        "--port must be between 1 and 65533: plain HTTP uses the next one, the administration the one after it"
    )]
    Port,
    /// The certificate cannot be made.
    #[error("cannot make the demo's certificate")]
    Certificate(#[from] rcgen::Error),
    /// The system refuses.
    #[error("cannot set the demo up")]
    System(#[from] io::Error),
}

/// A sample web service.
#[derive(Debug, Clone, Copy)]
enum Sample {
    /// Greets.
    Hello,
    /// Shows the request as it reached the tool.
    Echo,
    /// Stands for a node of the platform's ingress: knows one tool, answers 404 to the rest.
    Ingress(u8),
}

/// Serves the demo until SIGTERM or SIGINT.
///
/// # Errors
/// [`DemoError`]
pub fn demo(port: u16) -> Result<(), DemoError> {
    if !(1..=u16::MAX - 2).contains(&port) {
        return Err(DemoError::Port);
    }
    let (http_port, admin_port) = (port + 1, port + 2);
    let directory = Directory::create()?;
    write_certificate(&directory.0)?;
    let text = configuration(
        [port, http_port, admin_port],
        &directory.0,
        [
            Sample::Hello,
            Sample::Echo,
            Sample::Ingress(1),
            Sample::Ingress(2),
        ]
        .map(start_sample),
    )?;
    let loaded = portico_config::parse("demo", &text).map_err(StartError::from);
    let loaded = loaded.map_err(RunError::from)?;
    let prepared = start::prepare_config(loaded.config, Vec::new()).map_err(RunError::from)?;
    logging::init(portico_config::LogLevel::Warn);
    let certificate = directory.0.join("cert.pem");
    let node = (prepared.process.snapshot.load())
        .config
        .pools
        .get("ingress")
        .and_then(|pool| pool.nodes.first())
        .map(|node| node.address.to_string());
    let node = node.unwrap_or_default();
    run::serve(prepared, None, |_| {
        let _ = write_lines(
            &mut io::stdout().lock(),
            [port, http_port, admin_port],
            &certificate,
            &node,
        );
    })?;
    Ok(())
}

fn configuration(
    [port, http_port, admin_port]: [u16; 3],
    directory: &Path,
    samples: [io::Result<SocketAddr>; 4],
) -> io::Result<String> {
    let [hello, echo, first, second] = samples;
    let (hello, echo, first, second) = (hello?, echo?, first?, second?);
    let directory = directory.display();
    Ok(format!(
        r#"
[server]
drain = "5s"

[listen]
http = ["127.0.0.1:{http_port}"]
https = ["127.0.0.1:{port}"]
admin = "127.0.0.1:{admin_port}"

[tls]
certificates = [{{ chain = "{directory}/cert.pem", key = "{directory}/key.pem" }}]

[domains]
canonical = "{DOMAIN}"

[routes]
hello = "http://{hello}"
echo = "http://{echo}"
broken = "http://127.0.0.1:1"

[pools.ingress]
nodes = ["{first}", "{second}"]
check = {{ kind = "http", path = "/healthz" }}

[limits]
connections = 1000
"#
    ))
}

fn write_lines(
    out: &mut dyn Write,
    [port, http_port, admin_port]: [u16; 3],
    certificate: &Path,
    node: &str,
) -> io::Result<()> {
    let curl = format!("curl --cacert {}", certificate.display());
    let https = |tool: &str, path: &str| format!("https://{tool}.{DOMAIN}:{port}{path}");
    let admin = format!("http://127.0.0.1:{admin_port}");
    writeln!(
        out,
        "portico serves a demo on https://*.{DOMAIN}:{port}. Paste these into another terminal:\n"
    )?;
    let lines = [
        (
            "a tool with a route",
            format!("{curl} {}", https("hello", "/")),
        ),
        (
            "what a tool gets to see",
            // Quoted: some shells take the question mark for a pattern.
            format!("{curl} '{}'", https("echo", "/a/b?c=d")),
        ),
        (
            "an upload",
            format!(
                "{curl} --data-binary 'some bytes' {}",
                https("echo", "/upload")
            ),
        ),
        (
            "a tool without a route: the ingress has it, whose two nodes take turns",
            format!("{curl} {0} {0}", https("on-kubernetes", "/")),
        ),
        (
            "take the first of the two out: the other one answers. See /pools below",
            format!("curl --request POST '{admin}/pools/drain?pool=ingress&node={node}'"),
        ),
        (
            "nobody's tool: the ingress says 404",
            format!("{curl} {}", https("nobody", "/")),
        ),
        (
            "a tool whose web service is down",
            format!("{curl} {}", https("broken", "/")),
        ),
        (
            "a default robots.txt",
            format!("{curl} {}", https("hello", "/robots.txt")),
        ),
        (
            "refused: no user agent",
            format!("{curl} --user-agent '' {}", https("hello", "/")),
        ),
        (
            "portico's own health",
            format!("{curl} {}", https("hello", "/.well-known/healthz")),
        ),
        (
            "plain HTTP is sent to HTTPS",
            format!("curl --head http://hello.{DOMAIN}:{http_port}/"),
        ),
        (
            "the nodes of the ingress; `ready` in place of `drain` brings the first one back",
            format!("curl '{admin}/pools?format=text'"),
        ),
        (
            "what portico knows of itself, for you alone; more pages are listed at /",
            format!("curl '{admin}/status?format=text'"),
        ),
    ];
    for (what, line) in lines {
        writeln!(out, "# {what}\n{line}\n")?;
    }
    writeln!(out, "Stop with Ctrl-C.")?;
    out.flush()
}

fn write_certificate(directory: &Path) -> Result<(), DemoError> {
    let names = vec![DOMAIN.to_owned(), format!("*.{DOMAIN}")];
    let made = rcgen::generate_simple_self_signed(names)?;
    std::fs::write(directory.join("cert.pem"), made.cert.pem())?;
    write_secret(
        &directory.join("key.pem"),
        &made.signing_key.serialize_pem(),
    )?;
    Ok(())
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// A directory for the certificate, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn create() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("portico-demo-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a sample on a thread of its own and a port of the system's choice.
fn start_sample(sample: Sample) -> io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("sample".to_owned())
        .spawn(move || runtime.block_on(serve_sample(sample, socket)))?;
    Ok(address)
}

async fn serve_sample(sample: Sample, socket: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service =
                service_fn(
                    move |request| async move { Ok::<_, Infallible>(answer(sample, &request)) },
                );
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(sample: Sample, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let host = request
        .headers()
        .get("host")
        .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
        .unwrap_or_default();
    let (status, text) = match sample {
        _ if matches!(path, "/robots.txt" | "/favicon.ico") => {
            (StatusCode::NOT_FOUND, "no such file\n".to_owned())
        }
        Sample::Hello => (StatusCode::OK, format!("Hello from the tool at {host}\n")),
        Sample::Echo => (StatusCode::OK, head_of(request)),
        Sample::Ingress(_) if path == "/healthz" => (StatusCode::OK, "healthy\n".to_owned()),
        Sample::Ingress(node) if host.starts_with("on-kubernetes.") => (
            StatusCode::OK,
            format!("Hello from node {node} of Kubernetes at {host}\n"),
        ),
        Sample::Ingress(_) => (
            StatusCode::NOT_FOUND,
            format!("The URL you have requested, http://{host}{path}, is not of any tool\n"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn head_of(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    text
}
