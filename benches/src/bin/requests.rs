//! Requests over many connections, of which only some are under way at a time: what `growth` needs and `wrk` cannot do.
//!
//! Opens the connections, asks once on each, says `ready` and waits for a line on standard input.
//! Then `--at-once` requests are under way for `--seconds`, each on the connection that has been
//! silent the longest; then it says in one line of JSON how many were answered, and holds the
//! connections until standard input ends. So whoever reads a proxy's CPU time between the lines
//! counts requests and nothing of opening or closing.
//!
//! It measures nothing itself. HTTP/1.1 only, plain or over TLS; every answer has to be 200.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use portico_benches::http1::exchange;
use portico_benches::{TlsTo, block_on, connect, ready, say, tls_client};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections that are opened at the same time.
const OPENED_AT_ONCE: usize = 64;
/// What the proxy may take for opening, and for what is under way at the end.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Sends requests over many connections, so many at a time")]
struct Arguments {
    /// Address of the proxy's listener
    address: SocketAddr,
    /// Host of the requests; each `#` becomes a random number below `--tools`
    #[arg(long)]
    host: String,
    /// How many different hosts there are
    #[arg(long, default_value_t = 1)]
    tools: u32,
    /// Request target
    #[arg(long, default_value = "/1k")]
    target: String,
    /// Header fields of each request, all told
    #[arg(long, default_value_t = 2)]
    fields: usize,
    /// Connections to hold open
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests under way at a time
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// Requests a second, over all; 0: as fast as they are answered
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Length of the run
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Over TLS
    #[arg(long)]
    tls: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    block_on(arguments.connections, run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let load = Rc::new(Load::new(&arguments)?);
    tokio::time::timeout(PATIENCE, open(&load, &arguments))
        .await
        .context("the connections were not opened in time")??;

    ready()?;
    let started = Instant::now();
    let length = Duration::from_secs_f64(arguments.seconds);
    load.next.set(started);
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.at_once.min(arguments.connections) {
        let load = Rc::clone(&load);
        tasks.spawn_local(async move { load.ask_until(started + length).await });
    }
    tokio::time::timeout(length + PATIENCE, tasks.join_all())
        .await
        .context("an answer did not come in time")?;
    let failures = load.failures.borrow();
    say(serde_json::json!({
        "requests": load.answered.get(),
        "seconds": started.elapsed().as_secs_f64(),
        "errors": failures.values().sum::<u64>(),
        "failures": *failures,
    }))?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(ExitCode::from(u8::from(!failures.is_empty())))
}

async fn open(load: &Rc<Load>, arguments: &Arguments) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for opened in 0..arguments.connections {
        if opened >= OPENED_AT_ONCE {
            tasks.join_next().await.context("no task")???;
        }
        let load = Rc::clone(load);
        tasks.spawn_local(async move {
            let stream = load.connect().await?;
            load.ask_first(stream).await
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(())
}

/// A connection, over TLS or not.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

struct Load {
    address: SocketAddr,
    tls: Option<TlsTo>,
    /// What stands before, between and behind the numbers of a request.
    parts: Vec<Vec<u8>>,
    tools: u32,
    seed: Cell<u32>,
    /// The one that was used last is the last one.
    idle: RefCell<VecDeque<Box<dyn Stream>>>,
    /// When the next request is due, and how far apart they are.
    next: Cell<Instant>,
    pace: Option<Duration>,
    answered: Cell<u64>,
    failures: RefCell<BTreeMap<String, u64>>,
}

impl Load {
    fn new(arguments: &Arguments) -> anyhow::Result<Load> {
        let text = request(&arguments.target, &arguments.host, arguments.fields)?;
        let tls = if arguments.tls {
            let name = arguments.host.replace('#', "0");
            Some(TlsTo::new(
                arguments.address,
                &name,
                tls_client("http/1.1")?,
            )?)
        } else {
            None
        };
        Ok(Load {
            address: arguments.address,
            tls,
            parts: text.split('#').map(|part| part.into()).collect(),
            tools: arguments.tools.max(1),
            seed: Cell::new(2_463_534_242),
            idle: RefCell::default(),
            next: Cell::new(Instant::now()),
            pace: (arguments.rate > 0)
                .then(|| Duration::from_secs_f64(1.0 / f64::from(arguments.rate))),
            answered: Cell::new(0),
            failures: RefCell::default(),
        })
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        Ok(match &self.tls {
            None => Box::new(connect(self.address).await?),
            Some(to) => Box::new(to.connect().await?),
        })
    }

    async fn ask_first(&self, mut stream: Box<dyn Stream>) -> anyhow::Result<()> {
        let mut request = Vec::new();
        self.write_request(&mut request);
        exchange(&mut stream, &request).await?;
        self.idle.borrow_mut().push_back(stream);
        Ok(())
    }

    /// A connection that failed is counted and not used again.
    async fn ask_until(&self, end: Instant) {
        let mut request = Vec::new();
        while Instant::now() < end {
            if let Some(pace) = self.pace {
                let due = self.next.get();
                self.next.set(due + pace);
                tokio::time::sleep_until(due).await;
            }
            let Some(mut stream) = self.idle.borrow_mut().pop_front() else {
                return;
            };
            self.write_request(&mut request);
            match exchange(&mut stream, &request).await {
                Ok(()) => {
                    self.answered.set(self.answered.get() + 1);
                    self.idle.borrow_mut().push_back(stream);
                }
                Err(error) => {
                    let mut failures = self.failures.borrow_mut();
                    *failures.entry(error.to_string()).or_default() += 1;
                }
            }
        }
    }

    /// The request for a host by chance.
    fn write_request(&self, request: &mut Vec<u8>) {
        let number = self.random() % self.tools;
        request.clear();
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                // Writing into memory does not fail.
                let _ = write!(request, "{number}");
            }
            request.extend_from_slice(part);
        }
    }

    /// Marsaglia's xorshift: the same numbers in every run.
    fn random(&self) -> u32 {
        let mut seed = self.seed.get();
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        self.seed.set(seed);
        seed
    }
}

/// A head with so many fields, each some 31 bytes long but for the first two.
fn request(target: &str, host: &str, fields: usize) -> anyhow::Result<String> {
    let Some(more) = fields.checked_sub(2) else {
        bail!("a request has two fields at least");
    };
    let mut text =
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portico-benches\r\n");
    for number in 0..more {
        text.push_str(&format!("x-field-{number:03}: abcdefghijklmnop\r\n"));
    }
    text.push_str("\r\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: usize, expected: Option<usize>) {
        let text = request("/1k", "app#.tools.example", fields).ok();
        let found = text.map(|text| {
            assert!(text.ends_with("\r\n\r\n"));
            // The request line and the empty line are no fields.
            text.trim_end().lines().count() - 1
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn as_many_fields_as_asked_for() {
        check(1, None);
        check(2, Some(2));
        check(10, Some(10));
        check(100, Some(100));
    }
}
