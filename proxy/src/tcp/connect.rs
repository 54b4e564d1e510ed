//! A connection to a node, for a client of a TCP listener.
//!
//! Nothing was sent yet, so another node may be tried, within the pool's budget for that. A client
//! that leaves while it waits for a place is not waited for.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::counts::{ListenerCounts, Unserved};
use crate::failure_text::with_sources;
use crate::listen::KEEPALIVE;
use crate::places::Place;
use crate::pools::retry::Retry;
use crate::pools::{NoPlace, NodePlace, Pool, Tried};
use crate::snapshot::Snapshot;
use crate::upstream::connect::{ConnectError, connect_tcp};
use crate::worker::Worker;

/// Connects to a node of the pool; to another one if that fails.
pub(super) async fn connect(
    worker: &Worker,
    counts: &ListenerCounts,
    snapshot: &Snapshot,
    pool: &Arc<Pool>,
    client: &TcpStream,
) -> Result<(TcpStream, NodePlace, Place), Unserved> {
    let mut tried = Tried::default();
    let mut why = Unserved::Unreachable;
    let mut leave: Option<Retry> = None;
    loop {
        let place = tokio::select! {
            biased;
            place = pool.enter(&worker.turns, &tried) => place,
            () = left(client) => return Err(Unserved::ClientGone),
        };
        let place = place.map_err(|no_place| match no_place {
            NoPlace::AllTried => why,
            NoPlace::NoNode => Unserved::NoNode,
            NoPlace::QueueFull => Unserved::QueueFull,
            NoPlace::QueueTimeout => Unserved::QueueTimeout,
        })?;
        match attempt(worker, snapshot, &place).await {
            Ok((stream, descriptor)) => return Ok((stream, place, descriptor)),
            Err(failed) => why = failed,
        }
        counts.connect_failures.inc();
        place.lane().connect_errors.inc();
        tried.add(place.node());
        if !pool.has_untried(&tried) {
            return Err(why);
        }
        // That of the attempt before is given back first.
        drop(leave.take());
        leave = pool.retries.try_take(pool.in_flight(), Instant::now());
        if leave.is_none() {
            pool.say_no_retry();
            return Err(why);
        }
        place.lane().redispatches.inc();
    }
}

/// Waits until a client is gone that waits for its turn: it has reset the connection, or ended it
/// without a word. One that has sent something and ended its side may want the answer.
async fn left(client: &TcpStream) {
    let mut byte = [0];
    if let Ok(1..) = client.peek(&mut byte).await {
        let _ = client.ready(Interest::ERROR).await;
    }
}

/// Connects to the node of a place. What it means for the node that it fails is told there.
async fn attempt(
    worker: &Worker,
    snapshot: &Snapshot,
    place: &NodePlace,
) -> Result<(TcpStream, Place), Unserved> {
    let Some(address) = place.node().resolve(&worker.process.resolver) else {
        place.connect_failed(&"its name does not resolve");
        return Err(Unserved::Unreachable);
    };
    // A name that leads to portico itself, since somebody changed it.
    if let Err(refusal) = snapshot.backends.check_node(address) {
        place.connect_failed(&refusal);
        return Err(Unserved::Unreachable);
    }
    match connect_to(worker, address, snapshot.config.timeouts.connect).await {
        Ok(connected) => Ok(connected),
        Err(error) => {
            let text = with_sources(&error);
            if error.is_exhausted() {
                // Not the node's fault: it stays up.
                worker.say_exhausted(address, &text);
                return Err(Unserved::Exhausted);
            }
            place.connect_failed(&text);
            Err(Unserved::Unreachable)
        }
    }
}

async fn connect_to(
    worker: &Worker,
    address: SocketAddr,
    limit: Duration,
) -> Result<(TcpStream, Place), ConnectError> {
    let descriptor = descriptor(worker, limit).await?;
    let once = async || {
        let connected = timeout(limit, connect_tcp(address)).await;
        connected.unwrap_or_else(|_| Err(ConnectError::Connect(ErrorKind::TimedOut.into())))
    };
    let stream = match once().await {
        Err(error) if error.is_full() && worker.close_spare() => once().await,
        connected => connected,
    }?;
    // As accepted sockets: a node that vanished must not be waited for.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let _: io::Result<()> = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    Ok((stream, descriptor))
}

/// A place among the connections to backends. Each client here needs one, other than those of HTTP,
/// of which most are idle: it may have to wait for another one's end.
async fn descriptor(worker: &Worker, limit: Duration) -> Result<Place, ConnectError> {
    let places = &worker.process.backends;
    if let Some(place) = places.try_take() {
        return Ok(place);
    }
    worker.close_spare();
    let place = timeout(limit, places.take()).await;
    place.map_err(|_| ConnectError::Connect(Errno::MFILE.into()))
}
