//! Why a connection to redis is of no use, in a sentence without the password.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerError};

/// Longest text of an error of redis that is passed on.
const MAX_ERROR_CHARS: usize = 200;

const NO_PASSWORD: &str = "it wants a password and registry.url has none";

/// Why the connection is of no use any more. Never holds the password.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum LinkError {
    #[error("{0}")]
    Redis(String),
    #[error("it did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error(
        "the user of registry.url lacks a right ({0}); it needs +ping +scan +exists +hgetall +dbsize \
         +memory|usage ~prefix:* ~redirect:*, and +client|tracking to be told of changes"
    )]
    Right(String),
    #[error("it gave an answer to {0} that makes no sense")]
    Answer(&'static str),
    #[error("it closed the connection")]
    Closed,
    #[error(
        "it closed the connection before its first answer; it may have no room for more clients (maxclients), be in \
         protected mode, or be no redis"
    )]
    Unwelcome,
    #[error("sentinels name another master by now: {0}")]
    Moved(String),
}

/// For an answer without which nothing works.
pub(super) fn refused(error: &ServerError) -> LinkError {
    match error.code() {
        "NOPERM" => LinkError::Right(server_sentence(error)),
        "NOAUTH" => LinkError::Redis(NO_PASSWORD.into()),
        _ => LinkError::Redis(server_sentence(error)),
    }
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
    } else if closed(error) {
        LinkError::Closed
    } else {
        LinkError::Redis(sentence(error, password))
    }
}

/// As [`link_error`] of an attempt to connect: redis says why it closes, and the client does not
/// pass it on.
pub(super) fn connect_error(
    error: &RedisError,
    password: Option<&str>,
    limit: Duration,
) -> LinkError {
    match link_error(error, password, limit) {
        LinkError::Closed => LinkError::Unwelcome,
        other => other,
    }
}

/// The same event has many names, by what the client was about.
fn closed(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal()
}

/// The error in one line without the password, should redis or the client ever quote it.
pub(super) fn sentence(error: &RedisError, password: Option<&str>) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Parse, _) => "it does not speak the protocol of redis".into(),
        (_, Some("NOAUTH")) => NO_PASSWORD.into(),
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

pub(super) fn bounded(text: &str) -> String {
    let visible = text.chars().filter(|c| !c.is_control());
    let mut text: String = visible.take(MAX_ERROR_CHARS).collect();
    text.truncate(text.trim_end().len());
    text
}
