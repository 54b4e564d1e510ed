//! The proxy under test: its configuration in a temporary folder, its process, its stderr, signals.
//!
//! The binary is the one that `PORTICO_BIN` names, else `target/release/portico`.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tempfile::TempDir;

use crate::client::{Client, Response, get};
use crate::http2::Http2;
use crate::origin::Origin;
use crate::redis::Redis;
use crate::tls::{Authority, Pair};
use crate::{SOON, eventually, free_address, signal};

/// The tool that most tests use, and the name that clients ask TLS for.
pub const HOST: &str = "grid.toolforge.org";

/// A configuration to be, and the folder that it will live in.
pub struct Builder {
    config: toml::Table,
    folder: TempDir,
    authority: Authority,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
}

/// A running portico, killed on drop.
pub struct Portico {
    /// The plain listener.
    pub http: SocketAddr,
    /// The TLS listener.
    pub https: SocketAddr,
    /// The administration, unless a test has put it elsewhere.
    pub admin: SocketAddr,
    /// Where its files are.
    pub folder: TempDir,
    /// Who signed its certificate.
    pub authority: Authority,
    config: toml::Table,
    tls_client: Arc<ClientConfig>,
    process: Child,
}

impl Builder {
    /// Two loopback listeners, both serving (`redirect = false`); a certificate for
    /// `*.toolforge.org`, `toolforge.org` and `tools.wmflabs.org`; the domains of the vectors; no
    /// registry; no ingress: a tool is a static route or nothing.
    pub fn new() -> Builder {
        let folder = TempDir::new().expect("a temporary folder");
        let authority = Authority::new();
        std::fs::write(folder.path().join("ca.pem"), &authority.pem).expect("CA written");
        let names = ["*.toolforge.org", "toolforge.org", "tools.wmflabs.org"];
        let (chain, key) = authority.issue(&names).write(folder.path(), "portico");
        let (http, https, admin) = (free_address(), free_address(), free_address());
        let base = format!(
            r#"
            [server]
            workers = 2
            [listen]
            http = ["{http}"]
            https = ["{https}"]
            admin = "{admin}"
            redirect = false
            [tls]
            certificates = [{{ chain = {chain:?}, key = {key:?} }}]
            [domains]
            canonical = "toolforge.org"
            legacy = ["tools.wmflabs.org"]
            "#
        );
        Builder {
            config: base.parse().expect("our own TOML"),
            folder,
            authority,
            http,
            https,
            admin,
            environment: Vec::new(),
            descriptors: None,
        }
    }

    /// Lays TOML over the configuration so far: tables are merged, all else replaced.
    #[track_caller]
    pub fn with(mut self, toml: &str) -> Builder {
        let over: toml::Table = toml
            .parse()
            .unwrap_or_else(|error| panic!("{error}\n{toml}"));
        merge(&mut self.config, over);
        self
    }

    /// A static route.
    #[track_caller]
    pub fn route(self, tool: &str, backend: &str) -> Builder {
        self.with(&format!("[routes]\n{tool} = {backend:?}"))
    }

    /// The ingress pool.
    #[track_caller]
    pub fn ingress(self, nodes: &[SocketAddr]) -> Builder {
        let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
        self.with(&format!(
            "[pools.ingress]\nnodes = {nodes:?}\n[ingress]\npool = \"ingress\""
        ))
    }

    /// The registry, with a snapshot file in the test's folder.
    #[track_caller]
    pub fn registry(self, redis: &Redis) -> Builder {
        self.registry_at(&redis.url())
    }

    /// The registry at this URL, with a snapshot file in the test's folder.
    #[track_caller]
    pub fn registry_at(self, url: &str) -> Builder {
        let snapshot = self.snapshot();
        self.with(&format!(
            "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}"
        ))
    }

    /// Certificates to serve, in their order, in place of the usual one. Files are `0.crt`,
    /// `0.key`, `1.crt` and so on.
    #[track_caller]
    pub fn certificates(self, pairs: &[Pair]) -> Builder {
        let files: Vec<String> = pairs
            .iter()
            .enumerate()
            .map(|(index, pair)| {
                let (chain, key) = pair.write(self.folder.path(), &index.to_string());
                format!("{{ chain = {chain:?}, key = {key:?} }}")
            })
            .collect();
        self.with(&format!("[tls]\ncertificates = [{}]", files.join(", ")))
    }

    /// An environment variable for the process.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// How many files the process may have open.
    pub fn descriptors(mut self, limit: u32) -> Builder {
        self.descriptors = Some(limit);
        self
    }

    /// Where the registry's snapshot goes.
    pub fn snapshot(&self) -> PathBuf {
        self.folder.path().join("routes.snapshot")
    }

    /// The folder for everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority that signed the usual certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where the TLS listener will be.
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Where the plain listener will be.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the administration will be.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Writes `portico.toml` and gives its path.
    pub fn write(&self) -> PathBuf {
        write_config(self.folder.path(), &self.config)
    }

    /// Runs `portico <command> --config F <more>` to its end.
    #[track_caller]
    pub fn command(&self, command: &str, more: &[&str]) -> Finished {
        let config = self.write();
        let mut words = vec![command, "--config", config.to_str().expect("a UTF-8 path")];
        words.extend(more);
        run(&words)
    }

    /// Starts `portico run` and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Portico {
        let config = self.write();
        let mut command = match self.descriptors {
            None => Command::new(binary()),
            Some(limit) => {
                let mut shell = Command::new("bash");
                let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(binary());
                shell
            }
        };
        let said = std::fs::File::create(stderr_file(self.folder.path()));
        let process = command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.expect("a file"))
            .spawn()
            .expect("portico starts");
        let tls_client = self.authority.client_config(rustls::ALL_VERSIONS);
        let mut portico = Portico {
            http: self.http,
            https: self.https,
            admin: self.admin,
            folder: self.folder,
            authority: self.authority,
            config: self.config,
            tls_client,
            process,
        };
        portico.wait_until_it_listens();
        portico
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Portico {
    /// One tool, `grid`, at this origin; all else as [`Builder::new`] has it.
    #[track_caller]
    pub fn before(origin: &Origin) -> Portico {
        Builder::new().route("grid", &origin.url()).start()
    }

    #[track_caller]
    fn wait_until_it_listens(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.http).is_err() || TcpStream::connect(self.https).is_err() {
            if let Some(status) = self.process.try_wait().expect("waiting works") {
                panic!("portico ended at start with {status}:\n{}", self.stderr());
            }
            assert!(start.elapsed() < SOON, "portico does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client over bare TCP.
    #[track_caller]
    pub fn tcp(&self) -> Client {
        Client::tcp(self.http)
    }

    /// A client over TLS.
    #[track_caller]
    pub fn tls(&self) -> Client {
        Client::tls(self.https, &self.tls_client, HOST)
    }

    /// A node of the first pool, as `/pools` tells of it.
    #[track_caller]
    pub fn node(&self, address: SocketAddr) -> serde_json::Value {
        let answer = self.admin_get("/pools").text();
        let pools: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        let nodes = pools["pools"][0]["nodes"].as_array().expect("nodes");
        let address = address.to_string();
        let found = nodes.iter().find(|node| node["address"] == address);
        found
            .unwrap_or_else(|| panic!("no {address}: {pools}"))
            .clone()
    }

    /// A GET of the administration.
    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Response {
        Client::tcp(self.admin).exchange(get(&self.admin.to_string(), target))
    }

    /// The value of a series of `/metrics`, written as there; `None`: there is none.
    #[track_caller]
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin_get("/metrics").text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    /// An HTTP/2 client, its settings exchanged.
    #[track_caller]
    pub fn http2(&self) -> Http2 {
        self.http2_with(&[])
    }

    /// As [`Portico::http2`] with settings of the client.
    #[track_caller]
    pub fn http2_with(&self, settings: &[(u16, u32)]) -> Http2 {
        self.http2_bare().open(settings)
    }

    /// An HTTP/2 client that has not said anything yet.
    #[track_caller]
    pub fn http2_bare(&self) -> Http2 {
        let client = Http2::connect(self.https, &self.tls_client, HOST, &[b"h2"]);
        client.expect("portico takes connections")
    }

    /// What clients trust.
    pub fn tls_client(&self) -> &Arc<ClientConfig> {
        &self.tls_client
    }

    /// A client of either kind, or why there is none: while portico stops.
    pub fn try_client(&self, tls: bool) -> std::io::Result<Client> {
        if tls {
            Client::try_tls(self.https, &self.tls_client, HOST)
        } else {
            Client::try_tcp(self.http)
        }
    }

    /// The CA certificate that signed portico's, for other programs.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What it wrote to stderr so far. A file, not a pipe: what portico has said before it answers is
    /// there when the answer is.
    pub fn stderr(&self) -> String {
        let said = std::fs::read(stderr_file(self.folder.path())).expect("a file");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Memory in use now, in bytes (VmRSS).
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("waiting works").is_none()
    }

    /// Lays TOML over its configuration file, which nothing reads before [`Portico::reload`].
    #[track_caller]
    pub fn change(&mut self, toml: &str) {
        let over: toml::Table = toml.parse().expect("valid TOML");
        merge(&mut self.config, over);
        write_config(self.folder.path(), &self.config);
    }

    /// Puts another text in place of its configuration file.
    #[track_caller]
    pub fn restore(&mut self, text: &str) {
        self.config = text.parse().expect("valid TOML");
        write_config(self.folder.path(), &self.config);
    }

    /// Asks it to load its configuration (SIGHUP), and waits until it has said what came of that.
    /// Whether it did.
    #[track_caller]
    pub fn reload(&self) -> bool {
        let said = |what: &str| self.stderr().matches(what).count();
        let (yes, no) = (
            "the configuration was reloaded",
            "the configuration was not reloaded",
        );
        let before = (said(yes), said(no));
        signal(self.pid(), "HUP");
        eventually("an end of the reload", SOON, || {
            let now = (said(yes), said(no));
            (now != before).then_some(now.0 > before.0)
        })
    }

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// Stops it, and starts it again with the configuration as it is on disk; waits until it listens.
    #[track_caller]
    pub fn restart(&mut self) {
        self.terminate();
        assert!(self.wait(SOON).success(), "{}", self.stderr());
        let said = std::fs::File::options()
            .append(true)
            .open(stderr_file(self.folder.path()));
        self.process = Command::new(binary())
            .arg("run")
            .arg("--config")
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.expect("a file"))
            .spawn()
            .expect("portico starts");
        self.wait_until_it_listens();
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("portico.toml")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        wait(&mut self.process, deadline)
            .unwrap_or_else(|| panic!("portico did not end within {deadline:?}"))
    }
}

impl Drop for Portico {
    fn drop(&mut self) {
        let ended = self.process.try_wait().ok().flatten();
        let _ = self.process.kill();
        let _ = self.process.wait();
        let stderr = self.stderr();
        if std::thread::panicking() {
            eprintln!("--- portico ended by itself: {ended:?}; its stderr:\n{stderr}---");
        } else {
            assert!(
                !stderr.contains("panicked at"),
                "portico panicked:\n{stderr}"
            );
        }
    }
}

/// [`Portico::before`] an echo.
#[track_caller]
pub fn echo() -> (Origin, Portico) {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    (origin, portico)
}

/// [`Portico::before`] an origin that answers every request with these bytes and keeps the
/// connection.
#[track_caller]
pub fn canned(answer: &'static [u8]) -> (Origin, Portico) {
    let origin = Origin::scripted("canned", move |connection| {
        while connection.read_request().is_some() {
            connection.send(answer);
        }
    });
    let portico = Portico::before(&origin);
    (origin, portico)
}

/// What a command that ended left.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Asserts the exit code and that stderr contains every one of these.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        assert!(!self.stderr.contains("panicked at"), "{self:#?}");
    }
}

/// Runs portico with these arguments to its end.
#[track_caller]
pub fn run(words: &[&str]) -> Finished {
    let mut child = Command::new(binary())
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("portico starts");
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    let status = wait(&mut child, SOON);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // The collectors end with the pipes.
    let text = |of: &Arc<Mutex<String>>| {
        eventually("the pipes end", SOON, || {
            (Arc::strong_count(of) == 1).then_some(())
        });
        of.lock().expect("no panic under the lock").clone()
    };
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    let status = status.unwrap_or_else(|| panic!("{words:?} does not end\n{stdout}\n{stderr}"));
    Finished {
        code: status.code(),
        stdout,
        stderr,
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("PORTICO_BIN").map_or_else(
        || {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let target =
                std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
            target.join("release/portico")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "no portico at {}; build it: cargo build --release -p portico (or name another in PORTICO_BIN)",
        path.display()
    );
    path
}

/// Runs another program to its end and gives what it wrote; panics when it fails.
#[track_caller]
pub fn program(name: &str, words: &[&str]) -> Output {
    let output = Command::new(name)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("{name} does not start ({error}); scripts/test installs it")
        });
    assert!(
        output.status.success(),
        "{name} {words:?} failed: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Waits for a process to end; none when `deadline` passes first.
pub fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < deadline {
        if let Some(status) = child.try_wait().expect("waiting works") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// A process of a test's own, killed on drop.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Collects what a process writes, on a thread.
pub fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        let mut bytes = Vec::new();
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            // A character may come in two pieces.
            let whole = match std::str::from_utf8(&bytes) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => bytes.len(),
            };
            let piece: Vec<u8> = bytes.drain(..whole).collect();
            sink.lock()
                .expect("no panic under the lock")
                .push_str(&String::from_utf8_lossy(&piece));
        }
    });
    text
}

fn stderr_file(folder: &Path) -> PathBuf {
    folder.join("stderr.log")
}

fn write_config(folder: &Path, config: &toml::Table) -> PathBuf {
    let path = folder.join("portico.toml");
    let text = toml::to_string(config).expect("our own TOML");
    std::fs::write(&path, text).expect("configuration written");
    path
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
