//! A place at a node, held by a request until the node is done with it, by a TCP connection until it
//! ends.
//!
//! What comes of it is told here, and decides about the node's health; who holds it counts in
//! [`NodePlace::lane`]. That it was got is counted already (`sessions`).

use std::cell::Cell;
use std::fmt::Display;
use std::sync::Arc;

use super::counts::Lane;
use super::node::Node;
use super::pool::Pool;

/// A place at a node; given back when dropped, to who waits first. Stays with the worker that got it:
/// only that one counts in its lane.
#[derive(Debug)]
pub struct NodePlace {
    pool: Arc<Pool>,
    node: Arc<Node>,
    worker: usize,
    given_back: Cell<bool>,
}

impl NodePlace {
    /// For who has claimed it.
    pub(super) fn claimed(pool: &Arc<Pool>, node: &Arc<Node>) -> Self {
        Self {
            pool: Arc::clone(pool),
            node: Arc::clone(node),
            worker: 0,
            given_back: Cell::new(false),
        }
    }

    /// Counts it as the worker's of that number.
    pub(super) fn taken_by(mut self, worker: usize) -> Self {
        self.worker = worker;
        self.lane().sessions.inc();
        self
    }

    /// Gives it back before it is dropped: the node has done its part.
    pub fn give_back(&self) {
        if !self.given_back.replace(true) {
            self.node.release();
            self.pool.place_is_free();
        }
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Its pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What its worker counts of the node.
    pub fn lane(&self) -> &Lane {
        self.node.lane(self.worker)
    }

    /// Notes that the node could not be connected to.
    pub fn connect_failed(&self, why: &dyn Display) {
        self.pool.connect_failed(&self.node, why);
    }

    /// Notes that the node broke a new connection before a byte of an answer came.
    pub fn broke(&self) {
        self.pool.broke(&self.node);
    }

    /// Notes that the node answered, whatever it said.
    pub fn answered(&self) {
        self.pool.answered(&self.node);
    }
}

impl Drop for NodePlace {
    fn drop(&mut self) {
        self.give_back();
    }
}
