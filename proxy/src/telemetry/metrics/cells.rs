//! Numbers that one thread writes and any thread reads: counters, gauges, histograms.
//!
//! A change is a relaxed load and a relaxed store: no locked instruction, no cache line that two
//! writers fight for. Two threads that wrote the same cell would lose counts, but nothing worse; who
//! writes which cell is said where the cell is.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// So many since the start, as somebody else has counted.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// So many since the start.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down, never below 0.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more until the guard is dropped. The guard stays with the thread that writes.
    pub fn hold(&self) -> Held<'_> {
        self.up();
        Held(self)
    }

    /// One more.
    pub fn up(&self) {
        self.set(self.get() + 1);
    }

    /// One less.
    pub fn down(&self) {
        self.set(self.get().saturating_sub(1));
    }

    /// So many.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// So many now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One of what a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.down();
    }
}

/// The upper bounds of a histogram's buckets, in seconds, smallest first; +Inf goes without saying.
pub type Bounds = [f64];

/// How long things took.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// Each with what fell between the bound before and its own; the last one: above all bounds.
    buckets: Box<[Counter]>,
    nanos: Counter,
}

/// What a histogram, or several together, have counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Upper bounds in seconds, and how many were not above.
    pub cumulative: Vec<(f64, u64)>,
    /// How many in all.
    pub count: u64,
    /// Seconds in all.
    pub sum: f64,
}

impl Histogram {
    /// Nothing yet.
    pub fn new(bounds: &'static Bounds) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            nanos: Counter::default(),
        }
    }

    /// Counts one that took so long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        // Most are short, and there are few bounds: faster than a binary search.
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound);
        if let Some(counter) = self.buckets.get(bucket.unwrap_or(self.bounds.len())) {
            counter.inc();
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.add(nanos);
    }

    /// What was counted, by these together. They have the same bounds.
    pub fn sum<'a>(histograms: impl Iterator<Item = &'a Self>) -> Observed {
        let mut total = Observed::default();
        for histogram in histograms {
            if total.cumulative.is_empty() {
                let bounds = histogram.bounds.iter();
                total.cumulative = bounds.map(|bound| (*bound, 0)).collect();
            }
            let mut below = 0;
            let mut bounds = total.cumulative.iter_mut();
            for bucket in &histogram.buckets {
                below += bucket.get();
                if let Some((_, count)) = bounds.next() {
                    *count += below;
                }
            }
            total.count += below;
            total.sum += Duration::from_nanos(histogram.nanos.get()).as_secs_f64();
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: &Bounds = &[0.001, 0.01, 0.5, 2.0, 60.0];

    /// As the definition has it: a bucket counts what is not above its bound.
    fn naive(values: &[Duration]) -> Observed {
        let count = |bound: f64| {
            let below = values.iter().filter(|value| value.as_secs_f64() <= bound);
            below.count() as u64
        };
        Observed {
            cumulative: BOUNDS.iter().map(|&bound| (bound, count(bound))).collect(),
            count: values.len() as u64,
            sum: values.iter().sum::<Duration>().as_secs_f64(),
        }
    }

    fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            // The bounds themselves, and one nanosecond to either side.
            (prop::sample::select(BOUNDS), 0..3_u64).prop_map(|(bound, step)| {
                let nanos = Duration::from_secs_f64(bound).as_nanos() as u64;
                Duration::from_nanos(nanos - 1 + step)
            }),
            (0..200_000_000_000_u64).prop_map(Duration::from_nanos),
            (0..20_000_000_u64).prop_map(Duration::from_nanos),
        ]
    }

    proptest! {
        #[test]
        fn histograms_of_several_writers_sum_to_the_naive_one(
            values in prop::collection::vec((0..3_usize, duration()), 0..200)
        ) {
            let histograms = [0; 3].map(|_| Histogram::new(BOUNDS));
            for (writer, value) in &values {
                histograms[*writer].observe(*value);
            }
            let all: Vec<Duration> = values.iter().map(|(_, value)| *value).collect();
            let (fast, naive) = (Histogram::sum(histograms.iter()), naive(&all));
            prop_assert_eq!(&fast.cumulative, &naive.cumulative);
            prop_assert_eq!(fast.count, naive.count);
            prop_assert!((fast.sum - naive.sum).abs() < 1e-6);
        }
    }

    #[test]
    fn a_gauge_counts_what_is_held_and_never_wraps() {
        let gauge = Gauge::default();
        let (first, second) = (gauge.hold(), gauge.hold());
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        gauge.down();
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn one_writer_loses_nothing_while_others_read() {
        const TIMES: u64 = 200_000;
        let counter = Counter::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..TIMES).for_each(|_| counter.inc()));
            scope.spawn(|| {
                let mut last = 0;
                while last < TIMES {
                    let now = counter.get();
                    assert!(now >= last, "a counter never goes back");
                    last = now;
                }
            });
        });
        assert_eq!(counter.get(), TIMES);
    }
}
