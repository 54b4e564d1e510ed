//! Connections to backends that wait to be used again, one store for each worker.
//!
//! Kept by address; the one used last comes out first, so that a pool shrinks to what the
//! load needs. A connection whose backend has closed it meanwhile is found without a system
//! call: the runtime has seen the event already, or the read says "would block" from its
//! cached readiness. What is left is the race in which the backend closes while the request
//! is on its way: see `forward`.
//!
//! Bounds: [`MAX_PER_ADDRESS`], [`MAX_TOTAL`], and the idle time.
//! [`IdlePool::sweep`] runs once a second.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::stream::UpstreamStream;

/// Idle connections that a worker keeps to one address.
const MAX_PER_ADDRESS: usize = 1024;
/// Idle connections that a worker keeps in all.
const MAX_TOTAL: usize = 4096;

#[derive(Debug)]
struct Idle {
    stream: UpstreamStream,
    since: Instant,
}

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub struct IdlePool {
    by_address: RefCell<HashMap<SocketAddr, Vec<Idle>, foldhash::fast::RandomState>>,
    total: Cell<usize>,
}

/// What there is for who asks for a connection.
#[derive(Debug)]
pub enum Taken {
    /// A live one.
    Alive(UpstreamStream),
    /// None any more: the backend has closed what there was.
    Dead,
    /// None.
    None,
}

impl Taken {
    /// The connection, if there is one.
    pub fn alive(self) -> Option<UpstreamStream> {
        match self {
            Self::Alive(stream) => Some(stream),
            Self::Dead | Self::None => None,
        }
    }
}

impl IdlePool {
    /// The live connection to `address` that was used last, idle for at most
    /// `max_idle` at `now`. `server_name` tells connections over TLS from plain ones and from
    /// those made for another name.
    pub fn take(
        &self,
        address: SocketAddr,
        server_name: Option<&str>,
        max_idle: Duration,
        now: Instant,
    ) -> Taken {
        let mut by_address = self.by_address.borrow_mut();
        let Some(list) = by_address.get_mut(&address) else {
            return Taken::None;
        };
        let mut none = Taken::None;
        while let Some(index) = list
            .iter()
            .rposition(|idle| idle.stream.server_name() == server_name)
        {
            let since = list.get(index).map_or(now, |idle| idle.since);
            if now.saturating_duration_since(since) > max_idle {
                break;
            }
            let mut idle = list.remove(index);
            self.total.set(self.total.get() - 1);
            if idle.stream.is_quiet() {
                return Taken::Alive(idle.stream);
            }
            none = Taken::Dead;
        }
        none
    }

    /// Keeps a connection on which a whole answer was read by `now`. Dropped when a bound is
    /// reached.
    pub fn put(&self, address: SocketAddr, stream: UpstreamStream, now: Instant) {
        if self.total.get() >= MAX_TOTAL {
            return;
        }
        let mut by_address = self.by_address.borrow_mut();
        let list = by_address.entry(address).or_default();
        if list.len() < MAX_PER_ADDRESS {
            list.push(Idle { stream, since: now });
            self.total.set(self.total.get() + 1);
        }
    }

    /// Closes what was idle for `max_idle` or was closed by the backend, and forgets addresses
    /// without connections.
    pub fn sweep(&self, max_idle: Duration) {
        let now = Instant::now();
        let mut total = 0;
        self.by_address.borrow_mut().retain(|_, list| {
            list.retain_mut(|idle| {
                now.duration_since(idle.since) < max_idle && idle.stream.is_quiet()
            });
            total += list.len();
            !list.is_empty()
        });
        self.total.set(total);
    }

    /// Closes all of them: somebody needs their descriptors. Says whether there were any.
    pub fn clear(&self) -> bool {
        self.by_address.borrow_mut().clear();
        self.total.replace(0) > 0
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.total.get()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::{Place, Places};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    fn place() -> Place {
        Places::new(1).try_take().unwrap()
    }

    async fn sockets(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
        (here.unwrap(), there.unwrap().0)
    }

    async fn pair(listener: &TcpListener) -> (UpstreamStream, TcpStream) {
        let (here, there) = sockets(listener).await;
        (UpstreamStream::plain(here, place()), there)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test);
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_last_one_used_comes_out_first_and_dead_ones_never() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pool = IdlePool::default();
            let (a, _keep) = pair(&listener).await;
            let (b, closes) = sockets(&listener).await;
            let (c, mut talks) = sockets(&listener).await;
            drop(closes);
            talks.write_all(b"unasked").await.unwrap();
            pool.put(address, a, Instant::now());
            for dead in [b, c] {
                dead.readable().await.unwrap();
                let dead = UpstreamStream::plain(dead, place());
                pool.put(address, dead, Instant::now());
            }
            assert_eq!(pool.len(), 3);
            assert!(matches!(
                pool.take(address, Some("name"), LONG, Instant::now()),
                Taken::None
            ));
            assert!(
                pool.take(address, None, LONG, Instant::now())
                    .alive()
                    .is_some()
            );
            assert!(pool.is_empty());
        });
    }

    #[test]
    fn old_ones_are_not_used_and_swept() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pool = IdlePool::default();
            let (a, _keep) = pair(&listener).await;
            pool.put(address, a, Instant::now());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(
                pool.take(address, None, Duration::from_millis(5), Instant::now())
                    .alive()
                    .is_none()
            );
            pool.sweep(LONG);
            assert_eq!(pool.len(), 1);
            pool.sweep(Duration::from_millis(5));
            assert!(pool.is_empty() && pool.by_address.borrow().is_empty());
        });
    }

    #[test]
    fn the_number_kept_is_bounded() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pool = IdlePool::default();
            let mut far = Vec::new();
            for _ in 0..MAX_PER_ADDRESS + 5 {
                let (here, there) = pair(&listener).await;
                far.push(there);
                pool.put(address, here, Instant::now());
            }
            assert_eq!(pool.len(), MAX_PER_ADDRESS);
            assert!(pool.clear() && pool.is_empty());
            assert!(
                !pool.clear()
                    && pool
                        .take(address, None, LONG, Instant::now())
                        .alive()
                        .is_none()
            );
        });
    }
}
