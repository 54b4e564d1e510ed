//! Where redis is: the URL of the configuration, and how to say it in a log.
//!
//! Behind a URL stands one server, or sentinels that name it (`sentinel.rs`): then the server is
//! found anew for each connection, and one that is no master any more is given up. Does not connect
//! to redis; `link.rs` does.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use portico_config::{SecretUrl, SentinelUrl};
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use tokio::time::{Instant, timeout};

use super::client::{authenticated, bad_url, client, spoken};
use super::link_error::LinkError;
use super::sentinel::{Named, Sentinels, Watch};
use crate::policy::backends::RegistryServers;

/// How often a server that sentinels named is asked whether it is still a master.
const ROLE_INTERVAL: Duration = Duration::from_secs(3);

/// For the addresses of a server that sentinels call by a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where redis is, and how to say so in a log.
pub(super) struct Endpoint {
    server: Server,
    /// Host and port, or socket path, and the database; with Sentinel also who named them. Never a
    /// password.
    pub(super) address: String,
    pub(super) password: Option<String>,
}

enum Server {
    Fixed(Box<Client>),
    Sentinel(Box<ByName>),
}

/// A server that sentinels name.
struct ByName {
    sentinels: Arc<Sentinels>,
    database: u32,
    /// Is told of every server that was named: routes must not point there.
    servers: RegistryServers,
    /// Whether the server of the present connection is still named.
    watch: Option<Watch>,
    next_role: Instant,
}

impl Endpoint {
    /// Understands `redis://`, `rediss://`, `unix://`, `redis+sentinel://` and `rediss+sentinel://`
    /// URLs. The error is the reason alone. `servers` is told where sentinels find redis.
    pub(super) fn new(url: &SecretUrl, servers: &RegistryServers) -> Result<Self, LinkError> {
        match url.sentinel() {
            Some(Ok(url)) => Self::by_name(&url, servers.clone()),
            Some(Err(reason)) => Err(LinkError::Redis(reason)),
            None => Self::fixed(url),
        }
    }

    fn fixed(url: &SecretUrl) -> Result<Self, LinkError> {
        // An error about the URL as a whole might quote it; those of the redis crate do not, and a
        // test holds them to it.
        let info = url.expose().into_connection_info().map_err(bad_url)?;
        let settings = info.redis_settings().clone();
        let password = settings.password().map(str::to_owned);
        let address = format!("{}/{}", info.addr(), settings.db());
        Ok(Self {
            server: Server::Fixed(Box::new(client(info.addr().clone(), spoken(settings))?)),
            address,
            password,
        })
    }

    fn by_name(url: &SentinelUrl, servers: RegistryServers) -> Result<Self, LinkError> {
        let settings = RedisConnectionInfo::default().set_db(url.database.into());
        let settings = spoken(authenticated(settings, url.credentials.as_ref()));
        let sentinels = Arc::new(Sentinels::new(url, settings)?);
        Ok(Self {
            address: format!("master {} by sentinels {}", url.master, sentinels.names()),
            password: url.credentials.as_ref().map(|who| who.password.clone()),
            server: Server::Sentinel(Box::new(ByName {
                sentinels,
                database: url.database,
                servers,
                watch: None,
                next_role: Instant::now(),
            })),
        })
    }

    /// The server to connect to; with Sentinel found anew each time.
    pub(super) async fn find(&mut self) -> Result<Client, LinkError> {
        let by_name = match &mut self.server {
            Server::Fixed(client) => return Ok(Client::clone(client)),
            Server::Sentinel(by_name) => by_name,
        };
        // What was found earlier is not what fails now.
        by_name.watch = None;
        let sentinels = &by_name.sentinels;
        let master = &sentinels.master;
        self.address = format!("master {master} by sentinels {}", sentinels.names());
        let named = sentinels.find().await?;
        let (server, sentinel) = (named.address(), sentinels.namer(&named));
        let database = by_name.database;
        self.address = format!("master {master} ({server}/{database}) by sentinel {sentinel}");
        by_name.note(&named).await;
        let client = sentinels.client(&named)?;
        by_name.watch = Some(Watch::start(Arc::clone(sentinels), named));
        by_name.next_role = Instant::now();
        Ok(client)
    }

    /// Returns when sentinels name another server than that of the open connection, and why that is
    /// of no use then; without Sentinel never.
    pub(super) fn moved(&self) -> impl Future<Output = LinkError> + use<> {
        let moved = match &self.server {
            Server::Fixed(_) => None,
            Server::Sentinel(by_name) => by_name.watch.as_ref().map(Watch::moved),
        };
        async move {
            match moved {
                Some(moved) => moved.await,
                None => pending().await,
            }
        }
    }

    /// Whether to ask the server of the open connection for its role now: every few seconds with
    /// Sentinel, and never without.
    pub(super) fn is_role_due(&mut self) -> bool {
        let now = Instant::now();
        match &mut self.server {
            Server::Sentinel(by_name) if now >= by_name.next_role => {
                by_name.next_role = now + ROLE_INTERVAL;
                true
            }
            _ => false,
        }
    }

    /// Why the open connection is of no use once its server says that it is no master.
    pub(super) fn no_master(&self) -> LinkError {
        let master = match &self.server {
            Server::Sentinel(by_name) => &by_name.sentinels.master,
            Server::Fixed(_) => "",
        };
        LinkError::Redis(format!(
            "it is a replica now: another server becomes the master {master}, and portico goes there"
        ))
    }
}

impl ByName {
    /// Notes the addresses of a server.
    async fn note(&self, named: &Named) {
        let addresses = tokio::net::lookup_host((&*named.host, named.port));
        // A name that cannot be resolved cannot be connected to either.
        if let Ok(Ok(addresses)) = timeout(RESOLVE_TIMEOUT, addresses).await {
            addresses.for_each(|address| self.servers.note(address));
        }
    }
}

/// Hosts and ports of a URL, of redis or of all its sentinels; none for a unix socket, and for what
/// is no URL of redis.
pub(super) fn server_addresses(url: &SecretUrl) -> Vec<(String, u16)> {
    if let Some(url) = url.sentinel() {
        return url.map_or_else(|_| Vec::new(), |url| url.sentinels);
    }
    let info = url.expose().into_connection_info();
    match info.as_ref().map(|info| info.addr()) {
        Ok(ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) => {
            vec![(host.clone(), *port)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The database that is selected at the server, sentinels or not.
    #[track_caller]
    fn check_database(url: &str, database: i64) {
        let endpoint = Endpoint::new(&SecretUrl::new(url), &RegistryServers::default());
        let got = match endpoint.map(|endpoint| endpoint.server) {
            Ok(Server::Fixed(client)) => client.get_connection_info().redis_settings().db(),
            Ok(Server::Sentinel(by_name)) => by_name.sentinels.settings.db(),
            Err(error) => panic!("{url}: {error}"),
        };
        assert_eq!(got, database, "{url}");
    }

    #[test]
    fn the_database_is_that_of_the_url() {
        check_database("redis://192.0.2.1:6379", 0);
        check_database("redis://192.0.2.1:6379/7", 7);
        check_database("unix:///run/redis.sock?db=7", 7);
        check_database("redis+sentinel://192.0.2.1/mymaster", 0);
        check_database("redis+sentinel://192.0.2.1/mymaster/7", 7);
    }

    #[track_caller]
    fn check_url(url: &str, address: Option<&str>) {
        match Endpoint::new(&SecretUrl::new(url), &RegistryServers::default()) {
            Ok(endpoint) => assert_eq!(Some(endpoint.address.as_str()), address),
            Err(error) => {
                assert_eq!(None, address, "{error}");
                assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }
    }

    #[track_caller]
    fn check_servers(url: &str, expected: &[(&str, u16)]) {
        let got = server_addresses(&SecretUrl::new(url));
        let got: Vec<(&str, u16)> = got.iter().map(|(host, port)| (&**host, *port)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn the_server_of_a_url_is_known() {
        check_servers("redis://:hunter2@127.0.0.1:6380/1", &[("127.0.0.1", 6380)]);
        check_servers("rediss://redis.example", &[("redis.example", 6379)]);
        check_servers("unix:///run/redis.sock", &[]);
        check_servers("nonsense", &[]);
        check_servers(
            "redis+sentinel://:hunter2@192.0.2.1,[::1]:1/m",
            &[("192.0.2.1", 26379), ("::1", 1)],
        );
        check_servers("redis+sentinel://192.0.2.1", &[]);
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
        check_url(
            "rediss+sentinel://u:hunter2@a,[::1]:1/m/2?sentinel_user=u&sentinel_password=hunter2",
            Some("master m by sentinels a:26379, [::1]:1"),
        );
        check_url(
            "redis+sentinel://a,b,c,d,e/m",
            Some("master m by sentinels a:26379, b:26379, c:26379, d:26379, ..."),
        );
        check_url("redis+sentinel://hunter2@a/m", None);
        check_url("redis+sentinel://:hunter2@a", None);
        check_url("http://:hunter2@redis.example", None);
        check_url("redis://:hunter2@redis.example/hunter2", None);
        check_url("redis://:hunter2@redis.example:99999", None);
        check_url("hunter2", None);
    }
}
