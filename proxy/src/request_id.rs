//! A name for each request, for the page that a person reports and the log that an operator reads.
//!
//! Ids of one worker never repeat; those of others are as far away as chance has it (64 bits). They
//! say nothing about the number of requests to anybody without the worker's key, and they are no
//! secrets. Making one costs a few instructions; text is made of it only where it is shown.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;

/// The name of one request: 13 characters of `0-9a-z` without `i`, `l`, `o` and `u`, which people
/// mistake for others (Crockford's base 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// Its characters.
    pub fn text(self) -> [u8; 13] {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = [0; 13];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            *byte = DIGITS[(self.0 >> (5 * place) & 31) as usize];
        }
        text
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

/// The ids of one worker.
#[derive(Debug)]
pub struct RequestIds {
    next: Cell<u64>,
    key: u64,
}

impl Default for RequestIds {
    fn default() -> Self {
        // Keyed by the system's randomness.
        let random = RandomState::new();
        Self {
            next: Cell::new(random.hash_one(0)),
            key: random.hash_one(1),
        }
    }
}

impl RequestIds {
    /// The next one.
    #[inline]
    pub fn next(&self) -> RequestId {
        let count = self.next.get();
        self.next.set(count.wrapping_add(1));
        RequestId(mixed(count) ^ self.key)
    }
}

/// A permutation of all numbers that looks like none (the finalizer of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ() {
        let (one, other) = (RequestIds::default(), RequestIds::default());
        let ids: HashSet<RequestId> = (0..10_000)
            .flat_map(|_| [one.next(), other.next()])
            .collect();
        assert_eq!(ids.len(), 20_000);
    }

    #[test]
    fn ids_are_short_words() {
        assert_eq!(RequestId(0).to_string(), "0000000000000");
        assert_eq!(RequestId(35).to_string(), "0000000000013");
        assert_eq!(RequestId(u64::MAX).to_string(), "fzzzzzzzzzzzz");
    }
}
