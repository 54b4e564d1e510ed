//! One connection to redis: the best subscription to changes that it allows, and the few commands
//! that read the table.
//!
//! Subscribes to changes of `prefix:` and `redirect:` keys before anything is read, and reads keys in
//! pipelined batches. What the answers to the probes mean is in `probe.rs`. Decides nothing about the
//! table.
//!
//! Invariants: every wait for redis is bounded; no text from here holds the password.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisError,
    RedisResult, Value,
};
use tokio::task::{JoinHandle, spawn};
use tokio::try_join;

use super::client::{hidden, role};
use super::endpoint::Endpoint;
use super::link_error::{LinkError, connect_error, link_error, refused};
use super::mode::Mode;
use super::news::Pending;
use super::probe::{Answers, events_of, granted, refusal_of_resp3};
use super::stored::{
    Hash, Keys, PREFIX, REDIRECT, Size, Sizing, Stored, hash_fields, hash_size, key, scan_answer,
};

/// To connect, to authenticate and to select the database, together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For the answer to one command or one pipelined batch.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// For the answer to a PING: with nothing else to do, a redis that takes longer is as good as gone.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// How many keys redis looks at in one SCAN step.
const SCAN_COUNT: usize = 1000;

/// A batch is read in so many parts at once (those of `Link::read`): while the answers of one are
/// taken apart here, redis works on the others.
const PARTS: usize = 4;

/// Hashes are read together until they take so much memory of redis, so that one answer stays small.
const MAX_BATCH_BYTES: u64 = 1 << 20;

/// An open connection whose pushes arrive in `pending`.
pub(super) struct Link {
    connection: MultiplexedConnection,
    pub(super) pending: Arc<Pending>,
    password: Option<String>,
    user: String,
    database: i64,
    /// Whether the server speaks RESP3, without which it pushes nothing; or how it refused.
    resp3: Result<(), String>,
    /// To keyspace notifications.
    subscribed: bool,
    /// How it tells of changes, and in a sentence why not in a better way.
    pub(super) mode: Mode,
    pub(super) why: String,
    /// The number of keys in the database at the last look; to be taken.
    pub(super) size: Option<u64>,
    /// The step of a SCAN that follows the last one, asked for before anybody wants it: redis looks
    /// for keys while those that it found are read.
    ahead: Option<Ahead>,
    /// DBSIZE was refused.
    no_size: bool,
    /// How the size of a hash is asked, and why not in the better way.
    sizing: Sizing,
    pub(super) no_bytes: Option<String>,
}

impl Link {
    /// Connects, and subscribes to changes in the best way that the server allows: of whatever is
    /// read from it afterwards, a later change is told, if [`Mode`] says so.
    ///
    /// Needs a tokio runtime: the redis crate spawns the task that drives the socket; it
    /// ends with the `Link`.
    pub(super) async fn open(endpoint: &mut Endpoint) -> Result<Self, LinkError> {
        let client = &endpoint.find().await?;
        let pending = Arc::new(Pending::default());
        let (connection, resp3) = connect(client, &pending).await?;
        let settings = client.get_connection_info().redis_settings();
        let mut link = Self {
            connection,
            pending,
            password: endpoint.password.clone(),
            user: settings.username().unwrap_or("default").to_owned(),
            database: settings.db(),
            resp3,
            subscribed: false,
            mode: Mode::Polling,
            why: String::new(),
            size: None,
            ahead: None,
            no_size: false,
            sizing: Sizing::Bytes,
            no_bytes: None,
        };
        let mut set_name = redis::cmd("CLIENT");
        // For people who look at CLIENT LIST; it may be refused.
        let _ = granted(&link.ask(set_name.arg("SETNAME").arg("portico")).await?)?;
        let size = Sizing::Bytes.question(PREFIX.to_owned());
        if let Err(why) = granted(&link.ask(&size).await?)? {
            (link.sizing, link.no_bytes) = (Sizing::Fields, Some(why));
        }
        link.probe().await?;
        link.look().await?;
        Ok(link)
    }

    /// Asks for the best way in which the server tells of changes. May be asked again: what it allows
    /// may have changed.
    pub(super) async fn probe(&mut self) -> Result<(), LinkError> {
        let mut answers = Answers {
            resp3: self.resp3.clone(),
            tracking: Err(String::new()),
            subscribed: Err(String::new()),
            events: Err(String::new()),
        };
        if answers.resp3.is_ok() {
            answers.tracking = self.track().await?;
            if answers.tracking.is_err() {
                answers.subscribed = self.for_both_prefixes("PSUBSCRIBE").await?;
                self.subscribed |= answers.subscribed.is_ok();
            } else if std::mem::take(&mut self.subscribed) {
                // Each change would be told twice.
                let _ = self.for_both_prefixes("PUNSUBSCRIBE").await?;
            }
            if answers.subscribed.is_ok() {
                let mut get = redis::cmd("CONFIG");
                let answer = self
                    .ask(get.arg("GET").arg("notify-keyspace-events"))
                    .await?;
                answers.events = events_of(answer)?;
            }
        }
        (self.mode, self.why) = answers.mode(&self.user, self.database);
        Ok(())
    }

    async fn track(&mut self) -> Result<Result<(), String>, LinkError> {
        let mut tracking = redis::cmd("CLIENT");
        // No NOLOOP: this connection never writes.
        tracking.arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in [PREFIX, REDIRECT] {
            tracking.arg("PREFIX").arg(prefix);
        }
        match self.ask(&tracking).await? {
            Value::Okay => Ok(Ok(())),
            answer @ Value::ServerError(_) => granted(&answer),
            _ => Err(LinkError::Answer("CLIENT TRACKING")),
        }
    }

    /// Subscribes to keyspace notifications, or ends that. What they tell is a reason to look in any
    /// case, also where they are not complete.
    async fn for_both_prefixes(&mut self, command: &str) -> Result<Result<(), String>, LinkError> {
        for prefix in [PREFIX, REDIRECT] {
            let mut subscribe = redis::cmd(command);
            subscribe.arg(format!("__keyspace@{}__:{prefix}*", self.database));
            let granted = granted(&self.ask(&subscribe).await?)?;
            if granted.is_err() {
                return Ok(granted);
            }
        }
        Ok(Ok(()))
    }

    /// One step of a SCAN: the next cursor (0: the end) and some keys, a key
    /// perhaps more than once.
    pub(super) async fn scan(
        &mut self,
        keys: Keys,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), LinkError> {
        let mut step = match self.ahead.take() {
            Some(ahead) if (ahead.keys, ahead.cursor) == (keys, cursor) => ahead,
            _ => self.scan_ahead(keys, cursor),
        };
        let answer = (&mut step.answer).await.map_err(|_| LinkError::Closed)?;
        let answer = answer.map_err(|error| self.failed(&error))?;
        let (next, found) = scan_answer(hidden(answer, self.password.as_deref()))?;
        self.ahead = (next != 0).then(|| self.scan_ahead(keys, next));
        Ok((next, found))
    }

    fn scan_ahead(&self, keys: Keys, cursor: u64) -> Ahead {
        let prefix = match keys {
            Keys::Prefix => PREFIX,
            Keys::Redirect => REDIRECT,
        };
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor);
        scan.arg("MATCH").arg(format!("{prefix}*"));
        scan.arg("COUNT").arg(SCAN_COUNT);
        let mut connection = self.connection.clone();
        let answer = spawn(async move { connection.send_packed_command(&scan).await });
        Ahead {
            keys,
            cursor,
            answer,
        }
    }

    /// What redis holds for each of `tools`, in their order.
    pub(super) async fn read(&self, tools: &[Box<str>]) -> Result<Vec<Stored>, LinkError> {
        let mut parts = tools.chunks(tools.len().div_ceil(PARTS).max(1));
        let mut part = || self.read_part(parts.next().unwrap_or_default());
        let (mut stored, second, third, fourth) = try_join!(part(), part(), part(), part())?;
        stored.extend(second);
        stored.extend(third);
        stored.extend(fourth);
        Ok(stored)
    }

    /// The sizes of the hashes are asked first, so that a huge one is not read.
    async fn read_part(&self, tools: &[Box<str>]) -> Result<Vec<Stored>, LinkError> {
        let mut pipeline = redis::pipe();
        for tool in tools {
            pipeline.add_command(self.sizing.question(key(PREFIX, tool)));
            pipeline.cmd("EXISTS").arg(key(REDIRECT, tool));
        }
        let answers = self.ask_all(&pipeline, tools.len() * 2).await?;
        let mut stored = Vec::with_capacity(tools.len());
        let mut wanted: Vec<(usize, u64)> = Vec::new();
        let mut answers = answers.into_iter();
        while let (Some(size), Some(exists)) = (answers.next(), answers.next()) {
            let redirect = match exists {
                Value::Int(count) => count > 0,
                Value::ServerError(error) => return Err(refused(&error)),
                _ => return Err(LinkError::Answer("EXISTS")),
            };
            let hash = match hash_size(self.sizing, size)? {
                Size::Read(bytes) => {
                    wanted.push((stored.len(), bytes));
                    Hash::Absent
                }
                Size::Known(hash) => hash,
            };
            stored.push(Stored { hash, redirect });
        }
        self.read_hashes(tools, &wanted, &mut stored).await?;
        Ok(stored)
    }

    /// Reads the hashes of those `tools` whose index and size in bytes are in
    /// `wanted` into `stored`.
    async fn read_hashes(
        &self,
        tools: &[Box<str>],
        wanted: &[(usize, u64)],
        stored: &mut [Stored],
    ) -> Result<(), LinkError> {
        let mut wanted = wanted.iter().peekable();
        while wanted.peek().is_some() {
            let mut pipeline = redis::pipe();
            let mut batch = Vec::new();
            let mut total = 0;
            while let Some((index, bytes)) =
                wanted.next_if(|(_, bytes)| batch.is_empty() || total + bytes <= MAX_BATCH_BYTES)
            {
                if let Some(tool) = tools.get(*index) {
                    pipeline.cmd("HGETALL").arg(key(PREFIX, tool));
                    batch.push(*index);
                    total += bytes;
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

    /// Whether there are such keys, in their order.
    pub(super) async fn exist(&mut self, keys: &[Box<[u8]>]) -> Result<Vec<bool>, LinkError> {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("EXISTS").arg(&**key);
        }
        let answers = self.ask_all(&pipeline, keys.len()).await?;
        let exists = |answer| match answer {
            Value::Int(count) => Ok(count > 0),
            // No right to such a name: somebody wrote it all the same.
            answer @ Value::ServerError(_) => granted(&answer).map(|_| true),
            _ => Err(LinkError::Answer("EXISTS")),
        };
        answers.into_iter().map(exists).collect()
    }

    /// A round trip: what redis pushed before its answer has arrived.
    pub(super) async fn ping(&mut self) -> Result<(), LinkError> {
        match self.ask(&redis::cmd("PING")).await? {
            Value::SimpleString(_) | Value::Okay => Ok(()),
            // Also a refusal is an answer.
            answer @ Value::ServerError(_) => granted(&answer).map(drop),
            _ => Err(LinkError::Answer("PING")),
        }
    }

    /// Finds out whether anybody is still there, while there is nothing else to ask, and looks at the
    /// number of keys.
    pub(super) async fn alive(&mut self) -> Result<(), LinkError> {
        match tokio::time::timeout(PING_TIMEOUT, self.look()).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Timeout(PING_TIMEOUT)),
        }
    }

    async fn look(&mut self) -> Result<(), LinkError> {
        self.size = self.ask_size().await?;
        // Tracking pushes what the number counts only after the number, but before this answer.
        self.ping().await
    }

    async fn ask_size(&mut self) -> Result<Option<u64>, LinkError> {
        if self.no_size {
            return Ok(None);
        }
        match self.ask(&redis::cmd("DBSIZE")).await? {
            Value::Int(size) => Ok(u64::try_from(size).ok()),
            answer @ Value::ServerError(_) => {
                self.no_size = granted(&answer)?.is_err();
                Ok(None)
            }
            _ => Err(LinkError::Answer("DBSIZE")),
        }
    }

    /// Whether the server may be a master: it does not say that it is something else. By HELLO, as
    /// no access list takes that away, unlike ROLE and INFO.
    pub(super) async fn may_be_master(&mut self) -> Result<bool, LinkError> {
        let answer = self.ask(&redis::cmd("HELLO")).await?;
        Ok(role(&answer).is_none_or(|role| role == "master"))
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, LinkError> {
        let answer = self.connection.send_packed_command(command).await;
        let answer = answer.map_err(|error| self.failed(&error))?;
        Ok(hidden(answer, self.password.as_deref()))
    }

    async fn ask_all(&self, pipeline: &Pipeline, count: usize) -> Result<Vec<Value>, LinkError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut connection = self.connection.clone();
        let answers = connection.send_packed_commands(pipeline, 0, count).await;
        let answers = answers.map_err(|error| self.failed(&error))?;
        if answers.len() != count {
            return Err(LinkError::Answer("a pipeline"));
        }
        let password = self.password.as_deref();
        let answers = answers.into_iter();
        Ok(answers.map(|answer| hidden(answer, password)).collect())
    }

    fn failed(&self, error: &RedisError) -> LinkError {
        link_error(error, self.password.as_deref(), COMMAND_TIMEOUT)
    }
}

/// A step of a SCAN under way.
struct Ahead {
    keys: Keys,
    cursor: u64,
    answer: JoinHandle<RedisResult<Value>>,
}

impl Drop for Ahead {
    /// Nobody wants the answer any more, and a connection that is given up must not wait for it.
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// Connects by RESP3, or by RESP2 if that is refused, which is told too.
async fn connect(
    client: &Client,
    pending: &Arc<Pending>,
) -> Result<(MultiplexedConnection, Result<(), String>), LinkError> {
    let settings = client.get_connection_info().redis_settings();
    let password = settings.password();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(COMMAND_TIMEOUT));
    let sink = Arc::clone(pending);
    let pushing = config.clone().set_push_sender(move |push: PushInfo| {
        sink.note(push);
        Ok::<(), std::convert::Infallible>(())
    });
    let failed = |error: &RedisError| connect_error(error, password, CONNECT_TIMEOUT);
    let connected = client.get_multiplexed_async_connection_with_config(&pushing);
    let error = match connected.await {
        Ok(connection) => return Ok((connection, Ok(()))),
        Err(error) => error,
    };
    let Some(refusal) = refusal_of_resp3(&error, password.is_some()) else {
        return Err(failed(&error));
    };
    let settings = settings.clone().set_protocol(ProtocolVersion::RESP2);
    let info = client.get_connection_info().clone();
    let client = Client::open(info.set_redis_settings(settings)).map_err(|error| failed(&error))?;
    let connected = client.get_multiplexed_async_connection_with_config(&config);
    let connection = connected.await.map_err(|error| failed(&error))?;
    Ok((connection, Err(refusal)))
}
