//! One connection to redis: RESP3 client tracking in broadcast mode, and the few commands
//! that read the table.
//!
//! Subscribes to the invalidations of `prefix:` and `redirect:` keys before anything is read,
//! collects them without a bound on their rate but with one on their number, and reads keys in
//! pipelined batches. Decides nothing about the table.
//!
//! What redis pushes (measured on 7.0): the keys written in any database, also when the value stays
//! the same; a null for FLUSHALL, FLUSHDB of any database and a replica's full resync; nothing for
//! SWAPDB. So a push says only "look again".
//!
//! Invariants: every wait for redis is bounded; no text from here holds the password;
//! an answer that means "not now" (LOADING, MASTERDOWN, NOPERM) is an error and never
//! looks like a missing key.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portico_config::SecretUrl;
use portico_routing::table::valid_tool;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, PushKind, RedisError, ServerError, Value,
};
use tokio::sync::Notify;

/// To connect, to authenticate and to select the database, together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For the answer to one command or one pipelined batch.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// For the answer to a PING: with nothing else to do, a redis that takes longer is as good as gone.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// How many keys redis looks at in one SCAN step; also the size of a batch of reads.
pub(super) const SCAN_COUNT: usize = 1000;

/// A hash with more fields is bad as a whole and is not even read.
const MAX_FIELDS: u64 = 1000;

/// Hashes are read together until they have this many fields, so that one answer stays small.
const MAX_FIELDS_PER_BATCH: u64 = 10_000;

/// With more changes than this waiting, the whole table is compared instead.
const MAX_PENDING: usize = 100_000;

/// Longest text of an error of redis that is passed on.
const MAX_ERROR_CHARS: usize = 200;

const PREFIX: &str = "prefix:";
const REDIRECT: &str = "redirect:";

/// The two kinds of keys, in the order in which they are scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Prefix,
    Redirect,
}

/// The tool that a key of redis is about; `None` when the key is none of ours or its tool
/// can never be asked for.
pub(super) fn tool_of(key: &[u8]) -> Option<&str> {
    let tool = key
        .strip_prefix(PREFIX.as_bytes())
        .or_else(|| key.strip_prefix(REDIRECT.as_bytes()))?;
    str::from_utf8(tool).ok().filter(|tool| valid_tool(tool))
}

/// Why the connection is of no use any more. Never holds the password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
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
}

/// Where redis is, and how to say so in a log.
pub(super) struct Endpoint {
    client: Client,
    /// Host and port, or socket path, and the database: never the password.
    pub(super) address: String,
    password: Option<String>,
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

/// What redis holds for one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) hash: Hash,
    pub(super) redirect: bool,
}

#[cfg(test)]
impl Stored {
    /// Neither of the tool's keys exists.
    pub(super) fn is_absent(&self) -> bool {
        self.hash == Hash::Absent && !self.redirect
    }
}

/// The value of a `prefix:` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Absent,
    Fields(Vec<(Vec<u8>, Vec<u8>)>),
    /// It exists and cannot be used, for this reason.
    Unusable(String),
}

/// An open connection whose invalidations arrive in `pending`.
pub(super) struct Link {
    connection: MultiplexedConnection,
    pub(super) pending: Arc<Pending>,
    password: Option<String>,
}

impl Link {
    /// Connects and subscribes: whatever is read from it afterwards, a later change is told.
    ///
    /// Needs a tokio runtime: the redis crate spawns the task that drives the socket; it
    /// ends with the `Link`.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, LinkError> {
        let pending = Arc::new(Pending::default());
        let sink = Arc::clone(&pending);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_push_sender(move |push: PushInfo| {
                sink.note(push);
                Ok::<(), std::convert::Infallible>(())
            });
        let connection = endpoint
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| link_error(&error, endpoint.password.as_deref(), CONNECT_TIMEOUT))?;
        let mut link = Self {
            connection,
            pending,
            password: endpoint.password.clone(),
        };
        let mut tracking = redis::cmd("CLIENT");
        // No NOLOOP: this connection never writes.
        tracking.arg("TRACKING").arg("ON").arg("BCAST");
        tracking
            .arg("PREFIX")
            .arg(PREFIX)
            .arg("PREFIX")
            .arg(REDIRECT);
        match link.ask(&tracking).await? {
            Value::Okay => Ok(link),
            Value::ServerError(error) => Err(LinkError::Tracking(server_sentence(&error))),
            _ => Err(LinkError::Answer("CLIENT TRACKING")),
        }
    }

    /// One step of a SCAN: the next cursor (0: the end) and some keys, a key
    /// perhaps more than once.
    pub(super) async fn scan(
        &mut self,
        keys: Keys,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), LinkError> {
        let prefix = match keys {
            Keys::Prefix => PREFIX,
            Keys::Redirect => REDIRECT,
        };
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor);
        scan.arg("MATCH").arg(format!("{prefix}*"));
        scan.arg("COUNT").arg(SCAN_COUNT);
        let answer = self.ask(&scan).await?;
        scan_answer(answer)
    }

    /// What redis holds for each of `tools`, in their order. The sizes of the hashes are asked
    /// first, so that a huge one is not read.
    pub(super) async fn read(&mut self, tools: &[Box<str>]) -> Result<Vec<Stored>, LinkError> {
        let mut pipeline = redis::pipe();
        for tool in tools {
            pipeline.cmd("HLEN").arg(key(PREFIX, tool));
            pipeline.cmd("EXISTS").arg(key(REDIRECT, tool));
        }
        let answers = self.ask_all(&pipeline, tools.len() * 2).await?;
        let mut stored = Vec::with_capacity(tools.len());
        let mut wanted: Vec<(usize, u64)> = Vec::new();
        let mut answers = answers.into_iter();
        while let (Some(length), Some(exists)) = (answers.next(), answers.next()) {
            let redirect = match exists {
                Value::Int(count) => count > 0,
                Value::ServerError(error) => return Err(refused(&error)),
                _ => return Err(LinkError::Answer("EXISTS")),
            };
            let hash = match hash_size(length)? {
                Size::Read(fields) => {
                    wanted.push((stored.len(), fields));
                    Hash::Absent
                }
                Size::Known(hash) => hash,
            };
            stored.push(Stored { hash, redirect });
        }
        self.read_hashes(tools, &wanted, &mut stored).await?;
        Ok(stored)
    }

    /// Reads the hashes of those `tools` whose index and number of fields are in
    /// `wanted` into `stored`.
    async fn read_hashes(
        &mut self,
        tools: &[Box<str>],
        wanted: &[(usize, u64)],
        stored: &mut [Stored],
    ) -> Result<(), LinkError> {
        let mut wanted = wanted.iter().peekable();
        while wanted.peek().is_some() {
            let mut pipeline = redis::pipe();
            let mut batch = Vec::new();
            let mut total = 0;
            while let Some((index, fields)) = wanted
                .next_if(|(_, fields)| batch.is_empty() || total + fields <= MAX_FIELDS_PER_BATCH)
            {
                if let Some(tool) = tools.get(*index) {
                    pipeline.cmd("HGETALL").arg(key(PREFIX, tool));
                    batch.push(*index);
                    total += fields;
                }
            }
            let answers = self.ask_all(&pipeline, batch.len()).await?;
            for (index, answer) in batch.into_iter().zip(answers) {
                if let Some(stored) = stored.get_mut(index) {
                    stored.hash = hash_fields(answer)?;
                }
            }
        }
        Ok(())
    }

    /// A round trip: what redis pushed before its answer has arrived.
    pub(super) async fn ping(&mut self) -> Result<(), LinkError> {
        match self.ask(&redis::cmd("PING")).await? {
            Value::SimpleString(_) | Value::Okay => Ok(()),
            Value::ServerError(error) => Err(refused(&error)),
            _ => Err(LinkError::Answer("PING")),
        }
    }

    /// Finds out whether anybody is still there, while there is nothing else to ask.
    pub(super) async fn alive(&mut self) -> Result<(), LinkError> {
        match tokio::time::timeout(PING_TIMEOUT, self.ping()).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Timeout(PING_TIMEOUT)),
        }
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, LinkError> {
        let answer = self.connection.send_packed_command(command).await;
        answer.map_err(|error| link_error(&error, self.password.as_deref(), COMMAND_TIMEOUT))
    }

    async fn ask_all(
        &mut self,
        pipeline: &Pipeline,
        count: usize,
    ) -> Result<Vec<Value>, LinkError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let answers = self
            .connection
            .send_packed_commands(pipeline, 0, count)
            .await
            .map_err(|error| link_error(&error, self.password.as_deref(), COMMAND_TIMEOUT))?;
        if answers.len() == count {
            Ok(answers)
        } else {
            Err(LinkError::Answer("a pipeline"))
        }
    }
}

/// The invalidations that have arrived and were not taken yet.
#[derive(Default)]
pub(super) struct Pending {
    news: Mutex<News>,
    wake: Notify,
}

/// What there is to look at again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// These tools changed, perhaps.
    pub(super) tools: HashSet<Box<str>>,
    /// Everything may have changed.
    pub(super) everything: bool,
    /// The connection is gone; nothing more will arrive.
    pub(super) lost: bool,
}

impl News {
    fn is_empty(&self) -> bool {
        self.tools.is_empty() && !self.everything && !self.lost
    }
}

impl Pending {
    /// Takes in one push message.
    fn note(&self, push: PushInfo) {
        {
            let mut news = self.lock();
            match push.kind {
                PushKind::Disconnection => news.lost = true,
                PushKind::Invalidate => note_keys(&mut news, &push.data),
                // Nothing else was subscribed to.
                _ => return,
            }
            if news.is_empty() {
                return;
            }
        }
        self.wake.notify_one();
    }

    /// All that has arrived since the last call.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    /// Returns when there is something to take. Safe to drop and to call again.
    pub(super) async fn arrived(&self) {
        while self.lock().is_empty() {
            self.wake.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // News is whole at every moment, so a panic elsewhere harms nothing.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of an invalidation; a null means that everything may have changed.
fn note_keys(news: &mut News, data: &[Value]) {
    match data {
        [Value::Array(keys)] => {
            for key in keys {
                if let Value::BulkString(key) = key
                    && let Some(tool) = tool_of(key)
                    && !news.tools.contains(tool)
                {
                    news.tools.insert(tool.into());
                }
            }
            if news.tools.len() > MAX_PENDING {
                news.tools = HashSet::new();
                news.everything = true;
            }
        }
        // Null, or something that only a future redis sends: looking at everything is always right.
        _ => news.everything = true,
    }
}

/// What HLEN said.
enum Size {
    Read(u64),
    Known(Hash),
}

fn hash_size(answer: Value) -> Result<Size, LinkError> {
    match answer {
        Value::Int(0) => Ok(Size::Known(Hash::Absent)),
        Value::Int(fields) => match u64::try_from(fields) {
            Ok(fields) if fields <= MAX_FIELDS => Ok(Size::Read(fields)),
            Ok(fields) => Ok(Size::Known(Hash::Unusable(format!(
                "the hash has {fields} fields; the limit is {MAX_FIELDS}"
            )))),
            Err(_) => Err(LinkError::Answer("HLEN")),
        },
        Value::ServerError(error) => wrong_type(&error).map(Size::Known),
        _ => Err(LinkError::Answer("HLEN")),
    }
}

fn hash_fields(answer: Value) -> Result<Hash, LinkError> {
    let pairs = match answer {
        Value::Map(pairs) => pairs,
        Value::ServerError(error) => return wrong_type(&error),
        _ => return Err(LinkError::Answer("HGETALL")),
    };
    // It may have grown since its size was asked; the push that tells so is on its way.
    if pairs.len() as u64 > MAX_FIELDS {
        return Ok(Hash::Unusable(format!(
            "the hash has {} fields; the limit is {MAX_FIELDS}",
            pairs.len()
        )));
    }
    let mut fields = Vec::with_capacity(pairs.len());
    for pair in pairs {
        match pair {
            (Value::BulkString(field), Value::BulkString(value)) => fields.push((field, value)),
            _ => return Err(LinkError::Answer("HGETALL")),
        }
    }
    Ok(if fields.is_empty() {
        Hash::Absent
    } else {
        Hash::Fields(fields)
    })
}

/// A key of another type is that tool's mistake; every other refusal is about the connection.
fn wrong_type(error: &ServerError) -> Result<Hash, LinkError> {
    if error.code() == "WRONGTYPE" {
        Ok(Hash::Unusable(
            "the key holds another type than a hash".into(),
        ))
    } else {
        Err(refused(error))
    }
}

fn scan_answer(answer: Value) -> Result<(u64, Vec<Vec<u8>>), LinkError> {
    let parts = match answer {
        Value::Array(parts) => parts,
        Value::ServerError(error) => return Err(refused(&error)),
        _ => return Err(LinkError::Answer("SCAN")),
    };
    let mut parts = parts.into_iter();
    let (Some(Value::BulkString(cursor)), Some(Value::Array(found)), None) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Err(LinkError::Answer("SCAN"));
    };
    let cursor = str::from_utf8(&cursor)
        .ok()
        .and_then(|cursor| cursor.parse().ok())
        .ok_or(LinkError::Answer("SCAN"))?;
    let mut keys = Vec::with_capacity(found.len());
    for key in found {
        match key {
            Value::BulkString(key) => keys.push(key),
            _ => return Err(LinkError::Answer("SCAN")),
        }
    }
    Ok((cursor, keys))
}

fn key(prefix: &str, tool: &str) -> String {
    [prefix, tool].concat()
}

fn refused(error: &ServerError) -> LinkError {
    LinkError::Redis(server_sentence(error))
}

fn server_sentence(error: &ServerError) -> String {
    bounded(&format!(
        "{} {}",
        error.code(),
        error.details().unwrap_or_default()
    ))
}

fn link_error(error: &RedisError, password: Option<&str>, limit: Duration) -> LinkError {
    if error.is_timeout() {
        LinkError::Timeout(limit)
    } else {
        LinkError::Redis(sentence(error, password))
    }
}

/// The error in one line without the password, should redis or the client ever quote it.
fn sentence(error: &RedisError, password: Option<&str>) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::RESP3NotSupported, _) => {
            "it does not speak RESP3; portico needs redis 6 or later".into()
        }
        (ErrorKind::Parse, _) => "it does not speak the protocol of redis".into(),
        (_, Some("NOAUTH")) => "it wants a password and registry.url has none".into(),
        (_, Some("WRONGPASS")) => "it refuses the user or the password of registry.url".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn server_error(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    #[track_caller]
    fn check_tool(key: &[u8], tool: Option<&str>) {
        assert_eq!(tool_of(key), tool);
    }

    #[test]
    fn keys_name_their_tool() {
        check_tool(b"prefix:grid", Some("grid"));
        check_tool(b"redirect:ru_monuments", Some("ru_monuments"));
        check_tool(b"prefix:redirect", Some("redirect"));
        check_tool(b"prefix:", None);
        check_tool(b"prefix", None);
        check_tool(b"PREFIX:grid", None);
        check_tool(b"prefix:Grid", None);
        check_tool(b"prefix:a:b", None);
        check_tool(b"prefix:\xff\xfe", None);
        check_tool(b"k8s_services", None);
        check_tool(
            &[b"prefix:".as_slice(), &[b'a'; 63]].concat(),
            Some(&"a".repeat(63)),
        );
        check_tool(&[b"prefix:".as_slice(), &[b'a'; 64]].concat(), None);
    }

    #[track_caller]
    fn check_push(kind: PushKind, data: Vec<Value>, tools: &[&str], everything: bool, lost: bool) {
        let pending = Pending::default();
        pending.note(PushInfo { kind, data });
        let expected = News {
            tools: tools.iter().map(|tool| Box::from(*tool)).collect(),
            everything,
            lost,
        };
        assert_eq!(pending.take(), expected);
        assert!(pending.take().is_empty());
    }

    #[test]
    fn pushes_say_what_to_look_at() {
        let keys = vec![
            text("prefix:a"),
            text("redirect:a"),
            text("prefix:b"),
            text("prefix:\u{1}"),
        ];
        check_push(
            PushKind::Invalidate,
            vec![Value::Array(keys)],
            &["a", "b"],
            false,
            false,
        );
        check_push(PushKind::Invalidate, vec![Value::Nil], &[], true, false);
        check_push(PushKind::Invalidate, vec![], &[], true, false);
        check_push(PushKind::Disconnection, vec![], &[], false, true);
        check_push(PushKind::Message, vec![text("x")], &[], false, false);
    }

    #[test]
    fn too_many_changes_become_one_look_at_everything() {
        let pending = Pending::default();
        for start in (0..=MAX_PENDING).step_by(1000) {
            let keys = (start..start + 1000).map(|n| text(&format!("prefix:t{n}")));
            let data = vec![Value::Array(keys.collect())];
            pending.note(PushInfo {
                kind: PushKind::Invalidate,
                data,
            });
        }
        let news = pending.take();
        assert!(news.everything);
        assert!(news.tools.len() <= MAX_PENDING);
    }

    #[track_caller]
    fn check_fields(answer: Value, expected: Result<Hash, &str>) {
        let got = hash_fields(answer).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn only_a_wrong_type_is_the_tools_own_mistake() {
        let field = (b".*".to_vec(), b"http://192.0.2.1:80".to_vec());
        let map = Value::Map(vec![(text(".*"), text("http://192.0.2.1:80"))]);
        check_fields(map, Ok(Hash::Fields(vec![field])));
        check_fields(Value::Map(vec![]), Ok(Hash::Absent));
        check_fields(
            server_error("WRONGTYPE Operation against a key"),
            Ok(Hash::Unusable(
                "the key holds another type than a hash".into(),
            )),
        );
        let loading = "LOADING Redis is loading the dataset in memory";
        check_fields(server_error(loading), Err(loading));
        check_fields(server_error("NOPERM no"), Err("NOPERM no"));
        check_fields(
            Value::Nil,
            Err("it gave an answer to HGETALL that makes no sense"),
        );
        let many = (0..1001)
            .map(|n| (text(&n.to_string()), text("x")))
            .collect();
        let reason = "the hash has 1001 fields; the limit is 1000";
        check_fields(Value::Map(many), Ok(Hash::Unusable(reason.into())));
    }

    #[test]
    fn a_loading_redis_does_not_look_empty() {
        assert!(scan_answer(server_error("LOADING wait")).is_err());
        assert!(hash_size(server_error("LOADING wait")).is_err());
        assert!(hash_size(server_error("MASTERDOWN Link with MASTER is down")).is_err());
        let empty = Value::Array(vec![text("0"), Value::Array(vec![])]);
        assert_eq!(scan_answer(empty), Ok((0, vec![])));
    }

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
