//! Asks the portico that serves, at its administration: what `--admin` is for.
//!
//! One request a connection, HTTP/1.1 over TCP or a unix socket. Does not know the pages, and does
//! not retry: who asks is a person or a script, and is told why there is no answer.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::terminal::visible;

/// Bytes of an ordinary answer: a page of routes has 4 MiB and the tool that filled it.
const MAX_ANSWER: usize = 16 << 20;
/// How long an ordinary answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers, or not as portico does.
    #[error("cannot ask portico at {address}: {reason}")]
    Failed {
        /// Who was asked.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// It answers with a refusal.
    #[error("portico at {address} answers {status}: {reason}")]
    Refused {
        /// Who was asked.
        address: String,
        /// The status of the answer.
        status: u16,
        /// Its text.
        reason: String,
    },
}

/// A page to ask for.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// GET unless said otherwise.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// The form, as in Accept.
    pub accept: &'a str,
    /// Bytes of the answer at most.
    pub max_bytes: usize,
    /// How long all of it may take.
    pub limit: Duration,
}

impl<'a> Page<'a> {
    /// A page as JSON or else as text, of ordinary size.
    pub fn get(target: &'a str, json: bool) -> Self {
        Self {
            method: &Method::GET,
            target,
            accept: if json {
                "application/json"
            } else {
                "text/plain"
            },
            max_bytes: MAX_ANSWER,
            limit: ANSWER_LIMIT,
        }
    }
}

/// The body of the page at `address`, `host:port` or `unix:/path`.
///
/// # Errors
/// [`AskError`]: also for every status but 200.
pub async fn ask(address: &str, page: Page<'_>) -> Result<Bytes, AskError> {
    let failed = |reason: String| AskError::Failed {
        address: address.to_owned(),
        reason,
    };
    let asking = async {
        match address.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path).await.map_err(nobody)?;
                exchange(stream, page).await
            }
            None => {
                let address = address.strip_prefix("http://").unwrap_or(address);
                let address = address.trim_end_matches('/');
                let stream = TcpStream::connect(address).await.map_err(nobody)?;
                exchange(stream, page).await
            }
        }
    };
    match timeout(page.limit, asking).await {
        Ok(Ok((StatusCode::OK, answer))) => Ok(answer),
        Ok(Ok((status, answer))) => Err(AskError::Refused {
            address: address.to_owned(),
            status: status.as_u16(),
            reason: shown(&answer),
        }),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => {
            let seconds = page.limit.as_secs();
            Err(failed(format!("no answer within {seconds} s")))
        }
    }
}

/// Text of the other side, whoever that is, for a terminal.
fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let lines: Vec<String> = text.trim().lines().map(visible).collect();
    lines.join("\n")
}

fn nobody(error: io::Error) -> io::Error {
    let text = format!("{error}; does it run, and is that its listen.admin?");
    io::Error::new(error.kind(), text)
}

async fn exchange<S>(stream: S, page: Page<'_>) -> io::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::task::spawn_local(connection);
    let request = Request::builder()
        .method(page.method)
        .uri(page.target)
        .header("Host", "localhost")
        .header("Accept", page.accept)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), page.max_bytes)
        .collect()
        .await;
    driver.abort();
    Ok((status, body.map_err(io::Error::other)?.to_bytes()))
}
