//! What one worker keeps for reuse, so that the steady state allocates nothing: at most so many of a
//! kind, and no buffer that has grown large.

use std::cell::RefCell;

/// Things of one kind.
#[derive(Debug)]
pub struct Spare<T> {
    things: RefCell<Vec<T>>,
    most: usize,
}

impl<T> Spare<T> {
    /// Keeps at most `most`.
    pub fn new(most: usize) -> Self {
        Self {
            things: RefCell::default(),
            most,
        }
    }

    /// One that was kept.
    pub fn take(&self) -> Option<T> {
        self.things.borrow_mut().pop()
    }

    /// Keeps it, if there is room: whether there was.
    pub fn put(&self, thing: T) -> bool {
        let mut kept = self.things.borrow_mut();
        let room = kept.len() < self.most;
        if room {
            kept.push(thing);
        }
        room
    }
}

/// Byte buffers that grow as they are written.
#[derive(Debug)]
pub struct SpareBuffers {
    spare: Spare<Vec<u8>>,
    fresh: usize,
    largest: usize,
}

impl SpareBuffers {
    /// Keeps at most `most`, none that has grown beyond `largest` bytes; a new one has room for
    /// `fresh`.
    pub fn new(most: usize, fresh: usize, largest: usize) -> Self {
        Self {
            spare: Spare::new(most),
            fresh,
            largest,
        }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.spare
            .take()
            .unwrap_or_else(|| Vec::with_capacity(self.fresh))
    }

    /// Takes a buffer back.
    pub fn put(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= self.largest {
            buffer.clear();
            self.spare.put(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = SpareBuffers::new(2, 8, 100);
        for capacity in [10, 101, 20, 30] {
            let mut buffer = Vec::with_capacity(capacity);
            buffer.push(1);
            buffers.put(buffer);
        }
        let kept: Vec<_> = (0..3).map(|_| buffers.take()).collect();
        assert!(kept.iter().all(Vec::is_empty));
        let capacities: Vec<_> = kept.iter().map(Vec::capacity).collect();
        assert_eq!(capacities, [20, 10, 8]);
    }
}
