//! The checks of all nodes, on the control thread.
//!
//! Not done here: what follows from their outcome (`health`).

use std::sync::Arc;
use std::time::Instant;

use portico_config as config;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::live::Wish;
use super::node::Node;
use super::pool::{Pool, Pools};
use crate::upstream::resolve::Resolver;

/// Checks all nodes of `pools` for ever.
pub async fn run(pools: Pools, resolver: Arc<Resolver>) {
    let mut tasks = JoinSet::new();
    for pool in pools.iter() {
        for node in &*pool.members().nodes {
            let (pool, node, resolver) =
                (Arc::clone(pool), Arc::clone(node), Arc::clone(&resolver));
            tasks.spawn_local(async move { check_for_ever(&pool, &node, &resolver).await });
        }
        let pool = Arc::clone(pool);
        tasks.spawn_local(async move {
            loop {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                pool.publish(Instant::now());
            }
        });
    }
    tasks.join_all().await;
}

async fn check_for_ever(pool: &Arc<Pool>, node: &Node, resolver: &Resolver) {
    loop {
        let check = pool.members().config.check.clone();
        if node.standing(|standing| standing.wish) != Wish::Maintenance {
            let outcome = probe(node, &check, resolver).await;
            let now = Instant::now();
            let (rise, fall) = (check.rise, check.fall);
            let good = outcome.is_ok();
            let news = node.standing(|standing| standing.health.checked(good, rise, fall, now));
            let why = outcome.err().unwrap_or_default();
            pool.tell(node, news, &format!("its checks fail: {why}"), now);
        }
        let pause = match node.is_up() {
            true => check.interval,
            false => check.down_interval,
        };
        tokio::time::sleep(pause).await;
    }
}

async fn probe(node: &Node, check: &config::Check, resolver: &Resolver) -> Result<(), String> {
    let mut address = node.resolve(resolver).ok_or("the name does not resolve")?;
    if let Some(port) = check.port {
        address.set_port(port);
    }
    match timeout(check.timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {:?}", check.timeout)),
    }
}
