//! Latencies and rates of the phases of the demo.

use std::time::Duration;

use crate::cli::latency::Latencies;
use crate::cli::status::table;
use crate::cli::term;

/// The parts of the mixed load that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All nodes are there.
    Before = 0,
    /// One node is dead.
    During = 1,
    /// It is back.
    After = 2,
}

/// How many phases there are.
pub const PHASES: usize = 3;

/// Their names, in their order.
pub const NAMES: [&str; PHASES] = ["before", "during", "after"];

/// What was measured in a phase.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    /// Reads that were answered.
    pub gets: Latencies,
    /// Writes that were acknowledged.
    pub sets: Latencies,
    /// Requests that failed after all of the client's attempts.
    pub failed: u64,
}

impl Measure {
    /// Adds all of another's.
    pub fn add(&mut self, other: &Self) {
        self.gets.add(&other.gets);
        self.sets.add(&other.sets);
        self.failed += other.failed;
    }

    /// Requests that succeeded.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.gets.count() + self.sets.count()
    }
}

/// The table of all phases.
#[must_use]
pub fn render(measures: &[Measure; PHASES], spans: &[Duration; PHASES]) -> String {
    let mut table = table(&[
        "",
        "TIME",
        "REQUESTS/S",
        "FAILED",
        "GET P50 / P99 / P99.9",
        "SET P50 / P99 / P99.9",
    ]);
    for ((name, measure), span) in NAMES.iter().zip(measures).zip(spans) {
        let rate = measure.done() as f64 / span.as_secs_f64().max(1e-3);
        table.add_row([
            (*name).to_owned(),
            term::span(*span),
            format!("{rate:.0}"),
            term::grouped(measure.failed),
            measure.gets.cell(),
            measure.sets.cell(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_a_phase() {
        let mut measures: [Measure; PHASES] = Default::default();
        measures[0].gets.record(Duration::from_millis(2));
        measures[1].failed = 3;
        let text = render(&measures, &[Duration::from_secs(1); PHASES]);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("2.0 ms"), "{text}");
    }
}
