//! Requests all the time, each with the answer that it must get, while a test breaks other things.
//!
//! Two threads: one keeps its connection, the other opens one for each request. An answer that is
//! late counts as wrong: requests wait for nothing but their backend.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{Client, Response, get};
use crate::portico::Portico;
use crate::{SOON, eventually};

/// No answer takes longer, on a busy machine either. Less than any time after which portico gives up
/// redis or a backend (3 s): a request that waits for those is seen.
const MAX_ANSWER: Duration = Duration::from_millis(2900);

/// Between two requests of a thread, so that there is time for something else on the machine.
const PAUSE: Duration = Duration::from_millis(3);

/// So many wrong answers are shown.
const SHOWN: usize = 10;

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Expected {
    host: String,
    target: String,
    answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    From(String),
    Status(u16),
}

impl Expected {
    /// The tool's own host is answered by the echo of this name.
    pub fn from(tool: &str, backend: &str) -> Expected {
        Expected {
            host: format!("{tool}.toolforge.org"),
            target: "/".into(),
            answer: Answer::From(backend.into()),
        }
    }

    /// Nobody has this tool.
    pub fn unknown(tool: &str) -> Expected {
        Expected {
            host: format!("{tool}.toolforge.org"),
            target: "/".into(),
            answer: Answer::Status(404),
        }
    }

    /// The tool's path on the legacy domain leads to its own host.
    pub fn moved(tool: &str) -> Expected {
        Expected {
            host: "tools.wmflabs.org".into(),
            target: format!("/{tool}/x"),
            answer: Answer::Status(307),
        }
    }

    fn holds(&self, response: &Response) -> bool {
        match &self.answer {
            Answer::From(backend) => {
                let begin = format!("{{\"backend\": \"{backend}\"");
                response.status == 200 && response.text().starts_with(&begin)
            }
            Answer::Status(status) => response.status == *status,
        }
    }
}

/// A load that runs until it is finished or dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What came of a load without a wrong answer.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Requests sent and answered.
    pub requests: usize,
    /// The slowest answer.
    pub slowest: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

impl Load {
    /// Starts it, and waits until it is under way.
    #[track_caller]
    pub fn start(portico: &Portico, expected: &[Expected]) -> Load {
        let shared = Arc::new(Shared::default());
        let threads = [true, false].map(|keep| {
            let (shared, address, expected) =
                (Arc::clone(&shared), portico.http, expected.to_vec());
            thread::spawn(move || run(&shared, address, &expected, keep))
        });
        let load = Load {
            shared,
            threads: threads.into(),
        };
        load.go_on();
        load
    }

    /// Waits until a few more requests were answered after now.
    #[track_caller]
    pub fn go_on(&self) {
        let until = self.shared.requests.load(Ordering::SeqCst) + 20;
        eventually("the load goes on", SOON, || {
            (self.shared.requests.load(Ordering::SeqCst) >= until).then_some(())
        });
    }

    /// Ends it; panics unless every request got the right answer in time.
    #[track_caller]
    pub fn finish(mut self) -> Counts {
        self.go_on();
        self.stop();
        let requests = self.shared.requests.load(Ordering::SeqCst);
        let wrong = std::mem::take(&mut *lock(&self.shared.wrong));
        let slowest = *lock(&self.shared.slowest);
        assert!(
            wrong.is_empty(),
            "{} of {requests} requests went wrong: {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(SHOWN)]
        );
        assert!(slowest < MAX_ANSWER, "an answer took {slowest:?}");
        Counts { requests, slowest }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, address: SocketAddr, expected: &[Expected], keep: bool) {
    let begin = Instant::now();
    let mut kept: Option<Client> = None;
    for expected in expected.iter().cycle() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let sent = Instant::now();
        let answered = kept
            .take()
            .map_or_else(|| Client::try_tcp(address), Ok)
            .and_then(|client| exchange(client, expected));
        let taken = sent.elapsed();
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let mut slowest = lock(&shared.slowest);
        *slowest = taken.max(*slowest);
        drop(slowest);
        let wrong = match answered {
            Ok((client, response)) if expected.holds(&response) => {
                kept = keep.then_some(client);
                None
            }
            Ok((_, response)) => Some(format!("{} {:?}", response.status, response.text())),
            Err(error) => Some(error.to_string()),
        };
        if let Some(got) = wrong {
            lock(&shared.wrong).push(format!(
                "{:?} after the start, {:?} wants {:?}: {got}",
                begin.elapsed(),
                expected.host,
                expected.answer
            ));
        }
        thread::sleep(PAUSE);
    }
}

fn exchange(mut client: Client, expected: &Expected) -> io::Result<(Client, Response)> {
    client.wire.send(get(&expected.host, &expected.target))?;
    let response = client.try_response(false)?;
    let response = response.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((client, response))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
