//! The checks behind the fuzz targets, one module an area. Each check takes any bytes and panics
//! when a rule is broken.
//!
//! `cargo test` runs them on seeds and on a pseudo-random corpus that is the same each time;
//! `cargo +nightly fuzz run path --features fuzzer` searches on.

pub mod hello;
pub mod http1;
pub mod http2;
pub mod proxy_protocol;
pub mod routing;
pub mod snapshot;

/// Runs `check` on every seed, on pieces of seeds put together and mutated, and on random bytes:
/// `rounds` inputs, the same ones each time.
#[cfg(test)]
pub(crate) fn run(check: fn(&[u8]), seeds: &[&[u8]], rounds: u32) {
    for seed in seeds {
        check(seed);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        check(&random.input(seeds));
    }
}

/// xorshift64: corpora need variety, not quality.
#[cfg(test)]
struct Random(u64);

#[cfg(test)]
impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % bound.max(1)
    }

    fn input(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut input = Vec::new();
        for _ in 0..=self.below(3) {
            let seed = seeds[self.below(seeds.len())];
            let start = self.below(seed.len() + 1);
            let end = start + self.below(seed.len() - start + 1);
            input.extend_from_slice(&seed[start..end]);
        }
        for _ in 0..self.below(4) {
            let at = self.below(input.len() + 1);
            match self.below(3) {
                0 => input.insert(at, self.below(256) as u8),
                1 if at < input.len() => input[at] = self.below(256) as u8,
                _ if at < input.len() => {
                    input.remove(at);
                }
                _ => {}
            }
        }
        input
    }
}
