//! A second process with one identity: a copied folder that is started beside its original.
//!
//! It has a place and an address of its own, behind those of the members, and the name, the id and
//! the data of one of them. The others know the first process by its boot, ask it, and turn the
//! second away; it stops by itself. Nothing that it does counts: clients do not know it, and no
//! checker looks at its disk.

use std::net::SocketAddr;

use super::node::{Member, SimNode};
use super::tally::FaultKind;
use super::world::World;

impl World {
    /// Starts a process on a copy of a live node's folder, unless there is one already.
    pub(super) fn start_twin(&mut self, of: usize) {
        let place = self.config.nodes;
        let original = &self.nodes[of];
        let there_is_one = self.nodes.get(place).is_some_and(|twin| twin.process.is_some());
        if !self.config.control || !original.is_live() || there_is_one {
            return;
        }
        let address = SocketAddr::from(([10, 0, 1, 1], 7401));
        let member = Member { name: original.name.clone(), id: original.id, address };
        let mut twin = SimNode::new(member, self.config.pace);
        twin.disk = original.disk.copy();
        twin.starts = original.starts;
        if let Some(before) = self.nodes.get(place) {
            // What is under way to an earlier one is not for this one.
            twin.disk_life = before.disk_life + 1;
            twin.starts = twin.starts.max(before.starts);
            twin.disk.took_effect = before.disk.took_effect;
        }
        self.nodes.truncate(place);
        self.nodes.push(twin);
        let line = || format!("a copy of its folder is started as node-{place}");
        self.trace.say(self.time, Some(of), line);
        self.start(place);
    }

    /// Whether a node is no member but a process on a copied folder.
    pub(super) fn is_twin(&self, node: usize) -> bool {
        node >= self.config.nodes
    }

    /// A process on a copied folder has been told to stop, and does.
    pub(super) fn twin_stops(&mut self) {
        self.count(FaultKind::DuplicateIdentity);
        self.end_twin();
    }

    /// The copy is gone, and its folder with it.
    pub(super) fn end_twin(&mut self) {
        let place = self.config.nodes;
        if self.nodes.get(place).is_some_and(|twin| twin.process.is_some()) {
            self.remove_process(place);
            self.nodes[place].disk = super::disk::Disk::new();
        }
    }
}
