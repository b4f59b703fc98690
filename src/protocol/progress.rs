//! How far a worker, and a node, have come in a change of the ring: what the control core makes its
//! three trackers from.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::message::PlacementTag;

/// How far a worker has come in a change of the ring. Each tag is of a version that was live in the
/// worker's view; it speaks for that version and for all older ones, and never falls while that
/// version's line goes on (a rival may take its place).
///
/// A node has come as far as the last of its workers: see [`Progresses`]. It makes that durable
/// before it tells anyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// No running write, strict read, repair or replay of hints ignores this version, nor does this node
    /// still drop what it gives it.
    pub acked: PlacementTag,
    /// All records and hints that were held here when every member had acknowledged this version
    /// have been merged by all homes that it gives them to, save those that were removed. A partition
    /// whose homes are the same in all live versions has nothing to be brought anywhere.
    pub synced: PlacementTag,
    /// No read is running that asks a version older than this one.
    pub reads_ended: PlacementTag,
    /// What the above still waits for.
    pub waiting: Waiting,
}

/// What a change of the ring waits for in a worker, or in a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What began before the newest version was known here: writes and strict reads above all.
    pub ops: u64,
    /// Reads of an older version than the one to be read.
    pub reads: u64,
    /// Partitions that are not known to be at all homes that the version gives them.
    pub exchanges: u64,
    /// Targets whose hints are not known to have reached all homes.
    pub hints: u64,
}

/// What the workers of a node have told of their progress, and what it comes to.
#[derive(Clone, Debug)]
pub struct Progresses {
    told: Vec<Option<Progress>>,
}

impl Progresses {
    /// Of so many workers, none of which has told anything.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { told: vec![None; workers] }
    }

    /// What the workers have told last.
    #[must_use]
    pub fn last(&self) -> &[Option<Progress>] {
        &self.told
    }

    /// Worker `index` has told this: what the node has come to. None while some worker has told
    /// nothing, or while workers speak of rivals: not all have taken in the same view.
    pub fn told(&mut self, index: usize, progress: Progress) -> Option<Progress> {
        self.told[index] = Some(progress);
        let mut all = self.told.iter().copied();
        all.next()?.and_then(|first| all.try_fold(first, |sum, next| sum.with(&next?)))
    }
}

impl Progress {
    /// The lesser of two workers' progress, and the sum of what they wait for; none if they speak of
    /// rivals.
    fn with(&self, other: &Self) -> Option<Self> {
        let lesser = |a: PlacementTag, b: PlacementTag| match a.number.cmp(&b.number) {
            Ordering::Less => Some(a),
            Ordering::Greater => Some(b),
            Ordering::Equal => (a == b).then_some(a),
        };
        let (one, two) = (&self.waiting, &other.waiting);
        Some(Self {
            acked: lesser(self.acked, other.acked)?,
            synced: lesser(self.synced, other.synced)?,
            reads_ended: lesser(self.reads_ended, other.reads_ended)?,
            waiting: Waiting {
                ops: one.ops + two.ops,
                reads: one.reads + two.reads,
                exchanges: one.exchanges + two.exchanges,
                hints: one.hints + two.hints,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u32, hash: u64) -> Progress {
        let tag = PlacementTag { number, hash };
        let waiting = Waiting { ops: 1, ..Waiting::default() };
        Progress { acked: tag, synced: tag, reads_ended: tag, waiting }
    }

    #[test]
    fn a_node_has_come_as_far_as_the_last_of_its_workers() {
        let mut told = Progresses::new(2);
        assert_eq!(told.told(0, at(2, 7)), None, "the other has told nothing");
        let sum = told.told(1, at(1, 5)).unwrap();
        assert_eq!((sum.acked.number, sum.waiting.ops), (1, 2));
        assert_eq!(told.told(1, at(2, 7)).unwrap().acked.number, 2);
        assert_eq!(told.told(1, at(2, 8)), None, "they speak of rivals");
    }
}
