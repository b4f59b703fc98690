//! What is done to the world: a plan drawn from the seed.
//!
//! "Swarm" testing (Groce, Zhang, Eide, Chen, Regehr: *Swarm Testing*, 2012): a seed enables a
//! random subset of the kinds of faults, each at a random rate. Runs with few kinds go deep
//! where runs with all kinds would only make noise.

use std::fmt;

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::clock::Time;
use super::disk::DiskWeather;
use super::network::Weather;
use super::world::{Event, World};

/// Clocks are off by at most so much: the largest jump that a well-known test of stores injects.
const WALL_OFFSET_MAX_MS: i64 = 288_000;
const MS: Time = 1_000;
const SECOND: Time = 1_000_000;

/// One thing that is done.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Kill(usize),
    PowerLoss(usize),
    PowerLossOfAll,
    Start(usize),
    Pause(usize),
    Resume(usize),
    Cut(Shape, Vec<(usize, usize)>),
    Mend,
    Network(Weather),
    Disk(usize, DiskWeather),
    Full(usize, bool),
    WallClock(usize, i64),
    Damage(usize),
    Wipe(usize),
    Snapshot(usize),
    Restore(usize),
}

/// The shape of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Two sides that do not hear each other.
    Symmetric,
    /// One side hears the other, and not the other way round.
    OneWay,
    /// One node alone.
    Single,
    /// Two sides that only one node connects.
    Bridge,
    /// Any links.
    Ragged,
}

/// The kinds that a seed may enable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    PowerLoss,
    PowerLossOfAll,
    Pause,
    Cut,
    Network,
    Disk,
    Full,
    WallClock,
    Strobe,
    Damage,
    Wipe,
    Restore,
}

const KINDS: [Kind; 13] = [
    Kind::Kill,
    Kind::PowerLoss,
    Kind::PowerLossOfAll,
    Kind::Pause,
    Kind::Cut,
    Kind::Network,
    Kind::Disk,
    Kind::Full,
    Kind::WallClock,
    Kind::Strobe,
    Kind::Damage,
    Kind::Wipe,
    Kind::Restore,
];

/// Everything that is going to be done to a world.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) faults: Vec<(Time, Fault)>,
    /// When all of it ends and everything is healed.
    pub(super) heal_at: Time,
    /// The one node whose disk is damaged or lost, if any: the claim allows W − 1, and W is 2 at least
    /// in such runs.
    pub(super) victim: Option<usize>,
    kinds: Vec<Kind>,
}

impl Plan {
    /// Draws a plan for so many nodes, from `start` on.
    /// `disks` says whether whole disks may be lost.
    pub(super) fn draw(nodes: usize, disks: bool, start: Time, rng: &mut ChaCha8Rng) -> Self {
        let length = rng.random_range(5..=30) * SECOND;
        let mut plan =
            Self { faults: vec![], heal_at: start + length, victim: None, kinds: vec![] };
        for kind in KINDS {
            let odds = match kind {
                Kind::Wipe | Kind::Restore if !disks => continue,
                Kind::Damage | Kind::Wipe | Kind::Restore => 6,
                _ => 2,
            };
            if !rng.random_ratio(1, odds) {
                continue;
            }
            plan.kinds.push(kind);
            let mean = rng.random_range(500 * MS..=10 * SECOND);
            let mut at = start + rng.random_range(0..=mean);
            while at < plan.heal_at {
                plan.draw_one(kind, nodes, at, rng);
                at += rng.random_range(mean / 4..=mean * 2);
            }
        }
        plan.faults.sort_by_key(|fault| fault.0);
        plan
    }

    fn draw_one(&mut self, kind: Kind, nodes: usize, at: Time, rng: &mut ChaCha8Rng) {
        let node = rng.random_range(0..nodes);
        let short = at + rng.random_range(20 * MS..=10 * SECOND);
        match kind {
            Kind::Kill => {
                let victims = if rng.random_ratio(1, 5) { rng.random_range(1..=nodes) } else { 1 };
                for offset in 0..victims {
                    let victim = (node + offset) % nodes;
                    self.push(at, Fault::Kill(victim));
                    self.push(short + rng.random_range(0..SECOND), Fault::Start(victim));
                }
            }
            Kind::PowerLoss => {
                self.push(at, Fault::PowerLoss(node));
                self.push(short, Fault::Start(node));
            }
            Kind::PowerLossOfAll => {
                self.push(at, Fault::PowerLossOfAll);
                for node in 0..nodes {
                    self.push(at + rng.random_range(20 * MS..=3 * SECOND), Fault::Start(node));
                }
            }
            Kind::Pause => {
                self.push(at, Fault::Pause(node));
                self.push(short, Fault::Resume(node));
            }
            Kind::Cut => {
                let (shape, links) = draw_cut(nodes, rng);
                self.push(at, Fault::Cut(shape, links));
                self.push(short, Fault::Mend);
            }
            Kind::Network => self.push(at, Fault::Network(Weather::random(rng))),
            Kind::Disk => self.push(at, Fault::Disk(node, DiskWeather::random(rng))),
            Kind::Full => {
                self.push(at, Fault::Full(node, true));
                self.push(at + rng.random_range(MS..=SECOND), Fault::Full(node, false));
            }
            Kind::WallClock => {
                let offset = rng.random_range(-WALL_OFFSET_MAX_MS..=WALL_OFFSET_MAX_MS);
                self.push(at, Fault::WallClock(node, offset));
            }
            Kind::Strobe => {
                let offset = rng.random_range(-WALL_OFFSET_MAX_MS..=WALL_OFFSET_MAX_MS);
                for flip in 0..rng.random_range(2..12) {
                    let offset = if flip % 2 == 0 { offset } else { 0 };
                    let at = at + flip * rng.random_range(20 * MS..=300 * MS);
                    self.push(at, Fault::WallClock(node, offset));
                }
            }
            Kind::Damage => {
                let victim = *self.victim.get_or_insert(node);
                self.push(at, Fault::Damage(victim));
            }
            Kind::Wipe => {
                let victim = *self.victim.get_or_insert(node);
                self.push(at, Fault::Wipe(victim));
                self.push(short, Fault::Start(victim));
            }
            Kind::Restore => {
                let victim = *self.victim.get_or_insert(node);
                self.push(at, Fault::Snapshot(victim));
                self.push(short, Fault::Restore(victim));
                self.push(short + rng.random_range(0..SECOND), Fault::Start(victim));
            }
        }
    }

    fn push(&mut self, at: Time, fault: Fault) {
        self.faults.push((at, fault));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.heal_at / SECOND;
        write!(f, "{} faults until {seconds} s, of the kinds {:?}", self.faults.len(), self.kinds)
    }
}

/// Draws a partition: its shape and the links that are cut.
fn draw_cut(nodes: usize, rng: &mut impl Rng) -> (Shape, Vec<(usize, usize)>) {
    let mut order: Vec<usize> = (0..nodes).collect();
    order.shuffle(rng);
    let all = || (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let split = rng.random_range(1..nodes);
    let left = |node: usize| order[..split].contains(&node);
    match rng.random_range(0..5) {
        0 => (Shape::Symmetric, all().filter(|&(a, b)| left(a) != left(b)).collect()),
        1 => (Shape::OneWay, all().filter(|&(a, b)| left(a) && !left(b)).collect()),
        2 => {
            let alone = order[0];
            (Shape::Single, all().filter(|&(a, b)| a == alone || b == alone).collect())
        }
        3 => {
            let bridge = order[nodes - 1];
            let apart = |a: usize, b: usize| left(a) != left(b) && a != bridge && b != bridge;
            (Shape::Bridge, all().filter(|&(a, b)| apart(a, b)).collect())
        }
        _ => {
            let rate = rng.random_range(1..=7);
            (Shape::Ragged, all().filter(|_| rng.random_ratio(rate, 10)).collect())
        }
    }
}

impl World {
    /// Something is done to the world.
    pub(super) fn inflict(&mut self, fault: &Fault) {
        self.trace.event(self.time, 0, b'!', format!("{fault:?}").as_bytes());
        match fault {
            Fault::Kill(node) => self.kill(*node),
            Fault::PowerLoss(node) => self.lose_power(*node),
            Fault::PowerLossOfAll => {
                self.trace.say(self.time, None, || "the power fails everywhere".into());
                (0..self.nodes.len()).for_each(|node| self.lose_power(node));
            }
            Fault::Start(node) => self.start(*node),
            Fault::Pause(node) => self.pause(*node),
            Fault::Resume(node) => self.resume(*node),
            Fault::Cut(shape, links) => {
                self.trace.say(self.time, None, || format!("{shape:?} partition: cut {links:?}"));
                self.network.mend();
                links.iter().for_each(|&(from, to)| self.network.set_cut(from, to, true));
            }
            Fault::Mend => {
                self.trace.say(self.time, None, || "all links are mended".into());
                self.network.mend();
            }
            Fault::Network(weather) => {
                self.trace.say(self.time, None, || format!("{weather:?}"));
                self.network.weather = weather.clone();
            }
            Fault::Disk(node, weather) => {
                self.trace.say(self.time, Some(*node), || format!("{weather:?}"));
                self.nodes[*node].disk.weather = weather.clone();
            }
            Fault::Full(node, full) => {
                self.trace.say(self.time, Some(*node), || format!("disk full: {full}"));
                self.nodes[*node].disk.full = *full;
            }
            Fault::WallClock(node, offset) => {
                self.trace.say(self.time, Some(*node), || format!("wall clock off by {offset} ms"));
                self.nodes[*node].clock.set_wall_offset(*offset);
            }
            Fault::Damage(node) => self.damage(*node),
            Fault::Wipe(node) => self.wipe(*node),
            Fault::Snapshot(node) => self.snapshot(*node),
            Fault::Restore(node) => _ = self.restore(*node),
        }
    }

    /// Flips a bit of some record of a node.
    fn damage(&mut self, node: usize) {
        let nth = self.rng.random_range(0..1 << 16);
        if let Some(key) = self.nodes[node].disk.flip_bit(nth, &mut self.rng) {
            let name = String::from_utf8_lossy(key.get(2..).unwrap_or_default()).into_owned();
            self.trace.say(self.time, Some(node), || format!("a bit of {name} flips on disk"));
            self.observer.damage(node, key);
        }
    }

    /// Everything is well again: all nodes run, all links are open, disks and clocks are good.
    pub(super) fn heal(&mut self) {
        self.trace.say(self.time, None, || "everything is healed".into());
        self.network.mend();
        self.network.weather = Weather::calm();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.weather = DiskWeather::calm();
            self.nodes[node].disk.full = false;
            self.nodes[node].clock.set_wall_offset(0);
            if self.nodes[node].disk.unstall() {
                let life = self.nodes[node].disk_life;
                self.schedule(0, Event::Disk { node, life });
            }
            self.resume(node);
            self.start(node);
        }
    }
}
