//! One seed, one run; many seeds on many threads.
//!
//! ```text
//!   start ── safety: clients and faults ── heal ── hints drain ── homes agree ── ALL read of every key ── judge
//!            5 to 30 s                             bounded        bounded        bounded
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::SliceRandom;

use super::clock::{NodeClock, Time};
use super::faults::Plan;
use super::history::End;
use super::observer::{Check, Violation};
use super::trace::TraceMode;
use super::workload::{TURNS, Workload};
use super::world::{Counts, Event, Notice, World, WorldConfig};
use crate::protocol::op::Op;
use crate::protocol::quorum::Consistency;
use crate::protocol::step::Tuning;
use crate::types::Key;

const SECOND: Time = 1_000_000;
/// Clients and faults begin when the cluster has had this long to come up.
const WARM_UP: Time = 8 * SECOND;
/// After the healing, messages that are late may be under way for five seconds, and coordinators
/// wait for answers that were lost for ten: until then they leave the key to the write under way.
const LATE: Time = 12 * SECOND;
/// Hints must be gone this long after the healing.
const DRAIN_MAX: Time = 90 * SECOND;
/// Homes must agree this long after the hints are gone, by what they do of their own accord: two
/// rounds of comparisons, and the scrub that finds what was damaged behind their backs.
const AGREE_MAX: Time = 150 * SECOND;
/// From one round of comparisons to the next, and one scrub: a twentieth of the usual, and less.
const ROUND: Time = 30 * SECOND;
const SCRUB: Time = 60 * SECOND;
/// Exchanges that are under way when homes agree are over by then.
const EXCHANGE: Time = 3 * SECOND;
/// Every key must have been read at ALL within this, and every replica repaired.
const REPAIR_MAX: Time = 60 * SECOND;
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
    /// The mistake that the cores are to make.
    #[cfg(any(test, feature = "seeded-defects"))]
    pub defect: Option<crate::protocol::defect::Defect>,
}

impl RunOptions {
    /// A run without a mistake, traced like this.
    #[must_use]
    pub fn traced(trace: TraceMode) -> Self {
        Self {
            trace,
            #[cfg(any(test, feature = "seeded-defects"))]
            defect: None,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The world that the seed made.
    pub topology: String,
    /// What was done to it.
    pub faults: String,
    /// xxh3 over every event.
    pub trace_hash: u64,
    /// What must not have happened; empty if all is well.
    pub violations: Vec<Violation>,
    /// Counts.
    pub stats: RunStats,
    /// The trace, if it was asked for.
    pub lines: Vec<String>,
}

/// Counts of one run, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Virtual time, in microseconds.
    pub virtual_micros: u64,
    /// What happened in the world.
    pub counts: Counts,
    /// Ops that clients asked for.
    pub ops: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Answered reads.
    pub reads: u64,
    /// Ops that certainly failed.
    pub failed: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Acknowledged blind writes that a later blind write overwrote, as the policy says.
    pub overwritten: u64,
}

/// What many runs came to.
#[derive(Debug)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Their counts, summed.
    pub stats: RunStats,
    /// Real time.
    pub elapsed: Duration,
    /// Reports of the seeds with violations, by seed; at most [`FAILURES_MAX`].
    pub failures: Vec<Report>,
}

/// Failing seeds that are kept.
pub const FAILURES_MAX: usize = 20;

/// Runs one seed to its verdict.
#[must_use]
pub fn run(seed: u64, options: &RunOptions) -> Report {
    let made = catch_unwind(AssertUnwindSafe(|| Runner::new(seed, options)));
    let Ok(mut runner) = made else { return Report::of_panic(seed) };
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

/// Runs `count` seeds from `first` on, on so many threads. `progress` is told now and then how
/// many seeds are done and how many failed. Stops after [`FAILURES_MAX`] failures.
pub fn run_many(
    first: u64,
    count: u64,
    threads: usize,
    options: &RunOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
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
                    let report = run(seed, options);
                    let Ok(mut found) = found.lock() else { break };
                    found.0.add(&report.stats);
                    if !report.violations.is_empty() {
                        found.1.push(report);
                    }
                    let failed = found.1.len();
                    if failed >= FAILURES_MAX {
                        stop.store(true, Ordering::Relaxed);
                    }
                    drop(found);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, failed as u64);
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
        let disks = world.config.control;
        let plan = Plan::draw(world.nodes.len(), disks, WARM_UP, &mut world.rng);
        if plan.victim.is_some() {
            // A good copy in memory would hide the damage on disk from the reads that mend it.
            world.config.tuning.recent_bytes_max = 0;
        }
        let workload = Workload::draw(plan.victim.is_none(), &mut world.rng);
        Self {
            world,
            workload,
            plan,
            seed,
            final_reads: BTreeMap::new(),
            unread: Vec::new(),
            overwritten: 0,
            exhausted: false,
        }
    }

    fn run(&mut self) {
        self.begin();
        self.until(self.plan.heal_at, |_| false);
        self.world.heal();
        self.workload.stopped = true;
        let healed = self.world.time;
        self.until(healed + LATE, |_| false);
        let drained = self.until(healed + DRAIN_MAX, |runner| {
            runner.world.hints_left() == 0 && runner.world.partitions_lost() == 0
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
            let until = self.world.time + REPAIR_MAX;
            let settled = self.until(until, |runner| {
                runner.world.hints_left() == 0
                    && runner.world.divergent(&runner.workload.keys).is_none()
            });
            if !settled {
                self.violate_divergence();
            }
        }
        self.overwritten = self.world.judge(&self.workload.keys, &self.final_reads);
    }

    /// Homes come to agree without a reader's help, and the next round finds nothing to do.
    fn agree(&mut self) {
        let until = self.world.time + AGREE_MAX;
        let divergent = |runner: &Self| runner.world.divergent(&runner.workload.keys);
        if !self.until(until, |runner| divergent(runner).is_none()) {
            let copies = divergent(self).map(|copies| copies.describe());
            let what = format!("homes still differ: {}", copies.unwrap_or_default());
            return self.world.observer.violate(Check::C6, self.world.time, what);
        }
        self.until(self.world.time + EXCHANGE, |_| false);
        let before = self.world.exchanged();
        self.until(self.world.time + ROUND + EXCHANGE, |_| false);
        let more = self.world.exchanged() - before;
        if more > 0 {
            let what = format!("homes agreed, and {more} records were exchanged all the same");
            self.world.observer.violate(Check::C6, self.world.time, what);
        }
    }

    fn begin(&mut self) {
        let world = &mut self.world;
        for node in 0..world.nodes.len() {
            let drift = world.rng.random_range(-10_000..=10_000);
            world.nodes[node].clock = NodeClock::new(drift);
            for other in 0..world.nodes.len() {
                if world.rng.random_ratio(1, 6) {
                    let far = world.rng.random_range(0..=20_000);
                    world.network.stretch(node, other, far);
                }
            }
            world.start(node);
        }
        if world.config.control {
            world.begin_streams();
        }
        for at in 0..self.plan.faults.len() {
            world.schedule(self.plan.faults[at].0, Event::Planned(at));
        }
        self.until(WARM_UP, |_| false);
        self.workload.begin(&mut self.world);
    }

    /// Lets the world go on until a time or until `done`, which is asked every tenth of a second.
    fn until(&mut self, time: Time, done: impl Fn(&Self) -> bool) -> bool {
        let mut look_at = self.world.time;
        while self.world.counts.events < EVENTS_MAX {
            if self.world.time >= look_at {
                if done(self) {
                    return true;
                }
                look_at = self.world.time + SECOND / 10;
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
        if self.world.time < self.plan.heal_at {
            self.world.inflict(&self.plan.faults[what].1);
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
        let until = self.world.time + REPAIR_MAX;
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
        let mut nodes: Vec<usize> = (0..self.world.nodes.len()).collect();
        nodes.shuffle(&mut self.world.rng);
        self.world.submit(JUDGE, Op::get(key, Consistency::All), nodes, 2 * SECOND);
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
            "{} nodes, N = {}, {} partitions, {} workers a node, {}",
            config.nodes,
            config.replicas,
            config.partitions,
            config.workers,
            if config.control { "real control cores" } else { "an oracle for membership" }
        );
        let mut stats = RunStats {
            virtual_micros: self.world.time,
            counts: self.world.counts,
            overwritten: self.overwritten,
            ..RunStats::default()
        };
        for op in &self.world.history.ops {
            stats.ops += 1;
            match &op.end {
                Some(End::Written(_)) => stats.acknowledged += 1,
                Some(End::Read(_)) => stats.reads += 1,
                Some(End::Failed(_)) if !op.maybe => stats.failed += 1,
                Some(End::Failed(_)) | None => stats.unknown += 1,
            }
        }
        Report {
            seed: self.seed,
            topology,
            faults: self.plan.to_string(),
            trace_hash: self.world.trace.hash(),
            violations: self.world.observer.violations().to_vec(),
            stats,
            lines: self.world.trace.take_lines(),
        }
    }
}

/// The world that a seed makes.
fn draw_world(seed: u64, options: &RunOptions) -> WorldConfig {
    use rand::SeedableRng;
    let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let nodes = rng.random_range(3..=7);
    let replicas = if nodes >= 5 && rng.random_ratio(1, 4) { 5 } else { 3 };
    let recent_bytes_max = *[0, 700, 1 << 20].get(rng.random_range(0..3)).unwrap_or(&0);
    let partitions = *[4, 16, 64].get(rng.random_range(0..3)).unwrap_or(&16);
    let workers = rng.random_range(1..=2);
    let control = rng.random_ratio(1, 2);
    let every = [0, 0, 0, 300_000, 1_000_000, 3_000_000];
    let collect_interval = *every.get(rng.random_range(0..6)).unwrap_or(&0);
    let collect_rest = rng.random_range(100..=20_000);
    WorldConfig {
        seed,
        nodes,
        replicas,
        partitions,
        workers,
        control,
        tuning: Tuning {
            recent_bytes_max,
            sync_interval: ROUND,
            scrub_interval: SCRUB,
            collect_interval,
            collect_rest,
            ..Tuning::default()
        },
        trace: options.trace,
        #[cfg(any(test, feature = "seeded-defects"))]
        defect: options.defect,
    }
}

impl RunStats {
    fn add(&mut self, other: &Self) {
        self.virtual_micros += other.virtual_micros;
        self.counts.events += other.counts.events;
        self.counts.messages += other.counts.messages;
        self.counts.deliveries += other.counts.deliveries;
        self.counts.commits += other.counts.commits;
        self.counts.starts += other.counts.starts;
        self.counts.rounds += other.counts.rounds;
        self.counts.collected += other.counts.collected;
        self.ops += other.ops;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.overwritten += other.overwritten;
    }
}

impl Report {
    fn of_panic(seed: u64) -> Self {
        let what = "the world could not be made".to_string();
        Self {
            seed,
            topology: String::new(),
            faults: String::new(),
            trace_hash: 0,
            violations: vec![Violation { check: Check::Panic, time: 0, what }],
            stats: RunStats::default(),
            lines: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, topology, faults, stats, .. } = self;
        writeln!(f, "seed {seed}: {topology}; {faults}")?;
        writeln!(f, "{stats}")?;
        writeln!(f, "trace hash {:016x}", self.trace_hash)?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION {violation}")?;
        }
        if self.violations.is_empty() {
            write!(f, "verdict: nothing acknowledged was lost; all replicas converged")
        } else {
            write!(f, "repeat it with: coterie sim --seed {seed} --trace")
        }
    }
}

impl fmt::Display for RunStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ops: {} writes acknowledged ({} overwritten as the policy says), {} reads, {} failed, {} of unknown outcome; {} messages, {} commits, {} rounds of collection over, {} dead records collected, {} starts, {} events in {} s of virtual time",
            self.ops,
            self.acknowledged,
            self.overwritten,
            self.reads,
            self.failed,
            self.unknown,
            self.counts.messages,
            self.counts.commits,
            self.counts.rounds,
            self.counts.collected,
            self.counts.starts,
            self.counts.events,
            self.virtual_micros / SECOND
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let real = self.elapsed.as_secs_f64().max(1e-9);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (rate, pace) =
            (self.seeds as f64 / real, self.stats.virtual_micros as f64 / 1e6 / real);
        writeln!(
            f,
            "{} seeds in {real:.1} s: {rate:.1} seeds/s, {pace:.0} × real time",
            self.seeds
        )?;
        writeln!(f, "{}", self.stats)?;
        for failure in &self.failures {
            writeln!(f, "\n{failure}")?;
        }
        match self.failures.len() {
            0 => write!(f, "verdict: no violation"),
            n => write!(f, "verdict: {n} seeds with violations"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_trace() {
        for seed in 0..5 {
            let (first, second) =
                (run(seed, &RunOptions::default()), run(seed, &RunOptions::default()));
            assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
            assert_eq!(first.stats, second.stats, "seed {seed}");
        }
    }

    #[test]
    fn two_hundred_seeds_lose_nothing() {
        let summary = run_many(1, 200, 2, &RunOptions::default(), &|_, _| {});
        assert!(summary.failures.is_empty(), "{summary}");
    }
}
