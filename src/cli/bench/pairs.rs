//! Runs in pairs, forth and back, so that a drift of the machine cancels.
//!
//! ```text
//!   a pair:  A · B · C … ── and back ──▶ … C · B · A
//! ```
//!
//! The mean time of every case's two runs of a pair is the same. A ratio compares the two runs of
//! one case with the two runs of another in the same pair.

use serde::Serialize;

use super::load::Measured;

/// With fewer pairs than this, a ratio is an indication and not a claim.
pub const PAIRS_FOR_A_CLAIM: usize = 5;

/// A ratio, over several pairs of runs.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// How many pairs.
    pub pairs: usize,
}

/// Which of so many cases runs when, for so many pairs.
pub fn order(cases: usize, pairs: u32) -> impl Iterator<Item = usize> {
    (0..pairs).flat_map(move |_| (0..cases).chain((0..cases).rev()))
}

/// What is compared, of the runs of one case in one pair.
pub fn rate(runs: &[Measured]) -> f64 {
    runs.iter().map(Measured::rate).sum()
}

impl Ratio {
    /// Over the ratios of pairs; none without a pair, or if one is not a number.
    #[must_use]
    pub fn of(pairs: &[f64]) -> Option<Self> {
        if pairs.iter().any(|ratio| !ratio.is_finite()) {
            return None;
        }
        let least = pairs.iter().copied().reduce(f64::min)?;
        let greatest = pairs.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(pairs.to_vec()), least, greatest, pairs: pairs.len() })
    }

    /// Of some figure of the runs of `over` to that of the runs of `under`, pair by pair.
    #[must_use]
    pub fn of_runs(
        over: &[Measured],
        under: &[Measured],
        figure: impl Fn(&[Measured]) -> f64,
    ) -> Option<Self> {
        let pairs = over.chunks_exact(2).zip(under.chunks_exact(2));
        let ratios: Vec<f64> = pairs.map(|(over, under)| figure(over) / figure(under)).collect();
        Self::of(&ratios)
    }

    /// For a table: the median, and the spread.
    #[must_use]
    pub fn cell(&self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.least, self.greatest)
    }

    /// Why it proves nothing; none if it does.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        if self.pairs < PAIRS_FOR_A_CLAIM {
            let pairs = if self.pairs == 1 {
                "one pair is".to_owned()
            } else {
                format!("{} pairs are", self.pairs)
            };
            return Some(format!(
                "{pairs} an indication: a claim needs at least {PAIRS_FOR_A_CLAIM}"
            ));
        }
        let either_way = self.least <= 1.0 && self.greatest >= 1.0;
        either_way.then(|| "the spread includes 1: no difference is shown".to_owned())
    }
}

/// The middle value, or the mean of the two in the middle; 0 of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => 0.0,
        (half, 0) => f64::midpoint(values[half - 1], values[half]),
        (half, _) => values[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).abs() < 1e-9);
    }

    #[test]
    fn cases_run_forth_and_back() {
        assert_eq!(order(3, 2).collect::<Vec<_>>(), [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]);
    }

    #[test]
    fn a_ratio_has_its_spread() {
        let ratio = Ratio::of(&[0.5, 0.7, 0.6]).unwrap();
        assert_eq!(ratio, Ratio { median: 0.6, least: 0.5, greatest: 0.7, pairs: 3 });
        assert_eq!(Ratio::of(&[]), None);
        assert_eq!(Ratio::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn what_proves_nothing_says_so() {
        let doubt = |pairs: &[f64]| Ratio::of(pairs).unwrap().doubt();
        assert!(doubt(&[2.0]).unwrap().contains("one pair is an indication"));
        assert!(doubt(&[2.0; 4]).unwrap().contains("at least 5"));
        assert!(doubt(&[0.9, 0.9, 1.1, 0.9, 0.9]).unwrap().contains("includes 1"));
        assert_eq!(doubt(&[0.8, 0.9, 0.9, 0.9, 0.9]), None);
    }
}
