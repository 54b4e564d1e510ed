//! A place at a node: at once where one has room, else after a wait in the queue.
//!
//! Not done here: who may be used at all (`Pool::publish`), who is first in the queue (`queue`).

use std::cell::RefCell;
use std::sync::Arc;

use tokio::time::timeout;

use super::{Members, NoPlace, Pool, Tried};
use crate::pools::Turns;
use crate::pools::node::Node;
use crate::pools::place::NodePlace;
use crate::pools::queue::Outlook;

impl Pool {
    /// A place at a node that is not among `tried`: the one whose turn it is of those with room, else
    /// the first that gets room. Counted as a session of the worker whose turns these are.
    ///
    /// # Errors
    /// [`NoPlace`]
    pub async fn enter(
        self: &Arc<Self>,
        turns: &RefCell<Turns>,
        tried: &Tried,
    ) -> Result<NodePlace, NoPlace> {
        let (outlook, worker) = {
            let mut turns = turns.borrow_mut();
            (self.choose(&mut turns, tried), turns.worker)
        };
        let place = match outlook {
            Outlook::Now(answer) => answer,
            // Boxed: rare, and its room would be part of every request.
            Outlook::Wait | Outlook::NoRoom => Box::pin(self.wait(tried)).await,
        };
        match place {
            // Another worker may have claimed it.
            Ok(place) => Ok(place.taken_by(worker)),
            Err(why) => {
                self.refusals.count(why);
                Err(why)
            }
        }
    }

    /// The fast path: takes no lock, allocates nothing.
    fn choose(self: &Arc<Self>, turns: &mut Turns, tried: &Tried) -> Outlook {
        if tried.is_full() {
            return Outlook::Now(Err(NoPlace::AllTried));
        }
        if !self.queue.is_empty() {
            // Others were first.
            return Outlook::Wait;
        }
        let members = self.members.load();
        loop {
            let (chooser, weights, random) = turns.of(&self.number);
            let (mut any, mut untried) = (false, false);
            weights.clear();
            for node in &*members.nodes {
                let effective = node.effective();
                any |= effective > 0;
                let usable = effective > 0 && !tried.has(node);
                untried |= usable;
                weights.push(if usable && node.has_room() {
                    effective
                } else {
                    0
                });
            }
            if !untried {
                return self.last_hope(&members, tried, any);
            }
            let in_flight =
                |index: usize| members.nodes.get(index).map_or(0, |node| node.in_flight());
            let (generation, balance) = (members.generation, members.config.balance);
            let picked = chooser.pick(generation, balance, weights, in_flight, random);
            let Some(node) = picked.and_then(|index| members.nodes.get(index)) else {
                return Outlook::Wait;
            };
            // Another worker may have been faster: then it has no room, and the next is looked for.
            if node.claim() {
                return Outlook::Now(Ok(NodePlace::claimed(self, node)));
            }
        }
    }

    /// Every node that may be used was tried in vain: one that is down may do.
    fn last_hope(self: &Arc<Self>, members: &Members, tried: &Tried, any: bool) -> Outlook {
        let mut nodes = members.nodes.iter();
        let node = nodes.find(|node| node.in_rotation() && !tried.has(node) && node.claim());
        Outlook::Now(match node {
            Some(node) => Ok(NodePlace::claimed(self, node)),
            None if any => Err(NoPlace::AllTried),
            None => Err(NoPlace::NoNode),
        })
    }

    /// Waits in the queue, unless there is an answer at once after all.
    async fn wait(self: &Arc<Self>, tried: &Tried) -> Result<NodePlace, NoPlace> {
        let (mut waiting, patience) = {
            let mut line = self.queue.lock();
            line.announce();
            let members = self.members.load();
            // Those who are first; then what they cannot use may be had.
            line.serve(|tried| self.find(&members, tried));
            if let Outlook::Now(answer) = self.find(&members, tried) {
                return answer;
            }
            if line.len() >= members.queue_limit() {
                // The limit is read behind the nodes. If the last usable one went in between, that is
                // to be told, and no full queue. Those who are first stay so.
                line.serve(|tried| self.find(&members, tried));
                return match self.find(&members, tried) {
                    Outlook::Now(answer) => answer,
                    Outlook::Wait | Outlook::NoRoom => Err(NoPlace::QueueFull),
                };
            }
            (line.join(*tried), members.config.queue_timeout)
        };
        let _wait = self.waits.begin();
        match timeout(patience, waiting.answer()).await {
            Ok(answer) => answer,
            Err(_) => waiting.give_up().unwrap_or(Err(NoPlace::QueueTimeout)),
        }
    }

    /// Gives what is free to who waits. Called after each change that may have made room.
    pub(in crate::pools) fn place_is_free(self: &Arc<Self>) {
        if !self.queue.is_empty() {
            let mut line = self.queue.lock();
            let members = self.members.load();
            line.serve(|tried| self.find(&members, tried));
        }
    }

    /// What there is for somebody who waits, or would: a place at the least busy node. The queue is
    /// locked.
    pub(super) fn find(self: &Arc<Self>, members: &Members, tried: &Tried) -> Outlook {
        loop {
            let (mut any, mut untried, mut room) = (false, false, false);
            let mut best: Option<(&Arc<Node>, u64)> = None;
            for node in &*members.nodes {
                let effective = node.effective();
                if effective == 0 {
                    continue;
                }
                any = true;
                let usable = !tried.has(node);
                untried |= usable;
                if !node.has_room() {
                    continue;
                }
                room = true;
                let load = node.load(effective);
                if usable && best.is_none_or(|(_, least)| load < least) {
                    best = Some((node, load));
                }
            }
            match best {
                Some((node, _)) if node.claim() => {
                    return Outlook::Now(Ok(NodePlace::claimed(self, node)));
                }
                // A request that came before anybody waited was faster.
                Some(_) => {}
                None if !untried => return self.last_hope(members, tried, any),
                None if room => return Outlook::Wait,
                None => return Outlook::NoRoom,
            }
        }
    }
}
