//! Whether a worker may take for granted that somebody listens at a node.
//!
//! When a connection to a node is found dead, the node may have been killed. Then the worker makes
//! one new connection at a time while others go to another node, so that one request finds out and
//! not all that happen to come. Only its worker writes it.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

const NONE: u8 = 0;
const RAISED: u8 = 1;
const PROBED: u8 = 2;

/// What a worker thinks of a node.
#[derive(Debug, Default)]
pub struct Doubt(AtomicU8);

/// Held by who finds out whether the node is there; dropped, it leaves the doubt.
#[derive(Debug)]
pub struct Probe<'a>(&'a Doubt);

impl Doubt {
    /// A connection was dead.
    pub fn raise(&self) {
        if self.0.load(Relaxed) == NONE {
            self.0.store(RAISED, Relaxed);
        }
    }

    /// Somebody is finding out.
    pub fn is_probed(&self) -> bool {
        self.0.load(Relaxed) == PROBED
    }

    /// Finds out, if there is a doubt and nobody else does.
    pub fn probe(&self) -> Option<Probe<'_>> {
        (self.0.load(Relaxed) == RAISED).then(|| {
            self.0.store(PROBED, Relaxed);
            Probe(self)
        })
    }
}

impl Probe<'_> {
    /// The node is there.
    pub fn succeed(self) {
        self.0.0.store(NONE, Relaxed);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if self.0.is_probed() {
            self.0.0.store(RAISED, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_finds_out_and_the_next_if_that_one_did_not() {
        let doubt = Doubt::default();
        assert!(doubt.probe().is_none(), "nothing to find out");
        doubt.raise();
        let first = doubt.probe();
        assert!(first.is_some() && doubt.is_probed());
        assert!(doubt.probe().is_none(), "somebody does");
        doubt.raise();
        assert!(doubt.is_probed(), "still");
        drop(first);
        assert!(!doubt.is_probed());
        doubt.probe().unwrap().succeed();
        assert!(!doubt.is_probed() && doubt.probe().is_none());
    }
}
