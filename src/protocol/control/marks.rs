//! What nodes remember of each other's commits, so that none forgets unnoticed.
//!
//! Every message of a node carries the number of its highest synced commit. Its peers keep the
//! highest that they heard, as a durable *mark*: {generation, boot, number}. When the node comes
//! back they tell it; if it has less on its disk than it once announced, it has lost commits that
//! it may have acknowledged (a restored snapshot, a disk that lied), and goes on as another disk.
//!
//! ```text
//!   amnesia ⇔ mark.boot ≠ mine ∧ (mark.number > recovered ∨ mark.generation ≥ my generation)
//! ```
//!
//! What this very process announced is no evidence against it. A mark of a generation that is
//! not below ours was made by a process that this disk does not know of: the disk is older.
//!
//! A process's announcements count only once it has confirmed, by *recalled*, that it judged
//! the mark of its predecessor: so a forgetful one cannot overwrite the evidence.
//!
//! *Idle clusters.* Keeping a mark is itself a commit. If it moved the number that is announced,
//! two idle nodes would keep each other awake for ever. Hence [`super::ControlEffect::Note`]: a
//! commit that holds only notes does not move the announced number.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::wire::Mark;
use crate::protocol::codec::Reader;
use crate::protocol::step::{Change, Space};
use crate::types::{Boot, CommitNumber, Generation, NodeId};

/// Where marks are stored: this and the id.
pub(super) const MARK_PREFIX: &[u8] = b"control/mark/";
/// Ids whose marks are kept: bounds what peers can make us keep.
const MARKS_MAX: usize = 4096;

/// Marks of all peers, and which peers have answered this process.
#[derive(Default)]
pub(super) struct Marks {
    of: BTreeMap<NodeId, Mark>,
    dirty: BTreeSet<NodeId>,
    /// Peers whose memory of this node has been judged since the start.
    answered: BTreeSet<NodeId>,
}

impl Marks {
    /// Takes back a stored mark.
    pub(super) fn restore(&mut self, key: &[u8], value: &Bytes) -> Option<()> {
        let id: [u8; 16] = key.strip_prefix(MARK_PREFIX)?.try_into().ok()?;
        let mut r = Reader::new(value.clone());
        let mark = Mark::decode(&mut r).ok()?;
        r.end().ok()?;
        self.of.insert(NodeId(u128::from_be_bytes(id)), mark);
        Some(())
    }

    pub(super) fn of(&self, id: NodeId) -> Mark {
        self.of.get(&id).copied().unwrap_or_default()
    }

    /// A process of a peer has synced this commit. Says whether there is something to keep.
    pub(super) fn synced(
        &mut self,
        id: NodeId,
        generation: Generation,
        boot: Boot,
        number: CommitNumber,
    ) -> bool {
        let known = self.of(id);
        let newer = number > known.number || (number == known.number && known.boot != boot.0);
        let room = self.of.len() < MARKS_MAX || self.of.contains_key(&id);
        if newer && room && number > CommitNumber(0) {
            self.of.insert(id, Mark { generation, boot: boot.0, number });
            self.dirty.insert(id);
        }
        !self.dirty.is_empty()
    }

    /// The marks to be kept since the last time.
    pub(super) fn flush(&mut self) -> Vec<Change> {
        let change = |id: NodeId| {
            let mut value = Vec::new();
            self.of.get(&id).copied().unwrap_or_default().encode(&mut value);
            let key = [MARK_PREFIX, &id.0.to_be_bytes()].concat();
            Change { space: Space::Meta, key: key.into(), value: Some(value.into()) }
        };
        std::mem::take(&mut self.dirty).into_iter().map(change).collect()
    }

    pub(super) fn waiting(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn answered(&mut self, id: NodeId) {
        if self.answered.len() < MARKS_MAX {
            self.answered.insert(id);
        }
    }

    pub(super) fn has_answered(&self, id: NodeId) -> bool {
        self.answered.contains(&id)
    }
}

/// Whether a peer's mark shows that this node has forgotten something.
pub(super) fn is_amnesia(
    mark: Mark,
    generation: Generation,
    boot: Boot,
    recovered: CommitNumber,
) -> bool {
    let heard = mark.number > CommitNumber(0);
    heard && mark.boot != boot.0 && (mark.number > recovered || mark.generation >= generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = Boot(7);

    fn mark(generation: u64, boot: u64, number: u64) -> Mark {
        Mark { generation: Generation(generation), boot, number: CommitNumber(number) }
    }

    fn amnesia(mark: Mark) -> bool {
        is_amnesia(mark, Generation(5), BOOT, CommitNumber(100))
    }

    #[test]
    fn a_peer_that_remembers_more_than_was_recovered_shows_amnesia() {
        assert!(!amnesia(Mark::default()));
        assert!(!amnesia(mark(4, 1, 100)));
        assert!(amnesia(mark(4, 1, 101)));
        assert!(!amnesia(mark(5, 7, 101)), "announced by this very process");
        assert!(amnesia(mark(5, 1, 100)), "a generation that this disk never knew of");
        assert!(amnesia(mark(9, 1, 100)));
    }

    #[test]
    fn marks_only_rise_and_come_back_from_disk() {
        let (mut marks, id) = (Marks::default(), NodeId(3));
        assert!(marks.synced(id, Generation(1), BOOT, CommitNumber(5)));
        let changes = marks.flush();
        assert!(!marks.synced(id, Generation(2), BOOT, CommitNumber(4)));
        assert_eq!(marks.of(id), mark(1, 7, 5));
        let mut other = Marks::default();
        let stored = changes[0].value.clone().unwrap();
        assert_eq!(other.restore(&changes[0].key, &stored), Some(()));
        assert_eq!(other.of(id), mark(1, 7, 5));
        assert_eq!(other.restore(b"control/mark/short", &stored), None);
    }
}
