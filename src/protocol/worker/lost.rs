//! Rebuilding what this disk lost: whole partitions.
//!
//! A partition that is marked lost takes writes, but no answer of it counts toward R until
//! everything that any other home holds of it has been merged and is durable here. The homes are
//! those of all live placement versions, with the disks that they have now: a disk that was fenced is none of
//! them, and one that took its place has to be asked anew.
//!
//! Another home may be rebuilding, too. It tells what it holds all the same, and each is done when
//! it has merged all others: neither waits for the other to be whole. That is enough: a write
//! was acknowledged by W homes, so that after the loss of up to W-1 disks some home that was
//! asked held it when it was asked.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::cells::Waiter;
use super::sync::Goal;
use super::timers::Timer;
use super::{Reading, Worker};
use crate::protocol::lost::{LOST_PREFIX, lost_marker, unmark};
use crate::protocol::step::{Effect, Event, Page, ReadFailed};
use crate::types::{NodeId, NodeName, Now, Partition};

/// How often homes that could not be asked are tried again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The partitions that are not whole here, each with the disks that were merged since.
#[derive(Debug, Default)]
pub(super) struct Lost {
    partitions: BTreeMap<Partition, BTreeSet<NodeId>>,
    /// Partitions that are whole, and whose marks are being removed.
    unmarking: usize,
    is_armed: bool,
}

impl Lost {
    pub fn count(&self) -> usize {
        self.partitions.len()
    }

    pub fn partitions(&self) -> Vec<Partition> {
        self.partitions.keys().copied().collect()
    }
}

impl Worker {
    /// Whether this node's copy of a partition is not whole.
    pub(super) fn is_lost(&self, partition: Partition) -> bool {
        !self.lost.partitions.is_empty() && self.lost.partitions.contains_key(&partition)
    }

    /// At the start, before anything is served: learns which partitions are not whole.
    pub(super) fn start_reading_lost(&mut self, out: &mut Vec<Effect>) {
        self.scan_meta(LOST_PREFIX, Bytes::new(), Reading::LostMarkers, out);
    }

    pub(super) fn lost_markers_read(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Arrive);
        };
        for (partition, value) in self.marks_in(LOST_PREFIX, &page) {
            self.lost_at_start(partition);
            self.collect.move_on(partition, &value);
        }
        if self.is_last_page(LOST_PREFIX, &page, Reading::LostMarkers, out) {
            self.start_reading_unsaved(out);
        }
    }

    pub(super) fn lost_at_start(&mut self, partition: Partition) {
        self.lost.partitions.entry(partition).or_default();
    }

    /// Partitions were lost in mid-run, and are durably marked.
    pub(super) fn partitions_lost(
        &mut self,
        now: Now,
        partitions: Vec<Partition>,
        out: &mut Vec<Effect>,
    ) {
        for partition in partitions {
            if partition.worker(self.config.workers) != self.config.index {
                continue;
            }
            // What was merged before the loss may be among what was lost.
            self.lost.partitions.insert(partition, BTreeSet::new());
            self.abandon_rebuilds(partition);
            self.end_tenure(partition, "the partition was lost", out);
            self.recent.forget_all();
            self.doubt_tree(now, partition);
        }
        self.rebuild_lost(now, out);
    }

    /// The time to try again has come.
    pub(super) fn lost_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.lost.is_armed = false;
        self.rebuild_lost(now, out);
    }

    /// Asks every home that has not been merged yet, as far as it can be reached.
    pub(super) fn rebuild_lost(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.view.is_none() {
            return;
        }
        for partition in self.lost.partitions() {
            self.rebuild_partition(now, partition, out);
        }
        if !self.lost.partitions.is_empty() && !self.lost.is_armed {
            self.lost.is_armed = true;
            self.arm(now.mono.after_millis(RETRY_MS), Timer::Lost);
        }
    }

    /// Asks the homes of a lost partition that have not been merged yet. Nothing is taken in before the rounds of
    /// the partition are known, nor while its copy is set aside.
    pub(super) fn rebuild_partition(
        &mut self,
        now: Now,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        if self.collect.is_moving(partition) {
            return;
        }
        match self.unmerged(partition) {
            Some(nodes) if nodes.is_empty() => self.partition_rebuilt(partition, out),
            Some(_) if self.is_untold(partition) => {}
            Some(nodes) => {
                for node in nodes.into_iter().flatten() {
                    self.sync_with(now, Goal::Rebuild(partition), node, out);
                }
            }
            None => self.lost_elsewhere(partition, out),
        }
    }

    /// Partitions that wait for their rebuilding: none on a disk that is no member's.
    pub(super) fn partitions_rebuilding(&self) -> u64 {
        let rebuilds = self.view.as_ref().is_none_or(|view| view.is_member());
        if rebuilds { self.lost.count() as u64 } else { 0 }
    }

    /// Of a partition that has no home here, nothing can be missing. A disk that is no member's may yet take
    /// the place of one that is, of which it does not know what that was home of.
    fn lost_elsewhere(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        let is_member = self.view.as_ref().is_some_and(|view| view.is_member());
        if is_member && self.route(partition).is_some() && self.end_rebuilding(partition) {
            self.commit_meta_for(lost_marker(partition), None, Waiter::Whole(partition), out);
        }
    }

    /// The other homes of a lost partition that have not been merged, where their disk is known;
    /// none if this node is no home of it.
    fn unmerged(&mut self, partition: Partition) -> Option<Vec<Option<NodeId>>> {
        let route = self.route(partition)?;
        let merged = self.lost.partitions.get(&partition).filter(|_| route.own_target.is_some())?;
        let nodes = route.others();
        Some(nodes.filter(|node| node.is_none_or(|node| !merged.contains(&node))).collect())
    }

    /// All that a home held of a lost partition has been merged, and is durable.
    pub(super) fn lost_merged(
        &mut self,
        partition: Partition,
        node: NodeId,
        out: &mut Vec<Effect>,
    ) {
        // While it is set aside, what was merged goes with it.
        if self.collect.is_moving(partition) {
            return;
        }
        let Some(merged) = self.lost.partitions.get_mut(&partition) else { return };
        merged.insert(node);
        if self.unmerged(partition).is_some_and(|left| left.is_empty()) {
            self.partition_rebuilt(partition, out);
        }
    }

    /// Nothing more is fetched for a lost partition, and its mark is to be removed; false if it is not lost.
    fn end_rebuilding(&mut self, partition: Partition) -> bool {
        let was_lost = self.lost.partitions.remove(&partition).is_some();
        if was_lost {
            self.abandon_rebuilds(partition);
            self.lost.unmarking += 1;
        }
        was_lost
    }

    fn partition_rebuilt(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        if self.end_rebuilding(partition) {
            let changes = vec![unmark(partition), self.unsaved_mark(partition)];
            self.commit_changes_for(changes, Waiter::Whole(partition), out);
        }
    }

    /// The mark of a rebuilt partition is gone.
    pub(super) fn partition_whole(&mut self, partition: Partition, out: &mut Vec<Effect>) {
        self.stats.partitions_rebuilt += 1;
        self.lost.unmarking -= 1;
        let left = self.lost.count() + self.lost.unmarking;
        out.push(Effect::Event(Event::PartitionRebuilt(partition, left)));
    }

    /// The mark could not be removed: the partition is rebuilt again, and by then there may be room.
    pub(super) fn partition_not_whole(&mut self, now: Now, partition: Partition) {
        self.lost.unmarking -= 1;
        self.lost_at_start(partition);
        if !self.lost.is_armed {
            self.lost.is_armed = true;
            self.arm(now.mono.after_millis(RETRY_MS), Timer::Lost);
        }
    }

    /// The homes that a lost partition still waits for.
    pub(super) fn waits_for(&mut self, partition: Partition) -> Vec<NodeName> {
        let Some(route) = self.route(partition) else { return vec![] };
        let Some(merged) = self.lost.partitions.get(&partition) else { return vec![] };
        let unmerged = |node: Option<NodeId>| node.is_none_or(|node| !merged.contains(&node));
        let targets = route.targets.iter().enumerate();
        let others = targets.filter(|(at, it)| Some(*at) != route.own_target && !it.removed);
        others.filter(|(_, it)| unmerged(it.node)).map(|(_, it)| it.name.clone()).collect()
    }
}
