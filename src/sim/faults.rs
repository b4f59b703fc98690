//! What is done to the world: a plan drawn from the seed.
//!
//! "Swarm" testing (Groce, Zhang, Eide, Chen, Regehr: *Swarm Testing*, 2012): a seed enables a
//! random subset of the kinds of faults, each at a random rate. Runs with few kinds go deep
//! where runs with all kinds would only make noise.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::clock::Time;
use super::describe;
use super::disk::DiskWeather;
use super::network::Weather;
use super::observer::Place;
use super::ring::Move;
use super::tally::FaultKind;
use super::world::{Event, World};
use crate::protocol::step::Space;

/// Clocks are off by at most so much: the largest jump that a well-known test of stores injects.
const WALL_OFFSET_MAX_MS: i64 = 288_000;
/// A burst of requests takes about so long.
const BURST: Time = 20_000;
const MS: Time = 1_000;
/// After the healing an operator looks so often after the ring, so far apart in the nodes' time.
const OPERATOR_LOOKS: Time = 6;
const OPERATOR_REST: Time = 10 * SECOND;
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
    WallClock(usize, i64, FaultKind),
    Flip(usize),
    Misdirect(usize),
    /// A disk is replaced by one with nothing on it.
    Wipe(usize),
    Snapshot(usize),
    /// The last snapshot of a disk is put back.
    Restore(usize),
    /// A process is started on a copy of a live node's folder.
    Twin(usize),
    /// So many requests reach a node at once.
    Overload(usize, usize),
    /// The ring is to change.
    Ring(Move),
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
pub(super) enum Kind {
    Kill,
    PowerLoss,
    PowerLossOfAll,
    Pause,
    Cut,
    Network,
    Disk,
    Full,
    ClockOffset,
    ClockJump,
    ClockStrobe,
    Damage,
    Wipe,
    Restore,
    Overload,
    RoughStart,
    Twin,
    Ring,
    Remove,
}

const KINDS: [Kind; 19] = [
    Kind::Twin,
    Kind::Kill,
    Kind::PowerLoss,
    Kind::PowerLossOfAll,
    Kind::Pause,
    Kind::Cut,
    Kind::Network,
    Kind::Disk,
    Kind::Full,
    Kind::ClockOffset,
    Kind::ClockJump,
    Kind::ClockStrobe,
    Kind::Damage,
    Kind::Wipe,
    Kind::Restore,
    Kind::Overload,
    Kind::RoughStart,
    Kind::Ring,
    Kind::Remove,
];

/// When a plan has its faults, in the world's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Clients begin, and with them the faults.
    pub(super) begin: Time,
    /// All of it ends and everything is healed.
    pub(super) heal: Time,
    pub(super) pace: u64,
    /// How far apart the clients' bursts begin, if they come in bursts: many faults come with one.
    pub(super) beat: Option<Time>,
}

/// Everything that is going to be done to a world.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) faults: Vec<(Time, Fault)>,
    pub(super) span: Span,
    /// The one node whose disk is damaged or lost, if any: the claim allows W − 1, and W is 2 at least
    /// in such runs.
    pub(super) victim: Option<usize>,
    /// Nodes that are not started at the beginning: a fault starts them.
    pub(super) late: BTreeSet<usize>,
    kinds: Vec<Kind>,
}

/// Whom a plan is drawn for.
pub(super) struct Cast {
    pub(super) nodes: usize,
    /// The first so many nodes.
    pub(super) founders: usize,
    /// Whether whole disks may be lost.
    pub(super) disks: bool,
    /// Whether nodes join and leave.
    pub(super) moves: bool,
    /// Just these kinds, and then often; else random ones.
    pub(super) theme: Option<&'static [Kind]>,
}

impl Plan {
    /// Draws a plan.
    pub(super) fn draw(cast: &Cast, span: Span, rng: &mut ChaCha8Rng) -> Self {
        let &Cast { nodes, founders, disks, moves, theme } = cast;
        let (faults, kinds, late) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut plan = Self { faults, span, victim: None, late, kinds };
        let length = span.heal - span.begin;
        // Who is no founder comes when it is told to, or at the end.
        plan.late.extend((founders..nodes).filter(|_| disks));
        for kind in KINDS {
            let lacks_disks = matches!(kind, Kind::Wipe | Kind::Restore) && !disks;
            if lacks_disks || matches!(kind, Kind::Ring | Kind::Remove) && !moves {
                continue;
            }
            let drawn = rng.random_ratio(1, kind.odds());
            let enabled = theme.map_or(drawn, |kinds| kinds.contains(&kind));
            if !enabled || (plan.has(Kind::Twin) && !kind.spares_the_first()) {
                continue;
            }
            plan.kinds.push(kind);
            if matches!(kind, Kind::ClockOffset | Kind::RoughStart) {
                plan.draw_start(kind, nodes, rng);
                continue;
            }
            let rarest = if theme.is_some() { length / 6 } else { length };
            let mean = rng.random_range(length / 24..=rarest);
            let mut at = span.begin + rng.random_range(0..=mean);
            while at < span.heal {
                plan.draw_one(kind, (nodes, founders), span.near_a_burst(at, rng), rng);
                at += rng.random_range(mean / 4..=mean * 2);
            }
        }
        plan.faults.sort_by_key(|fault| fault.0);
        plan
    }

    /// A plan that is told rather than drawn; some nodes are started by it.
    pub(super) fn told(
        mut faults: Vec<(Time, Fault)>,
        span: Span,
        late: impl IntoIterator<Item = usize>,
    ) -> Self {
        faults.sort_by_key(|fault| fault.0);
        Self { faults, span, victim: None, late: late.into_iter().collect(), kinds: Vec::new() }
    }

    /// Only these faults are left, by their place in the plan.
    pub(super) fn keep(&mut self, places: &[usize]) {
        let all = std::mem::take(&mut self.faults).into_iter().enumerate();
        self.faults = all.filter(|(at, _)| places.contains(at)).map(|(_, fault)| fault).collect();
    }

    /// Whether a kind is enabled.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Draws what is so from the beginning.
    fn draw_start(&mut self, kind: Kind, nodes: usize, rng: &mut ChaCha8Rng) {
        for node in 0..nodes {
            if kind == Kind::ClockOffset && rng.random_ratio(1, 2) {
                let offset = rng.random_range(-WALL_OFFSET_MAX_MS..=WALL_OFFSET_MAX_MS);
                self.push(0, Fault::WallClock(node, offset, FaultKind::ClockOffset));
            }
            if kind == Kind::RoughStart && rng.random_ratio(1, 2) {
                self.late.insert(node);
                self.push(rng.random_range(0..=self.span.begin / 2), Fault::Start(node));
            }
        }
        if kind == Kind::RoughStart {
            let (shape, links) = draw_cut(nodes, rng);
            self.push(0, Fault::Cut(shape, links));
            self.push(rng.random_range(0..=self.span.begin / 2), Fault::Mend);
            self.push(0, Fault::Network(Weather::random(rng)));
            self.push(self.span.begin, Fault::Network(Weather::calm()));
        }
    }

    fn draw_one(
        &mut self,
        kind: Kind,
        (nodes, founders): (usize, usize),
        at: Time,
        rng: &mut ChaCha8Rng,
    ) {
        let node = rng.random_range(0..nodes);
        let (moment, spell) = (20 * MS / self.span.pace, 10 * SECOND / self.span.pace);
        let short = at + rng.random_range(moment..=spell);
        let offset = rng.random_range(-WALL_OFFSET_MAX_MS..=WALL_OFFSET_MAX_MS);
        match kind {
            Kind::Kill => {
                let victims = if rng.random_ratio(1, 5) { rng.random_range(1..=nodes) } else { 1 };
                for victim in (0..victims).map(|offset| (node + offset) % nodes) {
                    self.push(at, Fault::Kill(victim));
                    self.push(short + rng.random_range(0..spell / 10), Fault::Start(victim));
                }
            }
            Kind::PowerLoss => {
                self.push(at, Fault::PowerLoss(node));
                self.push(short, Fault::Start(node));
            }
            Kind::PowerLossOfAll => {
                self.push(at, Fault::PowerLossOfAll);
                for node in 0..nodes {
                    self.push(at + rng.random_range(moment..=spell / 3), Fault::Start(node));
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
                self.push(at + rng.random_range(MS..=spell / 10), Fault::Full(node, false));
            }
            Kind::ClockJump => {
                self.push(at, Fault::WallClock(node, offset, FaultKind::ClockJump));
            }
            Kind::ClockStrobe => {
                for flip in 0..rng.random_range(2..12) {
                    let offset = if flip % 2 == 0 { offset } else { 0 };
                    let at = at + flip * rng.random_range(moment..=spell / 30);
                    self.push(at, Fault::WallClock(node, offset, FaultKind::ClockStrobe));
                }
            }
            Kind::Damage => {
                let victim = *self.victim.get_or_insert(node);
                let fault = if rng.random_ratio(2, 3) { Fault::Flip } else { Fault::Misdirect };
                self.push(at, fault(victim));
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
                self.push(short + rng.random_range(0..spell / 10), Fault::Start(victim));
            }
            Kind::Twin => self.push(at, Fault::Twin(node)),
            Kind::Ring => self.draw_moves((nodes, founders), at, rng),
            Kind::Remove => {
                let victim = *self.victim.get_or_insert(node);
                self.push(at, Fault::Kill(victim));
                // Whoever gives such an order tries again until the dead is known to be dead.
                for attempt in 0..4 {
                    let after = attempt * spell / 4 + rng.random_range(0..spell / 4);
                    self.push(at + after, Fault::Ring(Move::Remove(victim)));
                }
                self.push(at + spell + rng.random_range(0..spell), Fault::Start(victim));
            }
            Kind::Overload => self.push(at, Fault::Overload(node, rng.random_range(12..=24))),
            Kind::ClockOffset | Kind::RoughStart => {}
        }
    }

    /// Somebody joins, leaves or gets another share; often someone is killed midway, and sometimes two give
    /// orders at once.
    fn draw_moves(&mut self, (nodes, founders): (usize, usize), at: Time, rng: &mut ChaCha8Rng) {
        let (moment, spell) = (20 * MS / self.span.pace, 10 * SECOND / self.span.pace);
        let orders = if rng.random_ratio(1, 4) { 2 } else { 1 };
        for _ in 0..orders {
            let any = rng.random_range(0..nodes);
            let guest = if founders < nodes { rng.random_range(founders..nodes) } else { any };
            let what = match rng.random_range(0..5) {
                0..2 => Move::Join(guest),
                2..4 => Move::Leave(any),
                _ => Move::Reweigh(any, rng.random_range(1..=4)),
            };
            self.push(at + rng.random_range(0..moment), Fault::Ring(what));
            if rng.random_ratio(1, 2) {
                let (Move::Join(at_heart) | Move::Leave(at_heart)) = what else { continue };
                let other = rng.random_range(0..nodes);
                let victim = if rng.random_ratio(1, 2) { at_heart } else { other };
                let soon = at + rng.random_range(0..spell / 4);
                self.push(soon, Fault::Kill(victim));
                self.push(soon + rng.random_range(moment..spell / 4), Fault::Start(victim));
            }
        }
    }

    fn push(&mut self, at: Time, fault: Fault) {
        self.faults.push((at, fault));
    }
}

impl Span {
    /// The same time, or one within the burst that is nearest before it.
    fn near_a_burst(self, at: Time, rng: &mut ChaCha8Rng) -> Time {
        let beat = self.beat.filter(|_| rng.random_ratio(2, 3));
        let within = rng.random_range(0..BURST);
        beat.map_or(at, |beat| (at / beat * beat + within).clamp(self.begin, self.heal))
    }
}

impl Kind {
    /// One seed in so many has it.
    fn odds(self) -> u32 {
        match self {
            Self::Kill
            | Self::PowerLoss
            | Self::PowerLossOfAll
            | Self::Pause
            | Self::Cut
            | Self::Network
            | Self::Disk
            | Self::Full
            | Self::ClockJump
            | Self::ClockStrobe => 2,
            Self::ClockOffset | Self::Damage | Self::Overload | Self::RoughStart => 4,
            Self::Ring => 3,
            Self::Wipe | Self::Restore => 6,
            Self::Twin | Self::Remove => 8,
        }
    }

    /// Whether the first of two processes with one identity can always be asked for. Where it
    /// cannot, whoever is there takes its place: a folder that was moved looks like that, too.
    fn spares_the_first(self) -> bool {
        match self {
            Self::Kill
            | Self::PowerLoss
            | Self::PowerLossOfAll
            | Self::Pause
            | Self::Cut
            | Self::Disk
            | Self::Damage
            | Self::Wipe
            | Self::Restore
            | Self::Ring
            | Self::Remove
            | Self::RoughStart => false,
            Self::Network
            | Self::Full
            | Self::ClockOffset
            | Self::ClockJump
            | Self::ClockStrobe
            | Self::Overload
            | Self::Twin => true,
        }
    }
}

impl Shape {
    /// What a message that such a partition drops counts as.
    fn kind(self) -> FaultKind {
        match self {
            Self::Symmetric => FaultKind::CutSymmetric,
            Self::OneWay => FaultKind::CutOneWay,
            Self::Single => FaultKind::CutSingle,
            Self::Bridge => FaultKind::CutBridge,
            Self::Ragged => FaultKind::CutRagged,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.span.heal / (SECOND / 10);
        let (whole, tenth) = (tenths / 10, tenths % 10);
        let count = self.faults.len();
        write!(f, "{count} faults until {whole}.{tenth} s, of the kinds {:?}", self.kinds)
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
                (0..self.config.nodes).for_each(|node| self.lose_power(node));
            }
            Fault::Start(node) => self.start(*node),
            Fault::Pause(node) => self.pause(*node),
            Fault::Resume(node) => self.resume(*node),
            Fault::Cut(shape, links) => {
                self.trace.say(self.time, None, || format!("{shape:?} partition: cut {links:?}"));
                self.network.mend();
                self.network.shape = Some(shape.kind());
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
            Fault::WallClock(node, offset, kind) => {
                self.trace.say(self.time, Some(*node), || format!("wall clock off by {offset} ms"));
                self.nodes[*node].clock.set_wall_offset(*offset, Some(*kind));
            }
            Fault::Flip(node) => self.flip(*node),
            Fault::Misdirect(node) => self.misdirect(*node),
            Fault::Twin(node) => self.start_twin(*node),
            // The clients' part of it is the workload's.
            Fault::Overload(node, count) => {
                self.trace.say(self.time, Some(*node), || format!("{count} requests at once"));
            }
            Fault::Wipe(node) => self.wipe(*node),
            Fault::Snapshot(node) => self.snapshot(*node),
            Fault::Restore(node) => _ = self.restore(*node),
            Fault::Ring(what) => self.move_ring(*what),
        }
    }

    /// Flips a bit of some record or hint of a node: often of what it has just written.
    fn flip(&mut self, node: usize) {
        let nth = self.rng.random_range(0..1 << 16);
        let (hint, latest) = (self.rng.random_ratio(1, 4), self.rng.random_ratio(1, 2));
        let space = if hint { Space::Hints } else { Space::Records };
        let disk = &mut self.nodes[node].disk;
        let newest = disk.latest().filter(|_| latest && !hint);
        let Some(key) = newest.or_else(|| disk.nth(space, nth)) else { return };
        disk.flip_bit(space, &key, &mut self.rng);
        self.say_damaged(node, space, &key, "a bit flips");
        if !hint {
            self.observer.damage(node, key);
        }
    }

    /// A record of a node is written to the place of another.
    fn misdirect(&mut self, node: usize) {
        if let Some(key) = self.nodes[node].disk.misdirect(&mut self.rng) {
            self.say_damaged(node, Space::Records, &key, "another record is written");
            self.observer.damage(node, key);
        }
    }

    fn say_damaged(&mut self, node: usize, space: Space, key: &Bytes, how: &str) {
        let name = Place::of(space, key).map(|place| describe::key(&place.key));
        let line = || format!("{how} in the place of {} on disk", name.unwrap_or_default());
        self.trace.say(self.time, Some(node), line);
    }

    /// Everything is well again: all nodes run, all links are open, disks and clocks are good.
    pub(super) fn heal(&mut self) {
        self.trace.say(self.time, None, || "everything is healed".into());
        self.network.mend();
        self.network.weather = Weather::calm();
        self.end_twin();
        for node in 0..self.config.nodes {
            self.nodes[node].disk.weather = DiskWeather::calm();
            self.nodes[node].disk.full = false;
            self.nodes[node].clock.set_wall_offset(0, None);
            if self.nodes[node].disk.unstall() {
                let life = self.nodes[node].disk_life;
                self.schedule(0, Event::Disk { node, life });
            }
            self.resume(node);
            self.start(node);
        }
        // Where nodes do not join by themselves, somebody has to see to it.
        let looks = if self.config.control && !self.config.auto_join { OPERATOR_LOOKS } else { 0 };
        for look in 1..=looks {
            self.schedule(look * self.paced(OPERATOR_REST), Event::Operator);
        }
    }
}
