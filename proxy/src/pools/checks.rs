//! The checks of all nodes, on the control thread.
//!
//! Not done here: one check (`probe`), what follows from its outcome (`health`).

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::task::JoinSet;

use super::health::CheckRecord;
use super::live::Wish;
use super::node::Node;
use super::pool::Pool;
use super::probe::probe;
use crate::process::Process;

/// Checks all nodes of the current snapshot for ever.
pub async fn run(process: Arc<Process>) {
    let pools = process.snapshot.load().pools.clone();
    let mut tasks = JoinSet::new();
    for pool in pools.iter() {
        for node in &*pool.members().nodes {
            let (pool, node, process) = (Arc::clone(pool), Arc::clone(node), Arc::clone(&process));
            tasks.spawn_local(async move { check_for_ever(&pool, &node, &process).await });
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

async fn check_for_ever(pool: &Arc<Pool>, node: &Node, process: &Process) {
    loop {
        let check = pool.members().config.check.clone();
        if node.standing(|standing| standing.wish) != Wish::Maintenance {
            let serves = node.resolve(&process.resolver);
            let policy = process.snapshot.load().backends.clone();
            let begun = Instant::now();
            let probed = probe(&node.address, serves, &check, &policy).await;
            let now = Instant::now();
            let (rise, fall) = (check.rise, check.fall);
            let outcome = probed.outcome.map_err(|error| error.to_string());
            let good = outcome.is_ok();
            let why = match &outcome {
                Ok(()) => String::new(),
                Err(error) => format!("its checks fail: {error}"),
            };
            let news = node.standing(|standing| {
                standing.health.last_check = Some(CheckRecord {
                    at: SystemTime::now(),
                    took: now - begun,
                    status: probed.status,
                    outcome,
                });
                standing.health.checked(good, rise, fall, now)
            });
            pool.tell(node, news, &why, now);
        }
        let pause = match node.is_up() {
            true => check.interval,
            false => check.down_interval,
        };
        tokio::time::sleep(pause).await;
    }
}
