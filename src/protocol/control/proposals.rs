//! Admissions that a member proposes for others, or to give up its own place; and what becomes of a disk
//! that has none any more. See [`super::admission`] for why it is safe.

use bytes::Bytes;

use super::admission::{Admission, NOBODY};
use super::claim::fenced;
use super::founding::Standing;
use super::settle::put;
use super::state::{Control, Pending};
use super::{ControlEffect, Level};
use crate::types::{NodeId, NodeName};

/// Where a disk that was removed says so, for its node's next start.
const REMOVED_KEY: &[u8] = b"control/removed";

/// Whether the disk of a folder was removed from its cluster: its contents are to be set aside.
#[must_use]
pub fn was_removed(durable: &[(Bytes, Bytes)], id: NodeId) -> bool {
    let said = durable.iter().find(|(key, _)| key == REMOVED_KEY);
    said.is_some_and(|(_, value)| value[..] == id.0.to_le_bytes())
}

impl Control {
    /// This disk has no place any more: it was replaced, or removed. A removed one waits until a majority of
    /// those who are left know of it: nobody else may, and without one of those who agreed they could
    /// agree on nothing more.
    pub(super) fn cast_out(&mut self, admission: &Admission) {
        if !admission.removes() {
            return self.stop(fenced(admission));
        }
        if self.is_disowned() {
            self.set_aside(fenced(admission));
        }
    }

    /// This disk was removed, and a majority knows: its contents count no more.
    pub(super) fn set_aside(&mut self, sentence: String) {
        if self.claims.departs {
            let name = &self.identity.name;
            let sentence = format!("{name} has left the cluster, and nothing is left to deliver");
            self.stopped = true;
            return self.effects.push(ControlEffect::Decommissioned(sentence));
        }
        if std::mem::replace(&mut self.claims.forgetting, true) {
            return;
        }
        self.log(Level::Warn, sentence.clone());
        let id = self.identity.id.0.to_le_bytes().to_vec();
        self.write(vec![put(REMOVED_KEY, id)], Pending::Forgotten(sentence));
    }

    /// Proposes that a name enters with its first disk, or is removed.
    pub(super) fn propose(&mut self, name: NodeName, id: NodeId, predecessor: NodeId) {
        let known = self.claims.proposals.insert(name, (id, predecessor));
        if known.is_none() && self.claims.proposals.len() == 1 {
            self.claim_at_once();
        }
    }

    /// This node gives up its name's place: it is to leave nothing behind.
    pub(super) fn depart(&mut self) {
        if !std::mem::replace(&mut self.claims.departs, true) {
            // Soon nobody will hear it: clients are to go elsewhere.
            self.conditions.draining = true;
            self.effects.push(ControlEffect::Conditions(self.conditions));
            self.propose(self.identity.name.clone(), NOBODY, self.identity.id);
        }
    }

    /// Whether something is proposed that has not been decided.
    pub(super) fn proposes(&self) -> bool {
        !self.claims.proposals.is_empty()
    }

    /// Takes back what was proposed of a name.
    pub(super) fn take_back(&mut self, name: &NodeName) {
        if self.claims.proposals.remove(name).is_some() {
            self.claims.bid = None;
        }
    }

    /// The removal for which this disk has voted, if that may still be chosen.
    fn undecided_removal(&self) -> Option<&Admission> {
        let number = self.founding.cluster()?.next_number();
        let (_, voted) = self.claims.vote.accepted.as_ref()?;
        (voted.number == number && voted.removes()).then_some(voted)
    }

    /// The name that a version makes a member, and for whose removal this disk has voted before; and the place in
    /// the chain of the last version that does not. Nothing newer is acknowledged until the number is
    /// decided: see [`super::admission`].
    fn held_up_by_vote(&self) -> Option<(&NodeName, usize)> {
        let name = &self.undecided_removal()?.name;
        let ring = self.ring.as_ref()?;
        let first = ring.chain.live().iter().position(|version| version.member(name).is_some())?;
        (first > ring.acked()).then(|| (name, first - 1))
    }

    /// The place in the chain of the newest version that this node may acknowledge.
    pub(super) fn acks_at_most(&self) -> usize {
        self.held_up_by_vote().map_or(usize::MAX, |(_, place)| place)
    }

    /// What decides the number for which this disk has voted, if that holds up a version: that the name is the
    /// disk that it is. An operator who orders the removal has it decided himself.
    fn reaffirmation(&self) -> Option<Admission> {
        let (name, _) = self.held_up_by_vote()?;
        let cluster = self.founding.cluster()?;
        let (number, id) = (cluster.next_number(), *cluster.ids.get(name)?);
        let ordered = self.to_remove() == Some(name);
        (!ordered).then(|| Admission { number, name: name.clone(), id, predecessor: id })
    }

    /// Has the number decided for which this disk has voted, if that holds up a version.
    pub(super) fn settle_vote(&mut self) {
        let Some(Admission { number, name, .. }) = self.reaffirmation() else { return };
        if self.claims.next.is_none() {
            self.claim_at_once();
        }
        if self.claims.settles.replace(number) != Some(number) {
            let sentence = format!(
                "{name} is to be a member, and this node had voted for its removal (admission {number}): it \
                 acknowledges that version once it is decided. If it stays so, nodes that are down may know: \
                 start them; or stop {name}, `coterie remove {name} --force`, and let it join anew"
            );
            self.log(Level::Warn, sentence);
        }
    }

    /// A name that was to be cleared away, since it had no part in the ring, and has become a member meanwhile is
    /// left alone: members are given up by an operator's order.
    fn spare_members(&mut self) {
        let removes = |(name, (id, _)): &(&NodeName, &(NodeId, NodeId))| {
            *id == NOBODY && **name != self.identity.name
        };
        let spared = self.claims.proposals.iter().filter(removes);
        let spared =
            spared.filter(|(name, _)| self.is_named(name) && self.to_remove() != Some(*name));
        let spared: Vec<NodeName> = spared.map(|(name, _)| name.clone()).collect();
        spared.iter().for_each(|name| self.take_back(name));
    }

    /// What this node asks the members to agree to next: its own place, or what it has proposed.
    pub(super) fn wanted(&mut self) -> Option<Admission> {
        self.spare_members();
        let cluster = self.founding.cluster()?;
        let number = cluster.next_number();
        match self.founding.standing()? {
            Standing::Claimant(predecessor) => {
                let (name, id) = (self.identity.name.clone(), self.identity.id);
                Some(Admission { number, name, id, predecessor })
            }
            Standing::Member => {
                if let Some(first) = self.reaffirmation() {
                    return Some(first);
                }
                let admission = |(name, (id, predecessor)): (&NodeName, &(NodeId, NodeId))| {
                    let (name, id, predecessor) = (name.clone(), *id, *predecessor);
                    Admission { number, name, id, predecessor }
                };
                self.claims
                    .proposals
                    .retain(|name, what| cluster.follows(&admission((name, what))));
                self.claims.proposals.iter().next().map(admission)
            }
            Standing::Guest | Standing::Fenced(_) => None,
        }
    }
}
