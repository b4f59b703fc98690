//! Chance: which key is next, and when the next request comes.

use std::time::Duration;

use clap::ValueEnum;

/// How uneven the Zipfian choice is: that of YCSB, which most published figures use.
const THETA: f64 = 0.99;

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Default)]
pub enum Distribution {
    /// Each as often as any other.
    #[default]
    Uniform,
    /// A few very often: the key of rank r is chosen about 1/r^0.99 as often as the first.
    Zipfian,
}

impl Distribution {
    /// As results name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
        }
    }
}

/// `SplitMix64`: a few instructions, and good enough to choose keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The time until the next of events that come `rate` times a second, independent of each
    /// other: a Poisson process.
    pub fn until_next(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.unit()).ln() / rate)
    }
}

/// Chooses among the numbers 0 to n - 1.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Any of so many.
    Uniform(usize),
    /// Small ones more often.
    Zipfian(Zipfian),
}

/// The constants of Gray and others' method ("Quickly generating billion-record synthetic
/// databases", 1994): one power a draw.
#[derive(Clone, Debug)]
pub struct Zipfian {
    n: usize,
    zeta: f64,
    second: f64,
    alpha: f64,
    eta: f64,
}

impl Choice {
    /// A choice among `n` (at least one).
    #[must_use]
    pub fn new(distribution: Distribution, n: usize) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform(n.max(1)),
            Distribution::Zipfian => Self::Zipfian(Zipfian::new(n.max(1))),
        }
    }

    /// The next one.
    pub fn draw(&self, random: &mut Random) -> usize {
        match self {
            Self::Uniform(n) => index(random.unit() * *n as f64, *n),
            Self::Zipfian(zipfian) => zipfian.draw(random.unit()),
        }
    }
}

impl Zipfian {
    fn new(n: usize) -> Self {
        let zeta_of = |n: usize| (1..=n).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        let (zeta, second) = (zeta_of(n), 1.0 + 0.5_f64.powf(THETA));
        let alpha = 1.0 / (1.0 - THETA);
        let eta = (1.0 - (2.0 / n as f64).powf(1.0 - THETA)) / (1.0 - zeta_of(2) / zeta);
        Self { n, zeta, second, alpha, eta }
    }

    fn draw(&self, unit: f64) -> usize {
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < self.second {
            return 1.min(self.n - 1);
        }
        let n = self.n as f64;
        index(n * (self.eta * unit - self.eta + 1.0).powf(self.alpha), self.n)
    }
}

/// A whole number below `n`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is bounded")]
fn index(number: f64, n: usize) -> usize {
    (number.max(0.0) as usize).min(n - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 200_000;

    fn counts(distribution: Distribution, n: usize) -> Vec<u32> {
        let (choice, mut random) = (Choice::new(distribution, n), Random::new(7));
        let mut counts = vec![0; n];
        (0..DRAWS).for_each(|_| counts[choice.draw(&mut random)] += 1);
        counts
    }

    fn assert_near(what: &str, found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.1, "{what}: {found}, not {expected}");
    }

    #[test]
    fn a_uniform_choice_takes_each_as_often() {
        let counts = counts(Distribution::Uniform, 100);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(f64::from(*most) < 1.3 * f64::from(*least), "{least} to {most}");
    }

    #[test]
    fn a_zipfian_choice_follows_its_law() {
        let n = 1000;
        let counts = counts(Distribution::Zipfian, n);
        let zeta: f64 = (1..=n).map(|rank| (rank as f64).powf(-THETA)).sum();
        for rank in [1, 2, 10] {
            let expected = f64::from(DRAWS) / zeta / (rank as f64).powf(THETA);
            assert_near(&format!("rank {rank}"), f64::from(counts[rank - 1]), expected);
        }
        let tail: u32 = counts[100..].iter().sum();
        let law: f64 = (101..=n).map(|rank| (rank as f64).powf(-THETA)).sum();
        assert_near("ranks above 100", f64::from(tail), f64::from(DRAWS) * law / zeta);
        for n in [1, 2, 3] {
            let (choice, mut random) = (Choice::new(Distribution::Zipfian, n), Random::new(1));
            assert!((0..1000).all(|_| choice.draw(&mut random) < n));
        }
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_its_spread() {
        let mut random = Random::new(3);
        let gaps: Vec<f64> = (0..DRAWS).map(|_| random.until_next(1000.0).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|gap| gap * gap).sum::<f64>() / gaps.len() as f64;
        assert_near("the mean", mean, 0.001);
        // Of exponential gaps, the standard deviation is the mean.
        assert_near("the deviation", (square - mean * mean).sqrt(), 0.001);
    }
}
