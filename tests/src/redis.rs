//! A redis process on a free loopback port, and a connection to it that speaks RESP by hand.
//!
//! It persists nothing, so that a restart comes up empty unless the test seeds it again or
//! asks for [`Redis::persistent`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::tls::Pair;
use crate::{SOON, eventually, free_address, free_port, signal};

/// A running redis-server, killed on drop.
#[derive(Debug)]
pub struct Redis {
    address: SocketAddr,
    folder: TempDir,
    more: Vec<String>,
    process: Option<Child>,
}

/// What redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK` and the like.
    Status(String),
    /// A number.
    Integer(i64),
    /// A value; `None` for nil.
    Bulk(Option<Vec<u8>>),
    /// A list.
    List(Vec<Reply>),
}

impl Redis {
    /// Starts redis, empty.
    pub fn start() -> Redis {
        Redis::start_with(|_| Vec::new())
    }

    /// Starts redis with a TLS port besides the plain one, serving this certificate;
    /// gives that port's number.
    pub fn start_tls(pair: &Pair) -> (Redis, u16) {
        let port = free_port();
        let redis = Redis::start_with(|folder| {
            let (chain, key) = pair.write(folder, "redis");
            let words = ["--tls-port", &port.to_string(), "--tls-auth-clients", "no"];
            let files = [
                ("--tls-cert-file", &chain),
                ("--tls-key-file", &key),
                ("--tls-ca-cert-file", &chain),
            ];
            let files = files
                .into_iter()
                .flat_map(|(word, path)| [word.to_owned(), path.display().to_string()]);
            words.into_iter().map(str::to_owned).chain(files).collect()
        });
        (redis, port)
    }

    /// Starts redis with more arguments, which win over the usual ones.
    pub fn with(more: &[&str]) -> Redis {
        Redis::start_with(|_| more.iter().map(|&word| word.to_owned()).collect())
    }

    /// Starts a redis that still has its data after [`Redis::kill`] and [`Redis::restart`]: a write
    /// is with the kernel before it is answered.
    pub fn persistent() -> Redis {
        Redis::with(&["--appendonly", "yes", "--appendfsync", "no"])
    }

    /// Starts a replica, and waits until it has what `master` has.
    pub fn replica_of(master: &Redis) -> Redis {
        let port = master.address.port().to_string();
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
        replica.wait_for_master();
        replica
    }

    /// Waits until a replica follows its master.
    #[track_caller]
    pub fn wait_for_master(&self) {
        eventually("the replica follows its master", SOON, || {
            let info = self.info("replication");
            info.contains("master_link_status:up").then_some(())
        });
    }

    fn start_with(more: impl FnOnce(&Path) -> Vec<String>) -> Redis {
        let folder = TempDir::new().expect("a temporary folder");
        let mut redis = Redis {
            more: more(folder.path()),
            address: free_address(),
            folder,
            process: None,
        };
        redis.restart();
        redis
    }

    /// Kills redis if it runs and starts it on the same port: empty, or as it was
    /// when it is persistent.
    pub fn restart(&mut self) {
        self.restart_without_waiting();
        eventually("redis listens", SOON, || {
            let mut connection = TcpStream::connect(self.address).ok()?;
            connection.write_all(b"PING\r\n").ok()?;
            let mut answer = [0; 7];
            connection.read_exact(&mut answer).ok()?;
            (&answer == b"+PONG\r\n").then_some(())
        });
    }

    /// As [`Redis::restart`]; it may not listen yet, or still load its data.
    pub fn restart_without_waiting(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", &self.address.port().to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // A replica need not wait for others that might come.
            .args(["--repl-diskless-sync-delay", "0"])
            .args(["--enable-debug-command", "local"])
            .arg("--dir")
            .arg(self.folder.path())
            .arg("--unixsocket")
            .arg(self.socket())
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("redis-server does not start ({error}); install it: apt-get install redis-server")
            });
        self.process = Some(child);
    }

    /// More arguments, from the next restart on.
    pub fn add_arguments(&mut self, more: &[&str]) {
        self.more.extend(more.iter().map(|&word| word.to_owned()));
    }

    /// Ends redis without a good-bye.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes redis: connections stay open and nothing answers.
    pub fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// Ends [`Redis::freeze`].
    pub fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("redis runs").id()
    }

    /// Asks for a password from now on.
    pub fn require_password(&self, password: &str) {
        self.command(&["CONFIG", "SET", "requirepass", password]);
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `[registry].url` wants it.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Registers a route, as the grid's web services do.
    pub fn route(&self, tool: &str, pattern: &str, backend: &str) {
        self.command(&["HSET", &format!("prefix:{tool}"), pattern, backend]);
    }

    /// Marks a tool as moved to its own host name.
    pub fn redirect(&self, tool: &str) {
        self.command(&["HSET", &format!("redirect:{tool}"), ".*", "x"]);
    }

    /// Breaks the connections of all clients but replicas, as an operator may.
    pub fn kill_clients(&self) {
        self.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// A section of INFO.
    pub fn info(&self, section: &str) -> String {
        match self.command(&["INFO", section]) {
            Reply::Bulk(Some(text)) => String::from_utf8_lossy(&text).into_owned(),
            other => panic!("INFO is {other:?}"),
        }
    }

    /// Runs one command in database 0; an error reply panics.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> Reply {
        self.command_in(0, words)
    }

    /// Runs one command in another database of the same server.
    #[track_caller]
    pub fn command_in<A: AsRef<[u8]>>(&self, database: u8, words: &[A]) -> Reply {
        let mut session = self.session();
        let selected = session.ask(&["SELECT", &database.to_string()]);
        match selected.and_then(|_| session.ask(words)) {
            Ok(reply) => reply,
            Err(error) => panic!(
                "redis refused {:?}: {error}",
                words
                    .iter()
                    .map(|word| String::from_utf8_lossy(word.as_ref()).into_owned())
                    .collect::<Vec<_>>()
            ),
        }
    }

    /// A connection for many commands.
    #[track_caller]
    pub fn session(&self) -> Session {
        let connection = TcpStream::connect(self.address).expect("redis takes connections");
        connection.set_read_timeout(Some(SOON)).expect("timeout");
        connection.set_nodelay(true).expect("no delay");
        Session {
            connection: BufReader::new(connection),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection to redis, in database 0 unless a command selects another.
#[derive(Debug)]
pub struct Session {
    connection: BufReader<TcpStream>,
}

impl Session {
    /// Runs one command; `Err`: what redis said, or that it is gone.
    pub fn ask<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Reply, String> {
        self.send(&packed(words))?;
        read_reply(&mut self.connection)
    }

    /// Sends all of these commands at once, then reads all of the answers.
    pub fn ask_all<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Result<Reply, String>> {
        let mut answers = Vec::with_capacity(commands.len());
        // In pieces: redis stops reading when its answers are not read.
        for some in commands.chunks(1000) {
            let request: Vec<u8> = some.iter().flat_map(|words| packed(words)).collect();
            if let Err(error) = self.send(&request) {
                answers.extend(some.iter().map(|_| Err(error.clone())));
                continue;
            }
            answers.extend(some.iter().map(|_| read_reply(&mut self.connection)));
        }
        answers
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let connection = self.connection.get_mut();
        connection.write_all(bytes).map_err(|e| e.to_string())
    }
}

/// A command as it goes over the wire.
fn packed<A: AsRef<[u8]>>(words: &[A]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    request
}

fn read_reply(from: &mut impl BufRead) -> Result<Reply, String> {
    let mut line = String::new();
    from.read_line(&mut line)
        .map_err(|error| error.to_string())?;
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else {
        return Err("redis closed the connection".into());
    };
    let number = || {
        rest.parse::<i64>()
            .map_err(|_| format!("bad reply {line:?}"))
    };
    match kind {
        "+" => Ok(Reply::Status(rest.into())),
        ":" => Ok(Reply::Integer(number()?)),
        "$" => {
            let Ok(length) = usize::try_from(number()?) else {
                return Ok(Reply::Bulk(None));
            };
            let mut value = vec![0; length + 2];
            from.read_exact(&mut value)
                .map_err(|error| error.to_string())?;
            value.truncate(length);
            Ok(Reply::Bulk(Some(value)))
        }
        "*" => (0..number()?.max(0))
            .map(|_| read_reply(from))
            .collect::<Result<_, _>>()
            .map(Reply::List),
        _ => Err(rest.into()),
    }
}
