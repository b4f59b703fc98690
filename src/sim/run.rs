//! One seed, one run; many seeds on many threads.
//!
//! ```text
//!   start ── safety: clients and faults ── heal ── hints drain ── homes agree ── ALL read of every key ── judge
//!            until everybody is tired      late    bounded        bounded        bounded
//! ```
//!
//! All times below are the nodes' own; in most worlds they live at twenty times the world's
//! pace, so that a run of six hundred of their seconds takes thirty of the world's.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::clock::{NodeClock, Time};
use super::faults::{Cast, Fault, Kind, Plan, Span};
use super::history::End;
use super::observer::Check;
use super::report::{FAILURES_MAX, Report, RunStats, Summary};
use super::shrink::{self, Limits, Size};
use super::story::Story;
use super::trace::TraceMode;
use super::workload::{TURNS, Workload};
use super::world::{Event, Notice, World, WorldConfig};
use crate::protocol::defect::Defect;
use crate::protocol::op::Op;
use crate::protocol::quorum::Consistency;
use crate::protocol::step::Tuning;
use crate::types::Key;

const SECOND: Time = 1_000_000;
/// Clients and faults begin when the cluster has had this long to come up.
const WARM_UP: Time = 8 * SECOND;
/// After the last message that was under way at the healing has arrived, coordinators wait for
/// answers that were lost for ten seconds: until then they leave the key to the write under way.
const LATE: Time = 12 * SECOND;
/// Hints must be gone this long after the healing.
const DRAIN_MAX: Time = 90 * SECOND;
/// Homes must agree this long after the hints are gone, by what they do of their own accord: two
/// rounds of comparisons, and the scrub that finds what was damaged behind their backs.
const AGREE_MAX: Time = 150 * SECOND;
/// From one round of comparisons to the next, and one scrub: a twentieth of the usual, and less.
const ROUND: Time = 30 * SECOND;
const SCRUB: Time = 60 * SECOND;
/// From one round of collection to the next; none in half of the worlds.
const COLLECT: [Time; 6] = [0, 0, 0, 5 * SECOND, 15 * SECOND, 45 * SECOND];
/// One seed in so many is of disks that are new in their places, and of dead records that go meanwhile.
const NEWCOMERS_EVERY: u64 = 16;
const NEWCOMERS: &[Kind] = &[Kind::Kill, Kind::Cut, Kind::Wipe, Kind::Ring];
/// Records that are lost one by one, while others are late: in the smallest world, where each copy counts.
const DAMAGE: &[Kind] = &[Kind::Pause, Kind::Cut, Kind::Damage];
/// Exchanges that are under way when homes agree are over by then.
const EXCHANGE: Time = 3 * SECOND;
/// Every key must have been read at ALL within this, and every replica repaired.
const REPAIR_MAX: Time = 60 * SECOND;
/// What is under way after all that must have ended within this.
const REST_MAX: Time = 30 * SECOND;
/// Ops that a worker takes on at a time where requests come in floods.
const IN_FLIGHT_FEW: usize = 8;
/// Most nodes live at this pace; one seed in a hundred has the production constants.
pub(super) const PACE: u64 = 20;
/// A run has at most so many events: a core that never rests is a finding, not a hang.
const EVENTS_MAX: u64 = 3_000_000;
/// ALL reads that are under way at a time at the end.
const FINAL_READS: usize = 8;
/// The client's number of those reads: no client of the workload.
const JUDGE: usize = usize::MAX;

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether lines are wanted.
    pub trace: TraceMode,
    /// What is left out of what the seed says.
    pub limits: Limits,
    /// What is told rather than drawn.
    pub story: Option<Story>,
    /// The mistake that the cores are to make.
    #[cfg(any(test, feature = "seeded-defects"))]
    pub defect: Option<Defect>,
}

/// Runs one seed to its verdict.
#[must_use]
pub fn run(seed: u64, options: &RunOptions) -> Report {
    let made = catch_unwind(AssertUnwindSafe(|| Runner::new(seed, options)));
    let Ok(mut runner) = made else { return Report::of_panic(seed, options.story) };
    let done = catch_unwind(AssertUnwindSafe(|| runner.run()));
    if let Err(panic) = done {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let what = format!("the core panicked: {}", text.unwrap_or_default());
        let time = runner.world.time;
        runner.world.observer.violate(Check::Panic, time, what);
    }
    runner.report()
}

/// Runs one seed to its verdict; if it fails, looks for a smaller run that fails in the same way.
#[must_use]
pub fn examine(seed: u64, options: &RunOptions) -> Report {
    let mut report = run(seed, options);
    if !report.violations.is_empty() {
        report.shrunk = shrink::shrink(&report, options).map(Box::new);
    }
    report
}

/// Runs `count` seeds from `first` on, on so many threads. `progress` is told of each how
/// many seeds are done by now, and which have failed. Stops after [`FAILURES_MAX`] failures.
pub fn run_many(
    first: u64,
    count: u64,
    threads: usize,
    options: &RunOptions,
    progress: &(dyn Fn(u64, &[u64]) + Sync),
) -> Summary {
    let begun = Instant::now();
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let found = Mutex::new((RunStats::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(count) {
                        break;
                    }
                    let report = examine(seed, options);
                    let Ok(mut found) = found.lock() else { break };
                    found.0.add(&report.stats);
                    if !report.violations.is_empty() {
                        found.1.push(report);
                    }
                    let failed: Vec<u64> = found.1.iter().map(|report| report.seed).collect();
                    if failed.len() >= FAILURES_MAX {
                        stop.store(true, Ordering::Relaxed);
                    }
                    drop(found);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, &failed);
                }
            });
        }
    });
    let (stats, mut failures) = found.into_inner().unwrap_or_default();
    failures.sort_by_key(|report| report.seed);
    Summary { seeds: done.into_inner(), stats, elapsed: begun.elapsed(), failures }
}

struct Runner {
    world: World,
    workload: Workload,
    plan: Plan,
    seed: u64,
    story: Option<Story>,
    /// The ALL read of each key that has been answered.
    final_reads: BTreeMap<Key, usize>,
    unread: Vec<Key>,
    overwritten: u64,
    /// The world had more events than any sound run: no further verdict means anything.
    exhausted: bool,
}

impl Runner {
    fn new(seed: u64, options: &RunOptions) -> Self {
        let mut world = World::new(draw_world(seed, options));
        let pace = world.config.pace;
        let begin = WARM_UP / pace;
        let drawn = draw_length(pace, &mut world.rng);
        let length = options.story.map_or(drawn, |story| story.length(pace));
        let mut workload = match options.story {
            Some(story) => story.workload(length),
            None => Workload::draw(length, &mut world.rng),
        };
        if options.theme(seed) == Some(NEWCOMERS) {
            workload.delete_often();
        }
        let span = Span { begin, heal: begin + length, pace, beat: workload.beat() };
        let cast = Cast {
            nodes: world.nodes.len(),
            founders: world.config.founders,
            disks: world.config.control,
            moves: !options.is_still(),
            theme: options.theme(seed),
        };
        let mut plan = match options.story {
            Some(story) => story.plan(span, &mut world.rng),
            None => Plan::draw(&cast, span, &mut world.rng),
        };
        if plan.victim.is_some() {
            // A good copy in memory would hide the damage on disk from the reads that mend it.
            world.config.tuning.recent_bytes_max = 0;
            workload.ask_for_two();
        }
        if plan.has(Kind::Overload) {
            world.config.tuning.in_flight_max = IN_FLIGHT_FEW;
        }
        if let Some(faults) = &options.limits.faults {
            plan.keep(faults);
        }
        if let Some(window) = &options.limits.ops {
            workload.limit(window);
        }
        Self {
            world,
            workload,
            plan,
            seed,
            story: options.story,
            final_reads: BTreeMap::new(),
            unread: Vec::new(),
            overwritten: 0,
            exhausted: false,
        }
    }

    fn run(&mut self) {
        self.begin();
        self.until(self.plan.span.heal, |_| false);
        self.world.heal();
        self.workload.stopped = true;
        let healed = self.world.time;
        let late = self.world.network.last_arrival().max(healed);
        self.until(late + self.world.paced(LATE), |_| false);
        let drained = self.until(late + self.world.paced(DRAIN_MAX), |runner| {
            let world = &runner.world;
            world.hints_left() == 0 && world.partitions_lost() == 0 && world.is_ring_still()
        });
        if self.exhausted {
            return;
        }
        if drained {
            self.agree();
        } else {
            self.violate_hints("after the healing");
        }
        self.read_all();
        if drained {
            self.settle();
        }
        self.overwritten = self.world.judge(&self.workload.keys, &self.final_reads);
    }

    /// Homes come to agree without a reader's help, and the next round finds nothing to do.
    fn agree(&mut self) {
        let until = self.world.time + self.world.paced(AGREE_MAX);
        let divergent = |runner: &Self| runner.world.divergent(&runner.workload.keys);
        if !self.until(until, |runner| divergent(runner).is_none()) {
            let copies = divergent(self).map(|copies| copies.describe());
            let what = format!("homes still differ: {}", copies.unwrap_or_default());
            return self.world.observer.violate(Check::C6, self.world.time, what);
        }
        self.until(self.world.time + self.world.paced(EXCHANGE), |_| false);
        let (before, collected) = (self.world.exchanged(), self.world.counts.collected);
        self.until(self.world.time + self.world.paced(ROUND + EXCHANGE), |_| false);
        let more = self.world.exchanged() - before;
        // Homes apply a round of collection one after the other, and differ in between.
        if more > 0 && self.world.counts.collected == collected {
            let what = format!("homes agreed, and {more} records were exchanged all the same");
            self.world.observer.violate(Check::C6, self.world.time, what);
        }
    }

    /// After the ALL reads all homes are equal, and everything comes to rest.
    fn settle(&mut self) {
        let until = self.world.time + self.world.paced(REPAIR_MAX);
        let settled = self.until(until, |runner| {
            runner.world.hints_left() == 0
                && runner.world.divergent(&runner.workload.keys).is_none()
        });
        if !settled {
            self.violate_divergence();
        }
        let until = self.world.time + self.world.paced(REST_MAX);
        self.until(until, |runner| runner.world.is_at_rest());
        self.world.check_rest();
    }

    fn begin(&mut self) {
        let world = &mut self.world;
        let pace = world.config.pace;
        for node in 0..world.config.nodes {
            let drift = world.rng.random_range(-10_000..=10_000);
            world.nodes[node].clock = NodeClock::new(drift, pace);
            for other in 0..world.config.nodes {
                if world.rng.random_ratio(1, 6) {
                    let far = world.rng.random_range(0..=20_000) / pace;
                    world.network.stretch(node, other, far);
                }
            }
            if !self.plan.late.contains(&node) {
                world.start(node);
            }
        }
        if world.config.control {
            world.begin_streams();
        }
        for at in 0..self.plan.faults.len() {
            world.schedule(self.plan.faults[at].0, Event::Planned(at));
        }
        self.until(self.plan.span.begin, |_| false);
        self.workload.begin(&mut self.world);
    }

    /// Lets the world go on until a time or until `done`, which is asked every tenth of a second.
    /// Limits are looked at every half second.
    fn until(&mut self, time: Time, done: impl Fn(&Self) -> bool) -> bool {
        let (mut look_at, mut bounds_at) = (self.world.time, self.world.time);
        while self.world.counts.events < EVENTS_MAX {
            if self.world.time >= look_at {
                if self.world.time >= bounds_at {
                    self.world.check_bounds(self.workload.keys.len());
                    bounds_at = self.world.time + self.world.paced(SECOND / 2);
                }
                if done(self) {
                    return true;
                }
                look_at = self.world.time + self.world.paced(SECOND / 10);
            }
            match self.world.next(time.min(look_at)) {
                None if self.world.time >= time => return done(self),
                None | Some(Notice::None) => {}
                Some(Notice::Ended(op)) => self.ended(op),
                Some(Notice::Planned(what)) => self.planned(what),
            }
        }
        if !self.exhausted {
            self.exhausted = true;
            let what = format!("more than {EVENTS_MAX} events: the world does not come to rest");
            self.world.observer.violate(Check::Panic, self.world.time, what);
        }
        false
    }

    fn planned(&mut self, what: usize) {
        if what >= TURNS {
            return self.workload.turn(&mut self.world, what - TURNS);
        }
        if self.world.time >= self.plan.span.heal {
            return;
        }
        self.world.inflict(&self.plan.faults[what].1);
        if let Fault::Overload(node, count) = self.plan.faults[what].1 {
            self.workload.flood(&mut self.world, node, count);
        }
    }

    fn ended(&mut self, op: usize) {
        let record = &self.world.history.ops[op];
        if record.client != JUDGE {
            return self.workload.ended(&mut self.world, op);
        }
        let key = record.key().clone();
        match &record.end {
            Some(End::Read(_)) => _ = self.final_reads.insert(key, op),
            _ => self.unread.push(key),
        }
        self.read_next();
    }

    /// Reads every key at ALL, each until it succeeds.
    fn read_all(&mut self) {
        self.unread = self.workload.keys.iter().cloned().collect();
        (0..FINAL_READS).for_each(|_| self.read_next());
        let until = self.world.time + self.world.paced(REPAIR_MAX);
        let keys = self.workload.keys.len();
        if !self.until(until, |runner| runner.final_reads.len() == keys) {
            let unread: BTreeSet<_> = self.workload.keys.iter().collect();
            let first = unread.into_iter().find(|key| !self.final_reads.contains_key(*key));
            let what = format!("{first:?} could not be read at ALL after the healing");
            self.world.observer.violate(Check::C6, self.world.time, what);
        }
    }

    fn read_next(&mut self) {
        let Some(key) = self.unread.pop() else { return };
        let mut nodes: Vec<usize> = (0..self.world.config.nodes).collect();
        nodes.shuffle(&mut self.world.rng);
        self.world.submit(
            JUDGE,
            Op::get(key, Consistency::All),
            nodes,
            self.world.paced(2 * SECOND),
        );
    }

    fn violate_hints(&mut self, when: &str) {
        let each = self.world.nodes.iter().map(|node| {
            let disk = node.disk.len(crate::protocol::step::Space::Hints);
            format!("{} {disk} (worker: {})", node.name, node.stats().hints_held)
        });
        let each = each.collect::<Vec<_>>().join(", ");
        let lost = self.world.partitions_lost();
        let what = format!(
            "hints are left {} s {when}: {each}; {lost} partitions wait for their rebuilding",
            DRAIN_MAX / SECOND
        );
        self.world.observer.violate(Check::C6, self.world.time, what);
        for what in self.world.ring_waits() {
            self.world.observer.violate(Check::M, self.world.time, what);
        }
    }

    fn violate_divergence(&mut self) {
        let what = match self.world.divergent(&self.workload.keys) {
            Some(copies) => format!("homes differ after an ALL read of {}", copies.describe()),
            None => return self.violate_hints("after the ALL reads"),
        };
        self.world.observer.violate(Check::C6, self.world.time, what);
    }

    fn report(mut self) -> Report {
        let config = &self.world.config;
        let topology = format!(
            "{} nodes, N = {}, {} partitions, {} workers a node, pace {}, {}",
            config.nodes,
            config.replicas,
            config.partitions,
            config.workers,
            config.pace,
            if config.control { "real control cores" } else { "an oracle for membership" }
        );
        let mut stats = RunStats {
            virtual_micros: self.world.time,
            node_micros: self.world.time * self.world.config.pace,
            faults: self.world.took_effect(),
            counts: self.world.counts,
            overwritten: self.overwritten,
            ..RunStats::default()
        };
        for op in self.world.history.ops.iter().filter(|op| op.client != JUDGE) {
            stats.ops += 1;
            match &op.end {
                Some(End::Written(_)) => stats.acknowledged += 1,
                Some(End::Read(_)) => stats.reads += 1,
                Some(End::Failed(_)) if !op.maybe => stats.failed += 1,
                Some(End::Failed(_)) | None => stats.unknown += 1,
            }
        }
        let ops = usize::try_from(stats.ops).unwrap_or(usize::MAX);
        let size = Size {
            nodes: config.nodes,
            ops,
            wanted: self.workload.wanted(),
            faults: self.plan.faults.len(),
        };
        Report {
            seed: self.seed,
            story: self.story,
            topology,
            size,
            plan: self.plan.to_string(),
            trace_hash: self.world.trace.hash(),
            violations: self.world.observer.violations().to_vec(),
            stats,
            lines: self.world.trace.take_lines(),
            shrunk: None,
        }
    }
}

impl RunOptions {
    #[cfg(any(test, feature = "seeded-defects"))]
    fn mistake(&self) -> Option<Defect> {
        self.defect
    }

    #[cfg(not(any(test, feature = "seeded-defects")))]
    #[expect(clippy::unused_self, reason = "with the feature it is asked of the options")]
    fn mistake(&self) -> Option<Defect> {
        None
    }

    /// Whether nobody joins or leaves: a mistake that has nothing to do with that is met sooner without.
    fn is_still(&self) -> bool {
        self.mistake().is_some_and(|mistake| !mistake.is_of_the_ring())
    }

    /// Just these kinds of faults, where few seeds have them together by chance: those that bring a mistake out, or
    /// those of newcomers.
    fn theme(&self, seed: u64) -> Option<&'static [Kind]> {
        match self.mistake() {
            Some(Defect::CountRebuilding | Defect::KeepActorAfterLoss) => Some(DAMAGE),
            Some(Defect::TakeUntold) => Some(NEWCOMERS),
            Some(mistake) if mistake.is_of_the_ring() => Some(&[Kind::Kill, Kind::Cut, Kind::Ring]),
            Some(_) => None,
            None => {
                let is_drawn = self.story.is_none();
                (is_drawn && seed % NEWCOMERS_EVERY == NEWCOMERS_EVERY - 1).then_some(NEWCOMERS)
            }
        }
    }
}

/// The world that a seed makes.
fn draw_world(seed: u64, options: &RunOptions) -> WorldConfig {
    use rand::SeedableRng;
    let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let founders = rng.random_range(3..=7);
    let replicas = if founders >= 5 && rng.random_ratio(1, 4) { 5 } else { 3 };
    let nodes = options.limits.nodes.unwrap_or(founders).clamp(usize::from(replicas), founders);
    let recent_bytes_max = *[0, 250, 1 << 20].get(rng.random_range(0..3)).unwrap_or(&0);
    let control = rng.random_ratio(1, 2);
    let still = options.is_still();
    let joiners = if still { 0 } else { rng.random_range(0..=2) };
    let drawn = WorldConfig {
        seed,
        nodes: nodes + joiners,
        founders: nodes,
        auto_join: !still && rng.random_ratio(1, 2),
        replicas,
        partitions: *[16, 32, 64, 128, 256].get(rng.random_range(0..5)).unwrap_or(&16),
        workers: rng.random_range(1..=2),
        pace: if rng.random_ratio(1, 100) { 1 } else { PACE },
        control,
        tuning: Tuning {
            recent_bytes_max,
            sync_interval: ROUND,
            scrub_interval: SCRUB,
            collect_interval: *COLLECT.get(rng.random_range(0..6)).unwrap_or(&0),
            collect_rest: rng.random_range(100..=20_000),
            ..Tuning::default()
        },
        trace: options.trace,
        #[cfg(any(test, feature = "seeded-defects"))]
        defect: options.defect,
    };
    match options.theme(seed) {
        Some(NEWCOMERS) => {
            let tuning = Tuning { collect_interval: 5 * SECOND, ..drawn.tuning };
            WorldConfig { nodes: nodes + 2, control: true, tuning, ..drawn }
        }
        Some(DAMAGE) => WorldConfig { nodes: 3, founders: 3, replicas: 3, control: false, ..drawn },
        _ => options.story.map_or(drawn.clone(), |story| story.stage(drawn)),
    }
}

/// How long clients and faults are at work, in the world's time: mostly short, for what goes wrong
/// goes wrong soon; sometimes long.
fn draw_length(pace: u64, rng: &mut impl RngExt) -> Time {
    let tenths = match rng.random_range(0..6) {
        _ if pace == 1 => rng.random_range(50..=100),
        0..3 => rng.random_range(5..=20),
        3..5 => rng.random_range(20..=60),
        _ => rng.random_range(60..=160),
    };
    tenths * SECOND / 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::FaultKind;

    #[test]
    fn one_seed_gives_one_trace() {
        for seed in 0..5 {
            let (first, second) =
                (run(seed, &RunOptions::default()), run(seed, &RunOptions::default()));
            assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
            assert_eq!(first.stats, second.stats, "seed {seed}");
        }
    }

    /// Seeds that lose nothing, and in which every kind of fault bites. Few enough for a test
    /// that runs with every change; a build of `coterie sim` runs the rest.
    const SEEDS: u64 = 300;

    #[test]
    fn seeds_lose_nothing_and_every_kind_of_fault_takes_effect() {
        let summary = run_many(1, SEEDS, 2, &RunOptions::default(), &|_, _| {});
        assert!(summary.failures.is_empty(), "{summary}");
        let faults = &summary.stats.faults;
        let idle = FaultKind::ALL.into_iter().filter(|kind| faults.of(*kind) == 0);
        let idle: Vec<FaultKind> = idle.collect();
        assert!(idle.is_empty(), "{idle:?} took no effect in {SEEDS} seeds: {summary}");
    }
}
