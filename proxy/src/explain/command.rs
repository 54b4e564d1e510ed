//! `portico explain`: the question from the command line, answered offline or by the portico that
//! serves.
//!
//! Offline is what a start would have right now: the configuration, the routes from redis or the
//! snapshot on disk, and names as they resolve. What only a running portico knows (nodes, requests in
//! flight) is said to be not known.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Explanation, Question, QuestionError, Seen, State, explain_seen};
use crate::registry::{self, RegistryError, Source};
use crate::start::{self, Prepared, StartError};
use crate::upstream::resolve::Resolver;

/// How long the running portico may take to answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of its answer.
const MAX_ANSWER: usize = 4 << 20;
/// How long the names of one request may take to resolve.
const RESOLVE: Duration = Duration::from_secs(10);
/// Between two looks whether they have.
const RESOLVE_POLL: Duration = Duration::from_millis(20);

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The question is none.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No routes.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The running portico cannot be asked.
    #[error("cannot ask portico at {address}: {reason}")]
    Admin {
        /// As given.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// Standard output is gone, or no runtime can be had.
    #[error("cannot explain")]
    Io(#[from] io::Error),
}

/// How the question is answered.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// JSON in place of text.
    pub json: bool,
    /// Only the snapshot on disk, not redis.
    pub from_snapshot: bool,
    /// Ask the portico with this admin address: `host:port` or `unix:/path`.
    pub admin: Option<&'a str>,
}

/// Answers the question on `out`. `config`: the configuration file, for an answer offline.
///
/// # Errors
/// [`ExplainError`]
pub fn run(
    config: &Path,
    question: &Question,
    how: How<'_>,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    if let Some(address) = how.admin {
        question.check()?;
        let answer = runtime.block_on(ask(address, question, how.json))?;
        return Ok(out.write_all(answer.as_bytes())?);
    }
    let prepared = start::prepare(config)?;
    let explanation = runtime.block_on(offline(&prepared, question, how))?;
    if how.json {
        serde_json::to_writer_pretty(&mut *out, &explanation).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{explanation}")?;
    }
    Ok(())
}

async fn offline(
    prepared: &Prepared,
    question: &Question,
    how: How<'_>,
) -> Result<Explanation, ExplainError> {
    question.check()?;
    let process = &prepared.process;
    let snapshot = process.snapshot.load_full();
    let mut notes = Vec::new();
    if let Some(config) = &snapshot.config.registry {
        let table = Arc::clone(&process.table);
        let source = match how.from_snapshot {
            true => registry::load_snapshot(config, &table, &prepared.admit()).await?,
            false => registry::load_into(config, table, prepared.admit()).await?,
        };
        notes.push(match source {
            Source::Redis => "The routes are those of redis, as they are now.".to_owned(),
            Source::Snapshot(written) if how.from_snapshot => format!(
                "The routes are those of the snapshot of {}.",
                httpdate::fmt_http_date(written)
            ),
            source => format!("The routes are from {source}."),
        });
    }
    let mut explanation = explain_seen(process, question, Seen::Offline)?;
    let names = unresolved(&explanation);
    if !names.is_empty() {
        resolve(&process.resolver, &names).await;
        explanation = explain_seen(process, question, Seen::Offline)?;
    }
    explanation.notes.extend(notes);
    Ok(explanation)
}

/// Tries to resolve names, as the portico that serves has done. What is not resolved by the end
/// stays unresolved.
async fn resolve(resolver: &Resolver, names: &[String]) {
    for name in names {
        resolver.want(name);
    }
    let tried = async {
        let is_tried = |name: &String| {
            let known = resolver.peek(name);
            known.failing || !known.addresses.is_empty()
        };
        while !names.iter().all(is_tried) {
            tokio::time::sleep(RESOLVE_POLL).await;
        }
    };
    let both = async {
        tokio::select! {
            () = resolver.run() => {}
            () = tried => {}
        }
    };
    let _ = timeout(RESOLVE, both).await;
}

/// The names, without their ports, that have no address yet.
fn unresolved(explanation: &Explanation) -> Vec<String> {
    let backend = explanation.backend.iter();
    let addresses = backend.flat_map(|backend| &backend.addresses);
    addresses
        .filter(|address| address.state == State::Unresolved)
        .filter_map(|address| address.name.rsplit_once(':'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

async fn ask(address: &str, question: &Question, json: bool) -> Result<String, ExplainError> {
    let failed = |reason: String| ExplainError::Admin {
        address: address.to_owned(),
        reason,
    };
    let asking = async {
        match address.strip_prefix("unix:") {
            Some(path) => exchange(UnixStream::connect(path).await?, question, json).await,
            None => {
                let address = address.strip_prefix("http://").unwrap_or(address);
                let address = address.trim_end_matches('/');
                exchange(TcpStream::connect(address).await?, question, json).await
            }
        }
    };
    match timeout(ADMIN_TIMEOUT, asking).await {
        Ok(Ok((200, answer))) => Ok(answer),
        Ok(Ok((status, answer))) => Err(failed(format!("it answers {status}: {}", answer.trim()))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => {
            let seconds = ADMIN_TIMEOUT.as_secs();
            Err(failed(format!("no answer within {seconds} s")))
        }
    }
}

async fn exchange<S>(stream: S, question: &Question, json: bool) -> io::Result<(u16, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::task::spawn_local(connection);
    let accept = match json {
        true => "application/json",
        false => "text/plain",
    };
    let request = Request::get(format!("/explain?{}", question.to_query()))
        .header("Host", "localhost")
        .header("Accept", accept)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    let body = body.map_err(io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
