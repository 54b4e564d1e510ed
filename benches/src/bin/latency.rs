//! Latency at a fixed rate: requests become due at even intervals, whether or not the earlier ones were answered, and each
//! takes the next free one of some keep-alive TLS connections. Its latency begins when it was due; so a proxy that stops for a
//! moment pays for every request of that moment (no coordinated omission). When the connections are open, says `ready` and waits for a line on
//! standard input. Prints one line of JSON: `{"units":N,"seconds":N,"errors":N,"samples":N,"p50_us":N,"p99_us":N,"p999_us":N,"late_p99_us":N}`.
//!
//! `late` is how much after its time the generator itself looked at a request: when that is not far below
//! the latencies, the generator was the limit, and not the proxy. The clock is a timer of the kernel, since those of the runtime
//! tick in milliseconds. The first tenth of the time is not counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use portico_benches::http1::exchange;
use portico_benches::{TlsTo, block_on, ready, say, tls_client, within};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::client::TlsStream;

#[derive(Parser)]
#[command(about = "Latency of requests at a fixed rate over keep-alive TLS connections")]
struct Arguments {
    /// Address of the proxy's TLS listener
    address: SocketAddr,
    /// Name for SNI and Host
    #[arg(long)]
    host: String,
    /// Requests a second
    #[arg(long)]
    rate: f64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// No request is due after so many seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rate >= 1.0, "the rate must be 1 or more");
    block_on(arguments.connections, run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let work = Rc::new(Work::default());
    let request = format!(
        "GET /1k HTTP/1.1\r\nHost: {}\r\nUser-Agent: portico-benches\r\n\r\n",
        arguments.host
    );
    let mut connections = Vec::new();
    for stream in open(&arguments).await? {
        connections.push(serve(stream, request.clone(), Rc::clone(&work)));
    }
    ready()?;
    let interval = Duration::from_secs_f64(1.0 / arguments.rate);
    let timer = every(interval)?;
    let start = Instant::now();
    let requests = (arguments.rate * arguments.seconds) as u32;
    let uncounted = requests / 10;
    let mut late = Vec::with_capacity(requests as usize);
    let mut made = 0;
    while made < requests {
        tick(&timer).await?;
        let now = Instant::now();
        while made < requests && start + interval * (made + 1) <= now {
            made += 1;
            let due = start + interval * made;
            late.push(micros(now - due));
            work.due.borrow_mut().push_back(Due {
                at: due,
                counts: made > uncounted,
            });
            work.more.notify_one();
        }
    }
    work.over.set(true);
    for _ in 0..arguments.connections {
        work.more.notify_one();
    }
    let mut latencies = Vec::with_capacity(requests as usize);
    let mut errors = 0;
    for connection in connections {
        let (taken, failed) = connection.await.context("a connection ended")?;
        latencies.extend(taken);
        if let Some(error) = failed {
            errors += 1;
            writeln!(io::stderr(), "a connection ended: {error}")?;
        }
    }
    // What nobody could take any more, since all connections have failed.
    errors += work.due.borrow().len();
    latencies.sort_unstable();
    late.sort_unstable();
    say(serde_json::json!({
        "units": requests,
        "seconds": start.elapsed().as_secs_f64(),
        "errors": errors,
        "samples": latencies.len(),
        "p50_us": percentile(&latencies, 0.5),
        "p99_us": percentile(&latencies, 0.99),
        "p999_us": percentile(&latencies, 0.999),
        "late_p99_us": percentile(&late, 0.99),
    }))?;
    Ok(())
}

/// A request that has become due.
struct Due {
    at: Instant,
    counts: bool,
}

/// What waits for a free connection.
#[derive(Default)]
struct Work {
    due: RefCell<VecDeque<Due>>,
    more: Notify,
    over: Cell<bool>,
}

impl Work {
    async fn next(&self) -> Option<Due> {
        loop {
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            if self.over.get() {
                // One word may have been for several: the others have to hear it too.
                self.more.notify_one();
                return None;
            }
            self.more.notified().await;
        }
    }
}

async fn open(arguments: &Arguments) -> anyhow::Result<Vec<TlsStream<TcpStream>>> {
    let to = TlsTo::new(arguments.address, &arguments.host, tls_client("http/1.1")?)?;
    let mut streams = Vec::new();
    for _ in 0..arguments.connections {
        streams.push(within(to.connect()).await?);
    }
    Ok(streams)
}

type Taken = (Vec<u32>, Option<io::Error>);

/// Sends what is due until nothing more will be: the latencies, and what ended it before its time.
fn serve(mut stream: TlsStream<TcpStream>, request: String, work: Rc<Work>) -> JoinHandle<Taken> {
    spawn_local(async move {
        let mut latencies = Vec::new();
        while let Some(due) = work.next().await {
            match within(exchange(&mut stream, request.as_bytes())).await {
                Ok(()) if due.counts => latencies.push(micros(due.at.elapsed())),
                Ok(()) => {}
                Err(error) => return (latencies, Some(error)),
            }
        }
        (latencies, None)
    })
}

fn every(interval: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let interval = Timespec {
        tv_sec: interval.as_secs() as i64,
        tv_nsec: i64::from(interval.subsec_nanos()),
    };
    let setting = Itimerspec {
        it_interval: interval,
        it_value: interval,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    // What it is deprecated for is a descriptor that is closed under it; this one it owns.
    #[allow(deprecated)]
    AsyncFd::new(timer)
}

async fn tick(timer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = timer.readable().await?;
        let mut count = [0; 8];
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
        match read {
            Ok(read) => return read.map(|_| ()),
            Err(_would_block) => {}
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The smallest value that so large a share is not above; 0 of nothing.
fn percentile(sorted: &[u32], share: f64) -> u32 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: std::ops::Range<u32>, share: f64, expected: u32) {
        let sorted: Vec<u32> = values.collect();
        assert_eq!(percentile(&sorted, share), expected);
    }

    #[test]
    fn percentiles() {
        check(1..101, 0.5, 50);
        check(1..101, 0.99, 99);
        check(1..101, 0.999, 100);
        check(5..6, 0.5, 5);
        check(0..0, 0.99, 0);
    }
}
