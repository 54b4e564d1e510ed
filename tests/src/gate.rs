//! A web server that holds its requests until the test lets them go, and counts how many it has at
//! once.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::origin::{Connection, Origin};
use crate::websocket;
use crate::{SOON, eventually};

/// A web server with a gate before each answer.
#[derive(Debug)]
pub struct Gate {
    origin: Origin,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that have arrived and were not answered.
    now: usize,
    most: usize,
    /// What arrived, in its order.
    targets: Vec<String>,
    /// Requests that may still pass; `None`: all.
    passes: Option<usize>,
    service: Duration,
}

impl Gate {
    /// Holds every request.
    pub fn shut() -> Gate {
        Gate::with(Some(0), Duration::ZERO)
    }

    /// Answers each after so long.
    pub fn open(service: Duration) -> Gate {
        Gate::with(None, service)
    }

    fn with(passes: Option<usize>, service: Duration) -> Gate {
        let shared = Arc::new(Shared::default());
        let mut state = lock(&shared.state);
        (state.passes, state.service) = (passes, service);
        drop(state);
        let script = Arc::clone(&shared);
        let origin = Origin::scripted("gate", move |connection| script.serve(connection));
        Gate { origin, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// Lets so many more requests pass.
    pub fn release(&self, count: usize) {
        let mut state = lock(&self.shared.state);
        state.passes = state.passes.map(|passes| passes + count);
        self.shared.changed.notify_all();
    }

    /// Lets all pass from now on.
    pub fn release_all(&self) {
        lock(&self.shared.state).passes = None;
        self.shared.changed.notify_all();
    }

    /// Requests that it has now.
    pub fn now(&self) -> usize {
        lock(&self.shared.state).now
    }

    /// The most that it had at once.
    pub fn most(&self) -> usize {
        lock(&self.shared.state).most
    }

    /// The targets of all requests, in the order of their arrival.
    pub fn targets(&self) -> Vec<String> {
        lock(&self.shared.state).targets.clone()
    }

    /// Waits until it has so many requests.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        eventually("the origin has the requests", SOON, || {
            (self.now() == count).then_some(())
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.release_all();
    }
}

impl Shared {
    fn serve(&self, connection: &mut Connection) {
        while let Some(request) = connection.read_request() {
            let mut state = lock(&self.state);
            state.now += 1;
            state.most = state.most.max(state.now);
            state.targets.push(request.target.clone());
            if request.field("upgrade").is_some() {
                drop(state);
                websocket::serve(connection, &request);
                lock(&self.state).now -= 1;
                return;
            }
            while state.passes == Some(0) {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
            state.passes = state.passes.map(|passes| passes - 1);
            let service = state.service;
            drop(state);
            std::thread::sleep(service);
            // Before the answer: when that is there, another request may come.
            lock(&self.state).now -= 1;
            if !connection.send_text(&request.target) {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
