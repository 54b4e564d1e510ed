//! What all connections to redis and to sentinels have in common: how a client is set up, and how
//! a server says what it is.
//!
//! Connects to nothing; `link.rs` and `sentinel.rs` do. No error from here holds a password.

use portico_config::Credentials;
use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    Value,
};

use super::link_error::{LinkError, sentence};

/// A client of a server; connects to nothing yet.
pub(super) fn client(
    server: ConnectionAddr,
    settings: RedisConnectionInfo,
) -> Result<Client, LinkError> {
    let info = server.into_connection_info().map_err(bad_url)?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
    Client::open(info).map_err(bad_url)
}

/// What every connection to redis has in common.
pub(super) fn spoken(settings: RedisConnectionInfo) -> RedisConnectionInfo {
    settings
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("portico", env!("CARGO_PKG_VERSION"))
}

/// The error of a URL or of settings that cannot be used.
pub(super) fn bad_url(error: RedisError) -> LinkError {
    LinkError::Redis(sentence(&error, None))
}

/// An answer without the password, should a server quote it in a refusal.
pub(super) fn hidden(answer: Value, password: Option<&str>) -> Value {
    let (Value::ServerError(error), Some(password)) = (&answer, password) else {
        return answer;
    };
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    if password.is_empty() || !text.contains(password) {
        return answer;
    }
    let line = format!("-{}\r\n", text.replace(password, "***"));
    redis::parse_redis_value(line.as_bytes()).unwrap_or(Value::Nil)
}

/// User and password into `settings`.
pub(super) fn authenticated(
    settings: RedisConnectionInfo,
    who: Option<&Credentials>,
) -> RedisConnectionInfo {
    let Some(Credentials { user, password }) = who else {
        return settings;
    };
    let settings = settings.set_password(password);
    match user {
        Some(user) => settings.set_username(user),
        None => settings,
    }
}

/// A server at a host and a port.
pub(super) fn server(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    let host = host.to_owned();
    if tls {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// The role of a server, by its answer to HELLO in either protocol: "master" or "replica".
pub(super) fn role(answer: &Value) -> Option<&str> {
    match answer {
        Value::Map(pairs) => {
            let (_, role) = pairs.iter().find(|(key, _)| text(key) == Some("role"))?;
            text(role)
        }
        Value::Array(flat) => {
            let key = flat
                .iter()
                .step_by(2)
                .position(|key| text(key) == Some("role"))?;
            text(flat.get(key * 2 + 1)?)
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_hidden(line: &str, password: &str, expected: &str) {
        let answer = redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap();
        let said = match hidden(answer, Some(password)) {
            Value::ServerError(error) => {
                format!("{} {}", error.code(), error.details().unwrap_or_default())
            }
            other => format!("{other:?}"),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn a_refusal_that_quotes_the_password_does_not_make_it_known() {
        check_hidden("-ERR no hunter2 here", "hunter2", "ERR no *** here");
        check_hidden("-hunter2", "hunter2", "*** ");
        check_hidden("-ERR no", "hunter2", "ERR no");
        check_hidden("-ERR no", "", "ERR no");
        check_hidden("+hunter2", "hunter2", "simple-string(\"hunter2\")");
    }

    #[track_caller]
    fn check_role(resp: &str, expected: Option<&str>) {
        let answer = redis::parse_redis_value(resp.as_bytes()).unwrap();
        assert_eq!(role(&answer), expected);
    }

    #[test]
    fn hello_tells_the_role() {
        let replica = "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nrole\r\n$7\r\nreplica\r\n";
        check_role(replica, Some("replica"));
        check_role("%1\r\n+role\r\n+master\r\n", Some("master"));
        check_role("%1\r\n+role\r\n:1\r\n", None);
        check_role("%1\r\n+mode\r\n+sentinel\r\n", None);
        check_role("*4\r\n+role\r\n+x\r\n+role\r\n+y\r\n", Some("x"));
        check_role(
            "*4\r\n+mode\r\n+role\r\n+role\r\n+replica\r\n",
            Some("replica"),
        );
        check_role("*3\r\n+mode\r\n+role\r\n+role\r\n", None);
        check_role("-NOPROTO no\r\n", None);
    }
}
