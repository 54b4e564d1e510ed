//! Data of a stream that has come and was not read: taken out of the `h2` crate at once.
//!
//! Left there, each frame would cost some hundred bytes and hold the whole buffer that it was read
//! into, and many small frames would end the connection for all its streams (`data_frame_budget`
//! counts them together). Here small pieces are copied together.
//!
//! Bound: the window of the stream, which is opened again by what is read and not by what is
//! taken out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Data in smaller pieces is copied together.
const SMALL: usize = 4096;

/// Data in the order in which it came.
#[derive(Debug, Default)]
pub struct Unread {
    pieces: VecDeque<Bytes>,
    /// Small pieces, behind `pieces`.
    small: BytesMut,
}

impl Unread {
    /// Puts data behind the rest.
    pub fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
            return;
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(data);
    }

    /// Takes the first of it; never empty.
    pub fn pop(&mut self) -> Option<Bytes> {
        let small = &mut self.small;
        self.pieces
            .pop_front()
            .or_else(|| (!small.is_empty()).then(|| std::mem::take(small).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same bytes come out in the same order, and small pieces do not stay many.
        #[test]
        fn keeps_order(steps in prop::collection::vec((any::<bool>(), 0usize..6000), 0..60)) {
            let mut unread = Unread::default();
            let (mut twin, mut next) = (VecDeque::<u8>::new(), 0u8);
            for (push, n) in steps {
                if push {
                    let data: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                    next = next.wrapping_add(n as u8);
                    twin.extend(&data);
                    unread.push(data.into());
                } else if let Some(data) = unread.pop() {
                    prop_assert!(!data.is_empty());
                    prop_assert!(data.iter().copied().eq(twin.drain(..data.len())));
                } else {
                    prop_assert!(twin.is_empty());
                }
                prop_assert!(unread.pieces.len() <= 1 + 2 * twin.len() / SMALL);
            }
        }
    }
}
