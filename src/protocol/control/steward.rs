//! The steward: the live member with the lowest name. It makes members of the nodes that appear, makes
//! the version without a member that was removed, and clears away names that came to nothing.
//!
//! Nothing rests on there being one: whoever takes itself for the steward only proposes.

use xxhash_rust::xxh3::xxh3_64;

use super::Level;
use super::admission::NOBODY;
use super::founding::Standing;
use super::peers::Peer;
use super::state::Control;
use crate::protocol::placement::{Change, LIVE_MAX, Member, Placement};
use crate::types::{Mono, NodeId, NodeName};

/// A node whose name has left, or was removed, joins again once it has been there for so many times
/// `membership.settle`: a supervisor may start it again just before it is told not to.
const RETURN_SETTLES: u64 = 6;

/// Since when the same nodes have been there.
#[derive(Default)]
pub(super) struct Stillness {
    there: u64,
    since: Option<Mono>,
}

impl Control {
    /// Does what the steward has to do, if this node takes itself for that.
    pub(super) fn steward(&mut self) {
        let still = self.is_still();
        let Some(newest) = self.placement().cloned() else { return };
        if self.works.planning || self.works.order.is_some() || !self.is_steward(&newest) {
            return;
        }
        if self.leave_out_removed(&newest) || !still {
            return;
        }
        if !self.is_changing() && self.works.plan.is_none() {
            self.clear_away();
            self.note_returned();
            if self.config.auto_join {
                self.admit_guests(&newest);
            }
        }
    }

    /// Whether the same nodes have been there for as long as `membership.settle` asks.
    fn is_still(&mut self) -> bool {
        let there: Vec<u8> = self.peers.live().iter().flat_map(|id| id.0.to_le_bytes()).collect();
        let (there, now) = (xxh3_64(&there), self.now.mono);
        let stillness = &mut self.works.stillness;
        if stillness.since.is_none() || stillness.there != there {
            *stillness = Stillness { there, since: Some(now) };
        }
        let settle = self.config.settle_ms.saturating_mul(1000);
        stillness.since.is_some_and(|since| now.micros_since(since) >= settle)
    }

    fn is_steward(&self, newest: &Placement) -> bool {
        let may = self.conditions.confirmed
            && !self.conditions.draining
            && self.founding.standing() == Some(Standing::Member);
        let live = |member: &&Member| {
            let id = self.founding.cluster().and_then(|cluster| cluster.ids.get(&member.name));
            id.is_some_and(|&id| {
                id == self.identity.id || self.peers.get(id).is_some_and(Peer::is_reachable)
            })
        };
        let first = newest.members.iter().find(live);
        may && first.is_some_and(|member| member.name == self.identity.name)
    }

    /// Makes the version without members who were removed; says whether that is what is to be done next. Where
    /// too few would be left (another change was agreed to at the same time), others have to join first.
    pub(super) fn leave_out_removed(&mut self, newest: &Placement) -> bool {
        let (Some(cluster), Some(ring)) = (self.founding.cluster(), &self.ring) else {
            return false;
        };
        let members = newest.members.iter().map(|member| &member.name);
        let leaves: Vec<NodeName> =
            members.filter(|name| cluster.removed.contains(*name)).cloned().collect();
        if leaves.is_empty() {
            return false;
        }
        if ring.chain.live().len() < LIVE_MAX {
            let change = Change { leaves, ..Change::default() };
            if let Err(refused) = self.make_removal(&change) {
                if self.works.too_few_without.replace(newest.tag) != Some(newest.tag) {
                    let sentence = format!("a removed member is still part of the ring: {refused}");
                    self.log(Level::Warn, sentence);
                }
                return false;
            }
        }
        true
    }

    /// Names that have a voice in admissions and no part in the ring, and are silent, are removed: a node
    /// that died before it became a member, or after it had left.
    fn clear_away(&mut self) {
        let Some(cluster) = self.founding.cluster() else { return };
        let idle = |(name, _): &(&NodeName, &NodeId)| !self.is_named(name);
        let idle: Vec<_> =
            cluster.ids.iter().filter(idle).map(|(name, id)| (name.clone(), *id)).collect();
        for (name, id) in idle {
            if self.hears(id) {
                self.take_back(&name);
            } else {
                self.propose(name, NOBODY, id);
            }
        }
    }

    /// Notes which nodes are there again whose names were removed.
    fn note_returned(&mut self) {
        let Some(cluster) = self.founding.cluster() else { return };
        let there = self.peers.iter().filter(|(_, peer)| peer.is_reachable());
        let there =
            there.filter(|(_, peer)| cluster.removed.contains(&peer.record.descriptor.name));
        let (now, before) = (self.now.mono, &self.works.returned);
        let returned = there.map(|(id, _)| (id, before.get(&id).copied().unwrap_or(now))).collect();
        self.works.returned = returned;
    }

    /// Whether a node is there again only since a short while.
    fn returned_lately(&self, id: NodeId) -> bool {
        let wait = self.config.settle_ms.saturating_mul(1000 * RETURN_SETTLES);
        self.works.returned.get(&id).is_some_and(|at| self.now.mono.micros_since(*at) < wait)
    }

    /// Makes members of the nodes that are there and are none: first each gets its name, then one version
    /// names them all.
    fn admit_guests(&mut self, newest: &Placement) {
        let Some(cluster) = self.founding.cluster() else { return };
        let (mut guests, mut joins) = (Vec::new(), Vec::new());
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.is_reachable()) {
            let name = &peer.record.descriptor.name;
            let left = self.has_left(name, id);
            if newest.member(name).is_some() || cluster.fenced.contains_key(&id) || left {
                continue;
            }
            match cluster.ids.get(name) {
                None if self.returned_lately(id) => {}
                None => guests.push((name.clone(), id)),
                Some(present) if *present == id => joins.push(as_member(peer)),
                Some(_) => {}
            }
        }
        if !guests.is_empty() {
            return guests.into_iter().for_each(|(name, id)| self.propose(name, id, NOBODY));
        }
        if !joins.is_empty()
            && !self.proposes()
            && let Err(refused) = self.make_version(Change { joins, ..Change::default() }, None)
        {
            self.log(Level::Warn, format!("nodes that appeared cannot join: {refused}"));
        }
    }
}

/// A node as the member that it says it would be.
pub(super) fn as_member(peer: &Peer) -> Member {
    let descriptor = &peer.record.descriptor;
    Member {
        name: descriptor.name.clone(),
        zone: descriptor.zone.clone(),
        weight: descriptor.weight.max(1),
    }
}
