//! D4: what a worker remembers of its disk is what the disk holds.
//!
//! Copies of recently used records stand for reads, and hash trees for whole partitions; a worker changes both as
//! commits are reported. Reports come with the commit that becomes durable, so at the end of each event
//! nothing may lie between the two: not ahead, where a power loss would make it a lie, and not behind, where
//! a read or a comparison would tell of the past.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::describe;
use super::disk::Applied;
use super::observer::{Check, Place};
use super::world::World;
use crate::protocol::record::Sealed;
use crate::protocol::step::Space;
use crate::protocol::tree::Tree;
use crate::types::{Key, Partition};

impl World {
    /// A read of a record was answered: no copy that is kept tells of the past.
    pub(super) fn check_copy(&mut self, at: usize, stored_key: &Bytes) {
        let Some(place) = Place::of(Space::Records, stored_key) else { return };
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let worker = &process.workers[place.partition.worker(self.config.workers)];
        let Some(copy) = worker.remembered(&place.key) else { return };
        if node.disk.read(Space::Records, stored_key).as_ref() != Some(&copy) {
            let what = format!(
                "node-{at} remembers {} otherwise than it is stored",
                describe::key(&place.key)
            );
            self.observer.violate(Check::D4, self.time, what);
        }
    }

    /// Commits were reported: copies and trees have followed.
    pub(super) fn check_remembered(&mut self, at: usize, applied: &[Applied]) {
        let mut partitions = BTreeSet::new();
        for change in applied.iter().map(|applied| &applied.change) {
            if change.space == Space::Records {
                self.check_copy(at, &change.key);
                partitions.extend(Place::of(Space::Records, &change.key).map(|at| at.partition));
            }
        }
        for partition in partitions {
            self.check_tree(at, partition);
        }
    }

    fn check_tree(&mut self, at: usize, partition: Partition) {
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let worker = &process.workers[partition.worker(self.config.workers)];
        let Some(tree) = worker.tree(partition) else { return };
        // A tree knows nothing of damage until somebody has met it; nor of what an old snapshot brings back.
        if node.is_set_back || self.observer.is_damaged(at, partition) {
            return;
        }
        if *tree != tree_of(partition, node.disk.partition(partition)) {
            let what = format!("the tree of {partition} on node-{at} is not that of what it holds");
            self.observer.violate(Check::D4, self.time, what);
        }
    }
}

/// The tree of what is stored, as far as it is whole.
fn tree_of<'a>(
    partition: Partition,
    records: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
) -> Tree {
    let mut tree = Tree::default();
    for (key, stored) in records {
        let (key, sealed) = (Key::new(key.slice(2..)), Sealed::from_stored(stored.clone()));
        if let (Ok(key), Ok(sealed)) = (key, sealed)
            && sealed.verify(partition, &key).is_ok()
        {
            tree.change(&key, None, Some(sealed.hash()));
        }
    }
    tree
}
