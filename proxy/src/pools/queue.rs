//! Who waits for a place at any node of a pool: first come, first served, bounded.
//!
//! One queue for the pool and not one for each node: whoever waits gets the first place that is
//! free, and nobody stands behind a node that hangs while another one idles.
//!
//! Invariant: while somebody waits, no node that may be used for them has room. Who takes a place
//! looks here first; who gives one back, or makes room otherwise, calls [`Queue::serve`].

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::place::NodePlace;
use super::pool::Tried;

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// As many as are in the list; read without its lock.
    length: AtomicUsize,
    longest: AtomicUsize,
    list: Mutex<VecDeque<Waiter>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    tried: Tried,
    place: oneshot::Sender<NodePlace>,
}

/// A wait; whoever drops it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    queue: &'a Queue,
    number: u64,
    pub(super) place: oneshot::Receiver<NodePlace>,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// The most that waited at once.
    pub(super) fn longest(&self) -> usize {
        self.longest.load(Relaxed)
    }

    /// Queues up behind at most `limit - 1` others; `None`: too many wait. Call [`Queue::serve`]
    /// then: a place may have become free meanwhile.
    pub(super) fn join(&self, tried: Tried, limit: usize) -> Option<Waiting<'_>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= limit {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        let (sender, place) = oneshot::channel();
        list.push_back(Waiter {
            number,
            tried,
            place: sender,
        });
        self.length.store(list.len(), SeqCst);
        self.longest.fetch_max(list.len(), Relaxed);
        Some(Waiting {
            queue: self,
            number,
            place,
        })
    }

    /// Gives places to those who wait, the first first, until `claim` finds none for anybody. Who
    /// has tried all nodes with room is passed over.
    pub(super) fn serve(&self, mut claim: impl FnMut(&Tried) -> Option<NodePlace>) {
        // Dropped after the lock: a place that nobody takes comes back here.
        let mut refused = Vec::new();
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = 0;
        while let Some(waiter) = list.get(index) {
            let Some(place) = claim(&waiter.tried) else {
                index += 1;
                continue;
            };
            if let Some(waiter) = list.remove(index) {
                // Who waited may be gone.
                refused.extend(waiter.place.send(place).err());
            }
        }
        self.length.store(list.len(), SeqCst);
        drop(list);
    }

    fn leave(&self, number: u64) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|waiter| waiter.number != number);
        self.length.store(list.len(), SeqCst);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.leave(self.number);
    }
}
