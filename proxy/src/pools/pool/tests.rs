use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use portico_config::{Balance, NodeAddress};
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::*;

/// A pool as it is configured; nodes have the numbers of their ports.
fn configured(nodes: &[u16], places: u32, max_queue: u32) -> config::Pool {
    let text = "
        [domains]
        canonical = 'example.org'
        [pools.p]
        nodes = ['127.0.0.1:1']
        [ingress]
        pool = 'p'
    ";
    let loaded = portico_config::parse("test", text).unwrap();
    let mut pool = loaded.config.pools["p"].clone();
    pool.nodes = nodes
        .iter()
        .map(|port| config::Node {
            address: NodeAddress::Ip(([127, 0, 0, 1], *port).into()),
            weight: 100,
        })
        .collect();
    pool.max_connections = places;
    pool.max_queue = max_queue;
    pool.queue_timeout = Duration::from_secs(60);
    pool
}
