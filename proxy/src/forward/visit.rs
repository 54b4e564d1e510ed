//! A request's visit at a node of the ingress: its place there, and all that is counted of it at the
//! node, in HAProxy's terms.
//!
//! This is the one place where requests of HTTP are counted at nodes, but that they got a place
//! (`pools::place`). Who waits for a place, and which node has one, is decided in `pools`; what a
//! failure means for the node too.
//!
//! Invariant: the place is held until the node has answered whole, tunnels included; bytes are
//! counted when it ends, and so at the last node where the request was sent more than once.

use std::fmt::Display;
use std::sync::Arc;

use crate::pools::counts::Lane;
use crate::pools::doubt::Doubt;
use crate::pools::{Node, NodePlace, Pool};
use crate::telemetry::facts::Facts;
use crate::telemetry::record::Ending;

/// A request's place at a node.
#[derive(Debug)]
pub struct Visit {
    place: NodePlace,
}

impl Visit {
    /// A request that has got its place.
    pub(super) fn begin(place: NodePlace) -> Self {
        Self { place }
    }

    fn lane(&self) -> &Lane {
        self.place.lane()
    }

    /// What the worker thinks of the node.
    pub(super) fn doubt(&self) -> &Doubt {
        &self.lane().doubt
    }

    /// The node.
    pub(super) fn node(&self) -> &Arc<Node> {
        self.place.node()
    }

    /// Its pool.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.place.pool()
    }

    /// There is no connection to the node, by its fault.
    pub(super) fn connect_failed(&self, why: &dyn Display) {
        self.lane().connect_errors.inc();
        self.place.connect_failed(why);
    }

    /// There is no connection to the node, for want of something on this machine.
    pub(super) fn exhausted(&self) {
        self.lane().connect_errors.inc();
    }

    /// The request goes on to another node, since this one could not be connected to.
    pub(super) fn redispatched(&self) {
        self.lane().redispatches.inc();
    }

    /// The request is sent once more, since an idle connection to this node was dead.
    pub(super) fn retried(&self) {
        self.lane().retries.inc();
        self.doubt().raise();
    }

    /// The head of the final answer is here, whatever it says.
    pub(super) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).checked_sub(1);
        if let Some(counter) = class.and_then(|class| self.lane().answers.get(class)) {
            counter.inc();
        }
        self.place.answered();
    }

    /// All of the request and of the answer is here: what is left is up to the client, and a slow one
    /// must not keep others from the node.
    pub(super) fn is_done(&self) {
        self.place.give_back();
    }

    /// The connection ended before the first byte of an answer, and that is how the request ends.
    /// `excused`: it had carried others, so that the node may just have had enough of it; or the
    /// client has not sent all of its request, and the node may have had enough of waiting.
    pub(super) fn died(&self, excused: bool) {
        self.lane().response_errors.inc();
        self.doubt().raise();
        if !excused {
            self.place.broke();
        }
    }

    /// No proper answer came in time. A tool behind the node may be to blame.
    pub(super) fn answer_failed(&self) {
        self.lane().response_errors.inc();
    }

    /// The request has ended, or goes elsewhere with what it brought.
    pub(crate) fn end(self, facts: &Facts) {
        let lane = self.lane();
        lane.bytes_in.add(facts.received.get());
        lane.bytes_out.add(facts.sent.get());
        if facts.ending.get() == Some(Ending::BrokenOff) {
            lane.response_errors.inc();
        }
    }
}
