//! Redis servers with replicas, and the sentinels that watch them, as processes on loopback.
//!
//! They persist nothing; a sentinel rewrites its own file of settings. Everything is asked by
//! `redis-cli`. [`Fake`] is a sentinel that says what a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::{SOON, eventually, free_address, signal};

/// The name of the master, for sentinels.
pub const MASTER: &str = "mymaster";

/// How long a master must not answer a sentinel for it to call that down: longer than a machine
/// stands still. [`Node::set_patience`] where a master is to be given up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A redis server or a sentinel, killed on drop.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    folder: TempDir,
    words: Vec<String>,
    password: Option<String>,
    process: Option<Child>,
}

impl Node {
    /// A redis server, empty, with these words on its command line.
    pub fn redis(more: &[&str]) -> Node {
        let mut node = Node::new();
        let folder = node.folder.path().display().to_string();
        let port = node.address.port().to_string();
        let words = ["--port", &port, "--bind", "127.0.0.1", "--dir", &folder];
        let quiet = ["--save", "", "--appendonly", "no"];
        let soon = ["--repl-diskless-sync-delay", "0"];
        let all = [&words[..], &quiet, &soon, more].concat();
        node.words = all.into_iter().map(str::to_owned).collect();
        node.restart();
        node
    }

    /// A replica of `master` that has all of it by now.
    pub fn replica(master: &Node, more: &[&str]) -> Node {
        let port = master.address.port().to_string();
        let replica = Node::redis(&[&["--replicaof", "127.0.0.1", &port][..], more].concat());
        replica.wait_for_link();
        replica
    }

    /// A sentinel that watches `master`, a server at `address`, with these lines in its settings.
    pub fn sentinel(address: SocketAddr, quorum: usize, more: &str) -> Node {
        let mut node = Node::new();
        let (ip, port) = (address.ip(), address.port());
        let patience = PATIENCE.as_millis();
        let settings = format!(
            "port {}\nbind 127.0.0.1\ndir {}\n{more}\n\
             sentinel monitor {MASTER} {ip} {port} {quorum}\n\
             sentinel down-after-milliseconds {MASTER} {patience}\n\
             sentinel failover-timeout {MASTER} 3000\n",
            node.address.port(),
            node.folder.path().display()
        );
        let file = node.folder.path().join("sentinel.conf");
        std::fs::write(&file, settings).expect("written");
        node.words = vec![file.display().to_string(), "--sentinel".to_owned()];
        node.restart();
        node
    }

    fn new() -> Node {
        Node {
            address: free_address(),
            folder: TempDir::new().expect("a temporary folder"),
            words: Vec::new(),
            password: None,
            process: None,
        }
    }

    /// Asks with this password from now on.
    pub fn with_password(mut self, password: &str) -> Node {
        self.password = Some(password.to_owned());
        self
    }

    /// Kills it if it runs and starts it on the same port; redis is empty then.
    pub fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(&self.words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("redis-server does not start ({error}); install it: apt-get install redis-server")
            });
        self.process = Some(child);
        eventually("it listens", SOON, || {
            let answer = self.try_ask(&["PING"]);
            let up = |said: String| said.contains("PONG") || said.contains("NOAUTH");
            answer.map_or_else(up, up).then_some(())
        });
    }

    /// Ends it without a good-bye.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// Ends [`Node::freeze`].
    pub fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `[registry].url` wants it.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// What it answers, as `redis-cli` prints it; an error panics.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words)
            .unwrap_or_else(|error| panic!("{words:?} was refused: {error}"))
    }

    /// The same, or the error.
    pub fn try_ask(&self, words: &[&str]) -> Result<String, String> {
        let mut client = Command::new("redis-cli");
        client.args(["-e", "-p", &self.address.port().to_string()]);
        if let Some(password) = &self.password {
            client.args(["--no-auth-warning", "-a", password]);
        }
        let output = client.args(words).output().expect("redis-cli runs");
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let failed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(format!("{said}{failed}"))
        }
    }

    /// Registers a route.
    #[track_caller]
    pub fn route(&self, tool: &str, backend: &str) {
        self.ask(&["HSET", &format!("prefix:{tool}"), ".*", backend]);
    }

    /// `master` or `slave`.
    #[track_caller]
    pub fn role(&self) -> String {
        // A server that changes its role closes its connections.
        let answer = eventually("it says its role", SOON, || self.try_ask(&["ROLE"]).ok());
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// Waits until this replica has what its master has.
    #[track_caller]
    pub fn wait_for_link(&self) {
        eventually("the replica is in step", SOON, || {
            let info = self.try_ask(&["INFO", "replication"]).ok()?;
            info.contains("master_link_status:up").then_some(())
        });
    }

    /// Waits until this replica knows the tool.
    #[track_caller]
    pub fn wait_for_tool(&self, tool: &str) {
        eventually("the replica has the tool", SOON, || {
            let key = format!("prefix:{tool}");
            (self.ask(&["EXISTS", &key]) == "1").then_some(())
        });
    }

    /// How long a master must not answer this sentinel for it to call that down.
    #[track_caller]
    pub fn set_patience(&self, time: Duration) {
        let millis = time.as_millis().to_string();
        let option = "down-after-milliseconds";
        self.ask(&["SENTINEL", "SET", MASTER, option, &millis]);
    }

    /// Waits until it is a master.
    #[track_caller]
    pub fn wait_for_promotion(&self) {
        eventually("the replica is promoted", SOON * 2, || {
            // A server that changes its role closes its connections.
            let role = self.try_ask(&["ROLE"]).ok()?;
            role.starts_with("master").then_some(())
        });
    }

    /// Lets no replica of this server follow it any more.
    #[track_caller]
    pub fn cut_off_replicas(&self) {
        self.ask(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
        self.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// What this sentinel knows of the master: `num-slaves`, `ip`, `port` ...
    fn knows(&self, field: &str) -> Option<String> {
        let answer = self.try_ask(&["SENTINEL", "MASTER", MASTER]).ok()?;
        let mut lines = answer.lines();
        lines.find(|line| *line == field)?;
        lines.next().map(str::to_owned)
    }

    /// Waits until this sentinel knows so many replicas and other sentinels.
    #[track_caller]
    pub fn wait_for_peers(&self, replicas: usize, others: usize) {
        eventually("the sentinel knows everybody", SOON, || {
            let count = |field: &str| self.knows(field)?.parse::<usize>().ok();
            let all = count("num-slaves")? >= replicas && count("num-other-sentinels")? >= others;
            // Only what was heard of lately is promoted.
            let known = self.try_ask(&["SENTINEL", "REPLICAS", MASTER]).ok()?;
            let heard = known.lines().filter(|line| *line == "ok").count() >= replicas;
            (all && heard).then_some(())
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `redis+sentinel://` with these sentinels, in their order.
pub fn url(sentinels: &[SocketAddr]) -> String {
    let sentinels: Vec<String> = sentinels.iter().map(SocketAddr::to_string).collect();
    format!("redis+sentinel://{}/{MASTER}", sentinels.join(","))
}

/// A sentinel that answers every question with the same bytes.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    says: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    /// One that says this, in RESP, whatever it is asked.
    pub fn saying(answer: &str) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let fake = Fake {
            address: listener.local_addr().expect("an address"),
            says: Arc::new(Mutex::new(answer.into())),
        };
        let says = Arc::clone(&fake.says);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let says = Arc::clone(&says);
                thread::spawn(move || {
                    let mut answers = connection.try_clone().expect("cloned");
                    let mut questions = BufReader::new(connection);
                    while skip_command(&mut questions).is_some() {
                        let answer = says.lock().expect("whole").clone();
                        if answers.write_all(&answer).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        fake
    }

    /// One that names this server.
    pub fn naming(address: SocketAddr) -> Fake {
        Fake::saying(&named(address))
    }

    /// Names another one from now on.
    pub fn name(&self, address: SocketAddr) {
        *self.says.lock().expect("whole") = named(address).into_bytes();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn named(address: SocketAddr) -> String {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let (ip_length, port_length) = (ip.len(), port.len());
    format!("*2\r\n${ip_length}\r\n{ip}\r\n${port_length}\r\n{port}\r\n")
}

/// Reads one command; `None` at the end.
fn skip_command(from: &mut impl BufRead) -> Option<()> {
    let mut number = || {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.trim_end().get(1..)?.parse::<u64>().ok()
    };
    let words = number()?;
    for _ in 0..words {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let length: u64 = line.trim_end().get(1..)?.parse().ok()?;
        let mut word = Vec::new();
        from.take(length + 2).read_to_end(&mut word).ok()?;
    }
    Some(())
}
