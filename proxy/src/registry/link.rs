//! One connection to redis: RESP3 client tracking in broadcast mode, and the few commands
//! that read the table.
//!
//! Subscribes to the invalidations of `prefix:` and `redirect:` keys before anything is read, and
//! reads keys in pipelined batches. Decides nothing about the table.
//!
//! Invariants: every wait for redis is bounded; no text from here holds the password.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, PushInfo, Value};

use super::endpoint::Endpoint;
use super::link_error::{LinkError, link_error, refused, server_sentence};
use super::news::Pending;
use super::stored::{
    Hash, Keys, PREFIX, REDIRECT, Size, Stored, hash_fields, hash_size, key, scan_answer,
};

/// To connect, to authenticate and to select the database, together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For the answer to one command or one pipelined batch.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// For the answer to a PING: with nothing else to do, a redis that takes longer is as good as gone.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// How many keys redis looks at in one SCAN step; also the size of a batch of reads.
pub(super) const SCAN_COUNT: usize = 1000;

/// Hashes are read together until they have this many fields, so that one answer stays small.
const MAX_FIELDS_PER_BATCH: u64 = 10_000;

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

    /// Whether there are such keys, in their order.
    pub(super) async fn exist(&mut self, keys: &[Box<[u8]>]) -> Result<Vec<bool>, LinkError> {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("EXISTS").arg(&**key);
        }
        let answers = self.ask_all(&pipeline, keys.len()).await?;
        let exists = |answer| match answer {
            Value::Int(count) => Ok(count > 0),
            Value::ServerError(error) => Err(refused(&error)),
            _ => Err(LinkError::Answer("EXISTS")),
        };
        answers.into_iter().map(exists).collect()
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
