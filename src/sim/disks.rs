//! What befalls whole disks: one is emptied, or an old snapshot of it is put back.
//!
//! Either is the loss of one disk: the claim allows W − 1 between two completed repairs. The node's
//! next process is another disk in the same place; see the control core's admissions.

use bytes::Bytes;
use rand::RngExt;

use super::disk::Disk;
use super::observer::Check;
use super::tally::FaultKind;
use super::world::{Event, World};
use crate::protocol::control::{goes_on_as, was_removed};
use crate::protocol::lost::LOST_PREFIX;
use crate::protocol::step::Space;
use crate::types::NodeId;

/// A process that found that its disk has forgotten something starts again after this.
const AGAIN: u64 = 50_000;

/// What a disk, and what is beside it, held at some time.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    disk: Disk,
    id: NodeId,
    generation: u64,
}

impl World {
    /// The node is killed and its disk is emptied: the next process has another id.
    pub(super) fn wipe(&mut self, at: usize) {
        self.kill(at);
        let id = NodeId(self.rng.random());
        self.trace.say(self.time, Some(at), || format!("its disk is emptied; it is {id} now"));
        self.nodes[at].disk = self.nodes[at].disk.emptied();
        self.nodes[at].generation = 0;
        self.rename_disk(at, id);
        self.observer.disk_lost(at);
        self.view_lost(at);
    }

    /// What the disk holds now.
    pub(super) fn snapshot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (disk, id, generation) = (node.disk.copy(), node.id, node.generation);
        node.snapshot = Some(Snapshot { disk, id, generation });
        self.trace.say(self.time, Some(at), || "a snapshot of its disk is taken".into());
    }

    /// The node is killed, and an old snapshot of its disk is put back. False if there is none, or
    /// if the disk has been another one since.
    pub(super) fn restore(&mut self, at: usize) -> bool {
        let taken = self.nodes[at].snapshot.take();
        let Some(snapshot) = taken.filter(|snapshot| snapshot.id == self.nodes[at].id) else {
            return false;
        };
        self.kill(at);
        self.trace.say(self.time, Some(at), || "an old snapshot of its disk is put back".into());
        let node = &mut self.nodes[at];
        node.disk.set_to(snapshot.disk);
        node.generation = snapshot.generation;
        node.is_set_back = true;
        self.observer.disk_lost(at);
        self.observer.set_back(self.time, at, true);
        self.view_lost(at);
        true
    }

    /// A control core has found that its disk has forgotten something.
    pub(super) fn come_back(&mut self, at: usize, why: &str) {
        self.trace.say(self.time, Some(at), || format!("comes back: {why}"));
        let durable = self.meta_of(at);
        let holds_nothing = self.nodes[at].disk.len(Space::Records) == 0;
        if was_removed(&durable, self.nodes[at].id) || holds_nothing {
            self.count(FaultKind::SetAside);
        } else if self.observer.is_lost(at) {
            self.count(FaultKind::OldSnapshot);
        } else {
            let what = format!("node-{at} goes on as another disk, and none was lost: {why}");
            self.observer.violate(Check::M, self.time, what);
        }
        self.remove_process(at);
        self.schedule(self.paced(AGAIN), Event::Start { node: at });
    }

    /// Before a process starts: a disk that has forgotten something goes on as another one.
    pub(super) fn take_up_disk(&mut self, at: usize) {
        let durable = self.meta_of(at);
        if was_removed(&durable, self.nodes[at].id) {
            return self.set_aside(at);
        }
        if let Some(id) = goes_on_as(&durable).filter(|id| *id != self.nodes[at].id) {
            self.rename_disk(at, id);
        }
    }

    /// The disk was removed from the cluster: what it holds counts no more, and the node begins anew.
    fn set_aside(&mut self, at: usize) {
        let id = NodeId(self.rng.random());
        self.trace.say(self.time, Some(at), || format!("its disk is set aside; it is {id} now"));
        self.nodes[at].disk = self.nodes[at].disk.emptied();
        self.nodes[at].generation = 0;
        self.rename_disk(at, id);
    }

    /// What a disk holds beside records and hints.
    fn meta_of(&self, at: usize) -> Vec<(Bytes, Bytes)> {
        let meta = self.nodes[at].disk.entries(Space::Meta);
        meta.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn rename_disk(&mut self, at: usize, id: NodeId) {
        self.nodes[at].id = id;
        self.nodes[at].is_set_back = false;
        self.observer.set_back(self.time, at, false);
        self.ids.retain(|_, node| *node != at);
        self.ids.insert(id, at);
    }

    /// How many partitions of all members wait for their rebuilding.
    pub(super) fn partitions_lost(&self) -> usize {
        let lost = |node: &super::node::SimNode| {
            node.disk.entries(Space::Meta).filter(|(key, _)| key.starts_with(LOST_PREFIX)).count()
        };
        let nodes = self.nodes[..self.config.nodes].iter();
        nodes.filter(|node| self.observer.is_member(&node.name)).map(lost).sum()
    }
}
