//! How often a value fell between two bounds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of latencies, in microseconds: from a tenth of a millisecond, which is a read from
/// memory, to the longest that a request may take by default, and twice that.
pub const LATENCIES: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Bounds of counts: powers of four up to what a commit can hold.
pub const COUNTS: &[u64] = &[1, 4, 16, 64, 256, 1024, 4096, 16_384];

/// Counts values between fixed bounds. Recording takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Histogram {
    /// Inclusive, rising.
    bounds: &'static [u64],
    /// One a bound, and one for what lies beyond the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram as it was at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Each bound with how many values did not exceed it.
    pub(super) up_to: Vec<(u64, u64)>,
    /// All values.
    pub(super) count: u64,
    /// Their sum.
    pub(super) sum: u64,
}

impl Histogram {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Adds a value.
    pub fn record(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds a time, in microseconds.
    pub fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many values were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Values recorded meanwhile may be in the counts and not in the sum yet, or the other way
    /// round; the counts agree among themselves.
    pub(super) fn snapshot(&self) -> Snapshot {
        let sum = self.sum.load(Ordering::Relaxed);
        let mut count = 0;
        let mut running = self.counts.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let up_to = self.bounds.iter().copied().zip(running.by_ref()).collect();
        // What lies beyond the last bound.
        let count = running.next().unwrap_or_default();
        Snapshot { up_to, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_at_a_bound_is_within_it() {
        let histogram = Histogram::new(&[10, 20]);
        [0, 10, 11, 20, 21, 1000].into_iter().for_each(|value| histogram.record(value));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.up_to, [(10, 2), (20, 4)]);
        assert_eq!((snapshot.count, snapshot.sum), (6, 1062));
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_naive_count(values in prop::collection::vec(0_u64..20_000_000, 0..200)) {
            let histogram = Histogram::new(LATENCIES);
            values.iter().for_each(|value| histogram.record(*value));
            let snapshot = histogram.snapshot();
            for (bound, count) in snapshot.up_to {
                let naive = values.iter().filter(|value| **value <= bound).count();
                prop_assert_eq!(count, naive as u64);
            }
            prop_assert_eq!(snapshot.count, values.len() as u64);
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(snapshot.sum, values.iter().sum::<u64>());
        }
    }
}
