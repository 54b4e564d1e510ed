//! Places of which there is a bounded number, such as those for connections, and which a reload can
//! make more or fewer.
//!
//! Fewer: who has a place keeps it. Places that are free go at once, the others as they are given
//! back, before anybody else gets one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of places.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    limit: AtomicUsize,
    /// Places that are taken beyond the limit, and go when they are given back.
    surplus: AtomicUsize,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    of: Arc<Places>,
}

impl Places {
    /// The most that there can be.
    pub const MAX: usize = Semaphore::MAX_PERMITS;

    /// So many, all free.
    pub fn new(limit: usize) -> Arc<Self> {
        let limit = limit.min(Self::MAX);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(limit)),
            limit: AtomicUsize::new(limit),
            surplus: AtomicUsize::new(0),
        })
    }

    /// A place, if one is free.
    pub fn try_take(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    /// Waits for a place; first come, first served.
    pub async fn take(self: &Arc<Self>) -> Place {
        loop {
            // Nobody closes the semaphore.
            if let Ok(permit) = Arc::clone(&self.free).acquire_owned().await {
                return self.place(permit);
            }
        }
    }

    fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        Place {
            permit: Some(permit),
            of: Arc::clone(self),
        }
    }

    /// How many may be taken.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// How many are taken; more than the limit for some time after it was lowered.
    pub fn taken(&self) -> usize {
        (self.limit() + self.surplus.load(Relaxed)).saturating_sub(self.free())
    }

    /// Changes how many there are. Called by one thread at a time.
    pub fn resize(&self, limit: usize) {
        let limit = limit.min(Self::MAX);
        let before = self.limit.swap(limit, Relaxed);
        if limit >= before {
            let more = limit - before;
            let kept = self.reduce_surplus(more);
            self.free.add_permits(more - kept);
        } else {
            let fewer = before - limit;
            // First the debt, then what is free: a place that is given back in between is not
            // counted twice.
            self.surplus.fetch_add(fewer, Relaxed);
            let gone = self.free.forget_permits(fewer);
            let paid_twice = gone - self.reduce_surplus(gone);
            self.free.add_permits(paid_twice);
        }
    }

    /// Takes up to `most` off the surplus, and says how many.
    fn reduce_surplus(&self, most: usize) -> usize {
        let surplus = self.surplus.fetch_update(Relaxed, Relaxed, |surplus| {
            Some(surplus.saturating_sub(most))
        });
        surplus.unwrap_or_default().min(most)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.of.reduce_surplus(1) == 1
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_has_a_place_keeps_it_when_there_are_fewer() {
        let places = Places::new(3);
        let mut held: Vec<_> = (0..3).filter_map(|_| places.try_take()).collect();
        places.resize(1);
        assert_eq!((places.limit(), places.taken(), places.free()), (1, 3, 0));
        held.pop();
        assert!(places.try_take().is_none());
        held.pop();
        assert!(places.try_take().is_none());
        held.pop();
        assert!(places.try_take().is_some());
        assert_eq!((places.taken(), places.free()), (0, 1));
    }

    proptest! {
        /// Whatever happens, places are taken only below the limit, and all are there at the end.
        #[test]
        fn no_place_is_lost_or_made(steps in proptest::collection::vec((0u8..3, 0usize..8), 0..60)) {
            let places = Places::new(4);
            let mut held = Vec::new();
            for (what, number) in steps {
                match what {
                    0 => {
                        let taken = places.try_take();
                        prop_assert_eq!(taken.is_some(), held.len() < places.limit());
                        held.extend(taken);
                    }
                    1 => drop(held.pop()),
                    _ => places.resize(number),
                }
                prop_assert_eq!(places.taken(), held.len());
            }
            held.clear();
            prop_assert_eq!(places.free(), places.limit());
        }
    }
}
