//! The network between the nodes: what becomes of each message.
//!
//! ```text
//!   send ──▶ link cut? ──▶ lost? ──▶ once or twice ──▶ each: latency, perhaps late, perhaps damaged
//! ```
//!
//! A link is directed, so a partition may be one-way. Whether it is cut is decided when the
//! message is sent: what is under way arrives, and a message that is five seconds late may well
//! cross a partition, a restart, or both.

use rand::{Rng, RngExt};

use super::clock::Time;
use super::tally::{FaultCounts, FaultKind};

/// How the network behaves. Probabilities in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way, in microseconds.
    pub latency_min: u64,
    /// The longest way of an ordinary message.
    pub latency_max: u64,
    /// Lost: at most 300.
    pub loss: u32,
    /// Delivered twice, or more: at most 500.
    pub duplication: u32,
    /// Overtaken by those behind it: held back up to 10 ms.
    pub reorder: u32,
    /// Late by up to `delay_max`.
    pub delay: u32,
    /// At most five seconds, in microseconds.
    pub delay_max: u64,
    /// Bits flipped on the way; the frame's checksum catches it, so it counts as lost.
    pub corruption: u32,
}

/// A message that is held back this much longer than others counts as delayed.
const LATE: Time = 50_000;
/// A message that is overtaken by others waits no longer than this.
const REORDER_MAX: Time = 10_000;
/// The longest delay of a message.
pub(super) const DELAY_MAX: Time = 5_000_000;

/// What becomes of one copy of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives after so long.
    Arrives(Time),
    /// It arrives after so long, with a bit flipped.
    Damaged(Time),
}

/// The links and their state.
#[derive(Clone, Debug)]
pub(super) struct Network {
    nodes: usize,
    cut: Vec<bool>,
    /// Further microseconds on the way, per link: some pairs are far apart.
    far: Vec<Time>,
    /// What a message that a cut link drops counts as.
    pub(super) shape: Option<FaultKind>,
    pub(super) weather: Weather,
    pub(super) took_effect: FaultCounts,
    /// When the last message so far arrives, per link.
    last: Vec<Time>,
}

impl Weather {
    /// A network at its best.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            latency_min: 100,
            latency_max: 400,
            loss: 0,
            duplication: 0,
            reorder: 0,
            delay: 0,
            delay_max: 0,
            corruption: 0,
        }
    }

    /// Some weather: each trouble is in it or not, at a random rate.
    pub(super) fn random(rng: &mut impl Rng) -> Self {
        let some = |rng: &mut dyn Rng, max: u32| {
            if rng.random_ratio(1, 2) { 0 } else { rng.random_range(0..=max) }
        };
        let latency_min = 25 * rng.random_range(1..=10);
        Self {
            latency_min,
            latency_max: latency_min * rng.random_range(1..=20),
            loss: some(rng, 300),
            duplication: some(rng, 500),
            reorder: some(rng, 500),
            delay: some(rng, 50),
            delay_max: rng.random_range(50_000..=DELAY_MAX),
            corruption: some(rng, 30),
        }
    }
}

impl Network {
    pub(super) fn new(nodes: usize, weather: Weather) -> Self {
        Self {
            nodes,
            cut: vec![false; nodes * nodes],
            far: vec![0; nodes * nodes],
            shape: None,
            weather,
            took_effect: FaultCounts::default(),
            last: vec![0; nodes * nodes],
        }
    }

    fn link(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }

    /// Puts some pairs further apart.
    pub(super) fn stretch(&mut self, from: usize, to: usize, micros: Time) {
        let link = self.link(from, to);
        self.far[link] = micros;
    }

    /// Cuts or mends one direction.
    pub(super) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        let link = self.link(from, to);
        self.cut[link] = cut;
    }

    /// Mends everything.
    pub(super) fn mend(&mut self) {
        self.shape = None;
        self.cut.fill(false);
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.link(from, to)]
    }

    /// Whether both directions are open.
    pub(super) fn is_open(&self, a: usize, b: usize) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    /// How long an ordinary way takes now.
    pub(super) fn latency(&self, from: usize, to: usize, rng: &mut impl Rng) -> Time {
        let weather = &self.weather;
        let way = rng.random_range(weather.latency_min..=weather.latency_max);
        way + self.far[self.link(from, to)]
    }

    /// Whether a link is cut, asked for a message that is to take it.
    pub(super) fn drops(&mut self, from: usize, to: usize) -> bool {
        let cut = self.is_cut(from, to);
        if let Some(shape) = self.shape.filter(|_| cut) {
            self.took_effect.count(shape);
        }
        cut
    }

    /// What becomes of a message that is sent at `now`: one fate for each copy that arrives.
    pub(super) fn fates(
        &mut self,
        now: Time,
        from: usize,
        to: usize,
        rng: &mut impl Rng,
    ) -> Vec<Fate> {
        let chance = |rng: &mut dyn Rng, rate: u32| rate > 0 && rng.random_range(0..1000) < rate;
        if self.drops(from, to) {
            return Vec::new();
        }
        if chance(rng, self.weather.loss) {
            self.took_effect.count(FaultKind::Loss);
            return Vec::new();
        }
        let mut copies = 1;
        while copies < 4 && chance(rng, self.weather.duplication) {
            self.took_effect.count(FaultKind::Duplication);
            copies += 1;
        }
        let mut fates = Vec::with_capacity(copies);
        let link = self.link(from, to);
        for _ in 0..copies {
            let mut way = self.latency(from, to, rng);
            if chance(rng, self.weather.reorder) {
                way += rng.random_range(0..REORDER_MAX);
            }
            if chance(rng, self.weather.delay) {
                let delay = rng.random_range(0..=self.weather.delay_max);
                if delay >= LATE {
                    self.took_effect.count(FaultKind::Delay);
                }
                way += delay;
            }
            if now + way < self.last[link] {
                self.took_effect.count(FaultKind::Reorder);
            }
            self.last[link] = self.last[link].max(now + way);
            let damaged = chance(rng, self.weather.corruption);
            if damaged {
                self.took_effect.count(FaultKind::Corruption);
            }
            fates.push(if damaged { Fate::Damaged(way) } else { Fate::Arrives(way) });
        }
        fates
    }

    /// When the last message that is under way arrives.
    pub(super) fn last_arrival(&self) -> Time {
        self.last.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    #[test]
    fn a_cut_link_carries_nothing_and_only_in_its_direction() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut network = Network::new(3, Weather::calm());
        network.set_cut(0, 1, true);
        assert!(network.fates(0, 0, 1, &mut rng).is_empty());
        assert_eq!(network.fates(0, 1, 0, &mut rng).len(), 1);
        assert!(!network.is_open(1, 0));
        network.mend();
        assert!(network.is_open(1, 0));
    }

    #[test]
    fn rates_of_loss_and_duplication_are_what_was_asked_for() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let weather = Weather { loss: 300, duplication: 500, ..Weather::calm() };
        let mut network = Network::new(2, weather);
        let (mut lost, mut twice) = (0, 0);
        for _ in 0..10_000 {
            match network.fates(0, 0, 1, &mut rng).len() {
                0 => lost += 1,
                1 => {}
                _ => twice += 1,
            }
        }
        assert!((2_700..3_300).contains(&lost), "{lost} of 10,000 lost");
        assert!((3_200..3_800).contains(&twice), "{twice} of 10,000 came more than once");
    }
}
