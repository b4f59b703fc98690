//! Who counts toward R and W.
//!
//! A write is acknowledged by *distinct nodes* that fill *distinct home slots*: a home and the
//! hint kept for it fill one slot, and a node counts once however many hints it keeps (a cluster
//! that counted otherwise acknowledged writes that one disk held). The count is therefore the
//! size of a maximum matching between nodes and slots.

use crate::types::NodeId;

/// How many of N must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Consistency {
    /// One.
    One,
    /// A majority of N; never of those that happen to live.
    Quorum,
    /// All N.
    All,
}

/// Acknowledgements of one operation in one placement version.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// (slot, node) pairs that have acknowledged.
    acks: Vec<(usize, NodeId)>,
}

/// How many of `n` are a majority.
#[must_use]
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

impl Consistency {
    /// How many of `n` must answer.
    #[must_use]
    pub fn of(self, n: usize) -> usize {
        match self {
            Self::One => 1.min(n),
            Self::Quorum => majority(n),
            Self::All => n,
        }
    }
}

impl Tally {
    /// Counts that `node` has acknowledged for the home slot `slot`.
    pub fn ack(&mut self, slot: usize, node: NodeId) {
        if !self.acks.contains(&(slot, node)) {
            self.acks.push((slot, node));
        }
    }

    /// Takes back whatever `node` has acknowledged.
    pub fn forget(&mut self, node: NodeId) {
        self.acks.retain(|ack| ack.1 != node);
    }

    /// Whether anyone has acknowledged for `slot`.
    #[must_use]
    pub fn holds(&self, slot: usize) -> bool {
        self.acks.iter().any(|ack| ack.0 == slot)
    }

    /// How many distinct nodes fill distinct slots.
    #[must_use]
    pub fn count(&self) -> usize {
        matching(&self.acks)
    }
}

/// The size of a maximum matching, by augmenting paths (Kuhn). N is small: at most a handful.
fn matching(pairs: &[(usize, NodeId)]) -> usize {
    // The usual case: each home has answered for itself.
    let apart = |at: usize| pairs[..at].iter().all(|p| p.0 != pairs[at].0 && p.1 != pairs[at].1);
    if (0..pairs.len()).all(apart) {
        return pairs.len();
    }
    let mut node_of: Vec<(NodeId, usize)> = Vec::with_capacity(pairs.len());
    let mut slots: Vec<usize> = pairs.iter().map(|pair| pair.0).collect();
    slots.sort_unstable();
    slots.dedup();
    let placed = |slot: &usize| augment(*slot, pairs, &mut node_of, &mut Vec::new());
    slots.iter().map(placed).filter(|&grown| grown).count()
}

fn augment(
    slot: usize,
    pairs: &[(usize, NodeId)],
    node_of: &mut Vec<(NodeId, usize)>,
    tried: &mut Vec<NodeId>,
) -> bool {
    for &(_, node) in pairs.iter().filter(|pair| pair.0 == slot) {
        if tried.contains(&node) {
            continue;
        }
        tried.push(node);
        match node_of.iter().position(|held| held.0 == node) {
            None => {
                node_of.push((node, slot));
                return true;
            }
            Some(at) => {
                let other = node_of[at].1;
                if augment(other, pairs, node_of, tried) {
                    node_of[at].1 = slot;
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The matching by trying everything.
    fn naive(pairs: &[(usize, NodeId)]) -> usize {
        let Some((&(slot, node), rest)) = pairs.split_first() else { return 0 };
        let free: Vec<_> = rest.iter().filter(|p| p.0 != slot && p.1 != node).copied().collect();
        naive(rest).max(1 + naive(&free))
    }

    proptest! {
        #[test]
        fn the_count_is_that_of_a_naive_matching(
            pairs in proptest::collection::vec((0..5usize, 0..5u128), 0..10),
        ) {
            let mut tally = Tally::default();
            let pairs: Vec<_> = pairs.into_iter().map(|(s, n)| (s, NodeId(n))).collect();
            for &(slot, node) in &pairs {
                tally.ack(slot, node);
            }
            prop_assert_eq!(tally.count(), naive(&pairs));
        }
    }

    #[test]
    fn a_node_that_keeps_two_hints_counts_once() {
        let mut tally = Tally::default();
        tally.ack(0, NodeId(9));
        tally.ack(1, NodeId(9));
        assert_eq!(tally.count(), 1);
    }

    #[test]
    fn a_home_and_the_hint_for_it_count_once() {
        let mut tally = Tally::default();
        tally.ack(0, NodeId(1));
        tally.ack(0, NodeId(9));
        assert_eq!(tally.count(), 1);
    }

    #[test]
    fn a_node_with_two_hints_leaves_the_slot_that_another_can_fill() {
        let mut tally = Tally::default();
        tally.ack(0, NodeId(9));
        tally.ack(1, NodeId(9));
        tally.ack(0, NodeId(1));
        assert_eq!(tally.count(), 2);
    }

    #[test]
    fn what_a_replaced_disk_has_acknowledged_is_taken_back() {
        let mut tally = Tally::default();
        tally.ack(0, NodeId(1));
        tally.ack(1, NodeId(2));
        tally.ack(2, NodeId(2));
        assert_eq!(tally.count(), 2);
        tally.forget(NodeId(2));
        assert_eq!(
            (tally.count(), tally.holds(0), tally.holds(1), tally.holds(2)),
            (1, true, false, false)
        );
    }

    #[test]
    fn a_quorum_is_a_majority_of_n() {
        assert_eq!(Consistency::Quorum.of(3), 2);
        assert_eq!(Consistency::Quorum.of(4), 3);
        assert_eq!(Consistency::All.of(5), 5);
        assert_eq!(Consistency::One.of(1), 1);
    }
}
