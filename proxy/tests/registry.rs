//! The registry against real redis servers, started and stopped here on loopback.
//!
//! Prints how long each change took to be seen: `cargo test -p portico --test
//! registry -- --nocapture`.

// A test that cannot go on says so by a panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use portico::registry::{
    Admit, Changed, Command, CommandReport, CommandRequest, Mode, Registry, RegistryError,
    RegistryStatus, Source, load_once, load_snapshot,
};
use portico_config::{MassRemoval, SecretUrl};
use portico_routing::table::{Entry, Table};
use tokio::sync::oneshot;

const DEADLINE: Duration = Duration::from_secs(15);
const PASSWORD: &str = "hunter2-correct-horse";

// ---------------------------------------------------------------- redis

/// A redis-server of one test; it ends with this value.
struct Redis {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
}

impl Redis {
    fn start(arguments: &[&str]) -> Redis {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let child = spawn_redis(port, directory.path(), &arguments);
        let redis = Redis {
            child,
            port,
            arguments,
            directory,
        };
        redis.wait_until_up();
        redis
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Empty, on the same port.
    fn restart(&mut self) {
        self.kill();
        self.child = spawn_redis(self.port, self.directory.path(), &self.arguments);
        self.wait_until_up();
    }

    fn wait_until_up(&self) {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let client = redis::Client::open(url).unwrap();
        eventually("redis-server is up", || match client.get_connection() {
            Ok(_) => true,
            // It answers, and wants a password.
            Err(error) => error.code() == Some("NOAUTH") || error.to_string().contains("NOAUTH"),
        });
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn run(&self, command: &[&str]) {
        self.run_in(0, command);
    }

    fn run_in(&self, database: u8, command: &[&str]) {
        let url = format!("redis://127.0.0.1:{}/{database}", self.port);
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut cmd = redis::cmd(command[0]);
        for argument in &command[1..] {
            cmd.arg(*argument);
        }
        cmd.exec(&mut connection).unwrap();
    }

    fn seed(&self, tools: usize) {
        for n in 0..tools {
            self.run(&["HSET", &format!("prefix:t{n}"), ".*", "http://192.0.2.1:80"]);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn_redis(port: u16, directory: &Path, arguments: &[String]) -> Child {
    process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(directory)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need redis-server; install it with: apt-get install redis-server")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits for something that must become true soon, and says how long it took.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not so after {DEADLINE:?}: {what}"
        );
        thread::sleep(Duration::from_micros(200));
    }
    let took = start.elapsed();
    println!("{what}: {took:?}");
    took
}

// ---------------------------------------------------------------- the registry under test

/// A registry that runs on a thread of its own with a current-thread runtime, as
/// in the control thread.
struct Running {
    table: Arc<Table>,
    status: Arc<RegistryStatus>,
    told: Arc<Mutex<Vec<String>>>,
    commands: tokio::sync::mpsc::Sender<CommandRequest>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(config: &portico_config::Registry) -> Result<Running, RegistryError> {
        collect_log();
        let table = Arc::new(Table::new());
        let told = Arc::new(Mutex::new(Vec::new()));
        let (started, outcome) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (commands, requests) = tokio::sync::mpsc::channel(4);
        let thread = thread::spawn({
            let (config, table, told) = (config.clone(), Arc::clone(&table), Arc::clone(&told));
            move || {
                let changed: Changed =
                    Arc::new(move |tool, _: &Entry| told.lock().unwrap().push(tool.to_owned()));
                let runtime = current_thread();
                runtime.block_on(async {
                    match Registry::start(&config, table, Arc::default(), admit(), changed).await {
                        Ok(registry) => {
                            started.send(Ok(registry.status())).unwrap();
                            let saver = registry.saver();
                            tokio::select! {
                                () = registry.run(requests) => {}
                                _ = stopped => {}
                            }
                            saver.finish().await;
                        }
                        Err(error) => started.send(Err(error)).unwrap(),
                    }
                });
            }
        });
        let status = outcome.recv().unwrap()?;
        Ok(Running {
            table,
            status,
            told,
            commands,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Asks, and gives where the answer will come.
    fn ask(&self, command: Command) -> oneshot::Receiver<Result<CommandReport, String>> {
        let (answer, answered) = oneshot::channel();
        let request = CommandRequest { command, answer };
        self.commands.blocking_send(request).unwrap();
        answered
    }

    fn command(&self, command: Command) -> Result<CommandReport, String> {
        self.ask(command).blocking_recv().unwrap()
    }

    fn backend(&self, tool: &str, path: &str) -> Option<String> {
        let entry = self.table.get(tool)?;
        Some(entry.find(path.as_bytes())?.backend.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

fn current_thread() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Refuses one port, as portico refuses its own.
fn admit() -> Admit {
    Arc::new(|backend| {
        if backend.port == 666 {
            Err("not this port".to_owned())
        } else {
            Ok(())
        }
    })
}

fn config(url: &str, directory: &Path) -> portico_config::Registry {
    portico_config::Registry {
        url: SecretUrl::new(url),
        snapshot: directory.join("routes.snapshot"),
        mass_removal: MassRemoval {
            percent: 50,
            grace: Duration::from_secs(2),
        },
        backends: Vec::new(),
    }
}

/// Everything that was logged in this process.
fn collect_log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<&'static Mutex<Vec<u8>>> = OnceLock::new();
    struct Collect(&'static Mutex<Vec<u8>>);
    impl Write for Collect {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOG.get_or_init(|| {
        let log: &'static Mutex<Vec<u8>> = Box::leak(Box::default());
        tracing_subscriber::fmt()
            .with_env_filter("debug")
            .with_ansi(false)
            .with_writer(move || Collect(log))
            .init();
        log
    })
}

/// Waits until a line of the log that names this redis contains `text`.
#[track_caller]
fn eventually_logged(url: &str, text: &str) {
    eventually(text, || log_about(url).contains(text));
}

fn log_about(url: &str) -> String {
    let log = String::from_utf8(collect_log().lock().unwrap().clone()).unwrap();
    let address = url
        .rsplit('@')
        .next()
        .unwrap()
        .trim_start_matches("redis://");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(address)).collect();
    lines.join("\n")
}

// ---------------------------------------------------------------- tests

#[test]
fn the_first_load_takes_what_is_good_and_shows_what_is_bad() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.run(&["HSET", "prefix:grid", ".*", "http://192.0.2.1:8000"]);
    redis.run(&[
        "HSET",
        "prefix:multi",
        ".*",
        "http://192.0.2.1:80",
        "^/api/.*",
        "http://192.0.2.2:80",
    ]);
    redis.run(&["HSET", "prefix:canon", ".*", "http://192.0.2.1:80"]);
    redis.run(&["SET", "redirect:canon", "1"]);
    redis.run(&["HSET", "redirect:moved", "a", "b"]);
    redis.run(&["SET", "prefix:wrong", "a string"]);
    redis.run(&[
        "HSET",
        "prefix:badre",
        "(",
        "http://192.0.2.1:80",
        ".*",
        "http://192.0.2.2:80",
    ]);
    redis.run(&["HSET", "prefix:refused", ".*", "http://192.0.2.1:666"]);
    redis.run(&["HSET", "prefix:UPPER", ".*", "http://192.0.2.1:80"]);
    redis.run_in(
        1,
        &["HSET", "prefix:elsewhere", ".*", "http://192.0.2.1:80"],
    );
    let mut huge = vec!["HSET".to_owned(), "prefix:huge".to_owned()];
    huge.extend((0..1001).flat_map(|n| [format!("/{n}"), "http://192.0.2.1:80".to_owned()]));
    redis.run(&huge.iter().map(String::as_str).collect::<Vec<_>>());
    let mut connection = redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    for key in [b"prefix:\xff\xfe".as_slice(), b"prefix:\xffx\r\n"] {
        redis::cmd("HSET")
            .arg(key)
            .arg(".*")
            .arg("http://192.0.2.1:80")
            .exec(&mut connection)
            .unwrap();
    }
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    assert_eq!(running.status.source(), Source::Redis);
    assert!(running.status.connected());
    assert!(running.status.last_sync().is_some());
    assert_eq!(running.status.bad_keys(), 3);
    let bad_keys = running.status.bad_key_list();
    assert_eq!(&*bad_keys[0].key, "prefix:UPPER");
    assert!(bad_keys[0].reason.contains("upper-case"));
    assert!(bad_keys.len() == 3 && bad_keys[2].reason.contains("not UTF-8"));
    assert_eq!(running.status.bad_tools(), 4);
    assert_eq!(
        running.backend("grid", "/").unwrap(),
        "http://192.0.2.1:8000"
    );
    assert_eq!(
        running.backend("multi", "/api/x").unwrap(),
        "http://192.0.2.2:80"
    );
    assert_eq!(
        running.backend("multi", "/x").unwrap(),
        "http://192.0.2.1:80"
    );
    assert!(running.table.get("canon").unwrap().redirect);
    assert!(running.table.get("moved").unwrap().redirect);
    assert!(!running.table.get("grid").unwrap().redirect);
    assert_eq!(
        running.backend("badre", "/").unwrap(),
        "http://192.0.2.2:80"
    );
    let reason = |tool: &str| running.table.get(tool).unwrap().bad[0].reason.to_string();
    assert!(!reason("badre").is_empty());
    assert!(reason("wrong").contains("another type"));
    assert!(reason("huge").contains("1001 fields"));
    assert_eq!(reason("refused"), "not this port");
    assert!(running.table.get("elsewhere").is_none());
    assert_eq!(running.table.len(), 8);
    let mut told = running.told.lock().unwrap().clone();
    told.sort();
    assert_eq!(
        told,
        [
            "badre", "canon", "grid", "huge", "moved", "multi", "refused", "wrong"
        ]
    );
    let (table, source) = current_thread()
        .block_on(load_once(&config(&redis.url(), directory.path()), admit()))
        .unwrap();
    assert_eq!((table.len(), source), (8, Source::Redis));
}

#[test]
fn changes_are_seen_at_once() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.run(&["HSET", "prefix:stays", ".*", "http://192.0.2.1:80"]);
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    let backend = |path: &'static str| running.backend("grid", path);
    redis.run(&["HSET", "prefix:grid", ".*", "http://192.0.2.1:8000"]);
    eventually("a new tool", || backend("/").is_some());
    redis.run(&["HSET", "prefix:grid", ".*", "http://192.0.2.2:8000"]);
    eventually("another backend", || {
        backend("/").is_some_and(|b| b == "http://192.0.2.2:8000")
    });
    redis.run(&["HSET", "prefix:grid", "^/api/.*", "http://192.0.2.3:8000"]);
    eventually("a second pattern", || {
        backend("/api/").is_some_and(|b| b == "http://192.0.2.3:8000")
    });
    redis.run(&["HDEL", "prefix:grid", ".*"]);
    eventually("a pattern less", || {
        backend("/").is_none() && backend("/api/").is_some()
    });
    redis.run(&["SET", "redirect:grid", "1"]);
    eventually("a redirect", || {
        running.table.get("grid").is_some_and(|e| e.redirect)
    });
    redis.run(&["DEL", "prefix:grid"]);
    eventually("only the redirect", || {
        running
            .table
            .get("grid")
            .is_some_and(|e| e.redirect && e.routes.is_empty())
    });
    redis.run(&["DEL", "redirect:grid"]);
    eventually("nothing", || running.table.get("grid").is_none());
    redis.run(&["SET", "prefix:grid", "a string"]);
    eventually("a wrong type", || {
        running.table.get("grid").is_some_and(|e| !e.bad.is_empty())
    });
    redis.run(&["DEL", "prefix:grid"]);
    eventually("nothing again", || running.table.get("grid").is_none());
    redis.run(&["HSET", "prefix:grid", ".*", "http://192.0.2.1:8000"]);
    redis.run(&["PEXPIRE", "prefix:grid", "300"]);
    eventually("a tool before its time is over", || backend("/").is_some());
    eventually("an expired tool", || backend("/").is_none());
    redis.run(&["RENAME", "prefix:stays", "prefix:renamed"]);
    eventually("a renamed tool", || {
        running.table.get("stays").is_none() && running.table.get("renamed").is_some()
    });

    // Writes to another database, and of the same value, change nothing.
    let told = running.told.lock().unwrap().len();
    redis.run_in(1, &["HSET", "prefix:renamed", ".*", "http://192.0.2.9:80"]);
    redis.run_in(1, &["FLUSHDB"]);
    redis.run(&["HSET", "prefix:renamed", ".*", "http://192.0.2.1:80"]);
    redis.run(&["HSET", "prefix:last", ".*", "http://192.0.2.1:80"]);
    eventually("the last tool", || running.table.get("last").is_some());
    assert_eq!(running.table.len(), 2);
    assert_eq!(running.told.lock().unwrap()[told..], ["last"]);
}

#[test]
fn a_huge_hash_is_refused_and_not_read() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let huge = "x".repeat(20 << 20);
    redis.run(&["HSET", "prefix:first", ".*", &huge]);
    let url = "http://192.0.2.1:80".to_owned();
    let mut many = vec!["HSET".to_owned(), "prefix:many".to_owned()];
    many.extend((0..200).flat_map(|n| [format!("/{n}"), url.clone()]));
    redis.run(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut sent = || -> u64 {
        let info: String = redis::cmd("INFO")
            .arg("stats")
            .query(&mut connection)
            .unwrap();
        let line = info
            .lines()
            .find_map(|l| l.strip_prefix("total_net_output_bytes:"));
        line.unwrap().parse().unwrap()
    };
    let before = sent();
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    let reason = |tool: &str| {
        let entry = running.table.get(tool).unwrap();
        entry.bad.first().map(|bad| bad.reason.to_string())
    };
    assert!(reason("first").unwrap().contains("the limit is 4194304"));
    assert_eq!(reason("many"), None);
    // One long value in the midst of many short ones.
    redis.run(&["HSET", "prefix:many", "/77", &huge]);
    eventually("it is bad", || reason("many").is_some());
    assert!(running.backend("many", "/1").is_none(), "as a whole");
    let read = sent() - before;
    assert!(read < 1 << 20, "{read} bytes were read");
    redis.run(&["HSET", "prefix:many", "/77", &url]);
    eventually("it is good again", || reason("many").is_none());
    assert_eq!(running.backend("many", "/77").unwrap(), url);
}

#[test]
fn keys_that_name_no_tool_come_and_go() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    let listed = || {
        let list = running.status.bad_key_list().into_iter();
        list.map(|bad| bad.key.to_string()).collect::<Vec<_>>()
    };
    redis.run(&["SET", "redirect:a.b", "1"]);
    redis.run(&["HSET", "prefix:Grid", ".*", "http://192.0.2.1:80"]);
    eventually("both are listed", || {
        listed() == ["prefix:Grid", "redirect:a.b"]
    });
    redis.run(&["DEL", "redirect:a.b"]);
    eventually("one is gone", || listed() == ["prefix:Grid"]);
    redis.run(&["FLUSHALL"]);
    eventually("all are gone", || listed().is_empty());
    assert_eq!(running.status.bad_keys(), 0);
    assert!(running.table.is_empty());
}

#[test]
fn a_burst_arrives_whole() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    let mut connection = redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let mut pipeline = redis::pipe();
    for n in 0..5000 {
        pipeline
            .cmd("HSET")
            .arg(format!("prefix:b{n}"))
            .arg(".*")
            .arg("http://192.0.2.1:80")
            .ignore();
    }
    pipeline.exec(&mut connection).unwrap();
    eventually("5,000 new tools", || running.table.len() == 5000);
}

#[test]
fn large_hashes_are_read_in_several_batches() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    for tool in 0..30 {
        let mut command = vec!["HSET".to_owned(), format!("prefix:large{tool}")];
        command.extend(
            (0..900).flat_map(|n| [format!("/{n:03}"), format!("http://192.0.2.{tool}:80")]),
        );
        redis.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    assert_eq!(running.table.len(), 30);
    for tool in 0..30 {
        let backend = running.backend(&format!("large{tool}"), "/000").unwrap();
        assert_eq!(backend, format!("http://192.0.2.{tool}:80"));
    }
}

#[test]
fn a_flush_is_held_back_and_then_believed() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.seed(12);
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    assert_eq!(running.table.len(), 12);
    redis.run(&["FLUSHALL"]);
    eventually("it is held back", || running.status.held_back() == 12);
    assert_eq!(running.table.len(), 12);
    redis.run(&["HSET", "prefix:t3", ".*", "http://192.0.2.9:80"]);
    eventually("a change in between", || {
        running
            .backend("t3", "/")
            .is_some_and(|b| b == "http://192.0.2.9:80")
    });
    assert_eq!(running.table.len(), 12);
    let took = eventually("it is believed", || running.table.len() == 1);
    assert!(
        took > Duration::from_millis(1500),
        "it was held for {took:?} only"
    );
    assert_eq!(running.status.held_back(), 0);
    assert!(running.table.get("t3").is_some());
    eventually_logged(&redis.url(), "vanished from redis at once");
    eventually_logged(&redis.url(), "were removed: the grace time is over");
}

#[test]
fn without_redis_the_table_stays_and_with_it_back_it_is_compared() {
    let mut redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.seed(12);
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    redis.kill();
    eventually("the loss is noticed", || !running.status.connected());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(running.table.len(), 12);
    redis.restart();
    let took = eventually("redis is found again", || running.status.connected());
    assert!(took < Duration::from_secs(6));
    assert_eq!(
        running.table.len(),
        12,
        "empty is not what redis holds by intention"
    );
    redis.seed(11);
    redis.run(&["HSET", "prefix:new", ".*", "http://192.0.2.1:80"]);
    eventually("pushes arrive again", || running.table.get("new").is_some());
    eventually("only the missing one goes", || running.table.len() == 12);
    assert!(running.table.get("t11").is_none());
    assert_eq!(running.status.disconnects(), 1);
    assert_eq!(running.status.source(), Source::Redis);
    eventually_logged(&redis.url(), "routing goes on by the table as it was");
    eventually_logged(&redis.url(), "redis is back");
}

#[test]
fn a_killed_connection_misses_nothing() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.seed(3);
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    let mut connection = redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    // In one go, so that the writes fall between the connections.
    redis::pipe()
        .cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("normal")
        .arg("SKIPME")
        .arg("yes")
        .ignore()
        .cmd("DEL")
        .arg("prefix:t0")
        .ignore()
        .cmd("HSET")
        .arg("prefix:t1")
        .arg(".*")
        .arg("http://192.0.2.9:80")
        .ignore()
        .exec(&mut connection)
        .unwrap();
    eventually("a change that no push told", || {
        running
            .backend("t1", "/")
            .is_some_and(|b| b == "http://192.0.2.9:80")
    });
    eventually("a removal that no push told", || {
        running.table.get("t0").is_none()
    });
    assert_eq!(running.table.len(), 2);
}

#[test]
fn a_redis_that_stops_answering_is_noticed() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.seed(3);
    let running = Running::start(&config(&redis.url(), directory.path())).unwrap();
    let signal = |name: &str| {
        let status = process::Command::new("kill")
            .args([name, &redis.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    let took = eventually("silence is noticed", || !running.status.connected());
    assert!(took < Duration::from_secs(8));
    assert_eq!(running.table.len(), 3);
    signal("-CONT");
    eventually("it answers again", || running.status.connected());
}

#[test]
fn a_redis_that_says_nothing_does_not_hang_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let url = format!("redis://:{PASSWORD}@{address}/0");
    let error = Running::start(&config(&url, directory.path()))
        .err()
        .unwrap()
        .to_string();
    println!("a silent redis: {:?}: {error}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(7));
    assert!(error.contains("did not answer within 5 s"), "{error}");
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(
        !error.contains(PASSWORD) && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn a_start_without_redis_uses_the_snapshot() {
    let mut redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&redis.url(), directory.path());
    redis.seed(12);
    redis.run(&["SET", "redirect:t1", "1"]);
    {
        let running = Running::start(&config).unwrap();
        eventually("a snapshot", || config.snapshot.exists());
        redis.run(&["HSET", "prefix:late", "^/a/.*", "http://192.0.2.7:7/base"]);
        eventually("a late tool", || running.table.get("late").is_some());
        let before = std::fs::read(&config.snapshot).unwrap();
        eventually("a new snapshot", || {
            std::fs::read(&config.snapshot).unwrap() != before
        });
    }
    redis.kill();
    let running = Running::start(&config).unwrap();
    assert!(matches!(running.status.source(), Source::Snapshot(_)));
    assert!(!running.status.connected());
    assert_eq!(running.status.last_sync(), None);
    assert_eq!(running.table.len(), 13);
    assert!(running.table.get("t1").unwrap().redirect);
    assert_eq!(
        running.backend("late", "/a/x").unwrap(),
        "http://192.0.2.7:7/base"
    );
    assert_eq!(running.told.lock().unwrap().len(), 13);
    eventually_logged(&redis.url(), "routing by the snapshot on disk");
    redis.restart();
    redis.seed(10);
    eventually("redis takes over", || {
        running.status.source() == Source::Redis
    });
    // Three of thirteen are missing, or more if the seeding was slower: either way
    // they go, and only they.
    eventually("only what redis holds", || running.table.len() == 10);
}

#[test]
fn a_redis_restarted_empty_together_with_portico_empties_nothing_at_once() {
    let mut redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&redis.url(), directory.path());
    redis.seed(12);
    {
        let _running = Running::start(&config).unwrap();
        eventually("a snapshot", || config.snapshot.exists());
    }
    redis.restart();
    let running = Running::start(&config).unwrap();
    assert_eq!(running.status.source(), Source::Redis);
    assert_eq!((running.table.len(), running.status.held_back()), (12, 12));
    eventually("it is believed in the end", || running.table.is_empty());
}

#[track_caller]
fn check_no_start(url: &str, snapshot: Option<&[u8]>, contained: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let config = config(url, directory.path());
    if let Some(bytes) = snapshot {
        std::fs::write(&config.snapshot, bytes).unwrap();
    }
    let error = Running::start(&config).err().unwrap().to_string();
    println!("{error}");
    for text in contained {
        assert!(error.contains(text), "{error:?} lacks {text:?}");
    }
    assert!(
        !error.contains(PASSWORD) && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn a_start_without_redis_and_snapshot_is_one_clear_sentence() {
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}/0", free_port());
    check_no_start(
        &url,
        None,
        &["127.0.0.1", "refused", "there is no snapshot at"],
    );
    check_no_start(&url, Some(b""), &["cannot be used: it is torn or damaged"]);
    check_no_start(
        &url,
        Some(b"#!/bin/sh\n"),
        &["it is not a snapshot of portico"],
    );
    check_no_start(&url, Some(b"portico routes\r\n\0\0\0\0"), &["version 0"]);
    check_no_start(
        &format!("nonsense://{PASSWORD}"),
        None,
        &["registry.url cannot be used"],
    );
}

#[test]
fn something_that_is_no_redis_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (mut client, _) = listener.accept().unwrap();
            client
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                .unwrap();
            let _ = client.read(&mut [0; 1024]);
        }
    });
    for (scheme, reason) in [
        ("redis", "does not speak the protocol"),
        ("rediss", "corrupt"),
    ] {
        let url = format!("{scheme}://:{PASSWORD}@{address}/0");
        check_no_start(&url, None, &["cannot load the routes from redis", reason]);
    }
    server.join().unwrap();
}

#[test]
fn passwords_and_rights_are_told_apart_and_never_shown() {
    let redis = Redis::start(&["--requirepass", PASSWORD]);
    let address = format!("127.0.0.1:{}", redis.port);
    check_no_start(&format!("redis://{address}/0"), None, &["wants a password"]);
    check_no_start(
        &format!("redis://:wrong-{PASSWORD}@{address}/0"),
        None,
        &["refuses the user or the password"],
    );
    let url = format!("redis://:{PASSWORD}@{address}/0");
    let mut connection = redis::Client::open(url.as_str())
        .unwrap()
        .get_connection()
        .unwrap();
    let rules = format!(">{PASSWORD}");
    redis::cmd("ACL")
        .arg(&[
            "SETUSER",
            "limited",
            "on",
            &rules,
            "~*",
            "+@all",
            "-client|tracking",
        ])
        .exec(&mut connection)
        .unwrap();
    let limited = format!("redis://limited:{PASSWORD}@{address}/0");
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&config(&limited, directory.path())).unwrap();
    eventually("the mode is known", || running.status.mode().is_some());
    let (mode, why) = running.status.mode().unwrap();
    assert_eq!(mode, Mode::Polling, "{why}");
    drop(running);
    for command in ["hgetall", "exists", "scan"] {
        redis::cmd("HSET")
            .arg(&["prefix:t0", ".*", "http://192.0.2.1:80"])
            .exec(&mut connection)
            .unwrap();
        redis::cmd("ACL")
            .arg(&["SETUSER", "limited", "+@all", &format!("-{command}")])
            .exec(&mut connection)
            .unwrap();
        let right = format!("+{command}");
        check_no_start(&limited, None, &["NOPERM", "lacks a right", &right]);
    }
    redis::cmd("ACL")
        .arg(&["SETUSER", "limited", "+@all", "-memory|usage"])
        .exec(&mut connection)
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&config(&limited, directory.path())).unwrap();
    assert_eq!(running.table.len(), 1, "HLEN will do");
    eventually_logged(&limited, "allow MEMORY USAGE");
    drop(running);
    redis::cmd("ACL")
        .arg(&["SETUSER", "limited", "-hlen"])
        .exec(&mut connection)
        .unwrap();
    check_no_start(
        &limited,
        None,
        &["NOPERM", "lacks a right", "+memory|usage"],
    );
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&config(&url, directory.path())).unwrap();
    assert!(running.status.connected());
    drop(running);
    let log = String::from_utf8(collect_log().lock().unwrap().clone()).unwrap();
    assert!(!log.contains(PASSWORD));
}

#[test]
fn a_snapshot_that_cannot_be_written_or_read_is_no_obstacle() {
    let redis = Redis::start(&[]);
    redis.seed(3);
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&redis.url(), directory.path());
    config.snapshot = PathBuf::from("/proc/portico/routes.snapshot");
    let running = Running::start(&config).unwrap();
    eventually("the failure is counted", || {
        running.status.snapshot_failures() > 0
    });
    redis.run(&["HSET", "prefix:new", ".*", "http://192.0.2.1:80"]);
    eventually("routing goes on", || running.table.get("new").is_some());

    config.snapshot = directory.path().join("foreign");
    std::fs::write(&config.snapshot, "something else").unwrap();
    let running = Running::start(&config).unwrap();
    assert_eq!(running.table.len(), 4);
    eventually("it is replaced", || {
        std::fs::read(&config.snapshot)
            .unwrap()
            .starts_with(b"portico routes")
    });
}

// ---------------------------------------------------------------- commands

/// So long that nothing of it passes within a test.
const LONG_GRACE: Duration = Duration::from_secs(600);

/// A registry that holds back `tools` tools.
fn holding_back(redis: &Redis, directory: &Path, tools: usize) -> Running {
    redis.seed(tools);
    let mut config = config(&redis.url(), directory);
    config.mass_removal.grace = LONG_GRACE;
    let running = Running::start(&config).unwrap();
    redis.run(&["FLUSHALL"]);
    eventually("all is held back", || {
        running.status.held_back() == tools as u64
    });
    running
}

#[test]
fn held_back_removals_are_applied_when_somebody_asks() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let running = holding_back(&redis, directory.path(), 12);
    redis.run(&["HSET", "prefix:t3", ".*", "http://192.0.2.9:80"]);
    eventually("one is back", || running.status.held_back() == 11);
    let report = running.command(Command::Apply);
    let expected = CommandReport {
        removed: 11,
        tools: 1,
        ..CommandReport::default()
    };
    assert_eq!(report, Ok(expected));
    assert_eq!(running.table.len(), 1);
    let nothing = CommandReport {
        tools: 1,
        ..CommandReport::default()
    };
    assert_eq!(running.command(Command::Apply), Ok(nothing));
    assert_eq!(running.command(Command::Keep), Ok(nothing));
    assert_eq!(running.command(Command::Refresh), Ok(nothing));
    eventually_logged(&redis.url(), "as somebody asked");
}

#[test]
fn applying_asks_redis_again() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let running = holding_back(&redis, directory.path(), 12);
    // SWAPDB tells nobody.
    redis.run_in(1, &["HSET", "prefix:t3", ".*", "http://192.0.2.9:80"]);
    redis.run(&["SWAPDB", "0", "1"]);
    let report = running.command(Command::Apply).unwrap();
    // The write to the other database was pushed, and may have been looked at after the swap.
    assert_eq!((report.removed, report.tools), (11, 1));
    assert_eq!(running.backend("t3", "/").unwrap(), "http://192.0.2.9:80");
}

#[test]
fn what_is_kept_by_hand_stays_until_redis_has_it_again_or_apply() {
    let mut redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    redis.seed(12);
    let config = config(&redis.url(), directory.path());
    let grace = config.mass_removal.grace;
    let running = Running::start(&config).unwrap();
    redis.run(&["FLUSHALL"]);
    eventually("all is held back", || running.status.held_back() == 12);
    let held = running.status.held_tool("t5").unwrap();
    assert_eq!(held.until, Some(held.since + grace));
    assert_eq!(running.command(Command::Keep).unwrap().kept, 12);
    assert_eq!(running.status.kept(), 12);
    assert!(
        running
            .status
            .held_tools()
            .iter()
            .all(|tool| tool.until.is_none())
    );
    thread::sleep(grace + Duration::from_millis(300));
    assert_eq!(running.table.len(), 12);
    redis.run(&["HSET", "prefix:t1", ".*", "http://192.0.2.9:80"]);
    eventually("one is back", || running.status.kept() == 11);
    assert_eq!(running.command(Command::Refresh).unwrap().kept, 11);
    redis.kill();
    eventually("the loss is noticed", || !running.status.connected());
    let refused = running.command(Command::Apply).unwrap_err();
    assert!(
        refused.contains("cannot be reached since") && refused.contains("nothing was changed"),
        "{refused}"
    );
    assert!(running.command(Command::Refresh).is_err());
    assert_eq!(running.command(Command::Keep).unwrap().kept, 11);
    assert_eq!(running.table.len(), 12);
    redis.restart();
    redis.run(&["HSET", "prefix:t1", ".*", "http://192.0.2.9:80"]);
    eventually("redis is back", || running.status.connected());
    assert_eq!(running.status.kept(), 11);
    assert_eq!(running.command(Command::Apply).unwrap().removed, 11);
    assert_eq!(running.table.len(), 1);
}

/// The time of the snapshot on disk, and how many tools it has.
fn saved(config: &portico_config::Registry) -> (SystemTime, usize) {
    let table = Table::new();
    let loaded = current_thread().block_on(load_snapshot(config, &table, &admit()));
    match loaded.unwrap() {
        Source::Snapshot(time) => (time, table.len()),
        Source::Redis => panic!("not a snapshot"),
    }
}

#[test]
fn what_is_kept_by_hand_is_kept_over_restarts_with_and_without_redis() {
    let mut redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&redis.url(), directory.path());
    {
        let running = holding_back(&redis, directory.path(), 12);
        assert_eq!(running.command(Command::Keep).unwrap().kept, 12);
        redis.seed(11);
        eventually("eleven are back", || running.status.kept() == 1);
    }
    for _ in 0..2 {
        let running = Running::start(&config).unwrap();
        let status = &running.status;
        assert_eq!(
            (status.kept(), status.held_back()),
            (1, 1),
            "one alone is no mass removal"
        );
        assert_eq!(status.held_tool("t11").unwrap().until, None);
        eventually_logged(&redis.url(), "were kept before the restart");
        assert_eq!(running.table.len(), 12);
    }
    redis.kill();
    let (before, tools) = saved(&config);
    assert_eq!(tools, 12);
    {
        let running = Running::start(&config).unwrap();
        assert_eq!((running.status.kept(), running.table.len()), (1, 12));
    }
    let running = Running::start(&config).unwrap();
    redis.restart();
    redis.seed(11);
    eventually("redis takes over", || {
        running.status.source() == Source::Redis
    });
    // Redis was empty for a moment; what came later is pushed.
    eventually("it is in step", || running.status.held_back() == 1);
    assert_eq!((running.status.kept(), running.table.len()), (1, 12));
    assert!(saved(&config).0 >= before);
    assert_eq!(running.command(Command::Apply).unwrap().removed, 1);
    assert!(running.table.get("t11").is_none());
}

#[test]
fn a_snapshot_written_without_redis_does_not_look_fresh() {
    let mut redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&redis.url(), directory.path());
    let running = holding_back(&redis, directory.path(), 12);
    redis.kill();
    eventually("the loss is noticed", || !running.status.connected());
    let lost = SystemTime::now();
    // Whole seconds are in the file.
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(running.command(Command::Keep).unwrap().kept, 12);
    drop(running);
    let (time, _) = saved(&config);
    assert!(time < lost, "{time:?} is after {lost:?}");
    let running = Running::start(&config).unwrap();
    assert_eq!(running.status.source(), Source::Snapshot(time));
    assert_eq!(
        running.status.kept(),
        12,
        "it was written after redis was lost"
    );
}

#[test]
fn the_last_change_is_saved_at_the_end() {
    let redis = Redis::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let config = config(&redis.url(), directory.path());
    redis.seed(3);
    let running = Running::start(&config).unwrap();
    eventually("a snapshot", || config.snapshot.exists());
    redis.run(&["HSET", "prefix:late", ".*", "http://192.0.2.1:80"]);
    eventually("a late tool", || running.table.get("late").is_some());
    drop(running);
    assert_eq!(saved(&config).1, 4);
}

/// A start beside something that is no snapshot: redis makes it good, and without redis there is
/// none. Neither hangs.
#[track_caller]
fn check_unusable(put: impl Fn(&Path), reason: &str) {
    let redis = Redis::start(&[]);
    redis.seed(3);
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&redis.url(), directory.path());
    put(&config.snapshot);
    config.url = SecretUrl::new(format!("redis://127.0.0.1:{}/0", free_port()));
    let error = Running::start(&config).err().unwrap().to_string();
    assert!(error.contains(reason), "{error:?} lacks {reason:?}");
    config.url = SecretUrl::new(redis.url());
    let running = Running::start(&config).unwrap();
    assert_eq!(
        (running.table.len(), running.status.source()),
        (3, Source::Redis)
    );
    drop(running);
    let log = String::from_utf8(collect_log().lock().unwrap().clone()).unwrap();
    let path = config.snapshot.display().to_string();
    let told = |line: &&str| line.contains("is not used") && line.contains(&path);
    let line = log.lines().find(told).unwrap();
    assert!(line.contains(reason), "{line:?} lacks {reason:?}");
    if !config.snapshot.is_dir() {
        assert_eq!(saved(&config).1, 3, "it was replaced");
    }
}

#[test]
fn what_is_no_usable_snapshot_is_refused_and_replaced() {
    let write = |bytes: &'static [u8]| move |path: &Path| std::fs::write(path, bytes).unwrap();
    check_unusable(write(b""), "torn or damaged: it is empty");
    check_unusable(write(b"#!/bin/sh\n"), "not a snapshot of portico");
    check_unusable(
        write(b"portico routes\r\n\x01\0\0\0"),
        "of an older portico",
    );
    check_unusable(write(b"portico routes\r\n\x03\0\0\0"), "of a newer portico");
    check_unusable(
        write(b"portico routes\r\n\x02\0\0\0 half"),
        "its checksum is wrong",
    );
    check_unusable(
        |path| std::fs::create_dir(path).unwrap(),
        "a directory, not a file",
    );
    let pipe = |path: &Path| {
        let status = process::Command::new("mkfifo").arg(path).status();
        assert!(status.unwrap().success());
    };
    check_unusable(pipe, "a named pipe, not a file");
    let link = |path: &Path| std::os::unix::fs::symlink("elsewhere", path).unwrap();
    check_unusable(link, "a symbolic link, not a file");
}

/// Passes bytes to redis and back, until it is told to swallow the answers.
struct Relay {
    port: u16,
    silent: Arc<AtomicBool>,
}

impl Relay {
    fn to(port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let silent: Arc<AtomicBool> = Arc::default();
        let flag = Arc::clone(&silent);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                pass(from, to, Arc::default());
                pass(server, client, Arc::clone(&flag));
            }
        });
        Relay { port: own, silent }
    }

    fn swallow_answers(&self) {
        self.silent.store(true, SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, silent: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if !silent.load(SeqCst) && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// A registry behind a relay that holds back 12 tools.
fn holding_back_behind(relay: &Relay, redis: &Redis, directory: &Path) -> Running {
    redis.seed(12);
    let mut config = config(&format!("redis://127.0.0.1:{}/0", relay.port), directory);
    config.mass_removal.grace = LONG_GRACE;
    let running = Running::start(&config).unwrap();
    redis.run(&["FLUSHALL"]);
    eventually("all is held back", || running.status.held_back() == 12);
    running
}

#[test]
fn commands_are_answered_while_redis_hangs_and_when_it_is_killed() {
    let mut redis = Redis::start(&[]);
    let relay = Relay::to(redis.port);
    let directory = tempfile::tempdir().unwrap();
    let running = holding_back_behind(&relay, &redis, directory.path());
    relay.swallow_answers();
    let apply = running.ask(Command::Apply);
    let refresh = running.ask(Command::Refresh);
    let start = Instant::now();
    assert_eq!(running.command(Command::Keep).unwrap().kept, 12);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "keep waits for nobody"
    );
    redis.kill();
    let refused = |answer: oneshot::Receiver<Result<CommandReport, String>>| {
        answer.blocking_recv().unwrap().unwrap_err()
    };
    let reason = refused(refresh);
    assert!(
        reason.contains("the connection to redis was lost"),
        "{reason}"
    );
    let reason = refused(apply);
    assert!(
        reason.contains("before all was done: 0 tools were removed, 12"),
        "{reason}"
    );
    assert_eq!((running.table.len(), running.status.kept()), (12, 12));
}

#[test]
fn a_redis_that_is_killed_during_apply_is_an_error_and_loses_nothing() {
    let mut redis = Redis::start(&[]);
    let relay = Relay::to(redis.port);
    let directory = tempfile::tempdir().unwrap();
    let running = holding_back_behind(&relay, &redis, directory.path());
    relay.swallow_answers();
    let apply = running.ask(Command::Apply);
    redis.kill();
    let reason = apply.blocking_recv().unwrap().unwrap_err();
    assert!(reason.contains("redis"), "{reason}");
    let status = &running.status;
    assert_eq!(
        (running.table.len(), status.held_back(), status.kept()),
        (12, 12, 0)
    );
}
