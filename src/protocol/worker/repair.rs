//! Read repair: sending what a read has merged to the homes, in all live versions, that lack some
//! of it.
//!
//! What is already on its way to a home is not sent again: a key with a write under way here is
//! left alone, and so is a home to which a repair of the key is under way.

use std::collections::BTreeSet;

use super::cells::{CellId, Incoming, Task, Waiter};
use super::gather::Gather;
use super::{Purpose, Worker};
use crate::protocol::message::{DataMessage, WriteRequest};
use crate::protocol::step::Effect;
use crate::types::{Key, NodeId, Now};

/// Repairs that may be under way at a time; past it, a later read will do it.
const REPAIRS_MAX: usize = 4096;

/// The repairs under way.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    under_way: BTreeSet<(NodeId, Key)>,
}

impl Repairs {
    pub fn done(&mut self, node: NodeId, key: &Key) {
        self.under_way.remove(&(node, key.clone()));
    }

    fn begin(&mut self, node: NodeId, key: &Key) -> bool {
        self.under_way.len() < REPAIRS_MAX && self.under_way.insert((node, key.clone()))
    }
}

impl Worker {
    /// Repairs all homes but those that are known to hold what was merged, if any diverged.
    pub(super) fn repair(&mut self, now: Now, gather: &Gather, out: &mut Vec<Effect>) {
        let merged = gather.merged();
        let (equal, divergent) = gather.compare(&merged);
        // Who was no member when it began to read took part in no round of collection: what it has read
        // may have been collected since.
        let view = &gather.route.view;
        let took_part = view.live().iter().any(|version| version.my_member().is_some());
        if !divergent || !took_part || self.putting.contains_key(&gather.key) {
            return;
        }
        let (partition, key) = (gather.route.partition, &gather.key);
        let equal = equal.into_iter().filter_map(|slot| gather.route.slots[slot].1);
        let equal: Vec<NodeId> = equal.collect();
        // The homes of now: what is begun here must not ignore a version that was acknowledged since
        // the read began.
        let Some(route) = self.route(partition) else { return };
        for target in &route.targets {
            let Some(node) = target.node.filter(|node| !equal.contains(node)) else { continue };
            if node == route.view.me {
                let id = CellId::own(partition, key);
                self.stats.repairs_sent += 1;
                let incoming = Incoming { round: gather.round, ..merged.clone().into() };
                self.with_view(now, id, Task::Merge(incoming, Waiter::None), out);
            } else if self.peers.reachable(node) && self.repairs.begin(node, key) {
                self.stats.repairs_sent += 1;
                let record = merged.seal(partition, key);
                let purpose = Purpose::Repair { key: key.clone() };
                let key = key.clone();
                let (hint_for, round) = (None, gather.round);
                let message =
                    |call| DataMessage::Write(WriteRequest { call, key, record, hint_for, round });
                self.call(now, node, purpose, partition, gather.trace, message, out);
            }
        }
    }
}
