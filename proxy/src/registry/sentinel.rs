//! Which server is the master, by asking the sentinels.
//!
//! They are asked in turn, beginning with the one that was right last, before each connect; while
//! connected one of them is asked every few seconds whether the master has moved. A server that is
//! named has to say itself that it is a master before it is believed: sentinels that were cut off
//! may be behind. Connects to redis only to ask that; what follows from an answer is up to
//! `endpoint.rs`.
//!
//! Invariants: a sentinel that hangs costs [`ASK_TIMEOUT`]; sentinels that are all away harm
//! nothing while redis itself works; no text from here holds a password.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use portico_config::SentinelUrl;
use portico_routing::backend::Backend;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError,
    ServerError, Value,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::client::{authenticated, client, hidden, role, server};
use super::link_error::{LinkError, link_error, sentence, server_sentence};
use crate::repeats::Repeats;

/// To connect to a sentinel, to authenticate and to hear its answer, together.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// For a server that a sentinel named, to connect, to authenticate and to say what it is.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a sentinel is asked whether the master has moved. In a failover by hand the old master
/// is told only 8 s later, and one that is cut off never.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// So many times in a row no sentinel may answer before the log says so.
const SILENT_ASKS: u32 = 2;

/// Of so many sentinels an error says why they were of no help.
const MAX_REASONS: usize = 4;

/// The sentinels, and what to ask them.
pub(super) struct Sentinels {
    /// The name of the master.
    pub(super) master: String,
    tls: bool,
    sentinels: Vec<Sentinel>,
    /// Index of the one to ask first.
    first: AtomicUsize,
    /// For connections to redis.
    pub(super) settings: RedisConnectionInfo,
}

struct Sentinel {
    /// For messages.
    address: String,
    client: Client,
    password: Option<String>,
}

/// A server that a sentinel named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Index of the sentinel.
    by: usize,
}

impl Named {
    /// For messages.
    pub(super) fn address(&self) -> String {
        shown(&self.host, self.port)
    }

    fn same(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

impl Sentinels {
    /// `settings`: for connections to redis.
    pub(super) fn new(url: &SentinelUrl, settings: RedisConnectionInfo) -> Result<Self, LinkError> {
        let mut sentinels = Vec::with_capacity(url.sentinels.len());
        for (host, port) in &url.sentinels {
            let who = url.sentinel_credentials.as_ref();
            // RESP2: older sentinels know nothing else, and the question needs nothing else.
            let settings = authenticated(RedisConnectionInfo::default(), who);
            sentinels.push(Sentinel {
                address: shown(host, *port),
                client: client(server(host, *port, url.tls), settings)?,
                password: who.map(|who| who.password.clone()),
            });
        }
        Ok(Self {
            master: url.master.clone(),
            tls: url.tls,
            sentinels,
            first: AtomicUsize::new(0),
            settings,
        })
    }

    /// The server that a sentinel names and that says itself that it is a master.
    pub(super) async fn find(&self) -> Result<Named, LinkError> {
        let count = self.sentinels.len();
        let mut reasons = Vec::with_capacity(count);
        let mut of_no_use: Vec<(Named, String)> = Vec::new();
        let mut first = self.first.load(Relaxed);
        let mut asked = 0;
        while asked < count {
            let (named, turns) = self.ask(first, count - asked, &mut reasons).await;
            asked += turns;
            first += turns;
            let Some(named) = named else { break };
            let known = of_no_use.iter().find(|(other, _)| other.same(&named));
            let reason = match known {
                Some((_, reason)) => reason.clone(),
                None => match self.is_master(&named).await {
                    Ok(()) => {
                        self.first.store(named.by, Relaxed);
                        return Ok(named);
                    }
                    Err(reason) => reason,
                },
            };
            let (sentinel, server) = (self.namer(&named), named.address());
            reasons.push(format!("{sentinel}: it names {server}, but {reason}"));
            of_no_use.push((named, reason));
        }
        Err(LinkError::Redis(no_answer(&self.master, reasons)))
    }

    /// Asks `count` sentinels at the most, beginning with that of the index `first`: what the first
    /// one with an answer says, and how many were asked. Why the others did not say joins
    /// `reasons`.
    async fn ask(
        &self,
        first: usize,
        count: usize,
        reasons: &mut Vec<String>,
    ) -> (Option<Named>, usize) {
        let turns = self.sentinels.iter().enumerate().cycle();
        for (turn, (by, sentinel)) in turns.skip(first).take(count).enumerate() {
            let answer = timeout(ASK_TIMEOUT, sentinel.ask(&self.master)).await;
            let late = || {
                Err(format!(
                    "it did not answer within {} s",
                    ASK_TIMEOUT.as_secs()
                ))
            };
            match answer.unwrap_or_else(|_| late()) {
                Ok((host, port)) => return (Some(Named { host, port, by }), turn + 1),
                Err(reason) => reasons.push(format!("{}: {reason}", sentinel.address)),
            }
        }
        (None, count)
    }

    /// To connect to the server.
    pub(super) fn client(&self, named: &Named) -> Result<Client, LinkError> {
        let server = server(&named.host, named.port, self.tls);
        client(server, self.settings.clone())
    }

    /// The sentinel that named this server, for messages.
    pub(super) fn namer(&self, named: &Named) -> &str {
        let sentinel = self.sentinels.get(named.by);
        sentinel.map_or("", |sentinel| &sentinel.address)
    }

    /// The sentinels, for messages.
    pub(super) fn names(&self) -> String {
        let some = self.sentinels.iter().take(MAX_REASONS);
        let mut names: Vec<&str> = some.map(|sentinel| &*sentinel.address).collect();
        if names.len() < self.sentinels.len() {
            names.push("...");
        }
        names.join(", ")
    }

    /// Whether the server says that it is a master; the error is why it is of no use.
    async fn is_master(&self, named: &Named) -> Result<(), String> {
        let password = self.settings.password();
        let failed = |error: RedisError| link_error(&error, password, ROLE_TIMEOUT).to_string();
        let asked = async {
            // RESP2 will do to ask, also where redis speaks nothing else.
            let settings = self.settings.clone().set_protocol(ProtocolVersion::RESP2);
            let server = server(&named.host, named.port, self.tls);
            let client = client(server, settings).map_err(|error| error.to_string())?;
            let config = unbounded();
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            let mut connection = connection.await.map_err(failed)?;
            let answer = connection.send_packed_command(&redis::cmd("HELLO")).await;
            match role(&answer.map_err(failed)?) {
                Some("master") | None => Ok(()),
                Some(_) => Err(NO_MASTER.to_owned()),
            }
        };
        let late = || Err(LinkError::Timeout(ROLE_TIMEOUT).to_string());
        let answer = timeout(ROLE_TIMEOUT, asked).await;
        answer.unwrap_or_else(|_| late())
    }

    /// Asks again and again whether the master is still this server; returns the one that it is
    /// by now.
    async fn moved(&self, current: &Named) -> Named {
        let mut failures = Repeats::default();
        let mut silent = 0;
        loop {
            sleep(ASK_INTERVAL).await;
            let mut reasons = Vec::new();
            let first = self.first.load(Relaxed);
            let (named, _) = self.ask(first, self.sentinels.len(), &mut reasons).await;
            let Some(named) = named else {
                silent += 1;
                if silent >= SILENT_ASKS {
                    self.say_silent(&mut failures, reasons);
                }
                continue;
            };
            if silent >= SILENT_ASKS {
                let (master, sentinel) = (&*self.master, self.namer(&named));
                info!(master, sentinel, "the sentinels answer again");
                failures.clear();
            }
            silent = 0;
            if named.same(current) {
                self.first.store(named.by, Relaxed);
            } else {
                match self.is_master(&named).await {
                    Ok(()) => {
                        self.first.store(named.by, Relaxed);
                        return named;
                    }
                    Err(reason) => {
                        // Perhaps the next one knows better.
                        let next = (named.by + 1) % self.sentinels.len();
                        self.first.store(next, Relaxed);
                        self.say_other(&mut failures, &named, current, &reason);
                    }
                }
            }
        }
    }

    fn say_silent(&self, failures: &mut Repeats, reasons: Vec<String>) {
        if let Some(unsaid) = failures.occur(Instant::now().into_std()) {
            let reason = no_answer(&self.master, reasons);
            warn!(
                unsaid,
                "the sentinels cannot be asked: {reason}; redis itself works and portico goes on with it, but finds no \
                 other master while they are away; check the sentinels"
            );
        }
    }

    fn say_other(&self, failures: &mut Repeats, named: &Named, current: &Named, reason: &str) {
        if let Some(unsaid) = failures.occur(Instant::now().into_std()) {
            let (sentinel, names, follows) =
                (self.namer(named), named.address(), current.address());
            warn!(
                master = &*self.master,
                sentinel,
                names,
                follows,
                reason,
                unsaid,
                "a sentinel names another server as the master than the one that portico follows, but that one cannot be \
                 used; portico stays; a failover is under way, or the sentinel is cut off from the others"
            );
        }
    }
}

/// For what a timeout of ours bounds as a whole.
fn unbounded() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
}

impl Sentinel {
    /// Host and port of the master of this name, or why it does not say.
    async fn ask(&self, master: &str) -> Result<(String, u16), String> {
        let password = self.password.as_deref();
        let failed = |error: RedisError| refusal(&error, password);
        let config = unbounded();
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await.map_err(failed)?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let answer = connection.send_packed_command(&question).await;
        named(hidden(answer.map_err(failed)?, password))
    }
}

/// Asks in the background while a connection to `current` is open; ends when dropped.
pub(super) struct Watch {
    task: JoinHandle<()>,
    moved: watch::Receiver<Option<LinkError>>,
}

impl Watch {
    pub(super) fn start(sentinels: Arc<Sentinels>, current: Named) -> Self {
        let (tell, moved) = watch::channel(None);
        let task = tokio::spawn(async move {
            let named = sentinels.moved(&current).await;
            let server = named.address();
            let sentinel = sentinels.namer(&named);
            let moved = LinkError::Moved(format!("{server} by sentinel {sentinel}"));
            tell.send_replace(Some(moved));
        });
        Self { task, moved }
    }

    /// Returns when the master is another server, and why the connection is of no use then.
    pub(super) fn moved(&self) -> impl Future<Output = LinkError> + use<> {
        let mut moved = self.moved.clone();
        async move {
            let why = moved.wait_for(Option::is_some).await;
            match why.ok().and_then(|why| why.clone()) {
                Some(why) => why,
                None => pending().await,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn shown(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn no_answer(master: &str, mut reasons: Vec<String>) -> String {
    let more = reasons.len().saturating_sub(MAX_REASONS);
    reasons.truncate(MAX_REASONS);
    let reasons = reasons.join("; ");
    let mut text = format!("no sentinel names a usable master {master} - {reasons}");
    if more > 0 {
        text.push_str(&format!("; and {more} more sentinels"));
    }
    text
}

/// The answer of a sentinel: the address of the master, or why it does not say.
fn named(answer: Value) -> Result<(String, u16), String> {
    let nonsense = || "its answer makes no sense".to_owned();
    match answer {
        Value::Nil => Err(
            "it knows no master of this name; registry.url has to name one that SENTINEL MASTERS lists"
                .to_owned(),
        ),
        Value::ServerError(error) => Err(refused(&error)),
        Value::Array(parts) => {
            let [Value::BulkString(host), Value::BulkString(port)] = &*parts else {
                return Err(nonsense());
            };
            let (Ok(host), Ok(port)) = (str::from_utf8(host), str::from_utf8(port)) else {
                return Err(nonsense());
            };
            let port: u16 = port.parse().map_err(|_| nonsense())?;
            // What a backend may be called a server may be called too.
            let server = Backend::parse(&format!("http://{}", shown(host, port)));
            if server.is_err() || host.contains('/') {
                return Err(nonsense());
            }
            Ok((host.to_owned(), port))
        }
        _ => Err(nonsense()),
    }
}

fn refused(error: &ServerError) -> String {
    match error.code() {
        "NOAUTH" => NO_PASSWORD.to_owned(),
        "NOPERM" => format!(
            "it does not allow the question ({}); its user needs SENTINEL GET-MASTER-ADDR-BY-NAME",
            server_sentence(error)
        ),
        _ if (error.details()).is_some_and(|text| text.contains("unknown command")) => {
            NO_SENTINEL.to_owned()
        }
        _ => server_sentence(error),
    }
}

/// What an error of the connection means, when a sentinel should be there.
fn refusal(error: &RedisError, password: Option<&str>) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Parse, _) => NO_SENTINEL.to_owned(),
        (_, Some("NOAUTH")) => NO_PASSWORD.to_owned(),
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            "it refuses the sentinel_user or the sentinel_password of registry.url".to_owned()
        }
        _ => sentence(error, password),
    }
}

const NO_MASTER: &str =
    "that is a replica: a failover is under way, or the sentinel is cut off from the others";
const NO_PASSWORD: &str = "it wants a password and registry.url has no sentinel_password";
const NO_SENTINEL: &str =
    "it is no sentinel; with redis+sentinel:// registry.url names those, usually on port 26379";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_answer(resp: &str, expected: Result<&str, &str>) {
        let answer = redis::parse_redis_value(resp.as_bytes()).unwrap();
        match (named(answer), expected) {
            (Ok((host, port)), expected) => assert_eq!(Ok(&*shown(&host, port)), expected),
            (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
            (Err(reason), Ok(_)) => panic!("{reason}"),
        }
    }

    #[test]
    fn answers_of_sentinels_are_not_trusted() {
        let nonsense = Err("makes no sense");
        check_answer(
            "*2\r\n$9\r\n192.0.2.1\r\n$4\r\n6379\r\n",
            Ok("192.0.2.1:6379"),
        );
        check_answer("*2\r\n$3\r\n::1\r\n$1\r\n1\r\n", Ok("[::1]:1"));
        check_answer("*2\r\n$7\r\nh.local\r\n$2\r\n80\r\n", Ok("h.local:80"));
        check_answer("*-1\r\n", Err("no master of this name"));
        check_answer("$-1\r\n", Err("no master of this name"));
        check_answer("*2\r\n$0\r\n\r\n$1\r\n1\r\n", nonsense);
        check_answer("*2\r\n$3\r\na/b\r\n$1\r\n1\r\n", nonsense);
        check_answer("*2\r\n$3\r\na@b\r\n$1\r\n1\r\n", nonsense);
        check_answer("*2\r\n$3\r\na\nb\r\n$1\r\n1\r\n", nonsense);
        check_answer("*2\r\n$1\r\na\r\n$1\r\n0\r\n", nonsense);
        check_answer("*2\r\n$1\r\na\r\n$5\r\n65536\r\n", nonsense);
        check_answer("*1\r\n$1\r\na\r\n", nonsense);
        check_answer("*2\r\n:1\r\n:1\r\n", nonsense);
        check_answer("+OK\r\n", nonsense);
        check_answer(
            "-NOAUTH Authentication required.\r\n",
            Err("no sentinel_password"),
        );
        check_answer(
            "-NOPERM this user has no permissions\r\n",
            Err("needs SENTINEL"),
        );
        check_answer(
            "-ERR unknown command 'SENTINEL', with\r\n",
            Err("no sentinel;"),
        );
        check_answer("-IDONTKNOW who\r\n", Err("IDONTKNOW who"));
    }

    #[test]
    fn an_error_stays_short() {
        let reasons = |count: usize| (1..=count).map(|n| format!("s{n}: why")).collect();
        let text = no_answer("m", reasons(1));
        assert_eq!(text, "no sentinel names a usable master m - s1: why");
        let text = no_answer("m", reasons(16));
        assert!(text.ends_with("s4: why; and 12 more sentinels"), "{text}");
    }
}
