//! The administration server: metrics, health, routes, pools, status, reload, on an address of its
//! own.
//!
//! Runs on the control thread with hyper; a page that takes long is made on the blocking pool, two at
//! a time, so that neither the upkeep of routes and nodes nor a scrape waits for it. Not here: what
//! the pages tell (each asks the part that knows) and any password: whoever can connect may do
//! everything, which is why the address is loopback or a unix socket unless configured. Web pages in
//! a browser on the same machine can connect too; `guard` keeps them out.
//!
//! Invariants: no number of clients, and no slowness of theirs, takes more than
//! [`ADMIN_CONNECTIONS`] connections or keeps one for ever; every answer says `no-store` and `nosniff`;
//! nothing but a POST changes anything.

mod answer;
mod changes;
mod commands;
mod config;
mod explain;
mod guard;
mod health;
mod index;
mod list;
mod metrics;
mod pools;
mod query;
mod reload;
mod routes;
mod snapshot;
mod socket;
mod status;
mod status_csv;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use portico_config::AdminAddress;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use crate::listen::ListenError;
use crate::process::Process;
use crate::registry::{Command, CommandRequest};
use crate::reloads::ReloadRequest;
use crate::repeats::Repeats;
use crate::start::ADMIN_CONNECTIONS;

pub use answer::Body;

use answer::refusal;
use guard::Reach;
use index::Page;
use socket::{Bound, Stream};

/// A request head, from its first byte, and also the wait for it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The bytes of a request head, about: 431 above.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The fields of a request head: 431 above.
const MAX_FIELDS: usize = 64;
/// The bytes of a request body, which no page reads: 413 above.
const MAX_BODY_BYTES: u64 = 64 << 10;
/// A connection is asked to end after this, so that a client that takes an answer byte by byte does
/// not keep it for ever.
const MAX_AGE: Duration = Duration::from_secs(600);
/// What is under way then, or when the server stops, may take that much longer.
const GRACE: Duration = Duration::from_secs(5);
/// Pages that are made at once of those that look at the whole table; others wait.
const MAX_HEAVY: usize = 2;
/// Lists of all tools in memory at once; 503 above.
const MAX_LISTS: usize = 4;
/// Snapshots that are made at once, each with a thread while it is sent; 503 above.
const MAX_SNAPSHOTS: usize = 2;
/// Between two tries to accept while the system refuses.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages are made of.
pub struct State {
    /// What they tell about.
    pub process: Arc<Process>,
    /// Where reloads are asked for.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Where the registry is told what to do; `None`: there is none.
    pub commands: Option<mpsc::Sender<CommandRequest>>,
    heavy: Semaphore,
    lists: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
}

impl State {
    /// Pages about `process`.
    pub fn new(
        process: Arc<Process>,
        reload: mpsc::Sender<ReloadRequest>,
        commands: Option<mpsc::Sender<CommandRequest>>,
    ) -> Self {
        Self {
            process,
            reload,
            commands,
            heavy: Semaphore::new(MAX_HEAVY),
            lists: Arc::new(Semaphore::new(MAX_LISTS)),
            snapshots: Arc::new(Semaphore::new(MAX_SNAPSHOTS)),
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// A bound address.
#[derive(Debug)]
pub struct Admin {
    bound: Bound,
}

impl Admin {
    /// Takes the address, so that nobody else can; answers nobody yet. Call it on a runtime.
    ///
    /// # Errors
    /// Why the address cannot be had.
    pub fn bind(address: &AdminAddress) -> Result<Self, ListenError> {
        let bound = Bound::bind(address).map_err(|error| ListenError::new(address, error))?;
        Ok(Self { bound })
    }

    /// Answers until `stop` is ready: then the address is given back, and answers that are under way
    /// get a few seconds.
    pub async fn serve(self, state: Arc<State>, stop: impl Future<Output = ()>) {
        let (ending, ended) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut failures = Repeats::default();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = stop.as_mut() => break,
                accepted = self.bound.accept() => match accepted {
                    Ok(stream) if connections.len() < ADMIN_CONNECTIONS => {
                        let (state, ended) = (Arc::clone(&state), ended.clone());
                        let reach = self.bound.reach();
                        connections.spawn_local(connection(stream, reach, state, ended));
                    }
                    Ok(stream) => refuse(&stream),
                    Err(error) => {
                        if let Some(unsaid) = failures.occur(Instant::now()) {
                            warn!(%error, unsaid, "the administration cannot accept a connection; out of descriptors or memory? check LimitNOFILE");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(done) = connections.join_next() => log_panic(&done),
            }
        }
        drop(self.bound);
        drop(ending);
        while let Some(done) = connections.join_next().await {
            log_panic(&done);
        }
    }
}

/// The server in force, which a reload may put elsewhere.
#[derive(Debug)]
pub struct Server {
    state: Arc<State>,
    /// Gone: the server that it belongs to ends.
    stop: Option<oneshot::Sender<()>>,
    /// It, and those that are ending.
    serving: JoinSet<()>,
}

impl Server {
    /// Nowhere yet.
    pub fn new(state: State) -> Self {
        Self {
            state: Arc::new(state),
            stop: None,
            serving: JoinSet::new(),
        }
    }

    /// Answers there from now on, and nowhere else.
    pub fn follow(&mut self, bound: Option<Admin>) {
        self.stop = bound.map(|admin| {
            let (stop, stopped) = oneshot::channel();
            let state = Arc::clone(&self.state);
            self.serving.spawn_local(admin.serve(state, async {
                let _ = stopped.await;
            }));
            stop
        });
    }

    /// Waits until it ends although nobody has told it to, which is a defect.
    pub async fn ended(&mut self) {
        while let Some(done) = self.serving.join_next().await {
            if done.is_err() {
                error!(
                    "the administration ended, which is a defect of portico; the process drains and ends, to be restarted whole"
                );
                return;
            }
        }
        std::future::pending().await
    }
}

fn log_panic(done: &Result<(), tokio::task::JoinError>) {
    if done.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
        error!("a page of the administration panicked, which is a defect of portico: see above");
    }
}

/// Says that there are too many connections, if that can be said at once.
fn refuse(stream: &Stream) {
    const TEXT: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\n\
                        Content-Type: text/plain\r\nConnection: close\r\n\r\ntoo many connections\n";
    stream.try_write(TEXT.as_bytes());
}

/// Serves one connection to its end. The end of the server is when `ended` says that its sender is
/// gone.
async fn connection(
    stream: Stream,
    reach: Reach,
    state: Arc<State>,
    mut ended: watch::Receiver<()>,
) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, reach, &state).await) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .half_close(true);
    let mut serving = pin!(server.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        done = serving.as_mut() => Some(done),
        () = sleep(MAX_AGE) => None,
        _ = ended.changed() => None,
    };
    let done = match done {
        Some(done) => done,
        None => {
            serving.as_mut().graceful_shutdown();
            timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = done {
        debug!(%error, "a connection to the administration broke off");
    }
}

/// From a request to its answer.
async fn answer(request: Request<Incoming>, reach: Reach, state: &Arc<State>) -> Response<Body> {
    let snapshot = state.process.snapshot.load_full();
    let names = guard::Names::new(snapshot.config.server.name.as_deref());
    if let Err(refused) = guard::check(&request, reach, &names) {
        debug!(%refused, path = request.uri().path(), "the administration refuses a request");
        return refusal(StatusCode::FORBIDDEN, &refused.to_string());
    }
    let Some(page) = Page::find(request.uri().path()) else {
        return index::not_found();
    };
    if !page.takes(request.method()) {
        return index::wrong_method(page);
    }
    if request.body().size_hint().lower() > MAX_BODY_BYTES {
        let text = format!("a request body has at most {MAX_BODY_BYTES} bytes");
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, &text);
    }
    match page {
        Page::Index => index::page(&request),
        Page::Healthz => health::alive(),
        Page::Readyz => health::ready(&request, &state.process),
        Page::Metrics => metrics::page(state).await,
        Page::Routes => routes::page(&request, state).await,
        Page::Changes => changes::page(&request, state).await,
        Page::Snapshot => snapshot::page(&request, state),
        Page::List => list::page(state).await,
        Page::Config => config::page(&request, state).await,
        Page::Status => status::page(&request, state).await,
        Page::StatusCsv => status_csv::page(&request, state).await,
        Page::Explain => explain::page(&request, state).await,
        Page::Pools => pools::page(&request, state).await,
        Page::PoolAct(act) => pools::act(&request, state, act),
        Page::Reload => reload::page(&request, state).await,
        Page::Apply => commands::page(&request, state, Command::Apply).await,
        Page::Keep => commands::page(&request, state, Command::Keep).await,
        Page::Refresh => commands::page(&request, state, Command::Refresh).await,
    }
}

impl State {
    /// Makes something beside the control thread; with a turn, if it looks at the whole table.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        heavy: bool,
        make: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Response<Body>> {
        let turn = match heavy {
            true => self.heavy.acquire().await.ok(),
            false => None,
        };
        let state = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || make(&state)).await;
        drop(turn);
        made.map_err(|error| {
            error!(%error, "a page of the administration could not be made, which is a defect of portico");
            let text = "the page could not be made, which is a defect of portico: see its log";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }
}
