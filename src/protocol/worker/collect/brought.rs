//! What a disk that is new in its place was brought by others: the lowest round that any of it is of, which bounds the
//! rounds that it may take over (see [`super::newcomer`]). It is durable with the record that came with it.

use std::collections::BTreeSet;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::super::Worker;
use super::origin::Origin;
use crate::protocol::meta::partition_key;
use crate::protocol::step::{Change, Effect, Page, Space};
use crate::types::{Partition, RoundNumber};

/// Keys of [`Space::Meta`] under which the lowest number is kept that others brought of a partition: `prefix ‖
/// partition`. They begin with [`super::PREFIX`] and are read with what else does.
const BROUGHT: &[u8] = b"rounds/brought/";

/// What others have sent of each partition.
#[derive(Debug, Default)]
pub(super) struct Brought {
    of: FxHashMap<Partition, Lowest>,
    /// Partitions of which what this node knew could not be read at the start.
    unreadable: BTreeSet<Partition>,
}

/// The lowest round that anything is of that others have sent of one.
#[derive(Clone, Copy, Debug)]
struct Lowest {
    number: RoundNumber,
    /// Whether that is on disk, or in a commit under way.
    is_kept: bool,
}

impl Brought {
    /// The lowest round that anything is of that others sent of a partition since this disk is new.
    pub(super) fn lowest(&self, partition: Partition) -> RoundNumber {
        self.of.get(&partition).map_or(RoundNumber::MAX, |lowest| lowest.number)
    }

    /// Whether what this node knew of a partition could not be read at the start.
    pub(super) fn is_unreadable(&self, partition: Partition) -> bool {
        self.unreadable.contains(&partition)
    }
}

impl Worker {
    /// At the start: what was brought before.
    pub(super) fn find_brought(&mut self, page: &Page) {
        for (partition, value) in self.marks_in(BROUGHT, page) {
            // What cannot be read may have been any number.
            let number = value[..].try_into().map_or(0, u64::from_be_bytes);
            let lowest = Lowest { number: RoundNumber(number), is_kept: true };
            if !self.collect.brought.is_unreadable(partition) {
                self.collect.brought.of.insert(partition, lowest);
            }
        }
    }

    /// Whether it matters of which round what others send of a partition is.
    pub(in crate::protocol::worker) fn heeds_brought(&self, partition: Partition) -> bool {
        self.origin() != Origin::Old && !self.collect.has_opened(partition)
    }

    /// Others have sent something of a partition, which was formed from no round below this one.
    pub(in crate::protocol::worker) fn brought_of(
        &mut self,
        partition: Partition,
        round: RoundNumber,
    ) {
        if self.heeds_brought(partition) && round < self.collect.brought.lowest(partition) {
            let lowest = Lowest { number: round, is_kept: false };
            self.collect.brought.of.insert(partition, lowest);
        }
    }

    /// The lowest number that was brought of a partition, if it is not on disk: it is committed with the
    /// next record that is.
    pub(in crate::protocol::worker) fn brought_to_keep(
        &mut self,
        partition: Partition,
    ) -> Option<Change> {
        let brought = self.collect.brought.of.get_mut(&partition)?;
        (!std::mem::replace(&mut brought.is_kept, true))
            .then(|| brought_mark(partition, Some(brought.number)))
    }

    /// A commit of something of a partition was refused, and what went with it.
    pub(in crate::protocol::worker) fn brought_not_kept(
        &mut self,
        partition: Partition,
        out: &mut Vec<Effect>,
    ) {
        let Some(brought) = self.collect.brought.of.get_mut(&partition) else { return };
        // What is queued behind it went without the mark; what comes next takes it along, should this be refused.
        brought.is_kept = false;
        let Change { key, value, .. } = brought_mark(partition, Some(brought.number));
        self.commit_meta(key, value, out);
    }

    /// Where the rounds of a partition are cannot be read: anything may have been brought.
    pub(super) fn brought_unknown(&mut self, partition: Partition) {
        let lowest = Lowest { number: RoundNumber(0), is_kept: false };
        self.collect.brought.of.insert(partition, lowest);
        self.collect.brought.unreadable.insert(partition);
    }

    /// What was held of a partition is set aside: nothing is left of what others sent. The change goes
    /// with that.
    pub(super) fn brought_anew(&mut self, partition: Partition) -> Change {
        self.collect.brought.of.remove(&partition);
        brought_mark(partition, None)
    }
}

fn brought_mark(partition: Partition, lowest: Option<RoundNumber>) -> Change {
    let value = lowest.map(|lowest| Bytes::copy_from_slice(&lowest.0.to_be_bytes()));
    Change { space: Space::Meta, key: partition_key(BROUGHT, partition), value }
}
