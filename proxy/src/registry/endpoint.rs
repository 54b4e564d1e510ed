//! Where redis is: the URL of the configuration, and how to say it in a log.

use portico_config::SecretUrl;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisError};

use super::link_error::{LinkError, sentence};

/// Where redis is, and how to say so in a log.
pub(super) struct Endpoint {
    pub(super) client: Client,
    /// Host and port, or socket path, and the database: never the password.
    pub(super) address: String,
    pub(super) password: Option<String>,
}

impl Endpoint {
    /// Understands `redis://`, `rediss://` and `unix://` URLs. The error is the reason alone.
    pub(super) fn new(url: &SecretUrl) -> Result<Self, LinkError> {
        let bad = |error: RedisError| LinkError::Redis(sentence(&error, None));
        // An error about the URL as a whole might quote it; those of the redis crate do not, and a
        // test holds them to it.
        let info = url.expose().into_connection_info().map_err(bad)?;
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("portico", env!("CARGO_PKG_VERSION"));
        let password = settings.password().map(str::to_owned);
        let address = format!("{}/{}", info.addr(), settings.db());
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = Client::open(info).map_err(bad)?;
        Ok(Self {
            client,
            address,
            password,
        })
    }
}

/// Host and port of a URL; `None` for a unix socket, and for what is no URL of redis.
pub(super) fn server_address(url: &SecretUrl) -> Option<(String, u16)> {
    match url.expose().into_connection_info().ok()?.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_url(url: &str, address: Option<&str>) {
        match Endpoint::new(&SecretUrl::new(url)) {
            Ok(endpoint) => assert_eq!(Some(endpoint.address.as_str()), address),
            Err(error) => {
                assert_eq!(None, address, "{error}");
                assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }
    }

    #[track_caller]
    fn check_server(url: &str, expected: Option<(&str, u16)>) {
        let got = server_address(&SecretUrl::new(url));
        assert_eq!(
            got.as_ref().map(|(host, port)| (host.as_str(), *port)),
            expected
        );
    }

    #[test]
    fn the_server_of_a_url_is_known() {
        check_server(
            "redis://:hunter2@127.0.0.1:6380/1",
            Some(("127.0.0.1", 6380)),
        );
        check_server("rediss://redis.example", Some(("redis.example", 6379)));
        check_server("unix:///run/redis.sock", None);
        check_server("nonsense", None);
    }

    #[test]
    fn addresses_are_shown_without_the_password() {
        check_url("redis://127.0.0.1:6379/0", Some("127.0.0.1:6379/0"));
        check_url(
            "redis://:hunter2@redis.example:6380/3",
            Some("redis.example:6380/3"),
        );
        check_url(
            "redis://user:hunter2@redis.example",
            Some("redis.example:6379/0"),
        );
        check_url(
            "unix:///run/redis.sock?db=2&pass=hunter2",
            Some("/run/redis.sock/2"),
        );
        check_url("http://:hunter2@redis.example", None);
        check_url("redis://:hunter2@redis.example/hunter2", None);
        check_url("redis://:hunter2@redis.example:99999", None);
        check_url("hunter2", None);
    }
}
