//! How whole this node's copies are, and since when that is known.
//!
//! A partition is *known to be whole since T* if, since T, every record of it here was read again
//! and verified, and each of its other homes was seen to hold the same. Whether some node holds a
//! hint for it is not known here: that is asked of all nodes together. What is known of the other
//! homes is in memory, and begins anew at each start.

use super::Worker;
use crate::protocol::step::RepairReport;
use crate::types::{Partition, Wall};

impl Worker {
    /// How whole this worker's copies are.
    pub fn repair_report(&mut self) -> RepairReport {
        let (lost, own) = (self.lost.partitions(), self.trees.own().to_vec());
        let mut report = RepairReport { partitions: own.len() as u64, ..RepairReport::default() };
        for &partition in &lost {
            for home in self.waits_for(partition) {
                *report.waits_for.entry(home).or_default() += 1;
            }
        }
        report.rebuilding = lost.len() as u64;
        for partition in own {
            match self.whole_since(partition) {
                Some(since) => {
                    report.whole += 1;
                    let oldest = report.whole_since.unwrap_or(since);
                    report.whole_since = Some(oldest.min(since));
                }
                None => report.unverified += 1,
            }
        }
        report
    }

    /// Since when a partition is known to be whole; none: it is not.
    fn whole_since(&mut self, partition: Partition) -> Option<Wall> {
        let route = self.route(partition)?;
        let scrubbed = self.trees.scrubbed(partition);
        if self.is_any_rebuilding(partition) || scrubbed == Wall(0) {
            return None;
        }
        let agreed = &self.trees.of(partition).agreed;
        route.others().try_fold(scrubbed, |since, node| {
            let with = agreed.iter().find(|(other, _)| Some(*other) == node)?;
            Some(since.min(with.1))
        })
    }
}

impl RepairReport {
    /// Adds what another worker of the node reports.
    pub fn add(&mut self, other: &Self) {
        self.partitions += other.partitions;
        self.rebuilding += other.rebuilding;
        self.unverified += other.unverified;
        self.whole += other.whole;
        self.whole_since = self.whole_since.into_iter().chain(other.whole_since).min();
        for (home, partitions) in &other.waits_for {
            *self.waits_for.entry(home.clone()).or_default() += partitions;
        }
    }
}
