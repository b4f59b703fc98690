//! Latencies and their quantiles.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::term;

/// Longer ones count as this: no request may take as long.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Latencies of one kind of request, in microseconds, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Three digits is within 1 to 5: it cannot be refused.
        let histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits"));
        Self(histogram)
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.min(LONGEST).as_micros()).unwrap_or(u64::MAX);
        // It grows as needed, up to the longest.
        let _ = self.0.record(micros);
    }

    /// Adds all of another's.
    pub fn add(&mut self, other: &Self) {
        // Both grow as needed.
        let _ = self.0.add(&other.0);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `part` (0 to 1) of all did not exceed.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(part))
    }

    /// Median, p99 and p99.9 for a table.
    #[must_use]
    pub fn cell(&self) -> String {
        if self.count() == 0 {
            return "-".to_owned();
        }
        let [half, p99, p999] = [0.5, 0.99, 0.999].map(|part| term::span(self.quantile(part)));
        format!("{half} / {p99} / {p999}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        for millis in 1..=1000 {
            latencies.record(Duration::from_millis(millis));
        }
        let median = latencies.quantile(0.5).as_millis();
        assert!((495..=505).contains(&median), "{median}");
        assert_eq!(latencies.count(), 1000);
        latencies.record(Duration::MAX);
        assert!(latencies.quantile(1.0).abs_diff(LONGEST) < LONGEST / 100);
    }
}
