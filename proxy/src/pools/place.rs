//! A place at a node, held by a request or a TCP connection until it ends.
//!
//! What comes of it is told here, and decides about the node's health. Who holds it counts in the
//! node's lane of its worker ([`Node::lane`]): another worker may have claimed it.

use std::fmt::Display;
use std::sync::Arc;

use super::node::Node;
use super::pool::Pool;

/// A place at a node; given back when dropped, to who waits first.
#[derive(Debug)]
pub struct NodePlace {
    pool: Arc<Pool>,
    node: Arc<Node>,
}

impl NodePlace {
    /// For who has claimed it.
    pub(super) fn claimed(pool: &Arc<Pool>, node: &Arc<Node>) -> Self {
        Self {
            pool: Arc::clone(pool),
            node: Arc::clone(node),
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
        self.node.release();
        self.pool.place_is_free();
    }
}
