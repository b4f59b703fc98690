//! C9: what a node keeps stays within its limits, and is nothing once there is nothing to do.

use super::observer::Check;
use super::world::World;
use crate::protocol::step::Space;

/// A hint is admitted by what it weighs when it comes, and may grow by a merge with what is held:
/// no record of the workload is larger than this.
const RECORD_BYTES_MAX: u64 = 16 << 10;

impl World {
    /// Hints and ops under way are within their limits.
    pub(super) fn check_bounds(&mut self, keys: usize) {
        let tuning = &self.config.tuning;
        let workers = self.config.workers as u64;
        // What is fetched because it was found damaged is not asked for by anybody: no limit of
        // requests holds for it, only the number of keys.
        let ops_max = (tuning.in_flight_max as u64) * workers + keys as u64;
        let hints_max = keys as u64 * (self.config.nodes as u64 - 1);
        let bytes_max = tuning.hint_bytes_max.saturating_mul(workers) + RECORD_BYTES_MAX;
        let mut found = Vec::new();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let stats = node.stats();
            for (what, is, limit) in [
                ("ops under way", stats.in_flight, ops_max),
                ("hints", stats.hints_held, hints_max),
                ("bytes of hints", stats.hint_bytes, bytes_max),
            ] {
                if is > limit {
                    found.push(format!("{} has {is} {what}, and {limit} is the most", node.name));
                }
            }
        }
        for what in found {
            self.observer.violate(Check::C9, self.time, what);
        }
    }

    /// Whether no op is under way and no hint is counted on any node.
    pub(super) fn is_at_rest(&self) -> bool {
        self.nodes.iter().all(|node| {
            let stats = node.stats();
            stats.in_flight == 0 && stats.hints_held == 0
        })
    }

    /// What is left once every client has its answer and every hint is delivered.
    pub(super) fn check_rest(&mut self) {
        let mut found = Vec::new();
        let nodes = self.nodes.iter().enumerate().filter(|(at, _)| !self.observer.is_gone(*at));
        for (_, node) in nodes {
            let (stats, stored) = (node.stats(), node.disk.len(Space::Hints) as u64);
            if stats.in_flight > 0 {
                found.push(format!("{} never ends {} ops", node.name, stats.in_flight));
            }
            if stats.hints_held != stored {
                let counted = stats.hints_held;
                found.push(format!("{} counts {counted} hints and holds {stored}", node.name));
            }
        }
        for what in found {
            self.observer.violate(Check::C9, self.time, what);
        }
    }
}
