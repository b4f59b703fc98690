//! A run in slices of time: how many requests were answered in each, and how fast.

use crate::history::{History, Outcome};

/// More slices than this cannot be told apart on a screen.
const BINS_MAX: u64 = 240;
/// No slice is shorter.
const BIN_US_MIN: u64 = 250_000;

/// One slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bin {
    /// Requests answered.
    pub ok: usize,
    /// Requests that failed, with effect or without.
    pub failed: usize,
    /// Half were faster, in microseconds; 0 if none was answered.
    pub p50_us: u64,
    /// 99 of a hundred were faster.
    pub p99_us: u64,
}

/// All slices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bins {
    /// How long each is.
    pub width_us: u64,
    /// In order of time.
    pub bins: Vec<Bin>,
}

impl Bins {
    /// Sorts requests into slices by their ends.
    pub fn of(history: &History) -> Self {
        let ends = history.ops.iter().filter_map(|op| Some((op.ended_us()?, op)));
        let last = ends.clone().map(|(end, _)| end).max().unwrap_or(0);
        let width_us = (last / BINS_MAX + 1).max(BIN_US_MIN);
        let count = usize::try_from(last / width_us + 1).unwrap_or(1);
        let mut bins = vec![Bin::default(); count];
        let mut times: Vec<Vec<u64>> = vec![Vec::new(); count];
        for (end, op) in ends {
            let at = usize::try_from(end / width_us).unwrap_or(0);
            match &op.outcome {
                Outcome::Ok(_) => {
                    bins[at].ok += 1;
                    times[at].push(end.saturating_sub(op.invoke.t_us));
                }
                Outcome::Fail(failure) if failure.refused => {}
                Outcome::Fail(_) | Outcome::Unknown(_) => bins[at].failed += 1,
                Outcome::Open => {}
            }
        }
        for (bin, mut times) in bins.iter_mut().zip(times) {
            times.sort_unstable();
            let part = |percent| times.get(times.len() * percent / 100).copied().unwrap_or(0);
            (bin.p50_us, bin.p99_us) = (part(50), part(99));
        }
        Self { width_us, bins }
    }

    /// Until when.
    pub fn end_us(&self) -> u64 {
        self.width_us * self.bins.len() as u64
    }

    /// Requests a second.
    pub fn rate(&self, count: usize) -> f64 {
        count as f64 * 1e6 / self.width_us as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;

    #[test]
    fn requests_are_counted_where_they_end() {
        let ops = (0..100).map(|op| write(op, "set/a", "v", 0, 1000 + op));
        let late = failed(200, "set/b", "v", 0, 600_000);
        let bins = Bins::of(&history(ops.chain([late])));
        assert_eq!((bins.width_us, bins.bins.len()), (250_000, 3));
        assert_eq!(bins.bins[0], Bin { ok: 100, failed: 0, p50_us: 1050, p99_us: 1099 });
        assert_eq!(bins.bins[2], Bin { failed: 1, ..Bin::default() });
    }

    #[test]
    fn a_long_run_has_no_more_slices_than_a_screen_can_show() {
        let bins = Bins::of(&history([write(0, "set/a", "v", 0, 3_600_000_000)]));
        assert!(bins.bins.len() <= 240, "{}", bins.bins.len());
    }
}
