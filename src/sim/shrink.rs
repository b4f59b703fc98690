//! Shrinking: a smaller run that fails in the same way.
//!
//! A seed that fails has hundreds of ops and dozens of faults, most of which have nothing to do
//! with the failure. The same seed is run again with fewer nodes, then with fewer faults (delta
//! debugging: Zeller, Hildebrandt, *Simplifying and Isolating Failure-Inducing Input*, 2002), then
//! with fewer ops, for as long as a check that failed first still fails. Nothing is random, and
//! the number of runs and of their events is bounded: the same failure shrinks in the same way.

use std::fmt;
use std::ops::Range;

use super::observer::{Check, Violation};
use super::report::Report;
use super::run::{RunOptions, run};
use super::story::Story;
use super::trace::TraceMode;

/// Runs that a search may take: a seed takes some dozens of milliseconds.
const RUNS_MAX: u32 = 100;
/// Events in all those runs: some seconds, also where the failure is a world without rest.
const EVENTS_MAX: u64 = 20_000_000;
/// Fewer nodes than this have no majority to lose.
const NODES_MIN: usize = 3;

/// What is left out of what a seed says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// So many nodes at most.
    pub nodes: Option<usize>,
    /// Only these of what clients want, by number; the others are left undone.
    pub ops: Option<Range<usize>>,
    /// Only these faults of the plan, by their place in it.
    pub faults: Option<Vec<usize>>,
}

/// How large a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Ops that clients asked for.
    pub ops: usize,
    /// How often clients wanted something: one op, or a read and a write over it.
    pub wanted: usize,
    /// Faults in the plan.
    pub faults: usize,
}

/// A smaller run that fails in the same way.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The seed.
    pub seed: u64,
    /// What was told rather than drawn.
    pub story: Option<Story>,
    /// What was left out.
    pub limits: Limits,
    /// How large it is.
    pub size: Size,
    /// What it violates.
    pub violations: Vec<Violation>,
    /// Runs that it took to find it.
    pub runs: u32,
}

struct Search<'a> {
    options: &'a RunOptions,
    seed: u64,
    check: Check,
    runs: u32,
    events: u64,
    best: Shrunk,
}

/// Looks for a smaller run; none if every smaller one is well.
pub(super) fn shrink(report: &Report, options: &RunOptions) -> Option<Shrunk> {
    let check = report.violations.first()?.check;
    let best = Shrunk {
        seed: report.seed,
        story: options.story,
        limits: options.limits.clone(),
        size: report.size,
        violations: report.violations.clone(),
        runs: 0,
    };
    let mut search = Search { options, seed: report.seed, check, runs: 0, events: 0, best };
    search.fewer_nodes();
    search.fewer_faults();
    search.fewer_ops();
    search.best.runs = search.runs;
    (search.best.limits != options.limits).then_some(search.best)
}

impl Search<'_> {
    /// Whether the run with these limits fails in the same way; then it is the best so far.
    fn fails(&mut self, limits: Limits) -> bool {
        if self.runs >= RUNS_MAX || self.events >= EVENTS_MAX {
            return false;
        }
        let mut options = self.options.clone();
        (options.trace, options.limits) = (TraceMode::Hash, limits);
        let report = run(self.seed, &options);
        self.runs += 1;
        self.events += report.stats.counts.events;
        let same = report.violations.iter().any(|violation| violation.check == self.check);
        if same {
            self.best.limits = options.limits;
            self.best.size = report.size;
            self.best.violations = report.violations;
        }
        same
    }

    fn fewer_nodes(&mut self) {
        let all = self.best.size.nodes;
        for nodes in NODES_MIN..all {
            if self.fails(Limits { nodes: Some(nodes), ..self.best.limits.clone() }) {
                // N may need more of them.
                let left = self.best.size.nodes;
                self.best.limits.nodes = Some(left).filter(|left| *left < all);
                return;
            }
        }
    }

    fn fewer_faults(&mut self) {
        let all = || (0..self.best.size.faults).collect();
        let mut kept: Vec<usize> = self.best.limits.faults.clone().unwrap_or_else(all);
        let mut chunk = kept.len();
        while chunk > 0 {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + chunk).min(kept.len());
                let without = [&kept[..at], &kept[end..]].concat();
                let faults = Some(without.clone());
                if self.fails(Limits { faults, ..self.best.limits.clone() }) {
                    kept = without;
                } else {
                    at = end;
                }
            }
            chunk /= 2;
        }
    }

    /// Looks for a short stretch of what clients want that is enough: by halves, first of its end,
    /// then of its beginning.
    fn fewer_ops(&mut self) {
        let all = 0..self.best.size.wanted;
        let Range { start, end } = self.best.limits.ops.clone().unwrap_or(all);
        let (mut well, mut end) = (start, end);
        while well + 1 < end {
            let middle = usize::midpoint(well, end);
            if self.fails_with_ops(start..middle) {
                end = middle;
            } else {
                well = middle;
            }
        }
        let (mut start, mut well) = (start, end);
        while start + 1 < well {
            let middle = usize::midpoint(start, well);
            if self.fails_with_ops(middle..end) {
                start = middle;
            } else {
                well = middle;
            }
        }
    }

    fn fails_with_ops(&mut self, ops: Range<usize>) -> bool {
        self.fails(Limits { ops: Some(ops), ..self.best.limits.clone() })
    }
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, limits, size, .. } = self;
        let Size { nodes, ops, faults, .. } = size;
        writeln!(
            f,
            "shrunk in {} runs to {nodes} nodes, {ops} ops and {faults} faults:",
            self.runs
        )?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        let story = Story::flag(self.story);
        write!(f, "repeat that with: coterie sim{story} --seed {seed}")?;
        if let Some(nodes) = limits.nodes {
            write!(f, " --nodes {nodes}")?;
        }
        if let Some(Range { start, end }) = &limits.ops {
            write!(f, " --ops {start}..{end}")?;
        }
        if let Some(faults) = &limits.faults {
            let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
            write!(
                f,
                " --faults {}",
                if list.is_empty() { "none".into() } else { list.join(",") }
            )?;
        }
        write!(f, " --trace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::defect::Defect;

    #[test]
    fn a_failing_seed_shrinks_to_a_smaller_one_that_fails_in_the_same_way() {
        let defect = Some(Defect::AckBeforeFsync);
        let options = RunOptions { defect, ..RunOptions::default() };
        let reports = (0..100).map(|seed| run(seed, &options));
        let failed = |report: &Report| !report.violations.is_empty();
        let report = reports.into_iter().find(failed).expect("nobody noticed");
        let shrunk = shrink(&report, &options).expect("nothing could be left out");
        let again =
            run(report.seed, &RunOptions { limits: shrunk.limits.clone(), ..options.clone() });
        assert_eq!(again.violations, shrunk.violations);
        assert_eq!(again.size, shrunk.size);
        let check = report.violations[0].check;
        assert!(shrunk.violations.iter().any(|violation| violation.check == check));
        let (small, large) = (shrunk.size, report.size);
        assert!(small.ops <= large.ops / 2, "{small:?} of {large:?}");
        assert!(small.faults <= large.faults / 4, "{small:?} of {large:?}");
        let twice = shrink(&report, &options).expect("it shrank before");
        assert_eq!((twice.limits, twice.runs), (shrunk.limits, shrunk.runs));
    }
}
