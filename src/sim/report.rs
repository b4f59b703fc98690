//! What runs came to, for people: one seed, or many.

use std::fmt;
use std::time::Duration;

use super::clock::Time;
use super::observer::{Check, Violation};
use super::shrink::{Shrunk, Size};
use super::story::Story;
use super::tally::FaultCounts;
use super::world::Counts;

const SECOND: Time = 1_000_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was told rather than drawn.
    pub story: Option<Story>,
    /// The world that the seed made.
    pub topology: String,
    /// How large the run was.
    pub size: Size,
    /// What was planned to be done to it.
    pub plan: String,
    /// xxh3 over every event.
    pub trace_hash: u64,
    /// What must not have happened; empty if all is well.
    pub violations: Vec<Violation>,
    /// Counts.
    pub stats: RunStats,
    /// The trace, if it was asked for.
    pub lines: Vec<String>,
    /// A smaller run that fails in the same way, if one was looked for.
    pub shrunk: Option<Box<Shrunk>>,
}

/// Counts of one run, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Virtual time, in microseconds.
    pub virtual_micros: u64,
    /// The same as the nodes' timers counted it: their time constants are divided by their pace.
    pub node_micros: u64,
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
    /// The faults that took effect.
    pub faults: FaultCounts,
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

impl RunStats {
    pub(super) fn add(&mut self, other: &Self) {
        self.virtual_micros += other.virtual_micros;
        self.node_micros += other.node_micros;
        self.faults.add(&other.faults);
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
    pub(super) fn of_panic(seed: u64, story: Option<Story>) -> Self {
        let what = "the world could not be made".to_string();
        Self {
            seed,
            story,
            topology: String::new(),
            size: Size::default(),
            plan: String::new(),
            trace_hash: 0,
            violations: vec![Violation { check: Check::Panic, time: 0, what }],
            stats: RunStats::default(),
            lines: Vec::new(),
            shrunk: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, topology, plan, stats, .. } = self;
        writeln!(f, "seed {seed}: {topology}; {plan}")?;
        writeln!(f, "{stats}")?;
        writeln!(f, "trace hash {:016x}", self.trace_hash)?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION {violation}")?;
        }
        if self.violations.is_empty() {
            write!(f, "verdict: nothing acknowledged was lost; all replicas converged")
        } else {
            if let Some(shrunk) = &self.shrunk {
                writeln!(f, "{shrunk}")?;
            }
            let story = Story::flag(self.story);
            write!(f, "repeat it with: coterie sim{story} --seed {seed} --trace")
        }
    }
}

impl fmt::Display for RunStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ops: {} writes acknowledged ({} overwritten as the policy says), {} reads, {} failed, {} of unknown outcome; {} messages, {} commits, {} rounds of collection over, {} dead records collected, {} starts, {} events in {} s of virtual time ({} s by the nodes' timers)\n{}",
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
            self.virtual_micros / SECOND,
            self.node_micros / SECOND,
            self.faults
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let real = self.elapsed.as_secs_f64().max(1e-9);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (rate, world, nodes) = (
            self.seeds as f64 / real,
            self.stats.virtual_micros as f64 / 1e6 / real,
            self.stats.node_micros as f64 / 1e6 / real,
        );
        writeln!(
            f,
            "{} seeds in {real:.1} s: {rate:.1} seeds/s, {world:.0} × real time, {nodes:.0} × by the nodes' timers",
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
