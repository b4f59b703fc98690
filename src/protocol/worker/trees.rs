//! The hash trees of this worker's partitions: in memory, true to what is durable.
//!
//! ```text
//!   write ──▶ commit {record, dirty marker} ──▶ reported: the leaf changes
//!                        quiet for a while  ──▶ commit {tree, no marker}
//!   start ──▶ trees of partitions without a marker are loaded; others are read anew (`rescan`)
//! ```
//!
//! Invariants:
//! - a tree that is `known` = what every reported commit has left in the partition;
//! - a partition without a durable marker is, on disk, as its saved tree says: the first commit
//!   after a tree was saved carries the marker, and so does every one until such a commit is
//!   reported (the first may be refused); a tree is saved only while no commit is outstanding;
//! - a tree that is not known yet holds only what has changed since the start: what was before is
//!   added when it is loaded, or the whole is replaced when it has been read.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use rustc_hash::FxHashMap;

use super::cells::CellId;
use super::rescan::Why;
use super::timers::Timer;
use super::{Reading, Worker};
use crate::protocol::codec::{Checked, DecodeError, Reader, checked};
use crate::protocol::defect::Defect;
use crate::protocol::meta::{partition_key, partition_of};
use crate::protocol::step::{Change, Effect, Page, ReadFailed, Space};
use crate::protocol::tree::Tree;
use crate::types::{NodeId, Now, Partition, RecordHash, Wall};

/// Keys of [`Space::Meta`]: `prefix ‖ partition (2, big-endian)`.
const TREE_PREFIX: &[u8] = b"tree/";
const DIRTY_PREFIX: &[u8] = b"dirty/";
/// The version of a saved tree.
const FORMAT: u8 = 1;
/// Trees in one commit: a quarter of a megabyte.
const SAVED_TOGETHER: usize = 256;
/// How long to wait before a read that failed is tried again, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// A tree is saved once its partition was left alone for this part of the time between two
/// comparisons: for a minute of ten.
const QUIET_PART: u64 = 10;

/// The trees of all partitions that this worker is home to.
#[derive(Debug, Default)]
pub(super) struct Trees {
    held: FxHashMap<Partition, Held>,
    /// The partitions that this worker is home to, in order.
    own: Vec<Partition>,
    /// Trees that differ from what was saved.
    unsaved: BTreeSet<Partition>,
    is_saving: bool,
    /// Partitions that were written after their tree was saved, and before this start.
    dirty_at_start: BTreeSet<Partition>,
    /// Saved trees are being loaded: behind this one comes the next page.
    loading: Option<Bytes>,
    /// All saved trees have been seen.
    pub is_loaded: bool,
}

/// What is known of one partition.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub tree: Tree,
    pub known: bool,
    /// When all of it was last read and verified; zero: never.
    pub scrubbed: Wall,
    /// When another home was last known to hold the same.
    pub agreed: Vec<(NodeId, Wall)>,
    /// Commits of its records that are not reported yet; those of a partition that was given up
    /// meanwhile are not counted.
    outstanding: u32,
    is_marked: bool,
    /// Written since the last look for trees to be saved.
    is_fresh: bool,
}

/// How a commit changes the tree, once it is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct TreeChange {
    pub before: Option<RecordHash>,
    after: Option<RecordHash>,
    /// Whether it carries the dirty marker.
    marks: bool,
}

impl Trees {
    /// Partitions whose tree is not known.
    pub fn unknown(&self) -> usize {
        let known = |partition: &&Partition| self.held.get(partition).is_some_and(|it| it.known);
        self.own.len() - self.own.iter().filter(known).count()
    }

    pub fn own(&self) -> &[Partition] {
        &self.own
    }

    pub fn of(&mut self, partition: Partition) -> &mut Held {
        self.held.entry(partition).or_default()
    }

    /// The tree of a partition, if it is known.
    pub fn known(&self, partition: Partition) -> Option<&Tree> {
        self.held.get(&partition).filter(|held| held.known).map(|held| &held.tree)
    }

    /// When a partition was last read and verified.
    pub fn scrubbed(&self, partition: Partition) -> Wall {
        self.held.get(&partition).map_or(Wall(0), |held| held.scrubbed)
    }

    pub fn has_outstanding(&self, partition: Partition) -> bool {
        self.held.get(&partition).is_some_and(|held| held.outstanding > 0)
    }
}

impl Held {
    /// The saved form: version, when it was scrubbed, the tree, a checksum over all of it.
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u64_le(self.scrubbed.0);
        self.tree.encode(&mut out);
        out.put_crc();
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<(Wall, Tree), DecodeError> {
        let mut r = Reader::new(checked(bytes)?);
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let saved = (Wall(r.u64()?), Tree::decode(&mut r)?);
        r.end()?;
        Ok(saved)
    }
}

impl Worker {
    /// A commit that changes a record is formed: adds the marker to it if it needs one.
    pub(super) fn tree_write(
        &mut self,
        now: Now,
        id: &CellId,
        before: Option<RecordHash>,
        after: Option<RecordHash>,
        changes: &mut Vec<Change>,
    ) -> TreeChange {
        let early = self.has(Defect::TreeBeforeCommit);
        let partition = id.partition;
        let held = self.trees.held.entry(partition).or_default();
        if early {
            held.tree.change(&id.key, before, after);
        }
        held.outstanding += 1;
        held.is_fresh = true;
        let marks = !held.is_marked;
        if marks {
            changes.push(dirty_mark(partition));
            self.save_later(now, partition);
        }
        self.rescans.formed(partition, &id.key, before);
        TreeChange { before, after, marks }
    }

    /// A commit that changed a record is durable.
    pub(super) fn tree_changed(&mut self, id: &CellId, change: TreeChange) {
        let early = self.has(Defect::TreeBeforeCommit);
        let held = self.trees.of(id.partition);
        held.outstanding = held.outstanding.saturating_sub(1);
        held.is_marked |= change.marks;
        if !early {
            held.tree.change(&id.key, change.before, change.after);
        }
        self.rescans.reported(id.partition, &id.key, change.before, change.after);
    }

    /// A commit that would have changed a record was refused.
    pub(super) fn tree_refused(&mut self, partition: Partition) {
        let held = self.trees.of(partition);
        held.outstanding = held.outstanding.saturating_sub(1);
    }

    /// A tree may not be what is stored: nobody compares it before it is worked out anew.
    pub(super) fn doubt_tree(&mut self, now: Now, partition: Partition) {
        self.forget_tree(partition);
        self.rescan(now, partition, Why::Unknown);
    }

    /// A tree is not known any more.
    pub(super) fn forget_tree(&mut self, partition: Partition) {
        let held = self.trees.of(partition);
        (held.tree, held.known) = (Tree::default(), false);
    }

    /// What goes into the commit that unmarks a lost partition: the tree that was saved before it was
    /// lost is not to be met again.
    pub(super) fn unsaved_mark(&mut self, partition: Partition) -> Change {
        self.trees.of(partition).is_marked = true;
        dirty_mark(partition)
    }

    /// At the start, before anything is served: learns which trees were not saved after their
    /// last change.
    pub(super) fn start_reading_unsaved(&mut self, out: &mut Vec<Effect>) {
        self.scan_meta(DIRTY_PREFIX, Bytes::new(), Reading::UnsavedTrees, out);
    }

    pub(super) fn unsaved_trees_read(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::Arrive);
        };
        for (partition, _) in self.marks_in(DIRTY_PREFIX, &page) {
            self.trees.dirty_at_start.insert(partition);
            self.trees.of(partition).is_marked = true;
        }
        if self.is_last_page(DIRTY_PREFIX, &page, Reading::UnsavedTrees, out) {
            self.arrive(now, out);
        }
    }

    /// The worker serves, or its partitions have changed: learns their trees.
    pub(super) fn learn_trees(&mut self, now: Now) {
        let Some(view) = self.view.clone() else { return };
        let workers = self.config.workers;
        let all = (0..view.partitions()).map(Partition);
        let mine = all.filter(|partition| partition.worker(workers) == self.config.index);
        self.trees.own = mine.filter(|&partition| view.is_home(partition)).collect();
        let known = self.trees.held.keys().chain(&self.trees.dirty_at_start);
        let mut left: Vec<Partition> = known.copied().filter(|p| !view.is_home(*p)).collect();
        left.sort_unstable();
        left.into_iter().for_each(|partition| self.leave_partition(now, partition));
        if self.trees.loading.is_none() {
            self.trees.loading = Some(Bytes::new());
            self.arm(now.mono, Timer::LoadTrees);
        } else {
            self.rescan_unknown(now);
        }
    }

    /// Reads the next page of saved trees.
    pub(super) fn load_trees(&mut self, out: &mut Vec<Effect>) {
        let Some(after) = self.trees.loading.clone() else { return };
        self.scan_meta(TREE_PREFIX, after, Reading::SavedTrees, out);
    }

    pub(super) fn saved_trees_read(
        &mut self,
        now: Now,
        result: Result<Page, ReadFailed>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(page) = result else {
            return self.arm(now.mono.after_millis(RETRY_MS), Timer::LoadTrees);
        };
        let last = page.entries.last().map(|(key, _)| key.clone());
        for (key, saved) in page.entries {
            let Some(partition) = partition_of(TREE_PREFIX, &key) else { continue };
            let is_own = self.trees.own.binary_search(&partition).is_ok();
            if !is_own && partition.worker(self.config.workers) == self.config.index {
                self.leave_partition(now, partition);
            }
            let dirty =
                self.trees.dirty_at_start.contains(&partition) || self.rescans.is_due(partition);
            if let (true, false, Ok((scrubbed, tree))) =
                (is_own, dirty || self.is_lost(partition), Held::decode(saved))
            {
                let held = self.trees.of(partition);
                held.scrubbed = scrubbed;
                if !held.known {
                    held.tree.absorb(&tree);
                    held.known = true;
                }
            }
        }
        match last.filter(|_| !page.done) {
            Some(last) => {
                self.trees.loading = Some(last);
                self.load_trees(out);
            }
            None => {
                self.trees.is_loaded = true;
                self.rescan_unknown(now);
            }
        }
    }

    /// What was not saved, or not after the last change, has to be read.
    fn rescan_unknown(&mut self, now: Now) {
        for partition in self.trees.own.clone() {
            if self.trees.known(partition).is_none() {
                self.rescan(now, partition, Why::Unknown);
            }
        }
    }

    /// A tree has been read from the store: it takes the place of what was known. Tells whether
    /// that was something else.
    pub(super) fn tree_read(
        &mut self,
        now: Now,
        partition: Partition,
        tree: Tree,
        scrubbed: Option<Wall>,
    ) -> bool {
        if self.trees.own.binary_search(&partition).is_err() {
            return false;
        }
        let held = self.trees.of(partition);
        let differs = held.known && held.tree != tree;
        held.tree = tree;
        held.known = true;
        held.scrubbed = scrubbed.unwrap_or(held.scrubbed);
        self.save_later(now, partition);
        differs
    }

    /// A partition is being given up: nothing is known of its tree any more, and what was saved of it
    /// will not be true. The changes say so durably; the `last` ones, that nothing is left of it.
    pub(super) fn leave_tree(&mut self, partition: Partition, last: bool) -> [Change; 2] {
        self.trees.held.remove(&partition);
        self.trees.unsaved.remove(&partition);
        self.trees.dirty_at_start.remove(&partition);
        let change = |prefix, value| {
            let (space, key) = (Space::Meta, partition_key(prefix, partition));
            Change { space, key, value }
        };
        let mark = (!last).then(|| Bytes::from_static(&[1]));
        [change(TREE_PREFIX, None), change(DIRTY_PREFIX, mark)]
    }

    fn save_later(&mut self, now: Now, partition: Partition) {
        self.trees.unsaved.insert(partition);
        if !self.trees.is_saving {
            self.trees.is_saving = true;
            let quiet = self.config.tuning.sync_interval / QUIET_PART;
            self.arm(now.mono.after_micros(quiet), Timer::SaveTrees);
        }
    }

    /// Saves the trees of partitions that have come to rest.
    pub(super) fn save_trees(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.trees.is_saving = false;
        let mut resting = Vec::new();
        for &partition in &self.trees.unsaved {
            let Some(held) = self.trees.held.get_mut(&partition) else { continue };
            let rests = held.known && held.outstanding == 0 && !held.is_fresh;
            held.is_fresh = false;
            if rests {
                held.is_marked = false;
                resting.push((partition, held.encode()));
            }
        }
        for some in resting.chunks(SAVED_TOGETHER) {
            let mut changes = Vec::with_capacity(2 * some.len());
            for (partition, saved) in some {
                self.trees.unsaved.remove(partition);
                let (space, key) = (Space::Meta, partition_key(TREE_PREFIX, *partition));
                changes.push(Change { space, key, value: Some(saved.clone()) });
                let key = partition_key(DIRTY_PREFIX, *partition);
                changes.push(Change { space, key, value: None });
            }
            self.commit_all_meta(changes, out);
        }
        if let Some(&left) = self.trees.unsaved.first() {
            self.save_later(now, left);
        }
    }
}

/// That the tree of a partition is not what was saved of it, durably.
fn dirty_mark(partition: Partition) -> Change {
    let value = Some(Bytes::from_static(&[1]));
    Change { space: Space::Meta, key: partition_key(DIRTY_PREFIX, partition), value }
}
