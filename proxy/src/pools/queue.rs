//! Who waits for a place at any node of a pool: first come, first served, bounded.
//!
//! One queue for the pool and not one for each node: whoever waits gets the first place that is
//! free, and nobody stands behind a node that hangs while another one idles.
//!
//! Invariant: while the queue is not locked and nobody is on the way to lock it, no node that may be
//! used for somebody who waits has room. What makes room therefore serves the queue:
//!
//! - Who gives a place back looks at the length afterwards and locks only if it is not 0 (the fast
//!   path of every request). Who is about to wait raises the length first and looks for room
//!   afterwards, both in the one order that all threads agree on: one of the two sees the other.
//! - What changes weights, limits or nodes locks in any case.
//!
//! Not done here: what may be used for whom (`pool`).

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::place::NodePlace;
use super::pool::{NoPlace, Tried};

/// What comes of a wait.
pub(super) type Answer = Result<NodePlace, NoPlace>;

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// How many are in the list, and one more while somebody may be about to join; read without
    /// its lock.
    length: AtomicUsize,
    longest: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    waiters: VecDeque<Waiter>,
    /// Of the next who joins: numbers rise along the list.
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    tried: Tried,
    answer: oneshot::Sender<Answer>,
}

/// The queue, locked.
pub(super) struct Line<'a> {
    queue: &'a Queue,
    // Dropped in this order: wakers run, and places that nobody takes come back, after the lock.
    list: MutexGuard<'a, List>,
    answers: Answers,
}

/// Answers that are sent when this is dropped.
#[derive(Default)]
struct Answers(Vec<(oneshot::Sender<Answer>, Answer)>);

/// A wait; whoever drops it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    queue: &'a Queue,
    number: u64,
    answer: oneshot::Receiver<Answer>,
    answered: bool,
}

/// What can be done for somebody who waits.
pub(super) enum Outlook {
    /// This is the answer.
    Now(Answer),
    /// Nothing yet; others may have better luck, who have not tried the nodes with room.
    Wait,
    /// Nothing for anybody.
    NoRoom,
}

impl Queue {
    /// Whether nobody waits, nor may do so in a moment. Takes no lock.
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(SeqCst) == 0
    }

    /// The most that waited at once.
    pub(super) fn longest(&self) -> usize {
        self.longest.load(Relaxed)
    }

    /// Locks it; short, and only in an overload or after a change.
    pub(super) fn lock(&self) -> Line<'_> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        Line {
            queue: self,
            list,
            answers: Answers::default(),
        }
    }
}

impl<'a> Line<'a> {
    /// Tells those who give places back that somebody may wait soon. Before looking for room.
    pub(super) fn announce(&self) {
        self.queue.length.store(self.len() + 1, SeqCst);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.list.waiters.len()
    }

    /// Answers those who wait, the first first, as far as `look` has answers. Who has tried all nodes
    /// with room is passed over.
    pub(super) fn serve(&mut self, mut look: impl FnMut(&Tried) -> Outlook) {
        let mut index = 0;
        while let Some(waiter) = self.list.waiters.get(index) {
            match look(&waiter.tried) {
                Outlook::Wait => index += 1,
                Outlook::NoRoom => break,
                Outlook::Now(answer) => {
                    if let Some(waiter) = self.list.waiters.remove(index) {
                        self.answers.0.push((waiter.answer, answer));
                    }
                }
            }
        }
    }

    /// Joins at the end.
    pub(super) fn join(&mut self, tried: Tried) -> Waiting<'a> {
        debug_assert!(
            self.queue.length.load(SeqCst) > self.len(),
            "whoever is about to join announces it before he looks for room"
        );
        let number = self.list.next;
        self.list.next += 1;
        let (sender, answer) = oneshot::channel();
        self.list.waiters.push_back(Waiter {
            number,
            tried,
            answer: sender,
        });
        self.queue.longest.fetch_max(self.len(), Relaxed);
        Waiting {
            queue: self.queue,
            number,
            answer,
            answered: false,
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.queue.length.store(self.len(), SeqCst);
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for (sender, answer) in self.0.drain(..) {
            // Who waited may have gone just now: then a place is given back here, to the next.
            drop(sender.send(answer));
        }
    }
}

impl Waiting<'_> {
    /// The answer, when it comes.
    pub(super) async fn answer(&mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.answered = true;
        // The other end is dropped by a panic alone.
        answer.unwrap_or(Err(NoPlace::QueueTimeout))
    }

    /// Leaves the queue; with the answer, if it came just now.
    pub(super) fn give_up(mut self) -> Option<Answer> {
        self.leave();
        self.answer.try_recv().ok()
    }

    fn leave(&mut self) {
        if self.answered {
            return;
        }
        self.answered = true;
        let mut line = self.queue.lock();
        let waiters = &mut line.list.waiters;
        if let Ok(index) = waiters.binary_search_by_key(&self.number, |waiter| waiter.number) {
            waiters.remove(index);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // An answer that nobody takes is dropped after this, and a place in it given to the next.
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever ends a place sees that somebody is about to wait, before that one has looked for room.
    #[test]
    fn the_length_is_raised_before_anybody_waits() {
        let queue = Queue::default();
        let line = queue.lock();
        assert!(queue.is_empty());
        line.announce();
        assert!(!queue.is_empty());
        // There was room after all.
        drop(line);
        assert!(queue.is_empty());
    }
}
