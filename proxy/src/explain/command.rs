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

use tokio::time::timeout;

use super::{Explanation, Question, QuestionError, Seen, State, explain_seen};
use crate::ask::{AskError, Page, ask};
use crate::registry::{self, RegistryError, Source};
use crate::start::{self, Prepared, StartError};
use crate::upstream::resolve::Resolver;

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
    #[error(transparent)]
    Admin(#[from] AskError),
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
        let target = format!("/explain?{}", question.to_query());
        let answer = runtime.block_on(ask(address, Page::get(&target, how.json)))?;
        return Ok(out.write_all(&answer)?);
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
