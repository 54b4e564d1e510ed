//! Why a connection to redis is of no use, in a sentence without the password.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerError};

/// Longest text of an error of redis that is passed on.
const MAX_ERROR_CHARS: usize = 200;

/// Why the connection is of no use any more. Never holds the password.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum LinkError {
    #[error("{0}")]
    Redis(String),
    #[error("it did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error(
        "it does not allow CLIENT TRACKING ({0}); portico needs redis 6 or later and a user that may run it"
    )]
    Tracking(String),
    #[error("it gave an answer to {0} that makes no sense")]
    Answer(&'static str),
    #[error("it closed the connection")]
    Closed,
    #[error("sentinels name another master by now: {0}")]
    Moved(String),
}

pub(super) fn refused(error: &ServerError) -> LinkError {
    LinkError::Redis(server_sentence(error))
}

pub(super) fn server_sentence(error: &ServerError) -> String {
    bounded(&format!(
        "{} {}",
        error.code(),
        error.details().unwrap_or_default()
    ))
}

pub(super) fn link_error(error: &RedisError, password: Option<&str>, limit: Duration) -> LinkError {
    if error.is_timeout() {
        LinkError::Timeout(limit)
    } else {
        LinkError::Redis(sentence(error, password))
    }
}

/// The error in one line without the password, should redis or the client ever quote it.
pub(super) fn sentence(error: &RedisError, password: Option<&str>) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::RESP3NotSupported, _) => {
            "it does not speak RESP3; portico needs redis 6 or later".into()
        }
        (ErrorKind::Parse, _) => "it does not speak the protocol of redis".into(),
        (_, Some("NOAUTH")) => "it wants a password and registry.url has none".into(),
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            "it refuses the user or the password of registry.url".into()
        }
        (kind, _) => {
            // The client's own mistakes read "what - KindOfError".
            let text = error.to_string().replace(&format!(" - {kind:?}"), "");
            match password {
                Some(password) if !password.is_empty() => bounded(&text.replace(password, "***")),
                _ => bounded(&text),
            }
        }
    }
}

fn bounded(text: &str) -> String {
    let visible = text.chars().filter(|c| !c.is_control());
    let mut text: String = visible.take(MAX_ERROR_CHARS).collect();
    text.truncate(text.trim_end().len());
    text
}
